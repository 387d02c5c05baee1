"""The C library without a C++ library, and the C example: on this machine, and on 64-bit Arm under
QEMU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2 import load
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.heads import Classifier, DeepLab, Features, SSDLite
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime import Engine
from mobilenetv2.runtime._native import instruction_sets
from mobilenetv2.runtime.program import Program, program_bytes, write_program

from .conftest import REPOSITORY, built_once, random_checkpoint
from .int8 import random_int8

LIMIT_BYTES = 300_000
RUNTIME = REPOSITORY / "src" / "mobilenetv2" / "runtime" / "native"


def need(*tools: str) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"{missing[0]} is not installed")


def run(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([str(word) for word in command], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done


@dataclass(frozen=True)
class Build:
    """A small C library in a folder.

    Attributes:
        programs: Where programs that use it are compiled to.
        compiler: Of C, for the same machine.
        emulator: What runs its programs; nothing for this machine.
    """

    folder: Path
    programs: Path
    compiler: str
    emulator: Sequence[str] = ()

    def program(self, source: str) -> Path:
        """A C program, compiled when it is first used; it links no C++ library."""
        out = self.programs / Path(source).stem
        if out.exists():
            return out
        flags = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static")
        library = self.folder / "libmobilenetv2.a"
        include = REPOSITORY / "include"
        run(self.compiler, *flags, REPOSITORY / source, "-I", include, library, "-lm", "-o", out)
        return out


def built(factory: pytest.TempPathFactory, name: str, *options: str) -> Path:
    def build(folder: Path) -> None:
        common = ("-DMOBILENETV2_PYTHON=OFF", "-DMOBILENETV2_SMALL=ON")
        run("cmake", "-S", REPOSITORY, "-B", folder, *common, *options)
        run("cmake", "--build", folder, "-j2")

    return built_once(factory, name, build)


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need("cmake", "make", "gcc", "g++")
    target = "avx2" if "avx2" in instruction_sets() else "scalar"
    folder = built(tmp_path_factory, "small", f"-DMOBILENETV2_TARGETS={target}")
    return Build(folder, tmp_path_factory.mktemp("programs"), "gcc")


@pytest.fixture(scope="session")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need("cmake", "make", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "qemu-aarch64")
    toolchain = REPOSITORY / "cmake" / "aarch64-linux-gnu.cmake"
    listed = (RUNTIME / "targets.def").read_text()
    targets = re.findall(r"^MNV2_TARGET\(arm, (\w+)", listed, re.MULTILINE) or ["scalar"]
    folder = built(
        tmp_path_factory,
        "small-arm",
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        f"-DMOBILENETV2_TARGETS={targets[0]}",
    )
    programs = tmp_path_factory.mktemp("arm-programs")
    return Build(folder, programs, "aarch64-linux-gnu-gcc", ("qemu-aarch64",))


def test_the_small_library_needs_no_cpp_library(here: Build) -> None:
    """Neither its exceptions nor its streams, and nothing of it is seen but the interface."""
    need("nm")
    library = here.folder / "libmobilenetv2.so"
    needed = run("nm", "-D", "--undefined-only", library).stdout.decode().split()
    assert "malloc@GLIBC" in " ".join(needed)
    names = [word for word in needed if word.startswith(("_Z", "__cxa_", "__gxx", "_Unwind"))]
    assert [name for name in names if not name.startswith("__cxa_finalize")] == []
    seen = run("nm", "-D", "--defined-only", library).stdout.decode().split()[2::3]
    header = (REPOSITORY / "include" / "mobilenetv2.h").read_text()
    assert len(seen) == header.count("\nMNV2_API")
    assert all(f"{name}(" in header for name in seen)


@pytest.mark.parametrize(("name", "strip"), [("here", "strip"), ("arm", "aarch64-linux-gnu-strip")])
def test_the_small_library_is_small(name, strip, request, tmp_path: Path) -> None:
    """With vector kernels too: one line of targets.def, stripped."""
    build = request.getfixturevalue(name)
    need(strip)
    run(strip, build.folder / "libmobilenetv2.so", "-o", tmp_path / "stripped.so")
    assert (tmp_path / "stripped.so").stat().st_size < LIMIT_BYTES


def test_the_example_names_what_is_on_the_photo(here: Build, tmp_path: Path) -> None:
    program = here.program("examples/classify.c")
    model = load("cifar10-int8")
    write_program(model.checkpoint, tmp_path / "model.mnv2")
    pixels = model.checkpoint.preprocessing(REPOSITORY / "examples" / "cat.jpg")
    height, width, _ = pixels.shape
    header = f"P6\n{width} {height}\n255\n".encode()
    for name, content in {"a.ppm": header + pixels.tobytes(), "a.raw": pixels.tobytes()}.items():
        (tmp_path / name).write_bytes(content)
        lines = run(program, tmp_path / "model.mnv2", tmp_path / name).stdout.decode().splitlines()
        expected = model.classify(REPOSITORY / "examples" / "cat.jpg")
        assert lines == [f"{100 * each.probability:6.2f} %  {each.label}" for each in expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mnv2", "a"], "none.mnv2: cannot be read"),
        (["empty.mnv2", "a"], "empty.mnv2: cannot be read, or is empty"),
        (["half.mnv2", "a"], "half.mnv2: it is not whole"),
        (["model.mnv2", "empty.mnv2"], "empty.mnv2: not 32 x 32 pixels"),
        ([], "classify model.mnv2 image.ppm"),
    ],
)
def test_the_example_says_what_is_wrong(here, arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = program_bytes(load("cifar10-int8").checkpoint)
    Path("model.mnv2").write_bytes(content)
    Path("half.mnv2").write_bytes(content[: len(content) // 2])
    Path("empty.mnv2").touch()
    done = subprocess.run([here.program("examples/classify.c"), *arguments], capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(message)


def test_targets_that_there_are_not_are_named(tmp_path: Path) -> None:
    need("cmake", "make", "g++")
    options = ("-DMOBILENETV2_PYTHON=OFF", "-DMOBILENETV2_TARGETS=scalar;avx3")
    command = ["cmake", "-S", str(REPOSITORY), "-B", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "targets.def has no avx3" in " ".join(done.stderr.split())


def results(build: Build, content: bytes, pixels: np.ndarray, folder: Path) -> bytes:
    (folder / "model.mnv2").write_bytes(content)
    (folder / "pixels").write_bytes(pixels.tobytes())
    program = build.program("tests/native/run_program.c")
    count = str(len(pixels))
    return run(*build.emulator, program, folder / "model.mnv2", folder / "pixels", count).stdout


HEADS = [Classifier(5), Features(), DeepLab(3), SSDLite(classes=2)]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.task)
@pytest.mark.parametrize("rounding", [None, "nearest", "twice"])
@pytest.mark.parametrize("machine", ["here", "arm"])
def test_the_same_answers_without_python(machine, rounding, head, request, tmp_path) -> None:
    """int8 the same bytes, float32 within 1e-4."""
    build: Build = request.getfixturevalue(machine)
    options = {"width_mult": 0.35, "head": head, "resolution": (48, 40)}
    checkpoint: Checkpoint | Int8Checkpoint = (
        random_int8(rounding, **options) if rounding else random_checkpoint(**options)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
    content = program_bytes(checkpoint, batch=2)
    expected = Engine(checkpoint, 1, "scalar")(pixels)
    if isinstance(expected, dict):
        expected = np.concatenate([values.ravel() for values in expected.values()])
    values = np.frombuffer(results(build, content, pixels, tmp_path), np.float32)
    if rounding:
        np.testing.assert_array_equal(values, expected.ravel())
    else:
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(values, expected.ravel(), rtol=0, atol=1e-4 * largest)


def test_masks_on_arm(arm: Build, tmp_path: Path) -> None:
    checkpoint = random_int8(width_mult=0.35, head=DeepLab(3), resolution=(33, 40))
    pixels = np.random.default_rng(1).integers(0, 256, (1, 33, 40, 3), dtype=np.uint8)
    content = program_bytes(checkpoint, mask=True)
    answers = Program(content)(pixels)
    expected = b"".join(values.tobytes() for values in answers.values())
    assert results(arm, content, pixels, tmp_path) == expected
