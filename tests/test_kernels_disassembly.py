"""What GCC makes of the micro-kernels: their inner loops keep every vector in a register. With some
flags and some loops around a tile, it moves sums to the stack and back, at half the speed.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY

NATIVE = {"kernels": "runtime", "passes": "nn"}  # folders of kernels_*.cpp and of passes_*.cpp
LIBRARIES = {"kernels": "mobilenetv2_runtime", "passes": "mobilenetv2_training"}
WIDE = {"avx2": "ymm", "avxvnni": "ymm"}  # registers; the others' are zmm
FLOAT_TILES = "tileI.*MatmulIfE"  # functions, mangled
BYTE_TILES = "tileI.*MatmulIhE"
FLOAT_DEPTHWISE = "depthwise_channelsILi[12]E.*DepthwiseIfE"  # by stride; any other stride is rare
TRAINING_TILES = "product_tileI"
KERNELS = [
    ("kernels_avx2", FLOAT_TILES),
    ("kernels_avxvnni", BYTE_TILES),
    ("kernels_avx512", FLOAT_TILES),
    ("kernels_avx512", FLOAT_DEPTHWISE),
    ("kernels_avx512vnni", BYTE_TILES),
    ("passes_avx2", TRAINING_TILES),
    ("passes_avx512", TRAINING_TILES),
    ("passes_avx512bf16", TRAINING_TILES),
]
MULTIPLY_ADD = "vfmadd|vpdpbusd|vdpbf16ps"

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or shutil.which("g++") is None
    or shutil.which("objdump") is None,
    reason="needs an x86-64 machine, g++ and objdump",
)
Function = dict[int, str]  # instructions by address


def flags(stem: str) -> list[str]:
    """What CMakeLists.txt gives GCC for a file of kernels."""
    library = LIBRARIES[stem.partition("_")[0]]
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")

    def found(pattern: str) -> str:
        match = re.search(pattern, text)
        assert match, f"CMakeLists.txt has no {pattern}"
        return match[1]

    standard = "-std=gnu++" + found(r"set\(CMAKE_CXX_STANDARD (\d+)\)")
    common = found(rf"target_compile_options\({library} PRIVATE (-[^)]*)\)").split()
    own = found(rf'{stem}\.cpp PROPERTIES COMPILE_OPTIONS "([^"]*)"')
    variables = dict(re.findall(r"set\((\w+) (-[^)]*)\)", text))
    while "$" in own:
        own = re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]].replace(" ", ";"), own)
    definitions = "-D" + found(rf"target_compile_definitions\({library} PRIVATE (\w+)\)")
    chosen = own.split(";")
    return [standard, *common, *chosen, definitions, "-DNDEBUG", "-fPIC", "-fvisibility=hidden"]


@pytest.fixture(scope="module")
def functions(request, tmp_path_factory) -> dict[str, Function]:
    """Of the file that the test names, by name: `tile<6, 4>` as `tileILi6ELi4EE...`."""
    return disassembled(request.param, tmp_path_factory.mktemp("kernels") / f"{request.param}.o")


def disassembled(stem: str, binary: Path) -> dict[str, Function]:
    folder = NATIVE[stem.partition("_")[0]]
    source = REPOSITORY / "src" / "mobilenetv2" / folder / "native" / f"{stem}.cpp"
    subprocess.run(["g++", *flags(stem), "-w", "-c", source, "-o", binary], check=True)
    command = ["objdump", "-d", "--no-show-raw-insn", binary]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Function] = {}
    for line in listing.splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            found[head[1].partition("_GLOBAL__N_1")[2].lstrip("0123456789")] = {}
        elif body := re.fullmatch(r" *([0-9a-f]+):\t(.*)", line):
            found[list(found)[-1]][int(body[1], 16)] = body[2]
    return found


def inner_loops(function: Function) -> list[list[str]]:
    """Instructions from the target of a backward jump to the jump, where no other such loop lies
    within.
    """
    loops = []
    for address, instruction in function.items():
        jump = re.match(r"j\w+ +([0-9a-f]+) ", instruction)
        if jump and int(jump[1], 16) <= address:
            loops.append((int(jump[1], 16), address))
    return [
        [instruction for at, instruction in function.items() if begin <= at <= end]
        for begin, end in loops
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loops)
    ]


@pytest.mark.parametrize(
    ("functions", "kernel", "wide"),
    [(stem, kernel, WIDE.get(stem.partition("_")[2], "zmm")) for stem, kernel in KERNELS],
    indirect=["functions"],
)
def test_vectors_stay_in_registers(functions, kernel, wide) -> None:
    chosen = {name: f for name, f in functions.items() if re.match(kernel, name)}
    assert chosen, f"no function {kernel} among {list(functions)}"
    for name, function in chosen.items():
        # %rbp is the stack's only where the function makes it so
        frame = r"\(%r[sb]p" if "mov    %rsp,%rbp" in function.values() else r"\(%rsp"
        loops = [
            loop for loop in inner_loops(function) if any(re.search(MULTIPLY_ADD, i) for i in loop)
        ]
        assert loops, f"{name} has no loop of multiply-adds"
        for loop in loops:
            assert any(f"%{wide}" in i for i in loop), f"{name} does not use {wide}"
            spills = [i for i in loop if re.search(frame, i) and re.search(r"%[xyz]mm", i)]
            assert not spills, f"{name}: {spills}"
