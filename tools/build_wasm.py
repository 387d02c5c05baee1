"""Builds the WebAssembly of the JavaScript package: two files per line of targets.def whose family is wasm,
one without threads and one whose memory is shared with workers.

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
    "-Wall", "-Wextra", "-DMNV2_NO_FILES",
)  # fmt: skip
ALONE = ("-DMNV2_NO_THREADS",)
SHARED = ("-DMNV2_WEB_WORKERS", "-mcpu=generic+atomics+bulk_memory")
# the memory that program.js makes
SHARED_LINK = (
    "-Wl,--shared-memory", "-Wl,--import-memory", "-Wl,--initial-memory=4194304", "-Wl,--max-memory=1073741824",
    "-Wl,--export=mnv2_work", "-Wl,--export=mnv2_may_sleep", "-Wl,--export=__stack_pointer",
)  # fmt: skip
EXPORTED = (
    "malloc", "free", "mnv2_open", "mnv2_input", "mnv2_run", "mnv2_output", "mnv2_info", "mnv2_close", "mnv2_error",
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


def files() -> list[tuple[Path, tuple[str, str, str], bool]]:
    """Each file: its path, its target, and whether it has threads."""
    return [
        (TARGET_FOLDER / f"{target[0]}{'-threads' if threads else ''}.wasm", target, threads)
        for target in targets()
        for threads in (False, True)
    ]


def build(name: str, vocabulary: str, flags: str, target: Path, threads: bool) -> None:
    """Builds a file of one target."""
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
            *(SHARED if threads else ALONE),
            *flags.split(),
            f"-I{folder}",
            f"-I{ROOT / 'include'}",
        ]
        objects = []
        kernels = NATIVE / "kernels.cpp"
        pool = [NATIVE / "tasks.cpp", NATIVE / "web_pool.cpp"] if threads else []
        for source in [*sources(), *pool, kernels]:
            define = [f"-DMNV2_NAMESPACE={name}", f'-DMNV2_VOCABULARY="simd/{vocabulary}.hpp"']
            define.append("-DMNV2_HAS_FLOATS")
            made = Path(folder, f"{source.stem}.o")
            options = ["-O3", *define] if source == kernels else ["-Os"]
            subprocess.run([*common, *options, "-c", str(source), "-o", str(made)], check=True)
            objects.append(str(made))
        exported = [f"-Wl,--export={function}" for function in EXPORTED]
        link = [
            "-mexec-model=reactor",
            "-Wl,-z,stack-size=1048576",
            "-Wl,--strip-all",
            "-Wl,--gc-sections",
            *exported,
        ]
        link += SHARED_LINK if threads else []
        subprocess.run([*common, "-Os", *objects, *link, "-o", str(target)], check=True)


def main() -> None:
    """Builds all files and writes down of what."""
    TARGET_FOLDER.mkdir(exist_ok=True)
    for target, of_target, threads in files():
        build(*of_target, target, threads)
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
    version = subprocess.run(
        [*COMPILER[:-1], "version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    record = {"sources": checksum(), "compiler": f"zig {version}"}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
