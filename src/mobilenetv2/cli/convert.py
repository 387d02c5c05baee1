"""`mobilenetv2 convert`: a model file of any known kind into ours, or into another library's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from .options import Command, resolution_option, threads_option
from .output import OutputPath, notify, notify_notes, progress, show_image_warnings
from .quantize import calibration_images, quantizable, quantized_by

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..exporting import Exported
    from ..int8 import AnyCheckpoint, Int8Checkpoint

OURS = "mobilenetv2"
TARGETS = (
    OURS,
    "onnx",
    "tflite",
    "openvino",
    "coreml",
    "ncnn",
    "torchvision",
    "timm",
    "keras",
    "program",
    "transformers.js",
)  # ours, and the keys of writers.FORMATS, which need not be loaded for --help


class Target(OutputPath):
    """A file to write; with `--to` of some formats, a folder."""

    def files(self, path: Path, options: Mapping[str, Any]) -> tuple[Path, ...]:
        """The file, and those that its format has beside it."""
        from ..writers import FORMATS, format_of

        chosen = FORMATS.get(options.get("to") or "") or format_of(path)
        return (path,) if chosen is None else chosen.files(path)

    def _problem(self, path: Path) -> str:
        if path.is_dir():  # the export refuses one that is not the format's own
            return ""
        return super()._problem(path)


VALUES = (
    "input",
    "results",
    "layout",
    "opset",
    "score_threshold",
    "iou_threshold",
    "max_detections",
)
# how messages about fields of `WriteOptions` begin: "file FIELD must be", "FORMAT: FIELD VALUE: reason"
FIELD = re.compile(
    rf"^(?:file |([a-z.]+: ))({'|'.join((*VALUES, 'batch', 'dynamic_size', 'float16', 'task_metadata'))})"
    r"( [^ :]+)?(?=: | must )"
)


def writer_options(command: Command) -> Command:
    """The options of files of other libraries, which a command gets as one dictionary `options`."""

    @functools.wraps(command)
    def given(
        *arguments: Any,
        dynamic: Sequence[str],
        batch: int | None,
        **others: Any,
    ) -> Any:
        options = {name: others.pop(name) for name in VALUES}
        options = {name: value for name, value in options.items() if value is not None}
        for name in ("float16", "task_metadata"):
            if others.pop(name):
                options[name] = True
        if "size" in dynamic:
            options["dynamic_size"] = True
        if "batch" in dynamic:
            if batch is not None:
                raise click.UsageError(f"--batch {batch} and --dynamic batch contradict each other")
            options["batch"] = None
        elif batch is not None:
            options["batch"] = batch
        return command(*arguments, options=options, **others)

    decorated: Any = given
    for option in reversed(WRITER_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


WRITER_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--float16", is_flag=True, help="Store weights as float16."),
    click.option(
        "--input",
        "input",
        type=click.Choice(["float32", "uint8"]),
        help="What the file takes: normalised values, or pixels that it normalises itself.  "
        "[default: float32; uint8 of int8 models]",
    ),
    click.option(
        "--results",
        type=click.Choice(["raw", "final"]),
        help="raw: logits, scores of pixels, codes and scores of boxes; final: probabilities, a mask, "
        "boxes after non-maximum suppression.  [default: raw]",
    ),
    click.option(
        "--layout",
        type=click.Choice(["nchw", "nhwc"]),
        help="Order of the axes of images.  [default: the format's own]",
    ),
    click.option("--batch", type=click.IntRange(min=1), help="Images per call.  [default: 1]"),
    click.option(
        "--dynamic",
        multiple=True,
        type=click.Choice(["batch", "size"]),
        help="Take any number of images, or images of any size; may be repeated.",
    ),
    click.option("--opset", type=int, help="Version of ONNX's operators.  [default: 17]"),
    click.option(
        "--task-metadata", is_flag=True, help="With the metadata that MediaPipe's tasks read."
    ),
    click.option(
        "--score-threshold", type=float, help="Of detections in final results.  [default: 0.3]"
    ),
    click.option(
        "--iou-threshold", type=float, help="Of their non-maximum suppression.  [default: 0.6]"
    ),
    click.option(
        "--max-detections", type=click.IntRange(min=1), help="The most of them.  [default: 100]"
    ),
)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=Target())
@click.option(
    "--to",
    type=click.Choice(TARGETS),
    help="The format of OUT.  [default: by its ending; .safetensors is ours]",
)
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Labels of the classes, one per line.",
)
@click.option(
    "--drop-background", is_flag=True, help="Turn 1001 classes with the background first into 1000."
)
@click.option(
    "--weights-of",
    metavar="ema|raw|NAME",
    help="Of a PyTorch file with several sets of weights: averages over the training, those that "
    "they are averages of, or a name in the file.  [default: averages, if there are any]",
)
@click.option("--float", "floats", is_flag=True, help="Turn quantised weights into float32.")
@click.option("--int8", is_flag=True, help="Quantise a float32 model; needs --calibrate.")
@click.option(
    "--calibrate",
    multiple=True,
    metavar="IMAGES",
    help="Images to quantise with, as for `quantize`; may be repeated.",
)
@click.option(
    "--samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images to quantise with at most, and to verify with.",
)
@resolution_option("the model's own")
@writer_options
@click.option(
    "--verify",
    multiple=True,
    metavar="IMAGES",
    help="Images to compare results on; may be repeated.  [default: one photo of our own]",
)
@click.option("--no-verify", is_flag=True, help="Do not run the file that was written.")
@threads_option
def convert(
    source: str,
    target: Path,
    to: str | None,
    options: dict[str, Any],
    **others: Any,
) -> int:
    """Convert a model file (or a published model by name) into OUT: a mobilenetv2 .safetensors file,
    or a file of another library, by its ending or --to.

    IN is recognised by its content: torchvision, timm and Hugging Face weights (.pth,
    .safetensors), Keras (.h5, .keras), TensorFlow Lite (.tflite: float, float16, uint8, int8; or
    TF-slim's .tgz). A quantised .tflite file becomes an int8 model.

    A file of another library is run by that library where it is installed, on a photo or on
    --verify IMAGES, and compared with our runtime; where the results differ, nothing is written and
    the exit code is 1."""
    show_image_warnings()
    ours = to == OURS or (to is None and target.suffix.lower() == ".safetensors")
    check_usage(target, ours, options, others)
    if not ours:
        from ..exporting import check_target, chosen_format

        check_target(target.resolve(), chosen_format(target, to))
    checkpoint = read_model(source, others)
    skipped = False
    if others["int8"]:
        checkpoint = quantizable(source, checkpoint)
        if not ours:
            try_int8(checkpoint, target, to, options)
        checkpoint, skipped = in_int8(checkpoint, others)
    notify_notes(checkpoint)
    if ours:
        checkpoint.save(target)
        notify(described(checkpoint, target))
        return 1 if skipped else 0
    from ..exporting import MismatchError, export

    images, unread = verification_images(checkpoint, others)
    try:
        with named_as_options():
            exported = export(
                checkpoint, target, to, verify=not others["no_verify"], images=images, **options
            )
    except MismatchError as error:
        notify(f"error: {error}")
        return 1
    for line in report(exported):
        notify(line)
    return 1 if skipped or unread else 0


@contextmanager
def named_as_options() -> Iterator[None]:
    """In the block, errors about fields of `WriteOptions` name the options of the command."""
    from ..errors import UserError

    try:
        yield
    except UserError as error:
        text = str(error).replace(" or None, not ", ", not ")
        named = FIELD.sub(lambda match: f"{match[1] or ''}{_option(match[2], match[3])}", text)
        if named == text:
            raise
        raise type(error)(named) from None


def _option(field: str, value: str | None) -> str:
    """The option that sets a field of `WriteOptions`, with the value that a message has of it."""
    if field == "dynamic_size" or (field, value) == ("batch", " None"):
        return f"--dynamic {field.removeprefix('dynamic_')}"
    text = "" if value in (None, " True") else str(value).replace("'", "")
    return f"--{field.replace('_', '-')}{text}"


def check_usage(
    target: Path, ours: bool, options: Mapping[str, Any], others: Mapping[str, Any]
) -> None:
    """Refuses options that contradict each other, or that our own format has no use for.

    Raises:
        click.UsageError: They do.
    """
    if others["int8"] and not others["calibrate"]:
        raise click.UsageError("--int8 needs --calibrate IMAGES: images that the model will see")
    if others["calibrate"] and not others["int8"]:
        raise click.UsageError("--calibrate goes with --int8")
    if others["int8"] and others["floats"]:
        raise click.UsageError("--int8 and --float contradict each other")
    if others["no_verify"] and others["verify"]:
        raise click.UsageError("--verify and --no-verify contradict each other")
    if ours:
        given = [f"--{name.replace('_', '-')}" for name in options]
        given += ["--verify"] if others["verify"] else []
        if given:
            raise click.UsageError(f"{given[0]} is for files of other libraries, not {target}")
        if target.is_dir():
            raise click.UsageError(f"{target}: is a folder")


def read_model(source: str, others: Mapping[str, Any]) -> AnyCheckpoint:
    """The model to write, or to quantise first."""
    from dataclasses import replace

    from ..checkpoint import background_note
    from ..formats import open_checkpoint
    from ..labels import read_labels

    checkpoint = open_checkpoint(source, int8=not others["floats"], weights_of=others["weights_of"])
    if others["labels"] is not None:
        architecture = checkpoint.architecture
        counted = architecture.head.task != "detection"
        labels = read_labels(others["labels"], architecture.classes, background=counted)
        checkpoint = replace(checkpoint, labels=labels)
    if others["drop_background"]:
        checkpoint = checkpoint.without_background()
    if note := background_note(checkpoint):
        notify(f"note: {note}")
    if others["resolution"] is not None:
        from ..exporting import at_size

        checkpoint = at_size(checkpoint, others["resolution"])
    return checkpoint


def try_int8(
    checkpoint: Checkpoint, target: Path, to: str | None, options: Mapping[str, Any]
) -> None:
    """Writes the model quantised with one black image, and throws it away: whether a format takes an
    int8 model with these options does not depend on the images.

    Raises:
        WriterError: It does not.
    """
    import numpy as np

    from ..exporting import export
    from ..runtime.quantize import to_int8

    black = np.zeros(
        (1, *checkpoint.preprocessing.size, checkpoint.preprocessing.channels), np.uint8
    )
    quantized = to_int8(checkpoint, black, lambda: None)
    with TemporaryDirectory() as folder, named_as_options():
        export(quantized, Path(folder, target.resolve().name), to, verify=False, **options)


def in_int8(checkpoint: Checkpoint, others: Mapping[str, Any]) -> tuple[Int8Checkpoint, bool]:
    """The quantised model, and whether images to quantise with were skipped."""
    images, problems = calibration_images(others["calibrate"], others["samples"])
    with progress(2 * len(images), "quantising") as advance:
        quantized, _, _, unread = quantized_by(checkpoint, images, advance)
    return quantized, bool(problems or unread)


def verification_images(
    checkpoint: AnyCheckpoint, others: Mapping[str, Any]
) -> tuple[NDArray[np.uint8] | None, bool]:
    """The pixels of --verify, None without it; and whether some could not be read."""
    if not others["verify"]:
        return None, False
    from ..runtime.quantize import read_images

    images, problems = calibration_images(others["verify"], others["samples"])
    with progress(len(images), "reading") as advance:
        pixels, skipped = read_images(checkpoint.preprocessing, images, advance, "verify")
    for message in skipped:
        notify(message)
    return pixels, bool(problems or skipped)


def described(checkpoint: AnyCheckpoint, target: Path) -> str:
    """What a written file of ours holds, in one line."""
    from ..int8 import Int8Checkpoint

    a = checkpoint.architecture
    numbers = "int8" if isinstance(checkpoint, Int8Checkpoint) else "float32"
    named = "with labels" if checkpoint.labels else "without labels (give them with --labels)"
    return (
        f"{target}: width {a.width_mult:g}, {a.resolution[0]} x {a.resolution[1]}, {a.classes} classes {named}, "
        f"{a.padding} padding, {numbers}, epsilon {a.bn_epsilon:g}, from "
        f"{checkpoint.provenance.get('source', 'a mobilenetv2 file')}"
    )


def report(exported: Exported) -> Iterator[str]:
    """What was written and how it compares, line by line."""
    for each in exported.differences:
        if each.result == "boxes" and each.agreement_percent is None:
            yield "  boxes: none in these images, which says little: give --verify IMAGES"
            continue
        words = [f"{each.result}: difference {each.largest:.2g}"]
        if each.allowed is not None:
            words.append(f"of {each.allowed:.2g} allowed")
        if each.signal_to_noise_db is not None:
            words.append(f"{each.signal_to_noise_db:.0f} dB")
        if each.agreement_percent is not None:
            words.append(f"same answer {each.agreement_percent:.4g} %")
        yield "  " + ", ".join(words)
    names = " and ".join(map(str, exported.files))
    images = "1 image" if exported.images == 1 else f"{exported.images} images"
    if exported.runtime:
        yield f"{names}: written; {exported.runtime} gives our results on {images}"
    else:
        yield f"{names}: written, not checked: {exported.unchecked}"
