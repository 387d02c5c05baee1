"""Files: safetensors, a checksum over their content, and writing that never leaves half a file."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelFileError
from .paths import obstacle
from .stored import StoredArrays

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

    from numpy.typing import NDArray

MAX_FOREIGN_BYTES = 1 << 29  # of another library's file; the largest published one has 80 MB
LARGEST_NETWORK_BYTES = 1 << 26  # the float32 weights of the largest published network are 25 MB
MAX_TEXT_BYTES = 1 << 24
EXPANSION = 4  # bytes in memory per byte of a file: int8 weights as float32


def require_file(path: Path) -> None:
    """Refuses what is not a regular file that may be read, without opening it.

    Raises:
        ModelFileError: Absent, a folder, a pipe or device, a name that no file can have.
    """
    if reason := obstacle(path):
        raise ModelFileError(f"{path}: {reason}")


def require_size(path: Path) -> None:
    """Refuses another library's file that is larger than any that is known.

    Raises:
        ModelFileError: It is.
    """
    size = path.stat().st_size
    if size > MAX_FOREIGN_BYTES:
        raise ModelFileError(
            f"{path}: {size >> 20} MB; files of other libraries are read up to {MAX_FOREIGN_BYTES >> 20} MB"
        )


def memory_limit(path: Path) -> int:
    """How many bytes the content of another library's file may take: a small multiple of the file
    and of the largest network that is known.
    """
    return LARGEST_NETWORK_BYTES + EXPANSION * (path.stat().st_size if path.is_file() else 0)


def require_memory(path: Path, needed: int, what: str) -> None:
    """Refuses content that takes more than `memory_limit`.

    A small file may claim arrays of any size: without data, repeated, or compressed.

    Args:
        path: The file.
        needed: Bytes in memory.
        what: What takes them, for the message.

    Raises:
        ModelFileError: The message lacks the file's name.
    """
    if needed > memory_limit(path):
        raise ModelFileError(
            f"{what} would take {needed >> 20} MB of memory, far larger than any MobileNetV2"
        )


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a small file.

    Raises:
        ModelFileError: No regular file that may be read, above 16 MB, or not text.
    """
    if reason := obstacle(path):
        raise ModelFileError(f"{path}: cannot be read: {reason}")
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise ModelFileError(
                f"{path}: {size >> 20} MB; a text has at most {MAX_TEXT_BYTES >> 20} MB here"
            )
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: not a text file in UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a small UTF-8 text file, without spaces around them and without empty ones at the
    end.

    A line ends at a line feed only; Python's `splitlines` also cuts at U+0085, U+2028 and a form
    feed, which names may have.

    Raises:
        ModelFileError: As for `read_text`.
    """
    text = read_text(path, "utf-8-sig").rstrip()
    return [line.strip() for line in text.split("\n")] if text else []


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    import hashlib  # loads OpenSSL

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_member(archive: ZipFile, member: str | ZipInfo) -> bytes:
    """The content of an archive's member, never more than its stated size.

    `ZipFile.read` unpacks all of it first, whatever its size is said to be.

    Raises:
        zipfile.BadZipFile: Its checksum does not fit.
    """
    entry = archive.getinfo(member) if isinstance(member, str) else member
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)


def open_safetensors(path: Path) -> AbstractContextManager[Any]:
    """An open safetensors file: `metadata()`, `keys()`, `get_slice(name)`, `get_tensor(name)`.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """
    from safetensors import safe_open

    require_file(path)
    try:
        opened: AbstractContextManager[Any] = safe_open(path, framework="np")
        return opened
    except Exception as error:  # SafetensorError and OSError
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The texts in the header of any safetensors file, and its arrays.

    Raises:
        ModelFileError: The file is absent, truncated or not safetensors.
    """
    with open_safetensors(path) as file:
        try:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # a type that NumPy lacks, or that another package adds to it
            raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None
        return dict(file.metadata() or {}), arrays


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file under a temporary name beside it, then renames it over `path`.

    A link stays one: the file that it leads to is replaced. A device or pipe is written to directly.

    Raises:
        ModelFileError: The folder is absent or cannot be written to, `path` is a folder, nobody
            reads the pipe, or the disk is full; an old file is then still there.
    """
    try:
        if path.exists() and not path.is_file():
            _write_special(path, content)
        else:
            _write_and_rename({path: content})
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{path}: cannot be written: {reason}") from None


def write_together(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Writes regular files that belong together: all are written before the first is renamed.

    Raises:
        ModelFileError: One of them cannot be written; the old files are then still there.
    """
    try:
        _write_and_rename(contents)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        names = " and ".join(str(path) for path in contents)
        raise ModelFileError(f"{names}: cannot be written: {reason}") from None


def _write_special(path: Path, content: bytes | memoryview) -> None:
    # a pipe without a reader is an error, and does not wait for one
    descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    rest = memoryview(content)
    with open(descriptor, "wb", buffering=0) as file:
        while rest:
            rest = rest[file.write(rest) :]


def _write_and_rename(contents: Mapping[Path, bytes | memoryview]) -> None:
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in contents.items():
            path = Path(os.path.realpath(path))
            # a short name, since that of `path` may be as long as names can be
            name = f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.{len(staged)}.part"
            temporary = path.with_name(name)
            staged.append((temporary, path))
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # there was no file before
                temporary.chmod(path.stat().st_mode)
        for temporary, path in staged:
            os.replace(temporary, path)
    finally:
        for temporary, _ in staged:
            with suppress(OSError):  # renamed already, or never created
                temporary.unlink()


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside a target, which is gone after the block.

    Raises:
        ModelFileError: The system refuses something in the block, or the folder.
    """
    # only to write: they take a part of a short command's time
    import shutil
    import tempfile

    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        yield folder
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def checksum(header: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """A CRC-32 over header texts and arrays: it detects damage, not forgery."""
    crc = zlib.crc32(json.dumps([header[name] for name in sorted(header)]).encode())
    for name in sorted(arrays):
        if isinstance(arrays, StoredArrays):
            place = arrays.places[name]
            crc = zlib.crc32(f"{name} {place.dtype} {place.shape}".encode(), crc)
            crc = arrays.crc32(name, crc)
        else:
            import numpy as np

            array = np.ascontiguousarray(arrays[name])
            crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
            crc = zlib.crc32(array.data, crc)
    return f"crc32:{crc:08x}"


def in_order(content: bytes) -> bytes:
    """The content of a safetensors file with its header texts sorted; the library shuffles them."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]
