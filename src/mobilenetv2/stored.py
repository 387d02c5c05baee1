"""The arrays of a safetensors file that stay in it until they are used."""

from __future__ import annotations

import math
import os
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from .errors import ModelFileError
from .paths import obstacle

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = {"F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BOOL": ("bool", 1)}
DTYPES |= {f"I{8 * size}": (f"int{8 * size}", size) for size in (1, 2, 4, 8)}
DTYPES |= {f"U{8 * size}": (f"uint{8 * size}", size) for size in (1, 2, 4, 8)}
UNKNOWN = "|V1"  # a type that NumPy lacks
MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
CHUNK_BYTES = 1 << 18  # stays in the cache while it is looked at


class _Entry(msgspec.Struct):
    """What a header says of an array."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


class Place(NamedTuple):
    """Where an array lies in a file: NumPy's name of its type, its axes, its first byte and the one
    behind it.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class StoredArrays(Mapping[str, "NDArray[Any]"]):
    """The arrays of a file that is kept open: each is read when it is asked for, and is read-only.

    They are what they were when `crc32` looked at them: once a file has been overwritten, they are
    refused. A file that is deleted, or replaced by another of its name, stays readable here.

    Args:
        path: A safetensors file.

    Attributes:
        texts: Those in the file's header.
        places: Of the arrays, by name.
        not_finite: Names of the float32 arrays in which `crc32` has seen NaN or infinity.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._content: bytes | None = None
        self._checks: dict[str, tuple[int, int]] = {}  # the CRC-32 before and behind an array
        self.not_finite: set[str] = set()
        if reason := obstacle(path):
            raise ModelFileError(f"{path}: {reason}")
        try:
            if hasattr(os, "pread"):
                self._descriptor = os.open(path, os.O_RDONLY)
                self._size = os.fstat(self._descriptor).st_size
            else:  # Windows, where nobody could replace a file that is open
                self._content = path.read_bytes()
                self._size = len(self._content)
            self.texts, self.places = self._header()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None

    def __getitem__(self, name: str) -> NDArray[Any]:
        import numpy as np

        place = self.places[name]
        if place.dtype == UNKNOWN:
            raise ModelFileError(f"{self._path}: {name:.80} is of a type that NumPy lacks")
        return np.frombuffer(self.content(name), place.dtype).reshape(place.shape)

    def content(self, name: str, room: memoryview | None = None) -> bytes | memoryview:
        """The bytes of an array, little-endian.

        Args:
            name: Of the array.
            room: At least as many bytes, which the array then lies in, since new memory takes as
                long as reading does; None: new memory.

        Raises:
            ModelFileError: The file has been overwritten.
        """
        place = self.places[name]
        if name not in self._checks:
            self.crc32(name, 0)
        before, behind = self._checks[name]
        content = self._read(place.begin, place.end, room)
        if zlib.crc32(content, before) != behind:
            raise self._changed()
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __reduce__(self) -> tuple[type[dict[str, NDArray[Any]]], tuple[dict[str, NDArray[Any]]]]:
        return dict, (dict(self),)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def crc32(self, name: str, before: int) -> int:
        """The CRC-32 of an array's bytes behind others, of which `before` is the CRC-32.

        Raises:
            ModelFileError: The file has become shorter.
        """
        place, crc = self.places[name], before
        for begin in range(place.begin, place.end, CHUNK_BYTES):
            content = self._read(begin, min(begin + CHUNK_BYTES, place.end))
            crc = zlib.crc32(content, crc)
            if place.dtype == "float32" and not _all_finite(bytes(content)):
                self.not_finite.add(name)
        self._checks[name] = before, crc
        return crc

    def _read(self, begin: int, end: int, room: memoryview | None = None) -> bytes | memoryview:
        if self._content is not None:
            return self._content[begin:end]
        if room is None:
            content: bytes | memoryview = os.pread(self._descriptor, end - begin, begin)
            length = len(content)
        else:
            content = room[: end - begin]
            length = os.preadv(self._descriptor, [content], begin)
        if length != end - begin:
            raise self._changed()
        return content

    def _changed(self) -> ModelFileError:
        return ModelFileError(f"{self._path}: changed while it was in use; load it again")

    def _header(self) -> tuple[dict[str, str], dict[str, Place]]:
        """The texts and the places; each byte behind the header belongs to one array.

        Raises:
            ValueError: There is no such header.
            msgspec.MsgspecError: It is of another form.
        """
        first = 8 + int.from_bytes(self._read(0, min(8, self._size)), "little")
        if not 8 < first <= min(self._size, 8 + MAX_HEADER_BYTES):
            raise ValueError("its header is not complete")
        header = msgspec.json.decode(self._read(8, first), type=dict[str, Any])
        texts = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
        entries = msgspec.convert(header, dict[str, _Entry])
        places, behind = {}, 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            begin, end = entry.data_offsets
            dtype, item_bytes = DTYPES.get(entry.dtype, (UNKNOWN, 1))
            size = item_bytes * math.prod(entry.shape)
            if begin != behind or end < begin or (dtype != UNKNOWN and end - begin != size):
                raise ValueError(f"{name:.80} is not where its bytes are")
            places[name] = Place(dtype, entry.shape, first + begin, first + end)
            behind = end
        if first + behind != self._size:
            raise ValueError(f"{self._size - first} bytes of arrays, and its header says {behind}")
        return texts, places


def _all_finite(content: bytes) -> bool:
    """Whether little-endian float32 values are neither NaN nor infinity."""
    last = content[3::4]  # the sign and all but one bit of the exponent
    if b"\x7f" not in last and b"\xff" not in last:
        return True
    return all(map(math.isfinite, array("f", content)))
