"""Labels as keys, for formats that look classes up by them."""

from __future__ import annotations

from collections import Counter

from ..int8 import AnyCheckpoint
from .options import WriterError


def unique_labels(checkpoint: AnyCheckpoint, target: str) -> list[str]:
    """The labels as the keys of a dictionary: one that several classes have gets its number.

    ImageNet has two cranes and two maillots.

    Args:
        checkpoint: The model; without labels, its classes are numbered.
        target: Name of the format, for messages.

    Raises:
        WriterError: That does not tell them apart.
    """
    labels = checkpoint.labels or [f"class {i}" for i in range(checkpoint.architecture.classes)]
    # of a name of a folder that is not UTF-8
    labels = [label.encode("utf-8", "replace").decode() for label in labels]
    taken = Counter(labels)
    unique = [
        label if taken[label] == 1 else f"{label} ({index})" for index, label in enumerate(labels)
    ]
    if len(set(unique)) < len(unique):
        raise WriterError(
            f"{target}: two classes have one label, even with their numbers behind it: give others "
            "(--labels)"
        )
    return unique
