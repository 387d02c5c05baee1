"""Which threads, which precision and which instruction set an engine runs with."""

from __future__ import annotations

import os

from ..errors import UserError
from ..processors import MOST, usable_processors
from . import _native

# what float weights may run in
PRECISIONS = ("float32", "bf16")


def chosen_threads(requested: int | None) -> int:
    """How many threads an engine has: as requested, else what this process may use.

    Raises:
        UserError: No such number.
    """
    if requested is None:
        return usable_processors()
    whole = isinstance(requested, int) and not isinstance(requested, bool)
    if not whole or not 1 <= requested <= MOST:
        raise UserError(f"threads must be a whole number from 1 to {MOST}, not {requested!r:.80}")
    return requested


def chosen_precision(requested: str | None, int8: bool) -> str:
    """What an engine computes in: "float32", "bf16" or "int8".

    Args:
        requested: As for `Engine`.
        int8: Whether the checkpoint is int8.

    Raises:
        UserError: Unknown, or not one of the checkpoint's.
    """
    if requested is None:
        return "int8" if int8 else PRECISIONS[0]
    if requested not in PRECISIONS:
        raise UserError(f"precision must be {' or '.join(PRECISIONS)}, not {requested!r:.80}")
    if int8:
        raise UserError(
            f"an int8 model runs in int8 alone, not in {requested}: leave the precision out, or give "
            "the float weights"
        )
    return requested


def chosen_isa(requested: str | None, precision: str) -> str:
    """The instruction set of an engine: as requested, else that of MOBILENETV2_ISA, else the best.

    Args:
        requested: As for `Engine`.
        precision: As `chosen_precision` gives it; each has its own sets.

    Raises:
        UserError: Unknown, the processor lacks it, or it has no instructions for bfloat16.
    """
    kernels = {
        "float32": _native.kernel_names,
        "bf16": _native.bf16_kernel_names,
        "int8": _native.byte_kernel_names,
    }
    known = kernels[precision]()
    source = "isa"
    if requested is None:
        requested, source = (
            os.environ.get("MOBILENETV2_ISA") or _best(known, precision),
            "MOBILENETV2_ISA",
        )
    floats = precision == "float32" and requested in _native.byte_kernel_names()
    if floats and requested not in known:
        requested = _native.float_target(requested)
    if requested not in known:
        raise UserError(
            f"{source} must be one that this machine has ({', '.join(known)}), not {requested!r:.80}"
        )
    return requested


def _best(known: list[str], precision: str) -> str:
    """The fastest of these instruction sets.

    Raises:
        UserError: The processor has no instructions for bfloat16.
    """
    if precision == "bf16" and known == ["scalar"]:
        raise UserError(
            "this processor has no instructions for bfloat16 (AVX512_BF16): run in float32 "
            '(--precision float32); isa="scalar" would run bf16, slowly'
        )
    return known[-1]
