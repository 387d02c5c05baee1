"""The native runtime over many calls, shapes, threads and processes: the same answers, no memory,
no threads and no processor state left behind. `tools/sanitize` runs this too.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.runtime import Engine, Reference
from mobilenetv2.runtime.runner import KEPT_PLANS

from .conftest import REPOSITORY, random_checkpoint
from .int8 import random_int8
from .test_engine import FAST, ISAS, engine, image, reference
from .test_int8_reference import SMALL

PROC = Path("/proc/self")
SANITIZED = (
    PROC.joinpath("maps").exists()
    and re.search(r"lib[at]san", PROC.joinpath("maps").read_text()) is not None
)
measures_memory = pytest.mark.skipif(
    SANITIZED or not PROC.exists(), reason="needs /proc, and sanitizers keep freed memory"
)


def status(field: str) -> int:
    """A number from this process's status: Threads, VmRSS (KB)."""
    text = PROC.joinpath("status").read_text()
    return int(re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def resident_kilobytes() -> int:
    gc.collect()
    return status("VmRSS")


@measures_memory
@pytest.mark.parametrize("threads", [1, 2])
def test_ten_thousand_calls(threads) -> None:
    run, x = engine("0.35", FAST, threads), image("0.35", 1, 32, 32)
    wanted = run(x)
    before = 0
    for call in range(10_000):
        if call == 1_000:
            before = resident_kilobytes()
        assert np.array_equal(run(x), wanted)
    assert resident_kilobytes() - before < 1024


@measures_memory
def test_five_hundred_shapes() -> None:
    run = engine("0.35", FAST, 2)
    rng = np.random.default_rng(0)
    before, samples = 0, []
    for index in range(500):
        if index == 100:
            before = resident_kilobytes()
        height, width = (int(side) for side in rng.integers(1, 131, 2))
        x = image("0.35", 1 + index % 3, height, width)
        found = run(x)
        if index % 25 == 0:
            samples.append((x, found))
    assert resident_kilobytes() - before < 1024
    for x, found in samples:
        assert np.abs(found - reference("0.35")(x)).max() < 1e-4, x.shape


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sixteen_python_threads_share_an_engine(threads, precision) -> None:
    """More shapes than plans are kept, so that plans go while others run on them."""
    int8 = precision == "int8"
    run = Engine(random_int8(**SMALL), threads) if int8 else engine("0.35", FAST, threads)
    images = [image("0.35", 1 + i % 3, 15 + 3 * i, 70 - 2 * i) for i in range(KEPT_PLANS + 8)]
    wanted = [run(x) for x in images]

    def many(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(0, len(images), 50)
        return all(np.array_equal(run(images[i]), wanted[i]) for i in order)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(many, range(16)))


@pytest.mark.skipif(not PROC.exists(), reason="needs /proc")
def test_engines_come_and_go_with_their_threads() -> None:
    x = image("0.35", 1, 32, 32)
    wanted = engine("0.35")(x)
    checkpoint = reference("0.35").checkpoint
    before = status("Threads")
    for index in range(200):
        run = Engine(checkpoint, 3)
        if index % 20 == 0:  # the others end before their threads have begun to work
            assert np.array_equal(run(x), wanted)
        del run
    for _ in range(1000):  # Linux counts a thread for a moment after it was joined
        if status("Threads") <= before:
            break
        time.sleep(0.01)
    assert status("Threads") <= before


def run_python(code: str, *args: object, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import gc, os, signal, sys, time
import numpy as np
from tests.conftest import random_checkpoint
from mobilenetv2.runtime import Engine

checkpoint = random_checkpoint(width_mult=0.35)
run = Engine(checkpoint, int(sys.argv[1]))
x = np.ones((1, 64, 64, 3), np.uint8)
wanted = run(x)
time.sleep(0.05)  # the workers sleep by now
child = os.fork()
if child == 0:
    signal.alarm(20)  # the parent would wait for ever
    assert np.array_equal(run(x), wanted)
    del run
    gc.collect()
    assert np.array_equal(Engine(checkpoint, 2)(x), wanted)
else:
    assert np.array_equal(run(x), wanted)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_forked_child_uses_and_deletes_the_engine(threads) -> None:
    run_python(FORK, threads)


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from tests.conftest import random_checkpoint
from mobilenetv2.runtime import Engine

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

run = Engine(random_checkpoint(), int(sys.argv[1]))
x = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
run(x[:, :8, :8])  # brings the code into memory
planned = run.activation_bytes(224, 224)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak()
answer = run(x)
print(peak() - before - answer.nbytes, planned)
"""


@measures_memory
@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_takes_the_memory_that_activation_bytes_says(threads) -> None:
    # every large array is then a mapping of its own, and no freed one is used again
    taken, planned = map(int, run_python(MEMORY, threads, MALLOC_MMAP_THRESHOLD_="65536").split())
    assert 0.5 * planned < taken < planned + (256 << 10)


COPIES = """
import re, sys
from pathlib import Path
import numpy as np
import mobilenetv2

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

x = np.zeros((1, 224, 224, 3), np.uint8)
mobilenetv2.load("cifar10")(x[:, :32, :32])  # brings the code into memory
models, sizes = [], [resident()]
for _ in range(3):
    models.append(mobilenetv2.load(sys.argv[1]))
    models[-1](x)
    sizes.append(resident())
print(*np.diff(sizes))
"""


@measures_memory
def test_each_loaded_copy_takes_less_than_60_megabytes(tmp_path) -> None:
    random_checkpoint().save(tmp_path / "model.safetensors")
    grown = run_python(COPIES, tmp_path / "model.safetensors", MALLOC_MMAP_THRESHOLD_="65536")
    first, *others = map(int, grown.split())
    assert first < 60e6
    assert max(others) <= first * 1.1  # the interpreter's own memory grows in steps


def subnormal_checkpoint() -> Checkpoint:
    """A classifier whose weights are subnormal numbers."""
    checkpoint = random_checkpoint(width_mult=0.35, classes=1000)
    weight = checkpoint.arrays["classifier.1.weight"]
    arrays = {
        **checkpoint.arrays,
        "classifier.1.weight": weight * np.float32(1e-40),
        "classifier.1.bias": np.full(1000, 1e-41, np.float32),
    }
    return replace(checkpoint, arrays=arrays)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
def test_subnormal_numbers_are_zero_during_a_call_and_only_then(isa, threads) -> None:
    run, x = Engine(subnormal_checkpoint(), threads, isa), image("0.35", 3, 32, 32)
    for _ in range(20):  # the threads of the engine take part in some
        assert not run(x).any()
        assert np.float32(1e-40) * np.float32(1) != 0
    if isa == FAST:
        assert Reference(run.checkpoint)(x).all()


def test_a_caller_that_flushes_subnormals_still_does_after_a_call() -> None:
    torch = pytest.importorskip("torch")

    def flushes_after_a_call() -> bool:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush subnormal numbers")
        engine("0.35")(image("0.35", 1, 32, 32))
        return bool(np.float32(1e-40) * np.float32(1) == 0)

    with ThreadPoolExecutor(1) as pool:  # the mode is a thread's own
        assert pool.submit(flushes_after_a_call).result()
    assert np.float32(1e-40) * np.float32(1) != 0
