"""A .zip file of images that several threads and processes read at once."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from pathlib import Path
from typing import IO

from ..errors import ImageError
from ..locks import ForkSafeLock

MOST_BYTES = 1 << 28  # of one unpacked member; a small archive may hold any number of zeros
LARGE_BYTES = 1 << 24  # of a member that counts
MOST_LARGE_BYTES = 1 << 28  # of all large members that threads hold at once
LONGEST_WAIT = 10.0  # seconds for others to close theirs, who may have forgotten to


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
    """Counts the bytes of large members that are open in this process."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Waits until there is room for so many bytes, or nobody holds any, or the wait is long."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._held or self._held + count <= MOST_LARGE_BYTES, LONGEST_WAIT
            )
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


class InMemory:
    """The bytes of one file, such as an image on stdin."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, member: str, name: str) -> IO[bytes]:
        """The bytes as an open file of this name."""
        return _NamedBytes(self.content, name)


class _NamedBytes(io.BytesIO):
    """Bytes as an open file with a name; large ones count until it is closed."""

    def __init__(self, content: bytes, name: str, members: _LargeMembers | None = None) -> None:
        super().__init__(content)
        self.name = name
        self._members, self._size = members, len(content)

    def close(self) -> None:
        """Frees the bytes."""
        super().close()
        members, self._members = self._members, None
        if members:
            members.give_back(self._size)


def _content(file: IO[bytes], size: int, name: str) -> IO[bytes]:
    """A member's content: no more than it should have, while the decompressor would go on."""
    if size < LARGE_BYTES:
        return _NamedBytes(file.read(size), name)
    members = _large_members
    members.take(size)
    try:
        content = file.read(size)
    except BaseException:
        members.give_back(size)
        raise
    members.give_back(size - len(content))
    return _NamedBytes(content, name, members)
