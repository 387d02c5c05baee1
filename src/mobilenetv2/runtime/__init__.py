"""Runs a checkpoint on the CPU, NumPy in, NumPy out."""

from typing import TYPE_CHECKING, Any

from .engine import Engine

if TYPE_CHECKING:
    from .integer_reference import IntegerReference
    from .reference import Reference

__all__ = ["Engine", "IntegerReference", "Reference"]


def __getattr__(name: str) -> Any:
    """The oracles are loaded when somebody asks for them: programs that classify do not."""
    if name == "IntegerReference":
        from .integer_reference import IntegerReference

        return IntegerReference
    if name == "Reference":
        from .reference import Reference

        return Reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
