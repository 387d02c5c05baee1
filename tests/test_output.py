"""What commands print, and the files that they write: safe on a terminal, in a spreadsheet and on a
full disk."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import files
from mobilenetv2.cli import run
from mobilenetv2.cli.output import csv_cell, json_text, write_rows
from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import write_atomically

from .conftest import REPOSITORY

PHOTO = REPOSITORY / "examples" / "cat.jpg"
ODD_NAMES = [b"b\xe9d.png", b"\x1b]0;x\x07.png", "고양이\u202e.png".encode(), b"=1+1.png"]


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """One image under each of the odd names, and one that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(content.getvalue())
    (folder / "two\nlines.png").write_bytes(b"no image")
    return folder


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mobilenetv2", *arguments]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


def test_odd_names_are_utf8_in_a_pipe_and_escaped(odd_folder: Path) -> None:
    done = in_a_process(
        "classify", str(odd_folder), "--format", "csv", "--top", "1", PYTHONIOENCODING="cp1252"
    )
    assert done.returncode == 1
    rows = csv.DictReader(io.StringIO(done.stdout.decode("utf-8")))
    assert sorted(row["file"].removeprefix(f"{odd_folder}/") for row in rows) == sorted(
        [r"b\xe9d.png", r"\x1b]0;x\x07.png", r"고양이\u202e.png", "=1+1.png"]
    )
    err = done.stderr.decode("utf-8").splitlines()
    assert rf"{odd_folder}/two\x0alines.png: not an image" in err[0]
    assert err[1:] == ["1 of 5 could not be read"]


def test_odd_names_in_json_and_tables(odd_folder: Path, capsys) -> None:
    assert run(["classify", str(odd_folder), "--format", "json", "--top", "1"]) == 1
    shown = {Path(entry["file"]).name for entry in json.loads(capsys.readouterr().out)}
    assert shown == {r"b\xe9d.png", r"\x1b]0;x\x07.png", r"고양이\u202e.png", "=1+1.png"}
    assert run(["classify", str(odd_folder)]) == 1
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e", "\udce9"} & set(out + err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "\udcff\x1b[31m.jpg"],
        ["classify", str(PHOTO), "--model", "\udcff\x1b[31m"],
        ["classify", str(PHOTO), "--\udcff\x1b[31m"],
        ["evaluate", "\udcff\x1b[31m"],
        ["inspect", "\udcff\x1b[31m"],
        ["cost", "--resolution", "\udcff\x1b[31m"],
        ["models", "-o", "\udcff\x1b[31m/absent"],
        ["\udcff\x1b[31m"],
    ],
)
def test_odd_arguments_are_escaped(arguments: list[str], capsys) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert "xff" in err or "udcff" in err
    assert "31m" in err
    assert not {"\x1b", "\udcff"} & set(out + err)
    assert "Traceback" not in err


def test_cells_that_a_spreadsheet_would_compute() -> None:
    texts = ["=1+1", "+A1", "-A1", "@x", "'=1", "\uff1d1", "=\x1b"]
    assert [csv_cell(text) for text in texts] == [
        "'=1+1", "'+A1", "'-A1", "'@x", "''=1", "'\uff1d1", r"'=\x1b",
    ]  # fmt: skip
    same = [-1.5, -3, 0.0, None, "", "-1.5e-07", "+4", "a=b", "x-ray", "\t"]
    assert [csv_cell(value) for value in same] == [*same[:-1], r"\x09"]


def test_rows_as_csv(capsys) -> None:
    write_rows([{"label": "=cmd|'x'!A0", "index": -1, "file": Path("-x.jpg")}],
               ("file", "label", "index"), "csv")  # fmt: skip
    assert capsys.readouterr().out == "file,label,index\n'-x.jpg,'=cmd|'x'!A0,-1\n"


def test_json_is_exact_and_has_no_bare_nan() -> None:
    value = {
        "file": Path("b\udce9\n"),
        "label": "\x1b\x9b\u202e é\n\udce9",
        "numbers": [float("nan"), float("-inf"), 0.5],
    }
    text = json_text(value)
    assert text == (
        r'{"file": "b\\xe9\\x0a", "label": "\u001b\u009b\u202e é\n\udce9", '
        r'"numbers": [null, null, 0.5]}'
    )
    assert json.loads(text)["label"] == value["label"]


@pytest.mark.parametrize(
    ("name", "options", "reads"),
    [
        ("a.csv", [], lambda text: next(csv.DictReader(io.StringIO(text)))["name"]),
        ("a.JSON", [], lambda text: json.loads(text)[0]["name"]),
        ("a.csv", ["--format", "json"], lambda text: json.loads(text)[0]["name"]),
        ("a.txt", [], lambda text: text.split()[-1] and "cifar10"),
    ],
)
def test_results_go_to_a_file(
    tmp_path: Path, capsys, name: str, options: list[str], reads: Callable[[str], str]
) -> None:
    target = tmp_path / name
    assert run(["models", "-o", str(target), *options]) == 0
    assert capsys.readouterr() == ("", "")
    assert reads(target.read_text(encoding="utf-8")) == "cifar10"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "arguments",
    [
        ["benchmark", "--runs", "1"],
        ["classify", str(PHOTO)],
        ["cost"],
        ["inspect", "cifar10"],
        ["models"],
    ],
)
def test_every_command_prints_to_a_file(tmp_path: Path, capsys, arguments: list[str]) -> None:
    target = tmp_path / "out.csv"
    assert run([*arguments, "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert len(list(csv.reader(io.StringIO(target.read_text(encoding="utf-8"))))) > 1


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("absent/a.csv", "the folder {}/absent does not exist"),
        (".", "{}: is a folder"),
        ("a" * 300, "File name too long"),
        ("pipe", "cannot be written: No such device or address"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, capsys, target: str, complaint: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run(["models", "-o", str(tmp_path / target)]) == 2
    assert complaint.format(tmp_path) in capsys.readouterr().err


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is written fails when it reaches the disk."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["models", "-o"], "old.csv"),
        (["convert", "cifar10"], "old.safetensors"),
        (["quantize", "cifar10", "--calibrate", str(PHOTO), "-o"], "old.safetensors"),
        (["evaluate", "photos", "--mistakes"], "old.png"),
    ],
)
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, full_disk: None, capsys, monkeypatch, arguments: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/dog").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("photos/dog/1.png")
    Path(name).write_bytes(b"old")
    assert run([*arguments, name]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f"error: {name}: cannot be written: No space left on device"
    assert Path(name).read_bytes() == b"old"
    assert sorted(os.listdir()) == sorted([name, "photos"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_devices_and_full_outputs(capsys) -> None:
    assert run(["models", "-o", "/dev/full"]) == 2
    assert "/dev/full: cannot be written: No space left on device" in capsys.readouterr().err
    assert run(["models", "-o", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mobilenetv2", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the results cannot be written: No space left on device\n"


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    write_atomically(tmp_path / ("n" * 255), b"")  # as long as names can be
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_atomically(tmp_path / "nul\0", b"")


def on_a_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """What a command shows on a terminal, stdout and stderr together, without colours."""
    pty = pytest.importorskip("pty")
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilenetv2", *arguments],
        stdin=its, stdout=its, stderr=its,
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(its)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert process.wait() == 0
    return re.sub("\x1b\\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def test_classify_on_a_narrow_terminal(tmp_path: Path) -> None:
    photo = tmp_path / ("long" * 12 + ".jpg")
    photo.write_bytes(PHOTO.read_bytes())
    lines = on_a_terminal("classify", str(photo), "--top", "2", columns=40).splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert [line.split() for line in lines[-2:]] == [
        ["0.9445", "3", "cat"],
        ["0.0096", "0", "airplane"],
    ]
    assert "".join(lines[:-2]) == str(photo)


@pytest.mark.parametrize("columns", [40, 80, 140, 200])
def test_tables_on_narrow_terminals(columns: int) -> None:
    """Names and numbers are neither broken nor left out."""
    for arguments, whole in (
        (["models"], ["cifar10-int8", "hf-0.75-160", "torchvision-v1", "BSD-3-Clause", "92.47"]),
        (["cost"], ["features.17.conv.0.0", "depthwise", "1280x7x7", "300,774,272", "27,587,104"]),
        (["inspect", "cifar10"], ["724,858", "file", "preprocessing.interpolation"]),
    ):
        lines = on_a_terminal(*arguments, columns=columns).splitlines()
        assert all(len(line) <= columns for line in lines)
        words = {word for line in lines for word in line.split()}
        assert words >= {*whole}


def test_a_terminal_without_the_letters_gets_escapes(tmp_path: Path) -> None:
    photo = tmp_path / "고.jpg"
    photo.write_bytes(PHOTO.read_bytes())
    shown = on_a_terminal(
        "classify", str(photo), columns=200, PYTHONIOENCODING="latin-1", PYTHONUTF8="0"
    )
    assert f"{tmp_path}/\\uace0.jpg" in shown
