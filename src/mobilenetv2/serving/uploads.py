"""Reads the body of a request within limits, and takes the images out of it."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ..batch.columns import NamedBytes
from ..printable import printable
from .limits import MAX_BUFFERED_BYTES, Limits, RefusalError, as_whole

MAX_FIELD_BYTES = 1000
MAX_FIELDS = 20
# a file's name as RFC 5987 has it, which forms should not use, but some clients do
ENCODED_NAME = re.compile(rb"""filename\*=utf-8'[^']*'([^;\s"]+)""", re.IGNORECASE)
PIECE_BYTES = 1 << 18


class Receiver:
    """Receives bodies, with one budget of memory for all of them.

    Args:
        limits: Of a request.

    Attributes:
        buffered_bytes: Of the bodies that are held.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.buffered_bytes = 0

    async def receive(self, request: Request) -> bytes:
        """The body of a request. `release` must be called with its length afterwards.

        Raises:
            RefusalError: It is too large, too slow, or was cut off; or too many others are held.
        """
        body = bytearray()
        problem = self._problem_of_header(request)
        if problem and request.headers.get("expect"):  # its body is not sent yet
            raise RefusalError(413, problem, close=True)

        async def fill() -> None:
            nonlocal problem
            async for chunk in request.stream():
                if not problem and len(body) + len(chunk) > self._limits.body_bytes:
                    problem = self._too_large()
                    self.release(len(body))
                    body.clear()
                if not problem:  # a body that is too large is read to its end, or its client
                    # would be cut off while it sends, and never see the answer
                    body.extend(chunk)
                    self.buffered_bytes += len(chunk)
                    if self.buffered_bytes > MAX_BUFFERED_BYTES:
                        raise RefusalError(
                            429, "too many uploads at once: try again later", close=True
                        )

        complete = False
        try:
            await asyncio.wait_for(fill(), self._limits.seconds)
            complete = not problem
        except asyncio.TimeoutError:
            late = f"the request was not complete after {self._limits.seconds:g} seconds"
            raise RefusalError(413 if problem else 408, problem or late, close=True) from None
        except ClientDisconnect:
            raise RefusalError(400, "the request was cut off", close=True) from None
        finally:
            if not complete:
                self.release(len(body))
        if problem:
            raise RefusalError(413, problem)
        return bytes(body)

    async def discard(self, request: Request) -> None:
        """Reads a body and forgets it: a client that is still sending would not see the answer."""

        async def read() -> None:
            async for _ in request.stream():
                pass

        with suppress(asyncio.TimeoutError, ClientDisconnect):
            await asyncio.wait_for(read(), self._limits.seconds)

    def release(self, size: int) -> None:
        """Counts a body as no longer held."""
        self.buffered_bytes -= size

    def _problem_of_header(self, request: Request) -> str:
        length = request.headers.get("content-length", "")
        size = as_whole(length)
        too_large = length and (size is None or size > self._limits.body_bytes)
        return self._too_large() if too_large else ""

    def _too_large(self) -> str:
        return f"the request is larger than {self._limits.body_bytes} bytes"


def decompress(body: bytes, encoding: str, limits: Limits) -> bytes:
    """The body without its Content-Encoding.

    Raises:
        RefusalError: An encoding other than gzip and deflate, damaged, or too large.
    """
    name = encoding.strip().lower()
    name = "gzip" if name == "x-gzip" else name
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "deflate"):
        raise RefusalError(
            415, f"Content-Encoding {printable(encoding):.80}: gzip and deflate are read"
        )
    content = bytearray()
    try:
        for piece in _pieces(body, name):
            content += piece
            if len(content) > limits.body_bytes:
                raise RefusalError(413, f"the request is larger than {limits.body_bytes} bytes")
    except EOFError:
        raise RefusalError(400, "the compressed body is cut off") from None
    except (OSError, zlib.error):
        raise RefusalError(400, f"the body is not {name}, as its Content-Encoding says") from None
    return bytes(content)


def _pieces(body: bytes, name: str) -> Iterator[bytes]:
    """The content of a compressed body, piece by piece; of gzip, that of all its members."""
    if name == "gzip":
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            yield from iter(partial(file.read, PIECE_BYTES), b"")
        return
    decoder = zlib.decompressobj()
    while not decoder.eof:
        piece = decoder.decompress(body, PIECE_BYTES)
        body = decoder.unconsumed_tail
        if not piece and not body and not decoder.eof:
            raise EOFError
        yield piece
    if decoder.unused_data:
        raise zlib.error("bytes behind the end")


def images_of(
    body: bytes, content_type: str, limits: Limits
) -> tuple[list[NamedBytes], dict[str, list[str]]]:
    """The image files in a body, and the fields of its form.

    Args:
        body: One image, or a form (multipart/form-data) of images and fields.
        content_type: Header of the request.
        limits: Of a request.

    Raises:
        RefusalError: There is no image, or more than the limit; or no form where one is announced.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        if not body:
            raise RefusalError(
                400, "no image in the request: its body is the image, or a form with files"
            )
        return [NamedBytes(body, "the image")], {}
    boundary = options.get(b"boundary")
    if not boundary:
        raise RefusalError(400, "multipart/form-data without a boundary")
    form = _Form(limits.images)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
    except FormParserError:
        raise RefusalError(400, "the form cannot be read: it is not multipart/form-data") from None
    if not form.complete:
        raise RefusalError(400, "the form is cut off")
    if not form.images:
        raise RefusalError(
            400, "no image in the form: a part with a file is needed, such as -F image=@cat.jpg"
        )
    return form.images, form.fields


@dataclass
class _Form:
    """What the parser of a form has read so far."""

    most_images: int
    images: list[NamedBytes] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = False
    _headers: dict[str, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _data: list[bytes] = field(default_factory=list)

    def callbacks(self) -> Any:
        """The functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._end_form,
        }

    def _begin(self) -> None:
        self._headers, self._data = {}, []

    def _begin_header(self) -> None:
        self._name = self._value = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        disposition = self._headers.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        content = b"".join(self._data)
        if options.get(b"filename") == b"" and not content:
            return  # a page's field for files, left empty
        if encoded := ENCODED_NAME.search(disposition):
            options.setdefault(b"filename", unquote_to_bytes(encoded[1]))
        if b"filename" in options or self._headers.get("content-type", b"").startswith(b"image/"):
            if len(self.images) == self.most_images:
                raise RefusalError(413, f"more than {self.most_images} images in one request")
            file = options.get(b"filename", b"").decode(errors="replace")
            self.images.append(NamedBytes(content, file or f"image {len(self.images)}"))
            return
        name = options.get(b"name", b"").decode(errors="replace")
        self.fields.setdefault(name, []).append(content[:MAX_FIELD_BYTES].decode(errors="replace"))
        if len(content) > MAX_FIELD_BYTES:
            raise RefusalError(
                413,
                f"the field {printable(name):.80} is longer than {MAX_FIELD_BYTES} bytes: "
                "an image needs a filename, as in -F image=@cat.jpg",
            )
        if sum(map(len, self.fields.values())) > MAX_FIELDS:
            raise RefusalError(413, f"the form has more than {MAX_FIELDS} fields")

    def _end_form(self) -> None:
        self.complete = True
