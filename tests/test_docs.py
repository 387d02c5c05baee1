"""What pages and messages tell a reader to type works."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_nothing_is_installed_from_an_index() -> None:
    """No index has the package: extras are installed from a checkout."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.py")]
    texts = [*pages, *ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.ini")]
    lines = [line for file in texts for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "mobilenetv2[" in line] == []
    assert [line for line in lines if "pip install mobilenetv2" in line] == []


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path)],
        env={**os.environ, "CXX": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("CMake Error")]
    assert len(errors) == 1
    assert "needs a C++17 compiler" in done.stderr
