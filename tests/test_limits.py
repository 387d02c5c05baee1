"""Loading and classifying where the system gives little: threads, memory, files, forks."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2 import pipeline
from mobilenetv2.cli import run
from mobilenetv2.locks import ForkSafeLock
from mobilenetv2.pipeline import map_images

from .conftest import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are set as on Linux")

PREPARE = """
import os, resource, signal, sys, threading, time, warnings
import numpy as np
from pathlib import Path
signal.alarm(50)

def limit_memory(more):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, which may limit itself."""
    return subprocess.run(
        [sys.executable, "-c", PREPARE + code, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


STACK = 64 << 20


@contextmanager
def stack_of(size: int) -> Iterator[None]:
    """Threads of processes that are started meanwhile have a stack of this size."""
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


@pytest.mark.parametrize(("threads", "stacks", "started"), [(2, 0.6, 1), (8, 1.6, 2)])
def test_an_engine_works_with_the_threads_that_the_system_starts(threads, stacks, started) -> None:
    """There is address space for the stacks of so many threads."""
    code = """
threads, more = map(int, sys.argv[1:])
import mobilenetv2
expected = mobilenetv2.load("cifar10", threads=1).classify("examples/cat.jpg")
limit_memory(more)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = mobilenetv2.load("cifar10", threads=threads)
(warning,) = caught
print(model.engine.threads, warning.message)
assert model.classify("examples/cat.jpg") == expected
del model
print("ended")
"""
    with stack_of(STACK):
        done = python(code, threads, int(stacks * STACK))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{started} the system lets this process start {started} of {threads} threads",
        "ended",
    ]


def test_workers_are_as_many_as_the_system_starts(monkeypatch) -> None:
    class Thread(threading.Thread):
        started = 0

        def start(self) -> None:
            if Thread.started == Thread.most:
                raise RuntimeError("can't start new thread")
            Thread.started += 1
            super().start()

        most = 0

    monkeypatch.setattr(pipeline.threading, "Thread", Thread)
    for Thread.most in (0, 1, 3):
        Thread.started = 0
        results = map_images(
            range(30),
            lambda source: (np.full((1, 1, 3), source, np.uint8).data, (1, 1)),
            lambda pixels, alone: np.asarray(pixels)[:, 0, 0, 0].tolist(),
            lambda source, size, output: output,
            workers=4,
        )
        with pytest.warns(RuntimeWarning, match=f"start {Thread.most} of 4 threads"):
            assert list(results) == [(i, i) for i in range(30)]
        assert threading.active_count() == 1 or Thread.started == Thread.most


@pytest.mark.parametrize("size", [1 << 20, 64 << 20])
def test_too_little_memory_is_an_error_and_no_crash(size) -> None:
    code = """
import mobilenetv2
from mobilenetv2.cli import run
mobilenetv2.load("cifar10", threads=1).classify("examples/cat.jpg")
big = np.zeros((1, 3000, 3000, 3), np.uint8)
model = mobilenetv2.load("cifar10", threads=1)
limit_memory(int(sys.argv[1]))
try:
    model(big)
except MemoryError:
    print("too little")
"""
    done = python(code, size)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "too little\n"


def test_a_command_without_memory_says_so_in_one_line() -> None:
    code = """
import mobilenetv2
from mobilenetv2.cli import run
limit_memory(100 << 20)
sys.exit(run(["benchmark", "--resolution", "3000"]))
"""
    done = python(code)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: 1 images of 3000x3000 do not fit in memory; lower the batch or the resolution\n"
    )


def test_a_command_with_fewer_threads_says_so_in_one_line() -> None:
    code = """
from mobilenetv2.cli import run
import PIL.JpegImagePlugin, mobilenetv2.model
limit_memory(int(sys.argv[1]))
sys.exit(run(["classify", "examples/cat.jpg", "--threads", "8"]))
"""
    with stack_of(STACK):
        done = python(code, int(1.6 * STACK))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: the system lets this process start 2 of 8 threads\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "a.jpg"), "a.jpg: Permission denied"),
        (OSError(5, "Input/output error"), "the results cannot be written: Input/output error"),
        (OSError("odd"), "odd"),
    ],
)
def test_an_error_of_the_system_is_one_line(error, line, monkeypatch, capsys) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mobilenetv2.loading.load", load)
    assert run(["classify", "examples/cat.jpg"]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_any_command_that_runs_out_of_memory_ends_in_one_line(monkeypatch, capsys) -> None:
    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mobilenetv2.loading.load", load)
    assert run(["classify", "examples/cat.jpg"]) == 2
    assert capsys.readouterr().err == (
        "error: not enough memory; a smaller image or batch needs less\n"
    )


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    code = """
import mobilenetv2
from mobilenetv2.cli import run
target = Path(sys.argv[1])
target.write_text("old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(run(["convert", str(mobilenetv2.zoo.bundled_path("cifar10")), str(target)]))
"""
    done = python("import mobilenetv2.zoo" + code, tmp_path / "model.safetensors")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "model.safetensors: cannot be written: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text() == "old"


def test_without_a_home_or_a_place_to_write() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-m", "mobilenetv2", "classify", "examples/cat.jpg"],
        cwd=REPOSITORY,
        env={**os.environ, "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "cat" in done.stdout


FORKS = """
import mobilenetv2
from mobilenetv2.runtime.runner import KEPT_PLANS
model = mobilenetv2.load("cifar10", threads=int(sys.argv[1]))
batches = [np.full((2, 8 + i, 9, 3), 9 * i, np.uint8) for i in range(KEPT_PLANS + 8)]
expected = [model(x) for x in batches]
ended = False

def work():
    while not ended:
        for x in batches:
            model(x)

threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for fork in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        right = all(np.array_equal(model(x), y) for x, y in zip(batches, expected))
        os._exit(0 if right else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, (fork, status)
ended = True
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_forks_while_other_threads_are_inside_the_engine(threads) -> None:
    done = python(FORKS, threads, 60)
    assert done.returncode == 0, done.stderr


def test_a_lock_that_another_thread_holds_is_free_in_a_child() -> None:
    lock = ForkSafeLock()
    with lock:
        child = os.fork()
        if child == 0:
            with lock:
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with lock:  # and works as before here
        pass


def test_loading_and_classifying_takes_little_memory() -> None:
    """The weights twice (as read, as packed), NumPy and Pillow."""
    code = """
import mobilenetv2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mobilenetv2.load("cifar10", threads=1).classify("examples/cat.jpg")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    assert int(python(code).stdout) < 100_000  # kilobytes
