"""Runs a service until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import UserError
from ..processors import usable_processors
from .app import Service
from .limits import Limits
from .tasks import Task

STOPPING = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048
MAX_HEAD_BYTES = 1 << 16  # of a request line and its headers


def serve(
    task: Task,
    name: str,
    host: str,
    port: int,
    limits: Limits,
    started: Callable[[str], object],
) -> None:
    """Serves a model until SIGTERM or SIGINT; requests in flight are answered first.

    Args:
        task: The model.
        name: What the model is called.
        host: Address to listen at.
        port: Port to listen at; 0: a free one.
        limits: What is accepted.
        started: Called with the address, once requests are answered.

    Raises:
        UserError: The address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host} port {port} cannot be listened at: {reason}") from None
    # a form that cannot be read is answered, and not a matter of the server's log
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    with listening:
        service = Service(task, name, usable_processors(), limits)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            service.app(),
            http=protocol(limits.seconds),
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(2 * limits.seconds) + 1,
        )
        _Server(config, service, lambda: started(address)).run([listening])
        service.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which ends without raising the signal again."""

    def __init__(
        self, config: uvicorn.Config, service: Service, started: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit, self._service.ready = True, False


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which also answers a request whose head does not end, and one that was cut
    off; all refusals are JSON, and an offer to speak another protocol is ignored, as RFC 9110 allows.

    Args:
        seconds: For the head of a request.
    """

    base: Any = HttpToolsProtocol

    class Timed(base):  # type: ignore[misc]
        parser: Any
        _timer: asyncio.TimerHandle | None = None
        _in_head = False
        _head_bytes = 0
        _unread = b""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(seconds, self._expire)

        def data_received(self, data: bytes) -> None:
            self._unread = data
            while self._unread:
                self._received, self._unread = self._unread, b""
                super().data_received(self._received)
            if not self._waiting():
                self._cancel()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._expire)
            self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse_head()

        def on_message_begin(self) -> None:
            """Called by httptools, which has no limit for heads."""
            super().on_message_begin()
            self._in_head = True

        def on_headers_complete(self) -> None:
            self._in_head = False
            if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_BYTES:
                self._refuse_head()
                raise ValueError("the head is too large")  # ends the parser's work
            super().on_headers_complete()

        def send_400_response(self, message: str) -> None:
            """Called by uvicorn where the parser fails."""
            if not self.transport.is_closing():
                self._refuse("400 Bad Request", message)
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

        def connection_lost(self, error: Exception | None) -> None:
            self._cancel()
            super().connection_lost(error)

        def eof_received(self) -> bool:
            """Whether the connection stays open for the answer."""
            if self.cycle is None or self.cycle.response_complete:
                return False
            if self.cycle.more_body and not self.cycle.response_started:
                self._refuse("400 Bad Request", "the request was cut off")
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
                self._refuse(
                    "408 Request Timeout", f"no request was complete after {seconds:g} seconds"
                )
                self.transport.close()

        def _refuse_head(self) -> None:
            self._refuse(
                "431 Request Header Fields Too Large",
                f"headers of more than {MAX_HEAD_BYTES} bytes",
            )
            self.transport.close()

        def _refuse(self, status: str, message: str) -> None:
            content = json.dumps({"error": message})
            self.transport.write(
                f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(content)}\r\n\r\n{content}".encode()
            )

    return Timed
