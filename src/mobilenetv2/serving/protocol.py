"""HTTP of a connection: what of it is refused before there is a request to answer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 1 << 16  # of a request line and its headers


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also answers a request whose head does not end, and one that was cut
    off; all refusals are JSON, and an offer to speak another protocol is ignored, as RFC 9110 allows.

    Args:
        arguments: As for uvicorn's protocol.
        seconds: For the head of a request.
        refused: Called with status and seconds of an answer to what was no whole head.
        options: As for uvicorn's protocol.
    """

    def __init__(
        self,
        *arguments: Any,
        seconds: float,
        refused: Callable[[int, float], object],
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.parser: Any
        self._seconds, self._refused = seconds, refused
        self._timer: asyncio.TimerHandle | None = None
        self._begin: float | None = None  # of a head
        self._in_head = False
        self._head_bytes = 0
        self._received = self._unread = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._seconds, self._expire)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._begin is None and self._waiting():
            self._begin = self.loop.time()
        self._unread = data
        while self._unread:
            self._received, self._unread = self._unread, b""
            super().data_received(self._received)
        if not self._waiting():
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._expire)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Called by httptools, which has no limit for heads."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        self._in_head = False
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError("the head is too large")  # ends the parser's work
        super().on_headers_complete()
        self._begin = None

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where the parser fails."""
        if not self.transport.is_closing():
            self._refuse(400, "Bad Request", msg)
            self.transport.close()

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves the request to `handle_websocket_upgrade`."""
        return bool(self.parser.get_method() != b"CONNECT")

    def handle_websocket_upgrade(self) -> None:
        """Called where httptools stops behind a head with `Upgrade`, whose body it would skip: the
        request is read again without that header.
        """
        (end_of_head,) = sys.exc_info()[1].args  # type: ignore[union-attr]
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [n + b": " + v for n, v in self.headers if n != b"upgrade"]
        self._unread = b"\r\n".join([*lines, b"", self._received[end_of_head:]])
        self.parser = type(self.parser)(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open for the answer."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self.cycle.more_body and not self.cycle.response_started:
            self._refuse(400, "Bad Request", "the request was cut off")
            return False
        self.cycle.keep_alive = False
        return True

    def _waiting(self) -> bool:
        """Whether no request is being received or answered."""
        return self.cycle is None or self.cycle.response_complete

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._waiting() and not self.transport.is_closing():
            late = f"no request was complete after {self._seconds:g} seconds"
            self._refuse(408, "Request Timeout", late)
            self.transport.close()

    def _refuse_head(self) -> None:
        too_large = f"headers of more than {MAX_HEAD_BYTES} bytes"
        self._refuse(431, "Request Header Fields Too Large", too_large)
        self.transport.close()

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        if self._waiting():  # another request is counted where it is answered
            begin = self._begin
            self._refused(status, self._seconds if begin is None else self.loop.time() - begin)
        content = json.dumps({"error": message})
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(content)}\r\n\r\n{content}".encode()
        )
