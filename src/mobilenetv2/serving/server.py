"""Runs a service until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from ..errors import UserError
from ..processors import usable_processors
from .app import Service
from .limits import Limits
from .protocol import Protocol
from .tasks import Task

STOPPING = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048


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
            http=cast(
                Any, partial(Protocol, seconds=limits.seconds, refused=service.count_refused)
            ),
            ws="none",
            lifespan="off",
            # uvicorn's own would close all handlers of this process, and keep today's stderr for good
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
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
