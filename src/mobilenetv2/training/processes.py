"""One process a processor: how many train together, and those beside the first.

A process with one thread of its own wastes less than a thread more: loading, Python and the small
operators run in all of them at once (benchmarks/train.py).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile

import torch
from torch import distributed

from ..errors import UserError
from .workers import usable_processors

RUN_ID = "TORCHELASTIC_RUN_ID"  # which tells PyTorch that `torchrun` has set the others
OURS = "mobilenetv2"
LEAST_BATCH = 16  # pictures of a step for each process: batch norm wants no fewer
LEAST_PICTURES = 1000  # to train with for each process: of fewer, its start takes what it saves
ENDING_SECONDS, FAILING_SECONDS = 10.0, 1.0  # for the others, when the first is done


def default_processes(pictures: int, batch: int) -> int:
    """A process a processor, if all have enough to do; one where there is an accelerator."""
    if torch.accelerator.is_available():
        return 1
    return max(1, min(usable_processors(), batch // LEAST_BATCH, pictures // LEAST_PICTURES))


def is_first() -> bool:
    """Whether this process speaks for all, whoever started them."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_several() -> bool:
    """Whether `torchrun` or `beside` has started this process."""
    return "RANK" in os.environ


def end_with_first() -> bool:
    """Where `beside` has started this process: ends it when the first one is gone, in whatever way.
    Whether that is so.
    """
    if is_first() or os.environ.get(RUN_ID) != OURS:
        return False

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    return True


@contextmanager
def beside(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Within the block this process is the first of `count`, as if `torchrun` had started them.

    Args:
        count: 1 does nothing.
        arguments: Of `mobilenetv2`, for the others. What they write is thrown away, unless they
            fail by themselves.

    Raises:
        UserError: One of the others ended before its time.
    """
    if count == 1:
        yield
        return
    threads, before = torch.get_num_threads(), dict(os.environ)
    each = max(1, usable_processors() // count)
    os.environ.update(environment(count, each))
    torch.set_num_threads(each)
    command = [sys.executable, "-m", "mobilenetv2", *arguments]
    with TemporaryFile() as said:
        others = [
            subprocess.Popen(
                command,
                env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            for rank in range(1, count)
        ]
        patience = FAILING_SECONDS
        try:
            yield
            patience = ENDING_SECONDS
        except RuntimeError as error:  # what PyTorch raises when the connection is lost
            ended = _ended(others)
            if ended is None:
                raise
            said.seek(0)
            raise UserError(_told(ended, count, said.read().decode(errors="replace"))) from error
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for process in others:
                _end(process, patience)
            os.environ.clear()
            os.environ.update(before)
            torch.set_num_threads(threads)


def environment(count: int, threads: int) -> dict[str, str]:
    """What `torchrun` sets for the first of `count` processes with so many threads each; another's
    RANK and LOCAL_RANK are its number.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        RUN_ID: OURS,
        "OMP_NUM_THREADS": str(threads),
    }


def _ended(others: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The exit code of the process that ended first, as far as one can tell; None: all are well."""
    for process in others:
        try:
            code = process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
        if code:
            return code
    return None


def _told(code: int, count: int, said: str) -> str:
    lines = said.strip().splitlines()
    if code == -signal.SIGKILL:
        why = "was killed, perhaps for want of memory: give a smaller --batch or --processes 1"
    else:
        why = f"ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"
    return f"one of the {count} processes that train together {why}"


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits for it, and then no longer."""
    with process:
        for stop in (process.terminate, process.kill):
            try:
                process.wait(timeout=seconds)
                return
            except subprocess.TimeoutExpired:
                stop()
