"""No command overwrites a file that it reads, or writes two results into one file."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from mobilenetv2.cli import run
from mobilenetv2.zoo import bundled_path

from .conftest import REPOSITORY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: images, a list of them, a data set in folders and a .zip, and a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("c.jpg", "d.png", "data/cat/1.jpg", "data/dog/1.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "examples" / "cat.jpg", name)
    Path("list.csv").write_text("file,label\nc.jpg,cat\nd.png,cat\n")
    shutil.make_archive("data", "zip", "data")
    shutil.copy(bundled_path("cifar10"), "m.safetensors")
    Path("page.html").symlink_to("m.safetensors")
    Path("labels.safetensors").write_text("a\nb\n")
    return tmp_path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("classify c.jpg -o c.jpg", "--output is PATH itself"),
        ("classify c.jpg --model m.safetensors -o m.safetensors", "--output is --model itself"),
        ("classify . -o d.png", "--output is among the images"),
        ("classify *.png -o d.png", "--output is among the images"),
        ("classify list.csv -o d.png", "--output is among the images"),
        ("classify list.* -o list.csv", "--output is a list of the images"),
        ("classify - -o list.csv", "--output is a list of the images"),
        ("classify data.zip -o data.zip", "--output is PATH itself"),
        ("evaluate data.zip -o data.zip", "--output is DATA itself"),
        ("evaluate list.csv --predictions list.csv", "--predictions is DATA itself"),
        ("evaluate data --mistakes data/cat/1.jpg", "--mistakes is among the images"),
        ("evaluate data -o p.csv --predictions ./p.csv", "--predictions and --output are both"),
        ("evaluate data -o p.png --mistakes p.png", "--mistakes and --output are both"),
        ("features c.jpg -o c.jpg --format csv", "--output is PATH itself"),
        ("features list.csv -o list.csv", "--output is PATH itself"),
        ("features x.files.csv -o x.npy", "--output is PATH itself, x.files.csv"),
        ("inspect m.safetensors -o m.safetensors", "--output is MODEL itself"),
        ("benchmark --model m.safetensors -o m.safetensors", "--output is --model itself"),
        ("cost m.safetensors -o m.safetensors", "--output is MODEL itself"),
        ("explain m.safetensors -o page.html", "--output is MODEL itself"),
        ("convert m.safetensors m.safetensors", "OUT is IN itself"),
        ("convert cifar10 labels.safetensors --labels labels.safetensors", "OUT is --labels itself"),
        ("quantize m.safetensors --calibrate . -o q.safetensors --report d.png", "--report is among"),
        ("quantize cifar10 --calibrate c.jpg -o q.safetensors --report c.jpg", "--report is --cali"),
        ("quantize cifar10 --calibrate . -o q.safetensors --report q.safetensors", "are both"),
    ],
)  # fmt: skip
def test_inputs_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, command: str, complaint: str
) -> None:
    shutil.copy("list.csv", "x.files.csv")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"list.csv\n")))
    before = content(folder)
    assert run(command.split()) == 2
    assert complaint in capsys.readouterr().err
    assert content(folder) == before


def test_the_names_of_the_rows_of_two_files_are_two_files(folder: Path) -> None:
    assert run(["features", "c.jpg", "-o", "f.npy"]) == 0
    assert run(["features", "d.png", "-o", "f.txt", "--format", "npy"]) == 0
    assert Path("f.files.csv").read_text() == "file\nc.jpg\n"
    assert Path("f.txt.files.csv").read_text() == "file\nd.png\n"


def test_devices_take_several_outputs(folder: Path, capsys) -> None:
    assert run(["features", "c.jpg", "-o", "/dev/null", "--format", "npz"]) == 0
    Path("null.csv").symlink_to("/dev/null")
    outputs = ["-o", "null.csv", "--predictions", "null.csv"]
    assert run(["evaluate", "list.csv", *outputs]) == 0
    assert run(["features", "c.jpg", "-o", "/dev/null", "--format", "npy"]) == 2
    assert ".npy is two files" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["features", "c.jpg", "-o", "-", "--format", "csv"], "-: /dev/stdout is stdout, ./- a fi"),
        (["features", "c.jpg", "-o", ""], "-o '': an empty argument"),
        (["classify", "c.jpg", "--output="], "--output=: an empty argument"),
        (["classify", ""], "error: '': an empty argument"),
        (["evaluate", ""], "error: '': an empty argument"),
    ],
)
def test_names_that_are_no_files(
    folder: Path, capsys, arguments: list[str], complaint: str
) -> None:
    before = content(folder)
    assert run(arguments) == 2
    assert complaint in capsys.readouterr().err
    assert content(folder) == before
