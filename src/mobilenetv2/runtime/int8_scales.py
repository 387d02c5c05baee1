"""What the scales and zero points of an int8 network say of its tensors, and which networks run in int8."""

from __future__ import annotations

import math

from ..architecture import Architecture
from ..graph import network
from ..int8 import Activation, Int8Checkpoint
from ..layer import IMAGE
from .steps import group

LIMITS = {"linear": (None, None), "relu": (0, None), "relu6": (0, 6)}
ADD_BITS = 20  # bits of fraction of a sum of two tensors, with rounding "twice"


def int8_obstacle(architecture: Architecture, rounding: str) -> str | None:
    """Why a network cannot run in int8; None where it can.

    Args:
        architecture: Which network.
        rounding: As in `Int8Checkpoint`.
    """
    net = network(architecture)
    for step in group(net).steps:
        if step.kind == "add":
            return f"{step.output} ({step.kind}) has no int8 kernel"
    for layer in net.layers:
        limited = layer.kind == "add" and net[layer.sources[1]].activation != "linear"
        if limited and rounding == "nearest":
            return f"{layer.sources[1]} is limited before a sum that is rounded once"
    return None


def tensor_scale(checkpoint: Int8Checkpoint, name: str) -> float:
    """Scale of a stored tensor, "image" included."""
    return checkpoint.image_scale if name == IMAGE else checkpoint.activations[name].scale


def zero_points(checkpoint: Int8Checkpoint, name: str) -> tuple[int, ...]:
    """Zero point of a stored tensor; of the image, one per channel."""
    if name == IMAGE:
        return checkpoint.image_zero_points
    return (checkpoint.activations[name].zero_point,)


def code_limits(out: Activation, activation: str) -> tuple[int, int]:
    """The least and the greatest code that an activation lets through, less the zero point."""
    low, high = LIMITS[activation]
    highest = 255 - out.zero_point
    if high is not None:
        highest = min(highest, round(high / out.scale))
    return (-out.zero_point if low is None else 0), highest


def fixed_point(factor: float) -> tuple[int, int]:
    """A factor as TensorFlow Lite stores it: 31 bits of a fraction in 0.5..1, and a power of two."""
    fraction, power = math.frexp(factor)
    fixed = math.floor(fraction * 2**31 + 0.5)
    if fixed == 2**31:
        fixed, power = 2**30, power + 1
    return (0, -31) if power < -31 else (fixed, power)


def mean_fixed_point(source: Activation, out: Activation, count: int) -> tuple[int, int]:
    """The factor of TensorFlow Lite's MEAN over `count` places: a fraction of 31 bits, with the
    division in it, and a power of two.
    """
    fixed, power = fixed_point(source.scale / out.scale)
    shift = count.bit_length() - 1
    return (fixed << shift) // count, power - shift


def halves_from(checkpoint: Int8Checkpoint) -> int:
    """The code that halves of averages and resizes are rounded away from."""
    return 128 if checkpoint.signed else 0
