"""`mobilenetv2 classify` on a folder of odd files, in a process of its own: all that can be read is
answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mobilenetv2

from .conftest import random_checkpoint

MEGABYTE = 1 << 20
# In between, so that the memory measured is of the command alone: a child's peak begins with that
# of its parent.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
open(sys.argv[1], "w").write(f"{code} {peak}")
"""


def expected(folder: Path) -> tuple[set[str], set[str]]:
    """Names from the table of expected.md: those that decode, and those that do not."""
    lines = [
        line
        for line in (folder / "expected.md").read_text(encoding="utf-8").splitlines()
        if line[:1] == "|"
    ]
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    bad = {row[0] for row in rows if "fails" in row[2] + row[4]}
    return {row[0] for row in rows} - bad, bad


@pytest.mark.parametrize("name", ["cifar10", "random224"])
def test_classify_answers_every_image_and_names_every_other(
    shared: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    pytest.importorskip("resource")  # not on Windows
    folder = shared("data/odd-images")
    good, bad = expected(folder)
    assert (len(good), len(bad)) == (30, 5)
    assert {path.name for path in folder.iterdir()} == good | bad | {"expected.md"}
    model, classes = name, 10
    if name == "random224":
        random_checkpoint(width_mult=0.35).save(tmp_path / "random.safetensors")
        model, classes = str(tmp_path / "random.safetensors"), 1000

    command = [
        sys.executable,
        "-m",
        "mobilenetv2",
        "classify",
        str(folder),
        "--model",
        model,
        "--format",
        "json",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(mobilenetv2.__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "measured"), *command],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    code, peak_bytes = (int(number) for number in (tmp_path / "measured").read_text().split())

    assert code == 1, done.stderr
    answers = json.loads(done.stdout)
    files = [Path(answer["file"]) for answer in answers]
    assert {path.name for path in files} == good
    assert files == sorted(files)
    for answer in answers:
        chances = [found["probability"] for found in answer["predictions"]]
        assert len(chances) == 5, answer["file"]
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) < 1.0001
        assert all(0 <= found["index"] < classes for found in answer["predictions"])
    upright = [
        answer["predictions"][0] for answer in answers if "exif_orientation" in answer["file"]
    ]
    assert len(upright) == 8
    assert len({found["index"] for found in upright}) == 1  #

    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    for file in bad:
        assert len([line for line in lines if f"{file}: " in line]) == 1, (file, done.stderr)
    assert "more than 178956970 pixels" in next(line for line in lines if "bomb" in line)
    assert "--max-pixels" in next(line for line in lines if "bomb" in line)
    assert "ignored 1 files that are not images by name: .md (1)" in lines
    assert "5 of 35 could not be read" in lines
    assert len(lines) == 7, done.stderr  # and nothing else: no warnings of libraries
    # About 125 MB; 395 if the needle of 3x4000 were resized whole, over 1000 if the bomb were
    # decoded.
    assert peak_bytes < 300 * MEGABYTE, f"{peak_bytes / MEGABYTE:.0f} MB"
