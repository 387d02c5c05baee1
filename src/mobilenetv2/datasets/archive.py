"""A .zip file of images that several threads and processes read at once."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from pathlib import Path
from typing import IO

from ..errors import ImageError


class Archive:
    """A .zip file. Every thread of every process opens it once for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def open(self, member: str, name: str) -> IO[bytes]:
        """The content of one member, as an open file.

        Args:
            member: Its name in the archive.
            name: The name of the returned file, which messages show.

        Raises:
            ImageError: The member is damaged, encrypted or compressed in an unknown way.
        """
        try:
            return _NamedBytes(self._zip_file().read(member), name)
        except MemoryError:
            raise ImageError(f"{name}: too large for this machine's memory") from None
        except Exception as error:  # zipfile and its decompressors raise nearly anything
            raise ImageError(f"{name}: cannot be unpacked: {error}") from error

    def _zip_file(self) -> zipfile.ZipFile:
        if getattr(self._of_thread, "process", None) != os.getpid():
            self._of_thread.zip_file = zipfile.ZipFile(self.path)
            self._of_thread.process = os.getpid()
        zip_file: zipfile.ZipFile = self._of_thread.zip_file
        return zip_file


class InMemory:
    """The bytes of one file, such as an image on stdin."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, member: str, name: str) -> IO[bytes]:
        """The bytes as an open file of this name."""
        return _NamedBytes(self.content, name)


class _NamedBytes(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
