"""The arrays of a safetensors file that stay in it until they are used."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ModelFileError
from .paths import obstacle

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"}
DTYPES |= {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
UNKNOWN = np.dtype("V1")  # a type that NumPy lacks
MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
CHUNK_BYTES = 1 << 18  # stays in the cache while it is looked at


class _Entry(msgspec.Struct):
    """What a header says of an array."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


class Place(NamedTuple):
    """Where an array lies in a file: its type, its axes, its first byte and the one behind it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a file that is kept open: each is read when it is asked for, and is read-only.

    They are what they were when `crc32` looked at them: once a file has been overwritten, they are
    refused. A file that is deleted, or replaced by another of its name, stays readable here.

    Args:
        path: A safetensors file.

    Attributes:
        texts: Those in the file's header.
        places: Of the arrays, by name.
        extremes: The smallest and the largest value of each array that `crc32` has looked at; NaN
            where one is.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._content: bytes | None = None
        self._checks: dict[str, tuple[int, int]] = {}  # the CRC-32 before and behind an array
        self.extremes: dict[str, tuple[Any, Any]] = {}
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
        return self.read(name)

    def read(self, name: str, room: NDArray[Any] | None = None) -> NDArray[Any]:
        """The array of that name.

        Args:
            name: As in the file.
            room: Contiguous memory that is large enough, which the array then lies in, since new
                memory takes as long as reading does; None: new memory.

        Raises:
            ModelFileError: The file has been overwritten, or NumPy lacks the array's type.
        """
        place = self.places[name]
        if place.dtype == UNKNOWN:
            raise ModelFileError(f"{self._path}: {name:.80} is of a type that NumPy lacks")
        if name not in self._checks:
            self.crc32(name, 0)
        before, behind = self._checks[name]
        content = self._read(place.begin, place.end, room)
        if zlib.crc32(content, before) != behind:
            raise self._changed()
        return np.frombuffer(content, place.dtype).reshape(place.shape)

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
        extremes = []
        for begin in range(place.begin, place.end, CHUNK_BYTES):
            content = self._read(begin, min(begin + CHUNK_BYTES, place.end))
            crc = zlib.crc32(content, crc)
            if place.dtype != UNKNOWN:
                values = np.frombuffer(content, place.dtype)
                extremes += [values.min(), values.max()]
        self._checks[name] = before, crc
        if len(extremes) > 2:  # of several chunks
            extremes = [np.min(extremes), np.max(extremes)]
        if extremes:
            self.extremes[name] = extremes[0], extremes[1]
        return crc

    def _read(self, begin: int, end: int, room: NDArray[Any] | None = None) -> bytes | memoryview:
        if self._content is not None:
            return self._content[begin:end]
        if room is None:
            content: bytes | memoryview = os.pread(self._descriptor, end - begin, begin)
            length = len(content)
        else:
            content = room.data.cast("B")[: end - begin]
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
            dtype = np.dtype(DTYPES.get(entry.dtype, UNKNOWN))
            size = dtype.itemsize * math.prod(entry.shape)
            if begin != behind or end < begin or (dtype != UNKNOWN and end - begin != size):
                raise ValueError(f"{name:.80} is not where its bytes are")
            places[name] = Place(dtype, entry.shape, first + begin, first + end)
            behind = end
        if first + behind != self._size:
            raise ValueError(f"{self._size - first} bytes of arrays, and its header says {behind}")
        return texts, places
