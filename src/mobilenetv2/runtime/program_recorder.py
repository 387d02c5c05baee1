"""What is packed and planned for a program, written down instead of handed to the extension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _native


@dataclass(frozen=True)
class RecordedLayer:
    """Weights as they were handed over.

    Attributes:
        depthwise: Whether it is a depthwise layer; else a matrix.
        handle: Its number among its kind.
        depth: Of a matrix; of a depthwise layer, its copies.
        tail: As for `int8_packing`.
        arrays: Weights, bias and the factors of an int8 layer.
    """

    depthwise: bool
    handle: int
    channels: int
    depth: int
    input_factor: int
    tail: int
    arrays: tuple[NDArray[Any], ...]
    rounding: _native.Rounding


@dataclass
class Recorder:
    """Stands in for the extension's network: what is packed and planned is copied and written down.

    Attributes:
        layers: In the order in which they were added.
        padding: Of the image's channels.
    """

    panel_channels: int = _native.BLOCK
    layers: list[RecordedLayer] = field(default_factory=list)
    padding: list[float] = field(default_factory=list)

    def reserve(self, weights: int) -> None:
        """Nothing is packed here."""

    def add_matrix(
        self,
        weights: NDArray[Any] | memoryview[Any],
        bias: NDArray[Any] | memoryview[Any],
        input_factor: int = 0,
        tail: int = 0,
        rounding: _native.Rounding | None = None,
        **factors: NDArray[Any],
    ) -> int:
        of_inputs = input_factor, tail
        return self._add(False, np.shape(weights), of_inputs, (weights, bias), factors, rounding)

    def add_depthwise(
        self,
        weights: NDArray[Any] | memoryview[Any],
        bias: NDArray[Any] | memoryview[Any],
        copies: int = 1,
        rounding: _native.Rounding | None = None,
        **factors: NDArray[Any],
    ) -> int:
        return self._add(True, (len(bias), copies), (0, 0), (weights, bias), factors, rounding)

    def set_pixel_padding(self, values: list[float]) -> None:
        self.padding = values

    def plan(self, steps: list[_native.Step], threads: int) -> None:
        """The steps are in the plan that is made around this."""

    def _add(
        self,
        depthwise: bool,
        shape: tuple[int, ...],
        of_inputs: tuple[int, int],
        arrays: tuple[NDArray[Any] | memoryview[Any], ...],
        factors: Mapping[str, NDArray[Any]],
        rounding: _native.Rounding | None,
    ) -> int:
        handle = sum(layer.depthwise == depthwise for layer in self.layers)
        ordered = [factors[name] for name in ("factor", "fraction", "power") if name in factors]
        channels, depth = shape
        self.layers.append(
            RecordedLayer(
                depthwise,
                handle,
                channels,
                depth,
                *of_inputs,
                tuple(np.array(array) for array in (*arrays, *ordered)),
                rounding or _native.Rounding(),
            )
        )
        return handle


class UsedLayers:
    """The layers that a plan uses, and their handles among them.

    Args:
        recorder: Has all layers.
        steps: Of the plan.

    Attributes:
        kept: The layers, in order.
    """

    def __init__(self, recorder: Recorder, steps: Sequence[_native.Step]) -> None:
        used = {(False, step.matrix) for step in steps}
        for step in steps:
            for stage in step.stages:
                matrices = (image_conv(step, stage), stage.expand, stage.project)
                used |= {*((False, handle) for handle in matrices), (True, stage.depthwise)}
        self.kept: list[RecordedLayer] = []
        self._handles = {(False, -1): -1, (True, -1): -1}
        for layer in recorder.layers:
            if (layer.depthwise, layer.handle) in used:
                handle = sum(other.depthwise == layer.depthwise for other in self.kept)
                self._handles[layer.depthwise, layer.handle] = handle
                self.kept.append(layer)

    def matrix(self, handle: int) -> int:
        """The new handle of a matrix; -1 of none."""
        return self._handles[False, handle]

    def depthwise(self, handle: int) -> int:
        """The new handle of a depthwise layer; -1 of none."""
        return self._handles[True, handle]


def image_conv(step: _native.Step, stage: _native.Stage) -> int:
    """The handle of a stage's k x k convolution: of the image, the one for pixels."""
    return stage.conv_pixels if step.inputs[0] == _native.IMAGE else stage.conv
