"""The arrays of a float32 model stay in its file: what is read, and what becomes of a changed file."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mobilenetv2
from mobilenetv2.errors import ModelFileError
from mobilenetv2.stored import CHUNK_BYTES, StoredArrays

from .conftest import random_checkpoint

TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small model whose classifier is larger than what is looked at at once."""
    path = tmp_path / "model.safetensors"
    random_checkpoint(width_mult=0.1, classes=CHUNK_BYTES // 4 // 1280 + 1).save(path)
    return path


def test_arrays_are_those_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {kind: rng.integers(0, 2, (3, 5)).astype(kind) for kind in TYPES}
    arrays |= {"long": rng.normal(size=CHUNK_BYTES), "none": np.zeros((0, 3)), "one": np.ones(())}
    arrays["long"][[5, -1]] = -9, 9
    save_file(arrays, tmp_path / "a.safetensors", {"key": "text"})
    stored = StoredArrays(tmp_path / "a.safetensors")
    assert stored.texts == {"key": "text"}
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        assert stored[name].dtype == stored.places[name].dtype == array.dtype
        np.testing.assert_array_equal(stored[name], array)
    with pytest.raises(ValueError, match="read-only"):
        stored["f4"][0, 0] = 1


@pytest.mark.parametrize("place", [0, CHUNK_BYTES // 4, CHUNK_BYTES])
def test_values_that_are_not_finite_are_seen_wherever_they_are(tmp_path: Path, place: int) -> None:
    large = np.float32([3e38, -3e38, 1.8e38]).repeat(CHUNK_BYTES // 2)  # share the first bits
    arrays = {"large": large}
    for name, value in {
        "nan": np.nan,
        "minus nan": -np.nan,
        "inf": np.inf,
        "-inf": -np.inf,
    }.items():
        arrays[name] = large.copy()
        arrays[name][place] = value
    save_file(arrays, tmp_path / "a.safetensors")
    stored = StoredArrays(tmp_path / "a.safetensors")
    for name in arrays:
        stored.crc32(name, 0)
    assert stored.not_finite == {"nan", "minus nan", "inf", "-inf"}


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "a is not where"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "a is not where"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "8 bytes of arrays"),
        ({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, "8 bytes of arrays"),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, ">= 0"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "data_offsets"),
        ({"__metadata__": {"key": 1}}, "Expected `str`"),
        ([], "Expected `object`"),
    ],
)
def test_a_header_of_another_form_is_refused(tmp_path: Path, entries: object, match: str) -> None:
    header, path = json.dumps(entries).encode(), tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelFileError, match=rf"a\.safetensors: not a readable .*{match}"):
        StoredArrays(path)


def test_an_array_of_a_type_that_numpy_lacks_is_refused_when_it_is_read(tmp_path: Path) -> None:
    content = {name: np.ones(2, np.float16) for name in "ab"}
    save_file(content, tmp_path / "a.safetensors")
    stored = (tmp_path / "a.safetensors").read_bytes()
    header = stored.replace(b'"a":{"dtype":"F16"', b'"a":{"dtype":"ABC"')
    (tmp_path / "a.safetensors").write_bytes(header)
    arrays = StoredArrays(tmp_path / "a.safetensors")
    assert arrays["b"].tolist() == [1, 1]
    with pytest.raises(ModelFileError, match=r"a\.safetensors: a is of a type that NumPy lacks"):
        arrays["a"]


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the content is in memory")
@pytest.mark.parametrize("change", ["overwritten", "cut"])
def test_a_file_that_changed_is_refused(file: Path, change: str) -> None:
    """The loaded model answers as before; its arrays cannot be had any more."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    model = mobilenetv2.load(file)
    before, content = model(pixels), bytearray(file.read_bytes())
    with open(file, "r+b") as opened:
        if change == "cut":
            opened.truncate(len(content) - 4)
        else:
            opened.seek(-4, os.SEEK_END)
            opened.write(bytes(4))
    np.testing.assert_array_equal(model(pixels), before)
    last = max(model.checkpoint.arrays.places.items(), key=lambda item: item[1].end)[0]
    with pytest.raises(ModelFileError, match=r"model\.safetensors: changed while it was in use"):
        model.checkpoint.arrays[last]


@pytest.mark.skipif(os.name == "nt", reason="an open file stays")
@pytest.mark.parametrize("change", ["deleted", "replaced", "saved again"])
def test_a_file_that_went_away_stays_readable(file: Path, change: str) -> None:
    model, expected = mobilenetv2.load(file), mobilenetv2.Checkpoint.load(file)
    if change == "deleted":
        file.unlink()
    elif change == "replaced":
        random_checkpoint(seed=1).save(file)
    else:
        model.checkpoint.save(file)
    for copy in (model.checkpoint, pickle.loads(pickle.dumps(model)).checkpoint):
        assert copy.arrays.keys() == expected.arrays.keys()
        for name, array in copy.arrays.items():
            np.testing.assert_array_equal(array, expected.arrays[name])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files as Linux does")
def test_a_model_that_goes_closes_its_file(file: Path) -> None:
    def opened() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(os.readlink(link) == str(file) for link in links if os.path.lexists(link))

    model = mobilenetv2.load(file)
    assert opened() == 1
    del model
    assert opened() == 0
