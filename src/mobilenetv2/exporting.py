"""A model as a file of another format, run by that format's own runtime before it gets its name."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import check_kind, check_path
from .checkpoint import Checkpoint
from .errors import ModelFileError, missing_modules
from .files import staging_folder
from .images import Preprocessing
from .int8 import AnyCheckpoint, Int8Checkpoint
from .locks import folder_lock
from .model import Model
from .verification.compare import Difference, differences, expected_results
from .verification.float16 import as_float16
from .writers import FORMATS, Format, WriteOptions, WriterError, format_of, writer
from .writers.options import DETECTION_OPTIONS

PHOTO = Path(__file__).parent / "verification" / "photo.jpg"  # a cat
ODD_SIZE = (97, 131)  # of pixels that a file of any size is checked with too


@dataclass(frozen=True)
class Exported:
    """A written file, and how it was checked.

    Attributes:
        files: What was written: files and folders.
        format: Name of the format.
        options: What the file is like.
        runtime: What it was checked with, such as "onnxruntime 1.32.0"; "" where it was not.
        unchecked: Why it was not checked, with the fix; "" where it was.
        images: On how many images.
        differences: Each result beside that of our runtime.
    """

    files: tuple[Path, ...]
    format: str
    options: WriteOptions
    runtime: str
    unchecked: str
    images: int
    differences: tuple[Difference, ...]


class MismatchError(ModelFileError):
    """A written file whose own runtime gives other results than ours; it was not kept."""


def export(
    model: AnyCheckpoint | Model,
    path: str | os.PathLike[str],
    to: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    verify: bool = True,
    images: Iterable[Any] | NDArray[np.uint8] | None = None,
    **options: Any,
) -> Exported:
    """Writes a model as a file of another format, and runs it to see that it gives our results.

    The file is written in a temporary folder beside `path`, read back by the format's own runtime
    where that is installed, compared, and only then renamed.

    Args:
        model: A model or a checkpoint, float32 or int8; `quantize` makes int8 ones.
        path: The file to write; a folder for some formats.
        to: Name of the format, a key of `writers.FORMATS`; None: by the ending of `path`.
        size: (height, width) of the images; None: the model's own.
        verify: Whether the file is run.
        images: What it is run on: images as `load(...).classify` takes them, or pixels (N, H, W, C)
            uint8; None: one photo.
        **options: Fields of `writers.WriteOptions`. An int8 file takes "uint8" input where none is
            given.

    Raises:
        WriterError: The format cannot hold the model or the options; nothing was written.
        MissingExtraError: A library that the writer needs is not installed.
        MismatchError: The results differ; nothing is left under the name.
        ModelFileError: The file cannot be written.
    """
    check_kind("model", model, Model, Checkpoint, Int8Checkpoint)
    checkpoint = model.checkpoint if isinstance(model, Model) else model
    if size is not None:
        checkpoint = at_size(checkpoint, size)
    format_ = chosen_format(path, to)
    # links stay: what they lead to is written
    target = Path(os.path.realpath(check_path("path", path)))
    chosen = chosen_options(checkpoint, format_, options)
    check_target(target, format_)
    write = writer(format_)
    with staging_folder(target) as folder:
        written = write(checkpoint, folder / target.name, chosen)
        runtime, unchecked, count = "", "not asked for", 0
        compared: tuple[Difference, ...] = ()
        if verify:
            runtime, unchecked = _runtime(format_)
            if not unchecked:
                pixels = verification_pixels(checkpoint.preprocessing, images)
                count = len(pixels)
                compared = _compared(checkpoint, chosen, format_, written, pixels)
                _refuse_mismatch(target, runtime, compared)
        with folder_lock(target.parent):  # files of one name that belong together stay together
            check_target(target, format_)
            moved = _placed(written, target.parent)
    # named as the caller named them, unless through a link
    direct = os.path.abspath(path) == str(target)
    files = tuple(Path(path).parent / each.name if direct else each for each in moved)
    return Exported(files, format_.name, chosen, runtime, unchecked, count, compared)


def chosen_format(path: str | os.PathLike[str], to: str | None) -> Format:
    """The format of a name, or else of the ending of a path.

    Raises:
        WriterError: Neither is known.
    """
    if to is not None:
        if to not in FORMATS:
            raise WriterError(f"no format {to!r:.80}; there are {', '.join(FORMATS)}")
        return FORMATS[to]
    format_ = format_of(Path(path))
    if format_ is None:
        if format_of(Path(f"name{Path(path).name}")):
            raise WriterError(f"{path}: a name is missing in front of the ending")
        endings = ", ".join(each.suffix for each in FORMATS.values() if each.suffix)
        raise WriterError(f"{path}: no format is known by its ending; endings are {endings}")
    return format_


def chosen_options(
    checkpoint: AnyCheckpoint, format_: Format, values: dict[str, Any]
) -> WriteOptions:
    """The options of a file, with what the model and the format decide.

    Raises:
        UserError: An option is unknown or out of range.
    """
    preprocessing = checkpoint.preprocessing
    given = {name: value for name, value in values.items() if value is not None or name == "batch"}
    _check_detection_options(checkpoint, format_, given)
    inputs = format_.inputs
    if len(inputs) == 1 and given.get("input", inputs[0]) != inputs[0]:
        raise WriterError(f"{format_.name}: input {given['input']!r:.40}: it takes {inputs[0]}")
    if isinstance(checkpoint, Int8Checkpoint) or len(inputs) == 1:
        given.setdefault("input", inputs[-1])
    if given.get("task_metadata") and checkpoint.architecture.head.task != "segmentation":
        given.setdefault("results", "final")
    if given.get("task_metadata"):
        # MediaPipe normalises all channels alike
        per_channel = len({*zip(preprocessing.mean, preprocessing.std, strict=True)}) > 1
        given.setdefault("input", "uint8" if per_channel else "float32")
    return WriteOptions.from_dict(given)


def _check_detection_options(
    checkpoint: AnyCheckpoint, format_: Format, given: dict[str, Any]
) -> None:
    """Refuses options of detections where none are selected. Programs say them to who runs them."""
    selected = (
        given.get("results") == "final" or given.get("task_metadata") or format_.says_detections
    )
    if checkpoint.architecture.head.task == "detection" and selected:
        return
    for name in DETECTION_OPTIONS:
        if name in given:
            raise WriterError(
                f"{format_.name}: {name} {given[name]!r:.40}: it is for final results of a detector "
                "(--results final)"
            )


def at_size(checkpoint: AnyCheckpoint, size: tuple[int, int]) -> AnyCheckpoint:
    """The same model for images of another (height, width)."""
    return replace(
        checkpoint,
        architecture=replace(checkpoint.architecture, resolution=size),
        preprocessing=replace(checkpoint.preprocessing, size=size),
    )


def check_target(target: Path, format_: Format) -> None:
    """Refuses a target that is there and is not what the format writes.

    Raises:
        WriterError: It would be overwritten.
    """
    folder = bool(format_.inside)
    if format_.suffix and target.suffix.lower() != format_.suffix:
        raise WriterError(f"{target}: must end in {format_.suffix} for {format_.name}")
    if not folder and target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "no regular file"
        raise WriterError(f"{target}: is {kind}")
    if folder and Path.cwd().is_relative_to(target):
        raise WriterError(f"{target}: is the folder that this runs in: give another name")
    if folder and target.exists() and not target.is_dir():
        raise WriterError(f"{target}: {format_.name} is a folder, and a file has this name")
    names = [path.relative_to(target).as_posix() for path in target.rglob("*")] if folder else []
    others = [name for name in names if not re.fullmatch(format_.inside, name)]
    # a configuration alone may be of weights that are elsewhere
    if others or (names and not any("/" in name for name in names)):
        raise WriterError(f"{target}: a folder with other files: give a new name")
    for path in format_.files(target)[1:]:
        # beside a file of this name they are those of an earlier export
        if path.exists() and not target.exists():
            raise WriterError(
                f"{path}: is there already, and {format_.name} would replace it: give another name"
            )
    if not target.parent.is_dir():
        raise WriterError(f"{target}: the folder {target.parent} does not exist")


def verification_pixels(
    preprocessing: Preprocessing, images: Iterable[Any] | NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """Pixels (N, H, W, C) to run a file on."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        shape = *preprocessing.size, preprocessing.channels
        if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
            raise WriterError(f"images: pixels must be (N, {shape}) uint8, not {images.shape}")
        return images
    one = images is None or isinstance(images, str | bytes | os.PathLike)
    chosen: Sequence[Any] = [images or PHOTO] if one else list(images or ())
    if not chosen:
        raise WriterError("images: none to run the file on")
    return np.stack([preprocessing(image) for image in chosen])


def _runtime(format_: Format) -> tuple[str, str]:
    """The name and version of what runs a format's files; or "", and why it cannot, with the fix."""
    package, module = format_.runs_with
    if not package:
        return "reading it back", ""
    if missing_modules(module):
        return "", f"`pip install {package}` and the next conversion checks the file"
    try:
        loaded = import_module(module)
    except Exception as error:  # a library that it needs is missing, or of another version
        return "", f"{package} is installed, but does not load: {error}"
    # its distribution may have another name, such as onnxruntime-gpu
    return f"{package} {getattr(loaded, '__version__', '')}".strip(), ""


def _compared(
    checkpoint: AnyCheckpoint,
    options: WriteOptions,
    format_: Format,
    written: tuple[Path, ...],
    pixels: NDArray[np.uint8],
) -> tuple[Difference, ...]:
    run = import_module(f".verification.{format_.module}", __package__).run
    if options.float16 and isinstance(checkpoint, Checkpoint):
        checkpoint = as_float16(checkpoint, format_.float16)
    batches = [pixels]
    if options.dynamic_size:
        batches.append(_resized(checkpoint.preprocessing, ODD_SIZE, pixels))

    def rows(file: Path, options: WriteOptions) -> Iterator[Difference]:
        for batch in batches:
            expected = expected_results(checkpoint, options, batch)
            results = run(file, batch, checkpoint, options)
            yield from differences(checkpoint, options, expected, results)

    compared = [*rows(written[0], options)]
    none = any(each.agreement_percent is None for each in compared)
    if compared[0].result == "boxes" and (none or isinstance(checkpoint, Int8Checkpoint)):
        # which boxes are left says little then: what they are selected from must be the same
        folder = written[0].parent / "raw"
        folder.mkdir()
        raw = replace(options, results="raw", task_metadata=False)
        compared += rows(writer(format_)(checkpoint, folder / written[0].name, raw)[0], raw)
    return tuple(compared)


def _resized(
    preprocessing: Preprocessing, size: tuple[int, int], pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    other = replace(preprocessing, size=size, resize="stretch")
    return np.stack([other(image if image.shape[2] != 1 else image[:, :, 0]) for image in pixels])


def _refuse_mismatch(target: Path, runtime: str, compared: tuple[Difference, ...]) -> None:
    for each in compared:
        if not each.passed:
            noise = each.signal_to_noise_db
            far = f"up to {each.largest:.3g}" if noise is None else f"{noise:.1f} dB"
            raise MismatchError(
                f"{target}: not written: {runtime} gives other {each.result} than ours ({far}); "
                "please report the model, and see --no-verify"
            )


def _placed(written: Sequence[Path], folder: Path) -> list[Path]:
    """Renames written files and folders over those of their names in `folder`: all, or none.

    Raises:
        OSError: One cannot be placed; what was there before is there again.
    """
    kept = Path(tempfile.mkdtemp(prefix=".before.", dir=written[0].parent))
    done: list[Path] = []
    try:
        for path in written:
            target, before = folder / path.name, kept / path.name
            done.append(target)
            if path.is_dir() and target.is_dir():
                os.replace(target, before)
            elif target.is_file():
                shutil.copy2(target, before)
            os.replace(path, target)
    except OSError:
        for target in reversed(done):
            before = kept / target.name
            if before.exists():
                shutil.rmtree(target, ignore_errors=True)
                os.replace(before, target)
            elif target != done[-1]:
                target.unlink()
        raise
    return done
