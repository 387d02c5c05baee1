"""`python -m mobilenetv2`."""

from .cli import run

raise SystemExit(run())
