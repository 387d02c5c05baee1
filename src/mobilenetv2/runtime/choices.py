"""Which threads and which instruction set an engine runs with."""

from __future__ import annotations

import os

from ..errors import UserError
from ..processors import MOST, usable_processors
from . import _native


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


def chosen_isa(requested: str | None, int8: bool) -> str:
    """The instruction set of an engine: as requested, else that of MOBILENETV2_ISA, else the best.

    Args:
        requested: As for `Engine`.
        int8: Whether the engine runs in int8; the others have fewer sets.

    Raises:
        UserError: Unknown, or the processor lacks it.
    """
    known = _native.byte_kernel_names() if int8 else _native.kernel_names()
    source = "isa"
    if requested is None:
        requested, source = os.environ.get("MOBILENETV2_ISA") or known[-1], "MOBILENETV2_ISA"
    if requested not in known and requested in _native.byte_kernel_names():
        requested = _native.float_target(requested)
    if requested not in known:
        raise UserError(
            f"{source} must be one that this machine has ({', '.join(known)}), not {requested!r:.80}"
        )
    return requested
