"""A .zip file of images that several threads and processes read at once."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import IO

from ..errors import ImageError
from ..locks import ForkSafeLock

MOST_BYTES = 1 << 29  # of one unpacked member; a small archive may hold any number of zeros


class Archive:
    """A .zip file, opened once in each process and shared by its threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = ForkSafeLock()
        self._zip_file: zipfile.ZipFile | None = None
        self._process = 0

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def open(self, member: str, name: str) -> IO[bytes]:
        """The content of one member, as an open file.

        Args:
            member: Its name in the archive.
            name: The name of the returned file, which messages show.

        Raises:
            ImageError: The member is damaged, encrypted, compressed in an unknown way, or larger
                than 512 MB.
        """
        try:
            info = self.info(member)
            if info.file_size > MOST_BYTES:
                raise ImageError(f"it has {info.file_size} bytes, more than {MOST_BYTES}")
            with self._lock:
                file = self._opened().open(info)
            try:
                # no more than it should have: the decompressor would go on to the end
                return _NamedBytes(file.read(info.file_size), name)
            finally:
                with self._lock:
                    file.close()
        except MemoryError:
            raise ImageError(f"{name}: too large for this machine's memory") from None
        except Exception as error:  # zipfile and its decompressors raise nearly anything
            raise ImageError(f"{name}: cannot be unpacked: {error}") from error

    def info(self, member: str) -> zipfile.ZipInfo:
        """What the archive's table says of a member, such as its size and its CRC.

        Raises:
            KeyError: There is no such member.
            OSError: The archive cannot be opened.
        """
        with self._lock:
            return self._opened().getinfo(member)

    def _opened(self) -> zipfile.ZipFile:
        if self._zip_file is None or self._process != os.getpid():
            self._zip_file, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._zip_file


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
