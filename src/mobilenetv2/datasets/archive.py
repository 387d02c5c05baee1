"""A .zip file of images that several threads and processes read at once."""

from __future__ import annotations

import io
import os
import threading
import weakref
import zipfile
from pathlib import Path
from typing import IO

from ..errors import ImageError
from ..locks import ForkSafeLock

MOST_BYTES = 1 << 28  # of one unpacked member; a small archive may hold any number of zeros
LARGE_BYTES = 1 << 24  # of a member that counts
MOST_LARGE_BYTES = 1 << 28  # of all large members that threads hold at once


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
                than 256 MB.
        """
        try:
            info = self.info(member)
            if info.file_size > MOST_BYTES:
                raise ImageError(f"it has {info.file_size} bytes, more than {MOST_BYTES}")
            with self._lock:
                file = self._opened().open(info)
            try:
                return _content(file, info.file_size, name)
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


class _LargeMembers:
    """The bytes of large members that this process holds; a thread waits until its own have room."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Waits until there is room for so many bytes, or until nobody else holds any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= MOST_LARGE_BYTES)
            self._held += count

    def give_back(self, count: int) -> None:
        """Makes room again."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()


_large_members = _LargeMembers()


def _renew_large_members() -> None:
    """In a forked child, where threads that hold bytes do not exist."""
    global _large_members
    _large_members = _LargeMembers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_large_members)


def _content(file: IO[bytes], size: int, name: str) -> IO[bytes]:
    """A member's content, which counts among the large ones as long as the result exists."""
    if size < LARGE_BYTES:
        # no more than it should have: the decompressor would go on to the end
        return _NamedBytes(file.read(size), name)
    members = _large_members
    members.take(size)
    try:
        content = _NamedBytes(file.read(size), name)
    except BaseException:
        members.give_back(size)
        raise
    weakref.finalize(content, members.give_back, size)
    return content


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
