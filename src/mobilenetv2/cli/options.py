"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

model_option = click.option(
    "--model",
    "model_name",
    default="cifar10",
    show_default=True,
    help="Model file, or a name from `models`.",
)

stretch_option = click.option(
    "--stretch",
    is_flag=True,
    help="Map the values of a grey image of more than 8 bits to black..white, its lowest to its highest.",
)


def resolution_option(default: str) -> Callable[[Command], Command]:
    """The option `--resolution SIDE|HxW`, which a command gets as (height, width) or None.

    Args:
        default: What None means, for the help text.
    """
    return click.option(
        "--resolution",
        metavar="SIDE|HxW",
        callback=_resolution,
        help=f"Size of the image, height first.  [default: {default}]",
    )


def _resolution(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """`224` or `192x256` as (height, width)."""
    if text is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", text)
    if sides is None:
        raise click.BadParameter(
            f"{text!r} is neither a side such as 224 nor HEIGHTxWIDTH such as 192x256"
        )
    return int(sides[1]), int(sides[2] or sides[1])
