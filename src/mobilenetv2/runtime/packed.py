"""Weights inside the extension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint
from ..errors import UserError
from . import _native
from .packing import Weights, pack
from .steps import Steps

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint


@dataclass(frozen=True)
class Packed:
    """Weights inside the extension, laid out for the steps of a network."""

    native: _native.ByteNetwork
    steps: Steps
    weights: Weights


def packed(
    checkpoint: AnyCheckpoint, precision: str, isa: str, threads: int, steps: Steps
) -> Packed:
    """Packs a checkpoint's weights.

    Args:
        checkpoint: The model.
        precision: "float32", "bf16" or "int8".
        isa: Instruction set, which this machine has.
        threads: Of the engine.
        steps: The network as steps.

    Raises:
        UserError: An int8 network that has layers without int8 kernels.
    """
    if isinstance(checkpoint, Checkpoint):
        if precision == "bf16":
            from .bf16_packing import pack_bf16

            pairs = _native.BF16Network(isa, threads)
            return Packed(pairs, steps, pack_bf16(pairs, checkpoint, steps))
        floats = _native.Network(isa, threads)
        return Packed(floats, steps, pack(floats, checkpoint, steps))
    from .int8_packing import pack_int8
    from .int8_scales import int8_obstacle

    obstacle = int8_obstacle(checkpoint.architecture, checkpoint.rounding)
    if obstacle:
        raise UserError(f"the network cannot run in int8: {obstacle}")
    integers = _native.ByteNetwork(isa, threads)
    return Packed(integers, steps, pack_int8(integers, checkpoint, steps))
