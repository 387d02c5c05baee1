"""Runs a checkpoint on the CPU, NumPy in, NumPy out."""

from .engine import Engine
from .integer_reference import IntegerReference
from .reference import Reference

__all__ = ["Engine", "IntegerReference", "Reference"]
