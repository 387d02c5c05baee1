"""Builds the WebAssembly of the JavaScript package: one file per line of targets.def whose family is wasm.

Needs a C++ compiler for WebAssembly: `pip install ziglang`. Beside the files, sources.json says which
sources, by their checksum, and which compiler they were made of; tests compare it.

    python tools/build_wasm.py
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "mobilenetv2" / "runtime" / "native"
TARGET_FOLDER = ROOT / "src" / "mobilenetv2" / "web" / "js" / "wasm"
RECORD = TARGET_FOLDER / "sources.json"
LINE = re.compile(r"MNV2_TARGET\(wasm, (\w+), (\w+), (\w+), ([^)]*)\)")
COMPILER = (sys.executable, "-m", "ziglang", "c++")
PLATFORM = ("-target", "wasm32-wasi")
FLAGS = (
    "-std=c++17", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-DMNV2_NO_THREADS", "-DMNV2_NO_FILES",
)  # fmt: skip
EXPORTED = (
    "malloc", "free", "mnv2_exact_products", "mnv2_open", "mnv2_input", "mnv2_run", "mnv2_output", "mnv2_info", "mnv2_close", "mnv2_error",
)  # fmt: skip


def sources() -> list[Path]:
    """The C++ files of the runtime, as CMakeLists.txt lists them, and that of the kernels."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    (listed,) = re.findall(r"add_library\(mobilenetv2_runtime STATIC([^)]*)\)", text)
    names = re.findall(r"\$\{native\}/(\w+\.cpp)", listed)
    left_out = {"peak.cpp"}
    return [NATIVE / name for name in names if name not in left_out]


def checksum() -> str:
    """Of everything that the files are made of."""
    digest = hashlib.sha256()
    parts = [*NATIVE.rglob("*.[ch]pp"), NATIVE / "targets.def", ROOT / "include" / "mobilenetv2.h"]
    for path in sorted([*parts, Path(__file__)]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def targets() -> list[tuple[str, str, str]]:
    """The name, the vocabulary and the flags of each target."""
    text = (NATIVE / "targets.def").read_text(encoding="utf-8")
    return [(name, vocabulary, flags) for name, vocabulary, _, flags in LINE.findall(text)]


def build(name: str, vocabulary: str, flags: str, target: Path) -> None:
    """Builds the file of one target."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "built_targets.hpp")
        built.write_text(
            f"#pragma once\n#define MNV2_FLOAT_TARGETS(X) X({name}, {name})\n"
            f"#define MNV2_BYTE_TARGETS(X) X({name}, {name})\n#define MNV2_TRAINING_TARGETS(X)\n"
        )
        common = [
            *COMPILER,
            *PLATFORM,
            *FLAGS,
            *flags.split(),
            f"-I{folder}",
            f"-I{ROOT / 'include'}",
        ]
        objects = []
        of_target = [NATIVE / "kernels.cpp", NATIVE / "exact_products.cpp"]
        for source in [*sources(), *of_target]:
            define = [f"-DMNV2_NAMESPACE={name}", f'-DMNV2_VOCABULARY="simd/{vocabulary}.hpp"']
            define.append("-DMNV2_HAS_FLOATS")
            made = Path(folder, f"{source.stem}.o")
            options = ["-O3", *define] if source in of_target else ["-Os"]
            subprocess.run([*common, *options, "-c", str(source), "-o", str(made)], check=True)
            objects.append(str(made))
        exported = [f"-Wl,--export={function}" for function in EXPORTED]
        link = ["-mexec-model=reactor", "-Wl,--strip-all", "-Wl,--gc-sections", *exported]
        subprocess.run([*common, "-Os", *objects, *link, "-o", str(target)], check=True)


def main() -> None:
    """Builds all files and writes down of what."""
    TARGET_FOLDER.mkdir(exist_ok=True)
    for name, vocabulary, flags in targets():
        target = TARGET_FOLDER / f"{name}.wasm"
        build(name, vocabulary, flags, target)
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
    version = subprocess.run(
        [*COMPILER[:-1], "version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    record = {"sources": checksum(), "compiler": f"zig {version}"}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
