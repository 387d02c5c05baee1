"""The kernels of 64-bit Arm, cross-compiled and run under QEMU: their answers on processors with and without dot
products, and what GCC makes of the tiles. How fast they are, only a processor can tell.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY, built_once
from .disassembly import Function, disassembled, inner_loops

COMPILER, OBJDUMP, EMULATOR = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64"
TOOLS = (COMPILER, OBJDUMP, EMULATOR, "cmake", "make")
# what a processor's name gives, best last
PROCESSORS = {
    "cortex-a72": ["neon"],
    "cortex-a76": ["neon", "dotprod"],
    "max": ["neon", "dotprod", "i8mm"],
}
FLOAT_TILES = "tileI.*MatmulIfE"  # functions, mangled
BYTE_TILES = "tileI.*MatmulIhE"
FLOAT_DEPTHWISE = "depthwise_channelsILi[12]E.*DepthwiseIfE"
TRAINING_TILES = "product_tileI"
KERNELS = [
    ("runtime_neon", FLOAT_TILES),
    ("runtime_neon", FLOAT_DEPTHWISE),
    ("runtime_neon", BYTE_TILES),
    ("runtime_dotprod", BYTE_TILES),
    ("runtime_i8mm", BYTE_TILES),
    ("training_neon", TRAINING_TILES),
]
MULTIPLY_ADD = r"fmla\t"
MULTIPLY_BYTES = (
    r"(sdot|sudot|smull|smull2|sadalp)\t"  # such a tile rounds with multiply-adds, behind its loop
)
STEPS = 4  # of the depth in a loop

missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(
    bool(missing),
    reason=f"no {', '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user cmake make",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The build folder of the test programs; built once, whatever the number of workers."""

    def build(folder: Path) -> None:
        options = [
            f"-DCMAKE_TOOLCHAIN_FILE={REPOSITORY / 'cmake' / 'aarch64-linux-gnu.cmake'}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DMOBILENETV2_PYTHON=OFF",
            "-DMOBILENETV2_NATIVE_TESTS=ON",
        ]
        subprocess.run(["cmake", "-S", REPOSITORY, "-B", folder, *options], check=True)
        targets = ("--target", "passes_test", "kernel_test")
        subprocess.run(["cmake", "--build", folder, *targets, "-j2"], check=True)

    return built_once(tmp_path_factory, "aarch64", build)


def run(program: Path, processor: str, *arguments: str) -> str:
    command = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu", processor, program, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("processor", PROCESSORS)
def test_kernels_answer_as_the_scalar_ones(built, processor) -> None:
    lines = run(built / "kernel_test", processor, "200").splitlines()
    targets = " ".join(PROCESSORS[processor])
    for kind in ("products", "depthwise", "sums", "labels"):
        assert f"float {kind}: 200 jobs, neon" in lines
        assert f"int8 {kind}: 200 jobs, {targets}" in lines


def test_training_answers_as_in_scalar(built) -> None:
    lines = run(built / "passes_test", "cortex-a72").splitlines()
    for maps in ("float32", "bfloat16"):
        for kind in ("batch norm", "depthwise", "products"):
            assert f"{maps} {kind}: 100 jobs, neon" in lines


def functions(built: Path, target: str, pattern: str) -> dict[str, Function]:
    library, name = target.split("_")
    (folder,) = (built / "CMakeFiles").glob(f"mobilenetv2_{library}_*TARGET_{name}.dir")
    (binary,) = folder.rglob("*.o")
    chosen = {n: f for n, f in disassembled(OBJDUMP, binary).items() if re.match(pattern, n)}
    assert chosen, f"no function {pattern} in {binary}"
    return chosen


def products_of(loop: list[str], pattern: str) -> int:
    multiply = MULTIPLY_BYTES if pattern == BYTE_TILES else MULTIPLY_ADD
    return sum(bool(re.match(multiply, i)) for i in loop)


def loops_of(function: Function, pattern: str) -> list[list[str]]:
    return [loop for loop in inner_loops(function) if products_of(loop, pattern)]


@pytest.mark.parametrize(("target", "pattern"), KERNELS)
def test_vectors_stay_in_registers(built, target, pattern) -> None:
    for name, function in functions(built, target, pattern).items():
        loops = loops_of(function, pattern)
        assert loops, f"{name} has no loop of multiply-adds"
        for loop in loops:
            spills = [i for i in loop if re.search(r"\t[qdsv]\d.*\[(sp|x29)", i)]
            assert not spills, f"{name}: {spills}"


@pytest.mark.parametrize(
    ("target", "pattern"), [pair for pair in KERNELS if pair[1] in (FLOAT_TILES, BYTE_TILES)]
)
def test_tiles_do_little_but_multiply(built, target, pattern) -> None:
    """At least 85 % of the multiply-adds an instruction that a tile allows: four steps of the depth take a load per row,
    one per vector and step and, of bytes, what makes them signed; then the products. A loop has four more at most, of
    addresses and its end.
    """
    tiles = functions(built, target, pattern)
    full = [match for name in tiles if (match := re.match(r"tileILi(\d+)ELi(\d+)ELb1", name))]
    assert {int(match[2]) for match in full} == {1, 2, 3, 4}
    for match in full:
        rows, vectors = int(match[1]), int(match[2])
        for fetches in (False, True):
            (name,) = (n for n in tiles if n.startswith(f"{match[0][:-1]}{int(fetches)}E"))
            products, others = rows * vectors * STEPS, rows + vectors * STEPS
            if fetches:
                others += STEPS
            if pattern == BYTE_TILES and target != "runtime_i8mm":
                others += rows
            if pattern == BYTE_TILES and target == "runtime_neon":
                # two products of eight and two sums each; one quad in all lanes
                products, others = 4 * products, others + rows * STEPS
            bound = products / (products + others)
            loop = max(loops_of(tiles[name], pattern), key=len)
            have = products_of(loop, pattern)
            assert have == products
            assert have / len(loop) >= 0.85 * bound, f"{name}: {have} of {len(loop)}, {bound:.3f}"
