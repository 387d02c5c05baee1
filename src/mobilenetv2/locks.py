"""A lock that a forked child can take, whoever held it in the parent; and one between programs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class ForkSafeLock:
    """`threading.Lock` as a context manager, made anew in every forked child.

    A thread that holds it does not exist in the child and would never release it there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _existing.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Forgets who holds the lock."""
        self._lock = threading.Lock()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """In the block, no other program is in one with the same folder; where the system has no locks,
    it may be.
    """
    descriptor = -1
    with suppress(OSError):
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


_existing: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_existing):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
