"""A file of weights for Keras, read back by our own reader and run by our engine."""

from __future__ import annotations

from .weights import run as run
