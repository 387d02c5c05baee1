"""The names of classes: the 1000 of ILSVRC-2012, and label files."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelFileError
from .files import read_lines

BACKGROUND = "background"  # class 0 of TensorFlow's weights, before the 1000
BACKGROUND_NAMES = (BACKGROUND, "__background__", "???")  # in label files of detectors

VOC = (  # of Pascal VOC, in the order of its masks
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def imagenet_labels(classes: int) -> tuple[str, ...]:
    """The labels of 1000 classes, or of 1001 with the background first; () for any other number.

    They are ordered by WordNet id, as in all published weights. Two pairs have the same first
    name: crane (133, 516 of 1000) and maillot (637, 638).
    """
    if classes not in (1000, 1001):
        return ()
    names = tuple(imagenet_classes().values())
    return names if classes == 1000 else (BACKGROUND, *names)


def imagenet_classes() -> dict[str, str]:
    """The labels of the 1000 classes of ILSVRC-2012 by WordNet id such as n01440764, in order."""
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = (line.partition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {synset: label for synset, _, label in lines}


def has_background(labels: tuple[str, ...]) -> bool:
    """Whether class 0 of these labels is the background, which datasets do not count."""
    return labels[:1] == (BACKGROUND,)


def read_labels(path: Path, classes: int, background: bool = True) -> tuple[str, ...]:
    """The labels in a UTF-8 text file with one label per line, in the order of the classes.

    What follows an empty line behind the last class is a remark.

    Args:
        path: The file.
        classes: The number of the model's classes.
        background: Whether the model counts a background as a class; detectors do not, and a first
            line that names it is left out.

    Raises:
        ModelFileError: No such file, not text, or a different number of lines than of classes.
    """
    names = tuple(read_lines(path))
    if not background and len(names) > classes and names[0].lower() in BACKGROUND_NAMES:
        names = names[1:]
    if names[classes : classes + 1] == ("",):
        names = names[:classes]
    if len(names) != classes:
        hint = (
            ": is it with or without the background class?"
            if abs(len(names) - classes) == 1
            else ""
        )
        raise ModelFileError(
            f"{path}: {len(names)} labels, but the model has {classes} classes{hint}"
        )
    return names
