"""The errors that a user can cause. Every message names the file or argument, and the fix."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """The base of all errors whose cause is the caller's input, not the program."""


class ArchitectureError(UserError):
    """A network that cannot be built: an argument is out of range or contradicts another."""


class ModelFileError(UserError):
    """A model file that is not one, is damaged, or does not fit the network it claims to be."""


class ImageError(UserError):
    """An image that cannot be decoded."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message says which extra brings it."""


class DownloadError(UserError):
    """Published weights could not be fetched, or the received file is another one."""


def shortened(texts: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first `most` texts in one line, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def install_hint(extra: str) -> str:
    """How to install an extra: the package comes from a checkout, not from an index."""
    return f"in the checkout of mobilenetv2: pip install '.[{extra}]'"
