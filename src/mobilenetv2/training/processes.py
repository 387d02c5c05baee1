"""Training in one process per processor: how many processes, and how the others are started.

Several processes with one thread each are faster than one process with several threads: loading,
Python and the small operators then run in parallel too (benchmarks/train.py).
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
from typing import IO

import torch
from torch import distributed

from ..errors import UserError
from ..processors import usable_processors

RUN_ID = "TORCHELASTIC_RUN_ID"  # PyTorch reads the variables of `torchrun` if this one is set
OWN_RUN_ID = "mobilenetv2"
MIN_BATCH = 16  # images per process and step: batch norm needs no fewer
MIN_IMAGES = 1000  # to train with, per process: below, starting it costs more than it saves
END_SECONDS, FAILURE_END_SECONDS = 10.0, 1.0  # for the others to end after the first has
STUCK_SECONDS = 5.0  # for the first process to notice that another has failed


def default_processes(images: int, batch: int) -> int:
    """One process per processor, or fewer if there is little to do; one if there is an accelerator.

    Args:
        images: Number of images to train with.
        batch: Images per step.
    """
    if torch.accelerator.is_available():
        return 1
    return max(1, min(usable_processors(), batch // MIN_BATCH, images // MIN_IMAGES))


def is_first() -> bool:
    """Whether this is the first process, the one that logs and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_several() -> bool:
    """Whether this is one of several processes, started by `torchrun` or `other_processes`."""
    return "RANK" in os.environ


def is_other_process() -> bool:
    """Whether `other_processes` has started this process."""
    return not is_first() and os.environ.get(RUN_ID) == OWN_RUN_ID


def end_with_first() -> bool:
    """If `other_processes` has started this process, ends it as soon as the first process has ended
    in any way.

    Returns:
        Whether `other_processes` has started this process.
    """
    if not is_other_process():
        return False

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    return True


@contextmanager
def other_processes(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """In the block, this process is the first of `count` processes, as if `torchrun` had started
    them. After it, the process is no longer connected with others.

    Args:
        count: Number of processes; with 1 none is started.
        arguments: Command line of `mobilenetv2` for the others. Their output is discarded, unless
            they fail.

    Raises:
        UserError: One of the others failed, or cannot be started.
    """
    if count == 1:
        try:
            yield
        finally:
            _disconnect()
        return
    threads, before = torch.get_num_threads(), dict(os.environ)
    each = max(1, usable_processors() // count)
    variables = environment(count, each)
    with TemporaryFile() as errors:
        others = _started(count, variables, arguments, errors)
        os.environ.update(variables)
        torch.set_num_threads(each)
        done, end_seconds = threading.Event(), FAILURE_END_SECONDS
        threading.Thread(target=_watch, args=(others, errors.fileno(), done), daemon=True).start()
        try:
            yield
            end_seconds = END_SECONDS
        except RuntimeError as error:  # PyTorch raises it when the connection is lost
            until = time.monotonic() + STUCK_SECONDS
            while not (failure := _failure(others, errors.fileno())) and time.monotonic() < until:
                time.sleep(0.1)
            if failure is None:
                raise
            raise UserError(failure) from error
        finally:
            done.set()
            _disconnect()
            for process in others:
                _end(process, end_seconds)
            os.environ.clear()
            os.environ.update(before)
            torch.set_num_threads(threads)


def _started(
    count: int, variables: dict[str, str], arguments: Sequence[str], errors: IO[bytes]
) -> list[subprocess.Popen[bytes]]:
    """All processes but the first."""
    command = [sys.executable, "-m", "mobilenetv2", *arguments]
    others: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, count):
            process = subprocess.Popen(
                command,
                env=os.environ | variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            others.append(process)
    except OSError as error:
        for process in others:
            _end(process, 0.0)
        raise UserError(
            f"the system starts {len(others) + 1} of {count} processes: {error.strerror}; give "
            "fewer (--processes)"
        ) from error
    return others


def _disconnect() -> None:
    """Ends PyTorch's threads: one that still holds a tensor when Python ends would abort it."""
    gc.collect()  # objects of the training keep the threads alive
    if distributed.is_initialized():
        distributed.destroy_process_group()


def environment(count: int, threads: int) -> dict[str, str]:
    """The variables that `torchrun` sets for the first of several processes. For another process,
    RANK and LOCAL_RANK are its number.

    Args:
        count: Number of processes.
        threads: Threads per process.
    """
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        RUN_ID: OWN_RUN_ID,
        "OMP_NUM_THREADS": str(threads),
    }


def _failure(others: Sequence[subprocess.Popen[bytes]], errors: int) -> str | None:
    """The message about a process that failed; None if none did.

    Args:
        others: The processes.
        errors: Descriptor of the file with their error output.
    """
    code = next((code for process in others if (code := process.poll())), None)
    if code is None:
        return None
    if code == -signal.SIGKILL:
        reason = "was killed, perhaps for lack of memory: use a smaller --batch or --processes 1"
    else:
        lines = os.pread(errors, os.fstat(errors).st_size, 0).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "without a message")
        reason = f"ended with exit code {code}: {last}"
    return f"one of the {len(others) + 1} processes that train together {reason}"


def _watch(others: Sequence[subprocess.Popen[bytes]], errors: int, done: threading.Event) -> None:
    """Ends this process if another fails and it does not notice, for example while connecting."""
    while not done.wait(0.5):
        failure = _failure(others, errors)
        if failure and not done.wait(STUCK_SECONDS):
            for process in others:
                process.kill()
            below_bar = "\n" if os.isatty(2) else ""
            os.write(2, f"{below_bar}error: {failure}\n".encode())
            os._exit(2)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits for a process to end, then terminates it, then kills it."""
    with process:
        for stop in (process.terminate, process.kill):
            try:
                process.wait(timeout=seconds)
                return
            except subprocess.TimeoutExpired:
                stop()
