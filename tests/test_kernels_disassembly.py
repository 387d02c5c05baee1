"""What GCC makes of the micro-kernels: their inner loops keep every vector in a register. With some
flags and some loops around a tile, it moves sums to the stack and back, at half the speed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY
from .disassembly import Function, disassembled, inner_loops

RUNTIME = REPOSITORY / "src" / "mobilenetv2" / "runtime" / "native"
# by kind of target in targets.def: the source, and what its namespace has behind the target's name
SOURCES = {
    "MNV2_TARGET": (RUNTIME / "kernels.cpp", ""),
    "MNV2_BF16_TARGET": (RUNTIME / "bf16" / "kernels.cpp", ""),
    "MNV2_TRAINING_TARGET": (RUNTIME.parents[1] / "nn" / "native" / "passes.cpp", "_training"),
}
WIDE = {"avx2": "ymm", "avx512": "zmm"}  # registers, by vocabulary
FLOAT_TILES = "tileI.*MatmulIfE"  # functions, mangled
BYTE_TILES = "(half_)?tileI.*MatmulIhE"
FLOAT_DEPTHWISE = "depthwise_channelsILi[12]E.*DepthwiseIfE"  # by stride; any other stride is rare
BF16_KERNELS = ("pair_tileI.*MatmulINS_8bfloat16E", "pair_channelsILi[12]E")
TRAINING_TILES = "product_tileI"
INT8_TARGETS = ("avxvnni", "avx512vnni")  # where bytes are multiplied in one instruction


def rows() -> list[tuple[str, str, str, str, str]]:
    """Kind, name, vocabulary, float target and flags of each x86 target of targets.def."""
    text = (RUNTIME / "targets.def").read_text(encoding="utf-8")
    row = r"^(MNV2_\w+)\(x86, (\w+), (\w+), (\w+), (.*)\)$"
    return re.findall(row, text, re.MULTILINE)


def kernels() -> list[tuple[str, str]]:
    """The targets, and a pattern for the functions that are looked at."""
    pairs = []
    for kind, name, vocabulary, floats, _ in rows():
        if kind == "MNV2_TRAINING_TARGET":
            pairs.append((f"{kind} {name}", TRAINING_TILES))
            continue
        if kind == "MNV2_BF16_TARGET":
            pairs += [(f"{kind} {name}", kernel) for kernel in BF16_KERNELS]
            continue
        if name == floats:
            pairs.append((f"{kind} {name}", FLOAT_TILES))
            if vocabulary == "avx512":
                pairs.append((f"{kind} {name}", FLOAT_DEPTHWISE))
        if name in INT8_TARGETS:
            pairs.append((f"{kind} {name}", BYTE_TILES))
    return pairs


def wide_of(target: str) -> str:
    """The vector registers of a target."""
    (vocabulary,) = [row[2] for row in rows() if f"{row[0]} {row[1]}" == target]
    return WIDE[vocabulary]


MULTIPLY_ADD = "vfmadd|vpdpbusd|vdpbf16ps"

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or shutil.which("g++") is None
    or shutil.which("objdump") is None,
    reason="needs an x86-64 machine, g++ and objdump",
)


def flags(kind: str, name: str) -> list[str]:
    """What CMakeLists.txt gives GCC for the kernels of a target."""
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")

    def match(pattern: str) -> str:
        found = re.search(pattern, text)
        assert found, f"CMakeLists.txt has no {pattern}"
        return found[1]

    standard = "-std=gnu++" + match(r"set\(CMAKE_CXX_STANDARD (\d+)\)")
    common = match(r"set\(speed_flags (-[^)]*)\)").split()
    common += match(r"set\(exact_flags (-[^)]*)\)").split()
    gnu = match(r"list\(APPEND kernel_flags (-[^)]*)\)").split()
    gnu += match(r"list\(APPEND kernel_flags (-mtune[^)]*)\)").split()  # on x86
    (row,) = [row for row in rows() if row[:2] == (kind, name)]
    _, _, vocabulary, floats, own = row
    definitions = [
        f"-DMNV2_NAMESPACE={name}{SOURCES[kind][1]}",
        f'-DMNV2_VOCABULARY="simd/{vocabulary}.hpp"',
        *(["-DMNV2_HAS_FLOATS"] if name == floats else []),
    ]
    shared_library = ["-DNDEBUG", "-fPIC", "-fvisibility=hidden"]
    return [standard, *common, *gnu, *own.split(), *definitions, *shared_library]


def object_file(kind: str, name: str, folder: Path) -> Path:
    """The compiled kernels of a target: those of the build folder in MOBILENETV2_BUILD, or with the
    same flags into `folder`.
    """
    if build := os.environ.get("MOBILENETV2_BUILD"):
        library = "training" if kind == "MNV2_TRAINING_TARGET" else "runtime"
        target = Path(build) / "CMakeFiles" / f"mobilenetv2_{library}_{kind}_{name}.dir"
        (binary,) = target.rglob("*.o")
        return binary
    binary = folder / f"{name}.o"
    command = ["g++", *flags(kind, name), "-w", "-c", SOURCES[kind][0], "-o", binary]
    subprocess.run(command, check=True)
    return binary


@pytest.fixture(scope="module")
def functions(request, tmp_path_factory) -> dict[str, Function]:
    """Of the target that the test names, by name: `tile<6, 4>` as `tileILi6ELi4EE...`."""
    kind, name = request.param.split()
    return disassembled("objdump", object_file(kind, name, tmp_path_factory.mktemp("kernels")))


@pytest.mark.parametrize(
    ("functions", "kernel", "wide"),
    [(target, kernel, wide_of(target)) for target, kernel in kernels()],
    indirect=["functions"],
)
def test_vectors_stay_in_registers(functions, kernel, wide) -> None:
    chosen = {name: f for name, f in functions.items() if re.match(kernel, name)}
    assert chosen, f"no function {kernel} among {list(functions)}"
    # a tile of bytes rounds with multiply-adds of floats, behind its loop
    multiply = "vpdpbusd" if "MatmulIhE" in kernel else MULTIPLY_ADD
    for name, function in chosen.items():
        used = "ymm" if "HalfFloats" in name else wide
        # %rbp is the stack's only where the function makes it so
        frame = r"\(%r[sb]p" if "mov    %rsp,%rbp" in function.values() else r"\(%rsp"
        loops = [
            loop for loop in inner_loops(function) if any(re.search(multiply, i) for i in loop)
        ]
        assert loops, f"{name} has no loop of multiply-adds"
        for loop in loops:
            assert any(f"%{used}" in i for i in loop), f"{name} does not use {used}"
            spills = [i for i in loop if re.search(frame, i) and re.search(r"%[xyz]mm", i)]
            assert not spills, f"{name}: {spills}"
