"""Refuses pickles whose tuples are nested so deeply that Python itself would crash or never end.

A tuple that is the key of a dictionary is hashed with all tuples inside of it: 100,000 levels exceed
the stack of the process, and 40 levels that each hold the one below twice are never done.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import ModelFileError

MAX_NESTING = 16  # what torch saves has 4
PICKLES_OF_OLD = 5  # one after the other at the start of a file without an archive
MARK = -1
UNCHANGED = ("DUP", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def refuse_deep_pickles(path: Path) -> None:
    """Looks through the pickles of a `.pth` file without making their objects.

    Raises:
        ModelFileError: Objects are nested too deeply.
    """
    try:
        for stream in _pickles(path):
            if _depth_exceeds(stream, MAX_NESTING):
                raise ModelFileError(f"{path}: damaged: its objects are nested too deeply")
    except ModelFileError:
        raise
    except Exception:  # damaged: torch, which reads the same bytes, says how
        return


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    yield io.BytesIO(archive.read(name))
        return
    with path.open("rb") as file:
        for _ in range(PICKLES_OF_OLD):
            yield file


def _depth_exceeds(stream: IO[bytes], limit: int) -> bool:
    """Follows the depth of each object on the stack of one pickle."""
    stack: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name, before = opcode.name, opcode.stack_before
        popped: list[int] = []
        if pickletools.markobject in before:
            while stack and (top := stack.pop()) != MARK:
                popped.append(top)
            before = before[: before.index(pickletools.markobject)]
        for _item in before:
            popped.append(stack.pop())
        if name == "MARK":
            stack.append(MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = popped[-1]
            stack.append(popped[-1])
        elif name.endswith("PUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument or 0)])
        else:
            depth = max(popped, default=0)
            if name in UNCHANGED:
                depth = popped[-1]
            elif popped:
                depth += 1
            stack += [depth] * len(opcode.stack_after)
        if stack and stack[-1] > limit:
            return True
    return False
