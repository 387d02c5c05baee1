"""A model as one `.safetensors` file: architecture, arrays, labels, preprocessing, provenance.

The arrays have torchvision's names. The file's header holds the rest as JSON, with a checksum over
all of it. Nothing executable is ever read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .architecture import Architecture
from .arguments import check_kind, check_path
from .errors import ModelFileError, UserError, shortened
from .files import checksum, in_order, read_safetensors, write_atomically
from .graph import array_shapes
from .images import Preprocessing
from .labels import BACKGROUND
from .stored import StoredArrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

FORMAT = "mobilenetv2"
VERSION = "2"  # 1: the head was a name, and the number of classes stood beside it
MAX_NESTING = 100  # of provenance
READABLE_VERSIONS = ("1", VERSION)
DESCRIPTION = ("architecture", "labels", "preprocessing", "provenance")  # texts of the header
OUR_KEYS = {*DESCRIPTION, "version", "checksum", "quantization"}  # "format" is in others' files too


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A float32 model as data.

    Attributes:
        architecture: The network.
        arrays: Every array that `array_shapes(architecture)` names, and no other; float32.
        labels: One per class, or ().
        preprocessing: What the weights expect of an image.
        provenance: Any facts that JSON can hold: where the weights came from, licence, accuracy.
        notes: What the reader of another library's file assumed or left out, one sentence each;
            not saved.

    Raises:
        ModelFileError: An array is missing, extra, of a wrong shape, not float32 or not finite, or
            the number of labels is wrong, or labels or provenance are of another type.
    """

    architecture: Architecture
    arrays: Mapping[str, FloatArray] = field(repr=False)
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kind("arrays", self.arrays, Mapping)
        check_arrays(self.arrays, array_shapes(self.architecture))
        check_description(self.architecture, self.labels, self.preprocessing, self.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a file. The same model always gives the same bytes.

        Raises:
            ModelFileError: The file cannot be written; an older file of this name stays as it was.
        """
        header = description_header(
            self.architecture, self.labels, self.preprocessing, self.provenance
        )
        save_model(path, header, self.arrays)

    def without_background(self) -> Checkpoint:
        """The same classifier without its class 0, TensorFlow's background: 1001 classes become
        1000.

        Raises:
            ModelFileError: Class 0 is not named "background".
        """
        names = ("classifier.1.weight", "classifier.1.bias")
        description = description_without_background(self.architecture, self.labels)
        head = {name: self.arrays[name][1:].copy() for name in names}
        return replace(self, arrays={**self.arrays, **head}, **description)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Reads a file that `save` wrote.

        Raises:
            ModelFileError: Not such a file, or damaged; the message says why.
        """
        return cls.from_file(path, *read_safetensors(Path(check_path("path", path))))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        header: Mapping[str, str],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Checkpoint:
        """The checkpoint in a file's header and arrays; `path` is for messages."""
        if header.get("format") == FORMAT and "quantization" in header:
            raise ModelFileError(f"{path}: an int8 model, but a float32 model is needed here")
        check_header(path, header, arrays, DESCRIPTION)
        with errors_of_header(path):
            return cls(arrays=arrays, **read_description(header))


def description_header(
    architecture: Architecture,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    provenance: dict[str, Any],
) -> dict[str, str]:
    """The header texts of a model, one for each name of `DESCRIPTION`.

    Raises:
        ModelFileError: The provenance holds what JSON cannot, or is nested too deeply.
    """
    check_classes(architecture)
    try:
        facts = json.dumps(provenance)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the provenance cannot be written as JSON: {error}") from None
    read_json({"provenance": facts}, "provenance")
    return {
        "architecture": architecture.to_json(),
        "labels": json.dumps(labels),
        "preprocessing": preprocessing.to_json(),
        "provenance": facts,
    }


def check_classes(architecture: Architecture) -> None:
    """Refuses a classifier of one class.

    Raises:
        ModelFileError: It is one.
    """
    if architecture.head.task == "classification" and architecture.classes == 1:
        raise ModelFileError("one class, of which a softmax is always 1: at least 2 are needed")


def is_ours(header: Mapping[str, str]) -> bool:
    """Whether a safetensors header is that of a model of ours, a damaged one included."""
    return header.get("format") == FORMAT or bool(OUR_KEYS & header.keys())


def read_description(header: Mapping[str, str]) -> dict[str, Any]:
    """Reads what `description_header` wrote: arguments of a checkpoint.

    Raises:
        UserError: Not JSON, JSON of another type, or a value out of range.
    """
    architecture = Architecture.from_dict(read_json(header, "architecture"))
    check_classes(architecture)
    return {
        "architecture": architecture,
        "labels": tuple(read_json(header, "labels", list[str])),
        "preprocessing": Preprocessing.from_dict(read_json(header, "preprocessing")),
        "provenance": read_json(header, "provenance", dict[str, Any]),
    }


def read_json(header: Mapping[str, str], name: str, type_: Any = Any) -> Any:
    """The value in a JSON text of a header.

    Args:
        header: The texts.
        name: Of the text.
        type_: Of the value, as an annotation that msgspec checks.

    Raises:
        ModelFileError: Not JSON, nested too deeply, of another type, or with characters that no
            file can hold.
    """
    try:
        value = json.loads(header[name])
        # half of a surrogate pair cannot be written anywhere; halves that stand for the bytes of a
        # file name can
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if _nesting_exceeds(value, MAX_NESTING):
            raise ValueError(f"values nested more than {MAX_NESTING} deep")
        return msgspec.convert(value, type_)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise ModelFileError(f"the header's {name} cannot be read: {error}") from None


def _nesting_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        inner = [v for v in level if isinstance(v, dict | list | tuple)]
        if not inner:
            return False
        level = [
            v for holder in inner for v in (holder.values() if isinstance(holder, dict) else holder)
        ]
    return True


@contextmanager
def errors_of_header(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name into errors of a header's values."""
    try:
        yield
    except UserError as error:
        raise ModelFileError(f"{path}: {error}") from None


def save_model(
    path: str | os.PathLike[str], header: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Writes header texts and arrays, with a checksum over both.

    Raises:
        ModelFileError: The file cannot be written; an older file of this name stays as it was.
    """
    import numpy as np
    from safetensors.numpy import save

    path = check_path("path", path)
    identity = {"format": FORMAT, "version": VERSION, "checksum": checksum(header, arrays)}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(Path(path), in_order(save(contiguous, {**header, **identity})))


def check_header(
    path: str | os.PathLike[str],
    header: Mapping[str, str],
    arrays: Mapping[str, NDArray[Any]],
    names: Sequence[str],
) -> None:
    """Refuses a file of another kind or version, without a header text, or with a wrong checksum.

    Args:
        path: The file, for messages.
        header: Its header.
        arrays: Its arrays.
        names: The header texts that it must have and that the checksum covers.

    Raises:
        ModelFileError: One of these.
    """
    if not is_ours(header):
        raise ModelFileError(
            f"{path}: a safetensors file, but not a mobilenetv2 model; weights of other "
            "libraries go through `mobilenetv2 convert` first"
        )
    if header.get("format") != FORMAT:
        ours = ", ".join(sorted(OUR_KEYS & header.keys()))
        raise ModelFileError(
            f"{path}: damaged: its header has {ours} as a mobilenetv2 model has, but the format "
            f"{header.get('format')!r:.80}; get the file again"
        )
    if header.get("version") not in READABLE_VERSIONS:
        raise ModelFileError(
            f"{path}: file version {header.get('version')!r:.80}, this release reads "
            f"{' and '.join(READABLE_VERSIONS)}"
        )
    missing = sorted({*names, "checksum"} - header.keys())
    if missing:
        raise ModelFileError(f"{path}: the header lacks {', '.join(missing)}")
    if checksum({name: header[name] for name in names}, arrays) != header["checksum"]:
        raise ModelFileError(f"{path}: damaged: the checksum does not fit; get the file again")


def description_without_background(
    architecture: Architecture, labels: tuple[str, ...]
) -> dict[str, Any]:
    """The architecture and labels of a classifier without its class 0, the background.

    Raises:
        ModelFileError: Class 0 is not named "background", or the model does not classify.
    """
    if architecture.head.task != "classification":
        raise ModelFileError(f"the background of a model for {architecture.head.task} is needed")
    if labels[:1] != (BACKGROUND,):
        raise ModelFileError("class 0 is not the background; there is nothing to drop")
    fewer = architecture.with_classes(architecture.classes - 1)
    return {"architecture": fewer, "labels": labels[1:]}


def background_note(checkpoint: Any) -> str | None:
    """A line on a class 0 that is the background, which shifts all other indices; None without it.

    Args:
        checkpoint: A checkpoint of any type.
    """
    classifies = checkpoint.architecture.head.task == "classification"
    if not classifies or tuple(checkpoint.labels[:1]) != (BACKGROUND,):
        return None
    return (
        f"class 0 is the background, so that every other index is one higher than among "
        f"{len(checkpoint.labels) - 1} classes without it; `mobilenetv2 convert IN OUT "
        "--drop-background` removes it"
    )


def check_description(
    architecture: Architecture,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    provenance: dict[str, Any],
) -> None:
    """Refuses what no file could hold, and labels or a preprocessing that do not fit the network."""
    if not isinstance(labels, tuple | list) or not all(isinstance(name, str) for name in labels):
        raise ModelFileError(f"labels must be a tuple of texts, not {labels!r:.80}")
    if not isinstance(provenance, dict):
        raise ModelFileError(f"provenance must be a dict, not {provenance!r:.80}")
    if not isinstance(preprocessing, Preprocessing):
        raise ModelFileError(f"preprocessing must be a Preprocessing, not {preprocessing!r:.80}")
    if labels and len(labels) != architecture.classes:
        raise ModelFileError(f"{len(labels)} labels for {architecture.classes} classes")
    if preprocessing.channels != architecture.in_channels:
        raise ModelFileError(
            f"the preprocessing gives {preprocessing.channels} channels, the network takes {architecture.in_channels}"
        )


class Shaped(Protocol):
    """An array, or one that is still in its file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its axes."""

    @property
    def dtype(self) -> np.dtype[Any] | str:
        """Its type, or NumPy's name of it."""


def check_shapes(
    arrays: Mapping[str, Shaped], shapes: Mapping[str, tuple[int, ...]], any_float: bool = False
) -> None:
    """Refuses arrays that are missing, extra, or of a wrong shape or type, without their values.

    Args:
        arrays: To be checked.
        shapes: The shape of every array that there must be.
        any_float: Whether any type of floats may be there, instead of float32 alone.

    Raises:
        ModelFileError: The first arrays of each kind of fault, by name.
    """
    _raise_faults(
        {
            "missing": [name for name in shapes if name not in arrays],
            "not part of the network": [name for name in arrays if name not in shapes],
            "wrong shape": [
                f"{name} is {arrays[name].shape}, not {shape}"
                for name, shape in shapes.items()
                if name in arrays and arrays[name].shape != shape
            ],
            "wrong type": [
                f"{name} is {array.dtype}, not float32"
                for name, array in arrays.items()
                if array.dtype != "float32" and not (any_float and "float" in str(array.dtype))
            ],
        }
    )


def check_arrays(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """As `check_shapes`, and refuses values that are not finite, or a negative variance."""
    variances = [name for name in shapes if name.endswith("running_var")]
    if isinstance(arrays, StoredArrays):
        check_shapes(arrays.places, shapes)
        not_finite = [name for name in arrays if name in arrays.not_finite]
        contents = {name: memoryview(arrays.content(name)).cast("f") for name in variances}
        negative = [name for name, values in contents.items() if min(values) < 0]
    else:
        import numpy as np

        check_shapes(arrays, shapes)
        not_finite = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        negative = [name for name in variances if arrays[name].min() < 0]
    _raise_faults({"values that are not finite, or a negative variance": [*not_finite, *negative]})


def _raise_faults(faults: Mapping[str, Sequence[str]]) -> None:
    problems = [f"{fault}: {shortened(names, 4)}" for fault, names in faults.items() if names]
    if problems:
        raise ModelFileError("arrays do not fit the network: " + "; ".join(problems))
