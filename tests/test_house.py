"""The house stands as the design says: import directions, lazy start-up, and docs that name
everything public.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

import mobilenetv2
from mobilenetv2.cli import main

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mobilenetv2"
TRUNK = {
    "processors",
    "errors",
    "architecture",
    "graph",
    "files",
    "folding",
    "cost",
    "paper",
    "images",
    "labels",
    "checkpoint",
    "datasets",
    "int8",
    "zoo",
}
MAY_IMPORT = {
    "runtime": TRUNK,
    "formats": TRUNK,
    "nn": TRUNK | {"formats"},  # for weights by file or name
    "training": TRUNK | {"runtime", "formats", "nn", "model", "evaluation"},
    "model": TRUNK | {"runtime", "formats"},
    "evaluation": TRUNK | {"runtime", "formats", "model"},
    "insight": TRUNK | {"runtime", "model", "evaluation", "training"},
    "cli": TRUNK | {"runtime", "formats", "nn", "model", "evaluation", "training", "insight"},
    "__init__": TRUNK | {"model", "evaluation", "nn", "runtime", "training"},
    "__main__": {"cli"},
}
TORCH_IS_AT_HOME = ("nn/", "training/", "insight/", "formats/pytorch.py")


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere: `.x` for the package's own, plain names for others."""
    found: set[str] = set()
    depth = len(path.relative_to(SOURCE).parts) - 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            names = (
                [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            )
            found |= {f".{name}" for name in names}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    allowed = MAY_IMPORT.get(room(path), TRUNK) | {room(path)}
    own = {name[1:] for name in imports(path) if name.startswith(".")}
    assert own <= allowed, f"{room(path)} may not import {sorted(own - allowed)}"
    assert room(path) in MAY_IMPORT.keys() | TRUNK, (
        "a room that the test does not know: add it to the plan first"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_stays_at_home(path: Path) -> None:
    if not str(path.relative_to(SOURCE)).startswith(TORCH_IS_AT_HOME):
        assert not imports(path) & {"torch", "lightning"}


def test_the_trunk_has_no_cycle() -> None:
    needs = {
        name: {n[1:] for n in imports(SOURCE / f"{name}.py") if n.startswith(".")} for name in TRUNK
    }
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"a cycle among {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in free}


@pytest.mark.parametrize(
    "program", ["import mobilenetv2", "import mobilenetv2.cli as c; c.run(['--help'])"]
)
def test_start_up_is_light(program: str) -> None:
    heavy = "{'torch', 'PIL', 'rich', 'numpy', 'pooch', 'safetensors'}"
    code = f"import sys; {program}; sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
    order = ["avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "neon", "dotprod"]
    assert found == [name for name in order if name in found]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    for name, flag in (
        ("avx2", " avx2 "),
        ("avx512vnni", " avx512_vnni "),
        ("avxvnni", " avx_vnni "),
    ):
        if " sse2 " in flags:
            assert (name in found) == (flag in flags)
