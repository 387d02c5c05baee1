"""Runs a checkpoint on the CPU, NumPy in, NumPy out."""

from .engine import Engine
from .reference import Reference

__all__ = ["Engine", "Reference"]
