"""Runs a checkpoint on the CPU, NumPy in, NumPy out."""

from .reference import Reference

__all__ = ["Reference"]
