"""The house stands as the design says: import directions, lazy start-up, and docs that name
everything public.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import click
import pytest

import mobilenetv2
from mobilenetv2.cli import main

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mobilenetv2"
TRUNK = {
    "processors",
    "locks",
    "errors",
    "arguments",
    "printable",
    "architecture",
    "heads",
    "layer",
    "graph",
    "boxes",
    "results",
    "drawing",
    "files",
    "stored",
    "folding",
    "cost",
    "paper",
    "paper_tables",
    "images",
    "decoding",
    "paths",
    "records",
    "labels",
    "checkpoint",
    "datasets",
    "int8",
    "int8_layers",
    "description",
    "zoo",
}
MODELS = {"model", "detector", "segmenter", "loading"}
MAY_IMPORT = {
    "runtime": TRUNK,
    "formats": TRUNK,
    # weights by file or name; how int8 rounds
    "nn": TRUNK | {"formats", "runtime"},
    "training": TRUNK | MODELS | {"runtime", "formats", "nn", "pipeline", "evaluation"},
    "pipeline": TRUNK,
    "model": TRUNK | {"runtime", "formats", "pipeline"},
    "detector": TRUNK | {"model"},
    "segmenter": TRUNK | {"model"},
    "loading": TRUNK | {"formats", "model", "detector", "segmenter"},
    "batch": TRUNK | MODELS,
    "serving": TRUNK | MODELS | {"batch", "pipeline"},
    "evaluation": TRUNK | MODELS,
    # formats for the names that other libraries have
    "writers": TRUNK | {"formats", "runtime"},
    "verification": TRUNK | {"formats", "runtime", "writers"},
    "exporting": TRUNK | MODELS | {"writers", "verification"},
    "web": TRUNK | {"runtime"},
    "insight": TRUNK | MODELS | {"runtime", "evaluation", "training"},
    "cli": TRUNK
    | MODELS
    | {
        "runtime",
        "formats",
        "nn",
        "evaluation",
        "training",
        "insight",
        "writers",
        "exporting",
        "web",
        "serving",
    },
    "__init__": TRUNK | MODELS | {"batch", "evaluation", "nn", "runtime", "training", "exporting"},
    "__main__": {"cli"},
}
TORCH_IS_AT_HOME = ("nn/", "training/", "insight/", "formats/pytorch.py", "writers/torchvision.py")


def module_name(path: Path) -> str:
    """`runtime.plan`; "" is the package itself."""
    return (
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip(".")
    )


FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {module_name(path) for path in [*FILES, *SOURCE.rglob("*.pyi")]}


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, also in functions and for types."""
    imported: set[str] = set()
    package = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                if not base and alias.name == "__version__":
                    continue
                module = ".".join([*base, alias.name])
                imported.add(module if module in MODULES else ".".join(base))
    return imported


def other_imports(path: Path) -> set[str]:
    """Names of the other packages that a file imports anywhere."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
    return imported


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    assert room(path) in MAY_IMPORT.keys() | TRUNK, (
        "a room that the test does not know: add it to the plan first"
    )
    allowed = MAY_IMPORT.get(room(path), TRUNK) | {room(path)}
    rooms = {module.split(".")[0] for module in own_imports(path)}
    assert rooms <= allowed, f"{room(path)} may not import {sorted(rooms - allowed)}"


def drawn_rooms() -> list[list[str]]:
    """The rooms of docs/design.md, line by line from the top."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    lines = text.split("```")[1].splitlines()[2:]
    return [line.strip().split("  ")[0].replace("/", "").split(", ") for line in lines if line]


def test_the_design_draws_every_room() -> None:
    drawn = [name for line in drawn_rooms() for name in line]
    assert sorted(drawn) == sorted({room(path) for path in FILES} - {"__init__", "__main__"})


def test_imports_point_upwards_in_the_design() -> None:
    depth = {name: i for i, line in enumerate(drawn_rooms()) for name in line}
    for path in FILES:
        if room(path) in depth:
            for module in own_imports(path):
                other = module.split(".")[0]
                assert depth[other] <= depth[room(path)], f"{module_name(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_stays_at_home(path: Path) -> None:
    if not str(path.relative_to(SOURCE)).startswith(TORCH_IS_AT_HOME):
        assert not other_imports(path) & {"torch", "lightning"}


def test_no_circle_between_modules() -> None:
    graph = {module_name(path): own_imports(path) for path in FILES}
    assert {"checkpoint", "formats.reader", "zoo"} <= graph["formats.published"]
    assert {"formats.published", "formats.reader", "int8"} <= graph["formats"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize(
    "program", ["import mobilenetv2", "import mobilenetv2.cli as c; c.run(['--help'])"]
)
def test_start_up_is_light(program: str) -> None:
    heavy = "{'torch', 'PIL', 'rich', 'numpy', 'pooch', 'safetensors', 'msgspec', 'jinja2'}"
    code = f"import sys; {program}; sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_photo_is_classified_without_modules_that_take_long_to_load() -> None:
    heavy = "{'torch', 'rich', 'pooch', 'safetensors', 'hashlib', 'tempfile', 'numpy.ma', 'mobilenetv2.detector'}"
    code = (
        "import sys, mobilenetv2\n"
        "mobilenetv2.load('cifar10').classify(sys.argv[1])\n"
        f"sys.exit(', '.join({heavy} & set(sys.modules)))"
    )
    photo = ROOT / "examples" / "cat.jpg"
    done = subprocess.run([sys.executable, "-c", code, photo], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_command_loads_itself_alone_and_starts_no_threads_of_numpy() -> None:
    heavy = "{'mobilenetv2.cli.convert', 'mobilenetv2.datasets.tasks', 'hashlib', 'tempfile', 'xml', 'rich'}"
    code = (
        "import os, sys\n"
        "from mobilenetv2.cli import run\n"
        "sys.argv = ['mobilenetv2', 'classify', sys.argv[1], '--format', 'csv']\n"
        "assert run() == 0\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1'\n"
        f"sys.exit(', '.join({heavy} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, ROOT / "examples" / "cat.jpg"]
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr.strip() == ""


def test_every_public_name_exists_and_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in mobilenetv2.__all__:
        assert getattr(mobilenetv2, name).__doc__, f"{name} has no docstring"
        assert f"`{name}" in text or f"`mnv2.{name}" in text, f"docs/api.md does not name {name}"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = mobilenetv2.nothing_of_that_name


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert f"## {name}\n" in text, f"docs/commands.md lacks {name}"
        assert f"mobilenetv2 {name}" in readme, f"README.md lacks {name}"
        assert command.help, f"{name} has no help"
        for option in (p for p in command.params if isinstance(p, click.Option)):
            for flag in option.opts:
                assert f"`{flag}" in text, f"docs/commands.md lacks {name} {flag}"


def test_the_version_is_said_once() -> None:
    assert f'version = "{mobilenetv2.__version__}"' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )


def test_the_extension_names_instruction_sets() -> None:
    native = pytest.importorskip(
        "mobilenetv2.runtime._native", reason="the extension is built by pip install"
    )
    found = native.instruction_sets()
    order = ["avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "neon", "dotprod", "i8mm"]
    assert found == [name for name in order if name in found]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    for name, flag in (
        ("avx2", " avx2 "),
        ("avx512", " avx512bw "),
        ("avx512bf16", " avx512_bf16 "),
        ("avx512vnni", " avx512_vnni "),
        ("avxvnni", " avx_vnni "),
    ):
        if " sse2 " in flags:
            assert (name in found) == (flag in flags)


def test_what_compilers_spell_differently_stands_in_one_header() -> None:
    """The rest is plain C++ and intrinsics, so that Clang and Microsoft's compiler take it."""
    own = re.compile(
        r"__attribute__|__declspec|__builtin_|_Pragma|#pragma (?!once)|\btypeof\b|\(\{ "
    )
    assembly = re.compile(r"\basm\b")
    apart = {"dialect.hpp", "web_pool.cpp"}  # the latter is of WebAssembly alone
    files = [path for path in SOURCE.rglob("*.[ch]pp") if path.name not in apart]
    assert len(files) > 40
    assert [path.name for path in files if own.search(path.read_text(encoding="utf-8"))] == []
    with_assembly = {path.name for path in files if assembly.search(path.read_text("utf-8"))}
    assert with_assembly == {"cpu.cpp", "neon.hpp"}
