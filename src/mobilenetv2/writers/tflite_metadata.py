"""Metadata of .tflite files that MediaPipe's tasks read: a flatbuffer by TensorFlow Lite's
metadata_schema.fbs, and the labels in a zip archive behind the model.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..int8 import AnyCheckpoint
from .options import WriteOptions, WriterError

NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
LABELS = "labels.txt"
SEGMENTER, SEGMENTER_IDENTIFIER = "SEGMENTER_METADATA", b"V001"
PARSER_VERSION = "1.0.0"
# numbers of the schema's enumerations and unions
AXIS_LABELS, VALUE_LABELS = 2, 3
RGB = 1
FEATURE, IMAGE, BOXES = 1, 2, 3
NORMALIZATION = 1
BOUNDARIES = 1
SOFTMAX = 2
BOX_ORDER = (1, 0, 3, 2)  # places of left, top, right, bottom


def check_task(checkpoint: AnyCheckpoint, options: WriteOptions) -> None:
    """Refuses what MediaPipe's tasks do not read.

    Raises:
        WriterError: A model or options of this kind.
    """
    task, preprocessing = checkpoint.architecture.head.task, checkpoint.preprocessing
    needed = {"classification": "final", "detection": "final", "segmentation": "raw"}
    if task not in needed:
        raise WriterError("tflite: task_metadata: MediaPipe has no task for feature maps")
    if options.results != needed[task]:
        raise WriterError(
            f"tflite: task_metadata: MediaPipe's {task} needs results {needed[task]!r}"
        )
    if options.batch != 1 or options.dynamic_size:
        raise WriterError("tflite: task_metadata: MediaPipe gives one image of one size: batch 1")
    if preprocessing.channels != 3:
        raise WriterError("tflite: task_metadata: MediaPipe gives RGB images")
    if options.input == "float32" and len({*zip(preprocessing.mean, preprocessing.std)}) > 1:
        raise WriterError(
            "tflite: task_metadata: MediaPipe normalises all channels alike, and this model does not: "
            "give input 'uint8', which the file normalises itself"
        )


def task_metadata(checkpoint: AnyCheckpoint, options: WriteOptions, about: str) -> bytes:
    """The content of the buffer TFLITE_METADATA.

    Args:
        checkpoint: The model.
        options: Those of the file.
        about: A text for people.
    """
    table = _Tables()
    task = checkpoint.architecture.head.task
    labels = bool(checkpoint.labels)
    custom = []
    if task == "classification":
        outputs = [_output(table, "probability", AXIS_LABELS if labels else 0)]
    elif task == "segmentation":
        outputs = [_output(table, "segmentation_masks", AXIS_LABELS if labels else 0)]
        custom = [_segmenter(table)]
    else:
        boxes = table.write(
            (0, "offset", table.list(BOX_ORDER, "Uint32", 4)), (1, "Int8", BOUNDARIES)
        )
        outputs = [
            _output(table, "location", 0, (BOXES, boxes)),
            _output(table, "category", VALUE_LABELS if labels else 0),
            _output(table, "score", 0),
            _output(table, "number of detections", 0),
        ]
    graph = table.write(
        (2, "offset", table.offsets([_input(table, checkpoint, options)])),
        (3, "offset", table.offsets(outputs)),
        (9, "offset", table.offsets(custom)),
    )
    root = table.write(
        (0, "offset", table.text("MobileNetV2")),
        (1, "offset", table.text(about)),
        (3, "offset", table.offsets([graph])),
        (5, "offset", table.text(str(checkpoint.provenance.get("licence", "")))),
        (7, "offset", table.text(PARSER_VERSION)),
    )
    return table.finished(root, IDENTIFIER)


def attach_labels(path: Path, labels: Sequence[str]) -> None:
    """Appends the labels to a file, as a zip archive, not compressed."""
    # a label in several lines would move all that follow
    text = "\n".join(" ".join(label.split()) for label in labels)
    # always of one time, so that the same model gives the same bytes
    entry = zipfile.ZipInfo(LABELS)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(entry, text.encode("utf-8", "surrogateescape"))


def _input(table: _Tables, checkpoint: AnyCheckpoint, options: WriteOptions) -> int:
    preprocessing = checkpoint.preprocessing
    height, width = checkpoint.architecture.resolution
    size = table.write((0, "Uint32", width), (1, "Uint32", height))
    image = table.write((0, "Int8", RGB), (1, "offset", size))
    fields = [
        (0, "offset", table.text("image")),
        (3, "offset", table.write((0, "Uint8", IMAGE), (1, "offset", image))),
    ]
    if options.input == "float32":
        # of values from 0 to 255
        mean, std = 255 * preprocessing.mean[0], 255 * preprocessing.std[0]
        unit = table.write(
            (0, "offset", table.list((mean,), "Float32", 4)),
            (1, "offset", table.list((std,), "Float32", 4)),
        )
        units = [table.write((0, "Uint8", NORMALIZATION), (1, "offset", unit))]
        fields.append((4, "offset", table.offsets(units)))
    return table.write(*fields)


def _output(table: _Tables, name: str, labels: int, content: tuple[int, int] | None = None) -> int:
    """The description of a result.

    Args:
        table: Where it is written.
        name: As the tasks look for it.
        labels: What the file of labels is to it; 0: nothing.
        content: Kind and table of its properties; None: numbers.
    """
    kind, properties = content or (FEATURE, table.write())
    fields = [
        (0, "offset", table.text(name)),
        (3, "offset", table.write((0, "Uint8", kind), (1, "offset", properties))),
    ]
    if labels:
        file = table.write((0, "offset", table.text(LABELS)), (2, "Int8", labels))
        fields.append((6, "offset", table.offsets([file])))
    return table.write(*fields)


def _segmenter(table: _Tables) -> int:
    """What a segmenter's scores still need."""
    own = _Tables()
    options = own.write((0, "Int8", SOFTMAX), (1, "offset", own.text(PARSER_VERSION)))
    content = own.finished(options, SEGMENTER_IDENTIFIER)
    return table.write(
        (0, "offset", table.text(SEGMENTER)), (1, "offset", table.list(content, "Uint8", 1, 16))
    )


class _Tables:
    """A flatbuffer without generated classes: tables with fields by their place in the schema."""

    def __init__(self) -> None:
        import flatbuffers

        self._builder = flatbuffers.Builder(1 << 12)

    def write(self, *fields: tuple[int, str, Any]) -> int:
        """Writes a table of fields: place, type and value; returns its offset."""
        builder = self._builder
        builder.StartObject(1 + max((place for place, _, _ in fields), default=-1))
        for place, type_, value in fields:
            if type_ == "offset":
                builder.PrependUOffsetTRelativeSlot(place, value, 0)
            else:
                getattr(builder, f"Prepend{type_}Slot")(place, value, 0)
        return int(builder.EndObject())

    def list(self, values: Sequence[Any], type_: str, size: int, alignment: int = 4) -> int:
        """Writes numbers of `size` bytes; returns their offset."""
        self._builder.StartVector(size, len(values), alignment)
        for value in reversed(values):
            getattr(self._builder, f"Prepend{type_}")(value)
        return int(self._builder.EndVector())

    def offsets(self, values: Sequence[int]) -> int:
        """Writes a list of tables or texts."""
        return self.list(values, "UOffsetTRelative", 4)

    def text(self, text: str) -> int:
        """Writes a text."""
        return int(self._builder.CreateString(text))

    def finished(self, root: int, identifier: bytes) -> bytes:
        """The whole buffer."""
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())
