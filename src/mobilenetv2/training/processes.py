"""One process a processor: how many train together, and those beside the first.

A process with one thread of its own wastes less than a thread more: loading, Python and the small
operators run in all of them at once (benchmarks/train.py).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile

import torch
from torch import distributed

from ..errors import UserError
from ..processors import usable_processors

RUN_ID = "TORCHELASTIC_RUN_ID"  # which tells PyTorch that `torchrun` has set the others
OURS = "mobilenetv2"
LEAST_BATCH = 16  # images of a step for each process: batch norm wants no fewer
LEAST_IMAGES = 1000  # to train with for each process: of fewer, its start takes what it saves
ENDING_SECONDS, FAILING_SECONDS = 10.0, 1.0  # for the others, when the first is done
STUCK_SECONDS = 5.0  # for the first to notice that another is gone


def default_processes(images: int, batch: int) -> int:
    """A process a processor, if all have enough to do; one where there is an accelerator."""
    if torch.accelerator.is_available():
        return 1
    return max(1, min(usable_processors(), batch // LEAST_BATCH, images // LEAST_IMAGES))


def is_first() -> bool:
    """Whether this process speaks for all, whoever started them."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_several() -> bool:
    """Whether `torchrun` or `beside` has started this process."""
    return "RANK" in os.environ


def is_beside_another() -> bool:
    """Whether `beside` has started this process."""
    return not is_first() and os.environ.get(RUN_ID) == OURS


def end_with_first() -> bool:
    """Where `beside` has started this process: ends it when the first one is gone, in whatever way.
    Whether that is so.
    """
    if not is_beside_another():
        return False

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    return True


@contextmanager
def beside(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Within the block this process is the first of `count`, as if `torchrun` had started them. After
    it, it is joined with no other, whoever had started them.

    Args:
        count: 1 starts none.
        arguments: Of `mobilenetv2`, for the others. What they write is thrown away, unless they
            fail by themselves.

    Raises:
        UserError: One of the others ended before its time.
    """
    if count == 1:
        try:
            yield
        finally:
            _leave()
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
        done, patience = threading.Event(), FAILING_SECONDS
        threading.Thread(target=_watch, args=(others, said.fileno(), done), daemon=True).start()
        try:
            yield
            patience = ENDING_SECONDS
        except RuntimeError as error:  # what PyTorch raises when the connection is lost
            until = time.monotonic() + STUCK_SECONDS
            while not (told := _failure(others, said.fileno())) and time.monotonic() < until:
                time.sleep(0.1)
            if told is None:
                raise
            raise UserError(told) from error
        finally:
            done.set()
            _leave()
            for process in others:
                _end(process, patience)
            os.environ.clear()
            os.environ.update(before)
            torch.set_num_threads(threads)


def _leave() -> None:
    """Ends PyTorch's threads, one of which may still hold a tensor: that aborts a Python that ends."""
    gc.collect()  # of what is left of the training, which holds on to the threads
    if distributed.is_initialized():
        distributed.destroy_process_group()


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


def _failure(others: Sequence[subprocess.Popen[bytes]], said: int) -> str | None:
    """What to say of one that failed, with the file that they write to; None: all are well."""
    code = next((code for process in others if (code := process.poll())), None)
    if code is None:
        return None
    if code == -signal.SIGKILL:
        why = "was killed, perhaps for want of memory: give a smaller --batch or --processes 1"
    else:
        lines = os.pread(said, os.fstat(said).st_size, 0).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        why = f"ended with exit code {code}: {last}"
    return f"one of the {len(others) + 1} processes that train together {why}"


def _watch(others: Sequence[subprocess.Popen[bytes]], said: int, done: threading.Event) -> None:
    """Ends the first process where it waits for another that has failed, as it would to connect."""
    while not done.wait(0.5):
        told = _failure(others, said)
        if told and not done.wait(STUCK_SECONDS):
            for process in others:
                process.kill()
            os.write(2, f"error: {told}\n".encode())
            os._exit(2)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits for it, and then no longer."""
    with process:
        for stop in (process.terminate, process.kill):
            try:
                process.wait(timeout=seconds)
                return
            except subprocess.TimeoutExpired:
                stop()
