"""`mobilenetv2 features`: the same vectors as `Model.features`, in every kind of file."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.cli import run

from .conftest import random_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images and one that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "=b.png", os.fsdecode(b"c\xe9.png")):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def expected(folder: Path, model: mnv2.Model) -> tuple[list[str], np.ndarray]:
    names = ["=b.png", "a.png", os.fsdecode(b"c\xe9.png")]
    preprocessing = model.checkpoint.preprocessing
    pixels = [preprocessing(mnv2.decode(folder / name)) for name in names]
    shown = [str(folder / name) for name in ("=b.png", "a.png", r"c\xe9.png")]
    return shown, model.features(np.stack(pixels))


@pytest.mark.parametrize("options", [["x.npy"], ["x.npz"], ["x.csv"], ["x.dat", "--format", "npy"]])
def test_vectors_of_a_folder(folder: Path, monkeypatch, capsys, options: list[str]) -> None:
    monkeypatch.chdir(folder.parent)
    names, vectors = expected(folder, mnv2.load("cifar10"))
    assert run(["features", str(folder), "--threads", "1", "-o", *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{folder}/bad.png: not an image" in err
    assert "1 of 4 could not be read" in err
    if options[0] == "x.npz":
        written = np.load("x.npz")
        assert written["files"].tolist() == names
        np.testing.assert_array_equal(written["features"], vectors)
    elif options[0] == "x.csv":
        header, *rows = csv.reader(Path("x.csv").read_text(encoding="utf-8").splitlines())
        assert header == ["file", *(f"f{i}" for i in range(vectors.shape[1]))]
        assert [row[0] for row in rows] == names
        np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), vectors)
    else:
        np.testing.assert_array_equal(np.load(options[0]), vectors)
        beside = Path("x.files.csv" if options[0] == "x.npy" else "x.dat.files.csv")
        rows = list(csv.reader(beside.read_text(encoding="utf-8").splitlines()))
        assert rows == [["file"], *([name] for name in names)]
    assert vectors.dtype == np.float32


def test_vectors_and_names_are_written_together(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """If one of the two files cannot be written, both are as before."""
    target = tmp_path / "x.npy"
    assert run(["features", str(folder / "a.png"), "-o", str(target)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("x.*")}
    assert set(before) == {"x.npy", "x.files.csv"}
    opened: list[str] = []

    def full(path: object, *arguments: object) -> IO[bytes]:
        opened.append(str(path))
        if len(opened) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, *arguments)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("mobilenetv2.files.open", full, raising=False)
    assert run(["features", str(folder), "-o", str(target)]) == 2
    assert len(opened) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*x.*")} == before


def test_a_model_without_a_head(folder: Path, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, resolution=(32, 32), head="features")
    checkpoint.save(tmp_path / "headless.safetensors")
    target = tmp_path / "x.npz"
    arguments = ["--model", str(tmp_path / "headless.safetensors"), "-o", str(target)]
    assert run(["features", str(folder / "a.png"), *arguments]) == 0
    assert np.load(target)["features"].shape == (1, 1280)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["x.txt"], "x.txt: must end in .npy, .npz, .csv, .parquet, or give --format"),
        (["absent/x.npy"], "the folder absent does not exist"),
    ],
)
def test_mistakes(folder: Path, monkeypatch, capsys, options: list[str], complaint: str) -> None:
    monkeypatch.chdir(folder)
    assert run(["features", ".", "-o", *options]) == 2
    assert complaint in capsys.readouterr().err
    assert run(["features", "bad.png", "-o", "x.npy"]) == 2
    assert "none of the 1 images could be read" in capsys.readouterr().err
    assert not Path("x.npy").exists()


def test_parquet(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    target = tmp_path / "x.parquet"
    try:
        from pyarrow import parquet
    except ImportError:
        assert run(["features", str(folder), "-o", str(target)]) == 2
        assert "a .parquet file needs pyarrow: pip install pyarrow" in capsys.readouterr().err
        return
    names, vectors = expected(folder, mnv2.load("cifar10"))
    assert run(["features", str(folder), "-o", str(target)]) == 1
    table = parquet.read_table(target)
    assert table["file"].to_pylist() == names
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), vectors)
