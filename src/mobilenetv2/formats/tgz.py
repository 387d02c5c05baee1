"""TF-slim's `.tgz` archives, of which the .tflite file is read."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from ..errors import ModelFileError
from ..files import memory_limit, require_memory
from ..int8 import AnyCheckpoint
from .tflite import checkpoint_from


def read_tgz(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The checkpoint in the one .tflite file of an archive, as TF-slim publishes them.

    Args:
        path: The archive.
        int8: As for `reader.read`.

    Raises:
        ModelFileError: Damaged, not exactly one .tflite file in it, or that is not a MobileNetV2.
    """
    try:
        with gzip.open(path) as stream:
            unpacked = stream.read(memory_limit(path) + 1)
        require_memory(path, len(unpacked), "its content")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            members = [
                member
                for member in archive.getmembers()
                if member.isfile() and member.name.endswith(".tflite")
            ]
            if len(members) != 1:
                raise ModelFileError(f"holds {len(members)} .tflite files, not one")
            file = archive.extractfile(members[0])
            content = file.read() if file else b""
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except Exception as error:  # tarfile and zlib raise nearly anything on damaged archives
        raise ModelFileError(f"{path}: a damaged archive: {error}") from None
    return checkpoint_from(path, content, int8)
