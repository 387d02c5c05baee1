"""What a run tells whoever shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """A batch that was trained or validated with.

    Attributes:
        validates: True: validated with; False: trained with.
        epoch: Number of the epoch, from 1; 0: validation before the first one.
        epochs: Number of epochs; 0: as many as the minutes of the recipe allow.
        step: Number of the batch in the epoch or validation, from 1.
        steps: Number of their batches.
        images: Number of images in the batch, of all processes.
        loss: Mean loss of the batch; NaN in validation.
        lr: Learning rate; NaN in validation.
        share: Share of the minutes of the run that is over; None in a run with epochs.
        seconds_left: Of these minutes; None in a run with epochs.
    """

    validates: bool
    epoch: int
    epochs: int
    step: int
    steps: int
    images: int
    loss: float
    lr: float
    share: float | None = None
    seconds_left: float | None = None


Watch = Callable[[Step], object]
