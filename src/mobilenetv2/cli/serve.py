"""`mobilenetv2 serve`: a model behind HTTP."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import click

from .options import model_argument, precision_option, threads_option
from .output import notify, notify_notes, show_image_warnings

NEEDED = ("starlette", "uvicorn", "httptools", "python_multipart")
MAX_IMAGES = 32
LARGEST = 1 << 40  # as in the limits of the service


@click.command()
@model_argument()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0: all."
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0: a free one.",
)
@click.option("--name", help="What the model is called in addresses.  [default: the file's name]")
@click.option(
    "--max-bytes",
    default=20 << 20,
    show_default=True,
    type=click.IntRange(1, LARGEST),
    help="Of a request; larger ones get the status 413.",
)
@click.option(
    "--max-pixels",
    default=50_000_000,
    show_default=True,
    type=click.IntRange(1, LARGEST),
    help="Of an image; larger ones get an error.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1, LARGEST),
    help=f"Of a request; more get the status 413.  [default: {MAX_IMAGES}, or --queue where less]",
)
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0.1, max=86_400),
    help="Seconds for receiving a request (then 408), and again for answering it (then 503).",
)
@click.option(
    "--queue",
    default=64,
    show_default=True,
    type=click.IntRange(1, LARGEST),
    help="Images that may wait; more get the status 429.",
)
@threads_option
@precision_option
def serve(
    model: str,
    host: str,
    port: int,
    name: str | None,
    max_bytes: int,
    max_pixels: int,
    max_images: int | None,
    timeout: float,
    queue: int,
    precision: str | None,
) -> int:
    """Serve MODEL over HTTP, a file or a name from `models`, of any task.

    POST /predict takes images, as the body or as files of a form; /v2/models/NAME/infer is the V2
    protocol of KServe and Triton; / is a page to drop a photo on; /health, /ready and /metrics are for
    machines. There is no password and no encryption: put a proxy in front of it for other networks.
    SIGTERM ends it after the requests in flight. Needs the extra `serve`."""
    from ..errors import MissingExtraError, UserError, install_hint, missing_modules

    if missing := missing_modules(*NEEDED):
        raise MissingExtraError(f"serving needs {' and '.join(missing)}; {install_hint('serve')}")
    from ..serving.limits import Limits
    from ..serving.server import serve as run
    from ..serving.tasks import load_task

    if math.isnan(timeout):
        raise UserError("--timeout must be a number of seconds from 0.1 to 86400, not nan")
    if max_images is None:
        max_images = min(MAX_IMAGES, queue)
    if max_images > queue:
        raise UserError(f"--max-images {max_images}: must be at most --queue, {queue}")
    show_image_warnings()
    task = load_task(model, max_pixels, precision)
    name = name or (Path(model).stem if os.path.exists(model) else model)
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise UserError(
            f"{name} cannot be part of an address: give --name of letters, digits, . _ -"
        )
    limits = Limits(
        body_bytes=max_bytes, images=max_images, pixels=max_pixels, seconds=timeout, queue=queue
    )
    notify_notes(task.model.checkpoint)
    run(task, name, host, port, limits, lambda address: notify(f"{name} is served at {address}"))
    return 0
