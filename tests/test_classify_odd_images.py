"""`mobilenetv2 classify` on a folder of odd files, in its own process: it classifies all that can be
read.
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
# A process in between, so that the measured memory is the command's alone: the peak of a child starts
# at that of its parent.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
open(sys.argv[1], "w").write(f"{code} {peak}")
"""


def expected(folder: Path) -> tuple[set[str], set[str]]:
    """The names in the table of expected.md: files that decode, and files that do not."""
    lines = [
        line
        for line in (folder / "expected.md").read_text(encoding="utf-8").splitlines()
        if line[:1] == "|"
    ]
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    bad = {row[0] for row in rows if "fails" in row[2] + row[4]}
    return {row[0] for row in rows} - bad, bad


@pytest.mark.parametrize("name", ["cifar10", "random224"])
def test_every_image_is_classified_and_every_other_file_named(
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
    entries = json.loads(done.stdout)
    files = [Path(entry["file"]) for entry in entries]
    assert {path.name for path in files} == good
    assert files == sorted(files)
    for entry in entries:
        probabilities = [prediction["probability"] for prediction in entry["predictions"]]
        assert len(probabilities) == 5, entry["file"]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1.0001
        assert all(0 <= prediction["index"] < classes for prediction in entry["predictions"])
    turned = [entry["predictions"][0] for entry in entries if "exif_orientation" in entry["file"]]
    assert len(turned) == 8
    assert len({prediction["index"] for prediction in turned}) == 1

    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    for file in bad:
        assert len([line for line in lines if f"{file}: " in line]) == 1, (file, done.stderr)
    assert "more than 178956970 pixels" in next(line for line in lines if "bomb" in line)
    assert "--max-pixels" in next(line for line in lines if "bomb" in line)
    assert "ignored 1 files that are not images by name: .md (1)" in lines
    assert "5 of 35 could not be read" in lines
    assert len(lines) == 7, done.stderr  # no warnings of libraries
    # About 125 MB; 395 if all of the 3x4000 image were resized, over 1000 if the bomb were decoded.
    assert peak_bytes < 300 * MEGABYTE, f"{peak_bytes / MEGABYTE:.0f} MB"
