"""What training starts from, as data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..architecture import Architecture
from ..errors import UserError
from ..records import Meta, Record, Size


@dataclass(frozen=True)
class Start(Record):
    """The network to start from.

    Attributes:
        weights: A model file of any kind, or a name from `mobilenetv2.models()`; None: from scratch.
        width: Width multiplier. None: that of the weights, or 1.
        resolution: (height, width) of the pixels. None: that of the weights, or 224, or 32 with
            `small_images`.
        small_images: A new network with the strides for 32 x 32 images,
            `architecture.SMALL_IMAGES`.
        architecture: Everything about a new network except its classes; not together with weights
            or `small_images`.

    Raises:
        UserError: A value is out of range, or two contradict each other.
    """

    noun: ClassVar[str] = "start"

    weights: str | os.PathLike[str] | None = None
    width: Annotated[float, Meta(ge=0.001, le=16)] | None = None
    resolution: Size | None = None
    small_images: bool = False
    architecture: Architecture | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.small_images:
            raise UserError("small_images is for new networks: weights bring their own strides")
        if self.architecture is not None and (self.weights is not None or self.small_images):
            raise UserError("give one of weights, small_images and architecture")
