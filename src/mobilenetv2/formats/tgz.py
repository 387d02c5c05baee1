"""TF-slim's `.tgz` archives, of which the .tflite file is read."""

from __future__ import annotations

import tarfile
from pathlib import Path

from ..errors import ModelFileError
from ..int8 import AnyCheckpoint
from .tflite import checkpoint_from

MAX_TFLITE_BYTES = 1 << 28


def read_tgz(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The checkpoint in the one .tflite file of an archive, as TF-slim publishes them.

    Args:
        path: The archive.
        int8: As for `reader.read`.

    Raises:
        ModelFileError: Damaged, not exactly one .tflite file in it, or that is not a MobileNetV2.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = [
                member
                for member in archive.getmembers()
                if member.isfile() and member.name.endswith(".tflite")
            ]
            if len(members) != 1:
                raise ModelFileError(f"{path}: holds {len(members)} .tflite files, not one")
            if members[0].size > MAX_TFLITE_BYTES:
                raise ModelFileError(f"{path}: the .tflite in it is larger than any MobileNetV2")
            file = archive.extractfile(members[0])
            content = file.read() if file else b""
    except ModelFileError:
        raise
    except Exception as error:  # tarfile and zlib raise nearly anything on damaged archives
        raise ModelFileError(f"{path}: a damaged archive: {error}") from None
    return checkpoint_from(path, content, int8)
