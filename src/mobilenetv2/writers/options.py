"""What a written file is to be like, and how it describes itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ..description import describe
from ..errors import UserError
from ..int8 import AnyCheckpoint
from ..records import Meta, Record

DETECTION_OPTIONS = ("score_threshold", "iou_threshold", "max_detections")


@dataclass(frozen=True, kw_only=True)
class WriteOptions(Record):
    """What a file of another format is to be like. A writer refuses what its format cannot hold.

    Attributes:
        input: "float32": normalised as the preprocessing says, by whoever runs the file; "uint8":
            pixels, which the file normalises itself.
        results: "raw": what the network gives: a classifier's "logits", a feature extractor's
            "features", a segmenter's "scores" at the size of the pixels, a detector's "codes" of
            boxes and "scores" (probabilities, without the background), one row per anchor. "final":
            what a user wants: "probabilities", a "mask", or "boxes", "scores" and "classes" after
            non-maximum suppression.
        layout: Order of the axes of the image and of maps; None: the format's own.
        batch: Images per call; None: any number.
        dynamic_size: Whether images of any height and width are taken.
        float16: Whether weights are stored as float16.
        opset: Version of ONNX's operators; None: the oldest that the file needs, 17 at least.
        task_metadata: With the metadata that MediaPipe's tasks read, and the input and results that
            they need.
        score_threshold: Of the detections in "final" results.
        iou_threshold: Of their non-maximum suppression.
        max_detections: The most of them, per class and per image.
    """

    noun: ClassVar[str] = "file"

    input: Literal["float32", "uint8"] = "float32"
    results: Literal["raw", "final"] = "raw"
    layout: Literal["nchw", "nhwc"] | None = None
    batch: Annotated[int, Meta(ge=1, le=1 << 16)] | None = 1
    dynamic_size: bool = False
    float16: bool = False
    opset: Annotated[int, Meta(ge=1, le=99)] | None = None
    task_metadata: bool = False
    score_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.3
    iou_threshold: Annotated[float, Meta(gt=0, le=1)] = 0.6
    max_detections: Annotated[int, Meta(ge=1, le=10_000)] = 100


class WriterError(UserError):
    """A file that cannot be written as it is asked for; the message names the reason and the fix."""


def refuse(options: WriteOptions, target: str, **reasons: str) -> None:
    """Refuses options that a format cannot hold.

    Args:
        options: Those given.
        target: Name of the format, for messages.
        reasons: By the name of an option that must have its default value: why.

    Raises:
        WriterError: One of them has another value.
    """
    for name, reason in reasons.items():
        if getattr(options, name) != getattr(WriteOptions(), name):
            raise WriterError(f"{target}: {name} {getattr(options, name)!r}: {reason}")


@contextmanager
def by_way_of(inner: str, outer: str) -> Iterator[None]:
    """In the block, errors of the format `inner`, which a file of `outer` is made of, name `outer`."""
    try:
        yield
    except WriterError as error:
        raise WriterError(str(error).replace(f"{inner}: ", f"{outer}: ", 1)) from None


def result_names(checkpoint: AnyCheckpoint, options: WriteOptions) -> tuple[str, ...]:
    """The names of a file's outputs, in order."""
    task = checkpoint.architecture.head.task
    raw = {
        "classification": ("logits",),
        "features": ("features",),
        "segmentation": ("scores",),
        "detection": ("codes", "scores"),
    }
    final = {
        "classification": ("probabilities",),
        "features": ("features",),
        "segmentation": ("mask",),
        "detection": ("boxes", "scores", "classes"),
    }
    return (raw if options.results == "raw" else final)[task]


def description(checkpoint: AnyCheckpoint, options: WriteOptions) -> dict[str, Any]:
    """What a reader needs to know of a file, as JSON: the entry "mobilenetv2" of its metadata.

    Returns:
        As `describe`.
    """
    raw = options.results == "raw"
    return describe(checkpoint, options.input, result_names(checkpoint, options), raw=raw)


def about(checkpoint: AnyCheckpoint, options: WriteOptions, place: str) -> str:
    """What a file is and takes, for people.

    Args:
        checkpoint: The model.
        options: Of the file.
        place: What a part of the format's metadata is called.
    """
    takes = {"float32": "float32, normalised", "uint8": "uint8 pixels, normalised by the file"}
    colours = "grey" if checkpoint.architecture.in_channels == 1 else "RGB"
    return (
        f"MobileNetV2 for {checkpoint.architecture.head.task}. Images: {colours}, "
        f"{checkpoint.preprocessing}. The file takes {takes[options.input]}. The {place} mobilenetv2 of "
        "its metadata says all of it as JSON."
    )
