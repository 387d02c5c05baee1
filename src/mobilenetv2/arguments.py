"""Checks of the arguments of public functions, each of which names the argument that is wrong."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import Any

from .errors import UserError


def check_kind(name: str, value: object, *kinds: type) -> None:
    """Refuses a value of another type.

    Args:
        name: Of the argument.
        value: Its value.
        kinds: The types that it may have.

    Raises:
        UserError: It has another.
    """
    if not isinstance(value, kinds):
        allowed = " or ".join("None" if x is type(None) else x.__name__ for x in kinds)
        raise UserError(f"{name} must be of type {allowed}, not {type(value).__name__}")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value as an int, if it is a whole number of any library within the limits.

    Raises:
        UserError: It is not.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} must be a whole number {allowed}, not {value!r:.80}")
    return number


def check_path(name: str, value: Any) -> str:
    """The value as text, if it is the name of a file or folder.

    Raises:
        UserError: It is not.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise UserError(f"{name} must be a file name, not {type(value).__name__}")
    return path


def check_list(name: str, value: Any) -> None:
    """Refuses what is no list, and a text, which would be read letter by letter; `name` is a plural.

    Raises:
        UserError: It is one of these.
    """
    if isinstance(value, str | bytes | bytearray | os.PathLike):
        raise UserError(f"a list of {name} is needed, not one: [{value!r:.80}]")
    if not isinstance(value, Iterable):
        raise UserError(f"a list of {name} is needed, not {type(value).__name__}")
