"""Model files of any kind, ours and other people's, read into a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, overload

from ..errors import ModelFileError, UserError
from .reader import KINDS, read, recognise

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..int8 import AnyCheckpoint

__all__ = ["KINDS", "open_checkpoint", "read", "read_content", "recognise"]


@overload
def open_checkpoint(
    name: str | Path,
    width_mult: float | None = None,
    *,
    int8: Literal[False],
    weights_of: str | None = None,
) -> Checkpoint: ...
@overload
def open_checkpoint(
    name: str | Path,
    width_mult: float | None = None,
    *,
    int8: bool = True,
    weights_of: str | None = None,
) -> AnyCheckpoint: ...
def open_checkpoint(
    name: str | Path,
    width_mult: float | None = None,
    *,
    int8: bool = True,
    weights_of: str | None = None,
) -> AnyCheckpoint:
    """The checkpoint of a file, or of a name in `zoo.models()`, fetched and converted once.

    Args:
        name: A path, a name such as "cifar10" or "slim-1.0-224", or "imagenet": TF-slim's weights
            of `width_mult` at 224.
        width_mult: For "imagenet"; default 1.0.
        int8: As for `read`.
        weights_of: As for `read`.

    Raises:
        ModelFileError: Neither a file nor a known name, or the file cannot be read.
        DownloadError: A published file could not be fetched or verified.
    """
    if not isinstance(name, str | os.PathLike):
        raise ModelFileError(
            f"a model is a file name or a name of a published model, not {type(name).__name__}"
        )
    if os.path.exists(name):  # unlike Path.exists, False for a name that no file can have
        return read(Path(os.fsdecode(name)), int8, weights_of)
    from ..zoo import BUNDLED, bundled_path

    if name in BUNDLED:
        return read(bundled_path(str(name)), int8)
    if weights_of not in (None, "raw"):
        raise ModelFileError(
            f"{name}: no such file, and published models hold no weights of {weights_of!r:.80}"
        )
    from .published import open_published

    return open_published(str(name), width_mult)


def read_content(
    content: bytes | IO[bytes], int8: bool = True, weights_of: str | None = None
) -> AnyCheckpoint:
    """The checkpoint in the content of any model file.

    Args:
        content: Bytes, or an open binary file.
        int8: As for `read`.
        weights_of: As for `read`.

    Raises:
        ModelFileError: As for `read`, or neither bytes nor an open binary file.
    """
    from tempfile import TemporaryDirectory

    if not isinstance(content, bytes | bytearray | memoryview):
        read_all = getattr(content, "read", None)
        content = read_all() if read_all else content
        if not isinstance(content, bytes):
            raise ModelFileError(
                "a model is a file name, a name of a published model, bytes or a file opened as 'rb', "
                f"not {type(content).__name__}"
            )
    with TemporaryDirectory() as folder:  # the readers map files into memory, or seek in them
        path = Path(folder, "model")
        path.write_bytes(content)
        try:
            return read(path, int8, weights_of)
        except UserError as error:
            raise type(error)(str(error).replace(str(path), "<bytes>")) from None
