"""Damaged and wrong files are refused by name, and nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from mobilenetv2.architecture import MOBILENET_V2
from mobilenetv2.checkpoint import Checkpoint, save_model
from mobilenetv2.cli import run
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import KINDS, open_checkpoint, read, recognise
from mobilenetv2.int8 import HEADER, Int8Checkpoint
from mobilenetv2.labels import read_labels

from .conftest import random_checkpoint
from .int8 import Int8TFLiteWriter, random_int8
from .writers import (
    TFLiteWriter,
    save_pth,
    save_safetensors,
    tensors,
    timm,
    torchvision,
    write_keras_archive,
    write_keras_legacy,
    write_keras_weights,
)

READER = """
import json, sys, warnings
from pathlib import Path
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
warnings.simplefilter("error")
for name in sys.argv[1:]:
    try:
        read(Path(name))
        result = "read"
    except ModelFileError as error:
        result = "refused" if name in str(error) and str(error).isprintable() else f"unclear: {error}"
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([name, result]), flush=True)
"""  # runs in its own process: a damaged file may crash libhdf5, or keep it busy for ever


@pytest.mark.parametrize("name", ["a.mnv2", "renamed", "a.ONNX", "a.xml", "a.param"])
def test_a_file_that_is_only_written_is_said_to_be(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"mnv2prog" + bytes(500) if name in ("a.mnv2", "renamed") else b"written")
    with pytest.raises(ModelFileError, match=r"written by .*, not read: give the model that"):
        open_checkpoint(str(path))


def small(**changes: object) -> Checkpoint:
    return random_checkpoint(
        **{"width_mult": 0.35, "classes": 2, "resolution": (64, 64), **changes}
    )


def quantized(**changes: object) -> Int8Checkpoint:
    settings = {"width_mult": 0.35, "classes": 2, "resolution": (64, 64), **changes}
    return random_int8("twice", **settings)


def write_ours(path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(path)


def write_tgz(path: Path, checkpoint: Checkpoint) -> None:
    inner = TFLiteWriter(checkpoint).save(path.with_name("inner.tflite"))
    with tarfile.open(path, "w:gz") as archive:
        archive.add(inner, "./mobilenet_v2_0.35_64.tflite")


WRITERS: dict[str, Callable[[Path, Checkpoint], object]] = {
    "ours.safetensors": write_ours,
    "theirs.safetensors": lambda path, checkpoint: save_safetensors(path, timm(checkpoint)),
    "zip.pth": lambda path, checkpoint: save_pth(path, tensors(torchvision(checkpoint))),
    "legacy.pth": lambda path, checkpoint: save_pth(path, tensors(timm(checkpoint)), legacy=True),
    "float.tflite": lambda path, checkpoint: TFLiteWriter(checkpoint).save(path),
    "half.tflite": lambda path, checkpoint: TFLiteWriter(checkpoint, half=True, dense=False).save(
        path
    ),
    "int8.safetensors": lambda path, _: quantized().save(path),
    "int8.tflite": lambda path, _: Int8TFLiteWriter(quantized()).save(path),
    "slim.tgz": write_tgz,
    "weights.h5": partial(write_keras_legacy, style="published"),
    "model.h5": partial(write_keras_legacy, whole=True),
    "model.weights.h5": lambda path, checkpoint: write_keras_weights(path, checkpoint),
    "model.keras": write_keras_archive,
}
SEEDS = 20  # damaged files of each kind


def mutated(content: bytes, seed: int) -> bytes:
    """Content with bytes flipped, truncated, with a range zeroed or doubled.

    The damage is mostly near the ends, where the structure is.
    """
    rng = np.random.default_rng(seed)
    changed, reach = bytearray(content), min(len(content), int(10 ** rng.uniform(2, 6)))
    start = int(rng.integers(0, reach))
    start = start if rng.random() < 0.5 else len(content) - 1 - start
    length = int(10 ** rng.uniform(0, 3.5))
    kind = seed % 4
    if kind == 0:
        for offset in rng.integers(0, reach, 8):
            changed[(start + int(offset)) % len(changed)] ^= int(rng.integers(1, 256))
    elif kind == 1:
        del changed[start:]
    elif kind == 2:
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    else:
        changed[start:start] = changed[start : start + length]
    return bytes(changed)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files(tmp_path, name) -> None:
    """All damaged files of ours are refused; others may be read if the damage is in a weight."""
    WRITERS[name](tmp_path / name, small())
    content = (tmp_path / name).read_bytes()
    paths = []
    for seed in range(SEEDS):
        damaged = mutated(content, seed)
        if damaged != content:
            paths.append(tmp_path / f"{seed}-{name}")
            paths[-1].write_bytes(damaged)
    results = read_elsewhere([tmp_path / name, *paths], timeout_s=120)
    assert results.pop(name) == "read"  # the undamaged one
    assert len(results) == len(paths)
    assert not {f: result for f, result in results.items() if result not in ("read", "refused")}
    refused = Counter(results.values())["refused"]
    ours = name in ("ours.safetensors", "int8.safetensors")
    assert refused == len(paths) if ours else refused > len(paths) // 3


def read_elsewhere(paths: list[Path], timeout_s: float) -> dict[str, str]:
    """The result of reading each file in another process, which must not crash or warn."""
    command = [sys.executable, "-c", READER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, ""), f"after {lines[-1:]}: {done.stderr}"
    return {Path(file).name: result for file, result in lines}


def deep_key(levels: int) -> bytes:
    return b"\x80\x02}()" + b"\x85" * levels + b"K\x01s."


def doubling_key(levels: int) -> bytes:
    """Each tuple holds the one below twice."""
    return b"\x80\x02}()" + b"2\x86" * levels + b"K\x01s."


@pytest.mark.parametrize("pickled", [deep_key(200_000), doubling_key(40)], ids=["deep", "doubling"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_nested_tuples_as_keys_neither_crash_nor_last_for_ever(tmp_path, pickled, legacy) -> None:
    plain = save_pth(tmp_path / "plain.pth", {}, legacy=legacy)
    path = tmp_path / "model.pth"
    if legacy:
        content = plain.read_bytes()
        magic = content.index(b".") + 1
        path.write_bytes(content[:magic] + pickled)
    else:
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as archive:
            for name in source.namelist():
                archive.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    assert read_elsewhere([path], timeout_s=60) == {"model.pth": "refused"}


def test_a_loop_inside_hdf5(tmp_path) -> None:
    """libhdf5 2.0 never returns from an attribute whose heap is damaged, so none is read."""
    path = write_keras_legacy(tmp_path / "model.h5", small(), whole=True)
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL") + 16
    content[heap : heap + 48] = bytes(48)
    path.write_bytes(content)
    assert read_elsewhere([path], timeout_s=60) == {"model.h5": "read"}


def test_every_kind_is_recognised_by_content(tmp_path) -> None:
    kinds = {}
    for name, write in WRITERS.items():
        write(tmp_path / name, small())
        bare = tmp_path / "no suffix"
        bare.write_bytes((tmp_path / name).read_bytes())
        kinds[name] = recognise(bare)
    assert set(kinds.values()) == set(KINDS)
    assert kinds["legacy.pth"] == kinds["zip.pth"] == "pytorch"
    assert kinds["theirs.safetensors"] == "safetensors"
    assert kinds["model.weights.h5"] == kinds["weights.h5"] == "hdf5"


@pytest.mark.parametrize(("write", "step"), [(small, 1), (quantized, 11)])
def test_damage_anywhere_in_our_files_is_detected(tmp_path, write, step) -> None:
    """A changed bit in every `step`-th byte of the header, or in the arrays, and truncation."""
    path = tmp_path / "model.safetensors"
    write(width_mult=0.05, stages=MOBILENET_V2[:1], last_channels=8).save(path)
    content = path.read_bytes()
    # The header ends in spaces, which mean nothing.
    header = content[: int.from_bytes(content[:8], "little") + 8].rstrip(b" ")
    rng = np.random.default_rng(0)
    files = [content[:length] for length in (0, 7, 100, len(header), len(content) - 1)]
    for position in (*range(0, len(header), step), *rng.integers(len(header), len(content), 50)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(0, 8))
        files.append(bytes(damaged))
    for damaged_file in files:
        path.write_bytes(damaged_file)
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            read(path)


@pytest.mark.parametrize("write", [small, quantized])
@pytest.mark.parametrize("key", ["architecture", "checksum", "labels", "quantization", "version"])
def test_a_file_with_any_key_of_ours_is_ours(tmp_path, write, key) -> None:
    """Read as torchvision's, it would get another padding and epsilon, and no checksum."""
    path = tmp_path / "model.safetensors"
    write().save(path)
    content = path.read_bytes()
    assert content.count(b'"format":"mobilenetv2"') == 1
    path.write_bytes(content.replace(b'"format":"mobilenetv2"', b'"format":"mobilenetv3"'))
    with pytest.raises(ModelFileError, match=r"model\.safetensors: damaged: .* 'mobilenetv3'"):
        read(path)
    save_file(torchvision(small()), path, {"format": "pt", key: "x"})
    assert recognise(path) == "mobilenetv2"
    with pytest.raises(ModelFileError, match=rf"damaged: its header has {key} as a mobilenetv2"):
        read(path)


DEEP = "[" * 100_000 + "]" * 100_000


HEADER_TEXTS = (
    DEEP, '{"a":' * 100_000 + "1" + "}" * 100_000, '["\\ud800"]', '{"\\ud800": 1}', "{", "7", "null",
    '["a", 7]', '{"size": [1e999, 2]}', '{"image": []}', '{"image": [1e999, "x"]}',
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, id=f"{name}-{text[:20]}")
        for name in HEADER
        for text in HEADER_TEXTS
        # provenance holds any facts
        if name != "provenance" or not text.startswith(('{"size', '{"image'))
    ],
)
def test_header_texts_that_cannot_be(tmp_path, name, text) -> None:
    """One line that names the file, whatever the text and however deep, with a valid checksum."""
    path = tmp_path / "model.safetensors"
    quantized(width_mult=0.05, stages=MOBILENET_V2[:1], last_channels=8).save(path)
    with safe_open(path, framework="np") as file:
        header = {key: file.metadata()[key] for key in HEADER}
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header[name] = text
    save_model(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: ") as caught:
        read(path)
    assert len(str(caught.value)) < 5000
    assert str(caught.value).encode().decode().count("\n") == 0


def special_file(path: Path, kind: str) -> Path:
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("absent")
    return {"device": Path("/dev/zero"), "NUL": Path("a\0b"), "long": Path("x" * 300)}.get(
        kind, path
    )


@pytest.mark.parametrize(
    "kind", ["FIFO", "socket", "folder", "device", "dangling link", "NUL", "long"]
)
@pytest.mark.parametrize(
    "open_file",
    [read, open_checkpoint, recognise, Checkpoint.load, Int8Checkpoint.load, partial(read_labels, classes=2)],
    ids=["read", "open_checkpoint", "recognise", "load", "load int8", "labels"],
)  # fmt: skip
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, kind, open_file) -> None:
    path = special_file(tmp_path / "model", kind)
    with pytest.raises(ModelFileError, match=re.escape(str(path))):
        open_file(path)


@pytest.mark.parametrize("value", [None, 7, 1.5, b"model", ["a.pth"]], ids=repr)
@pytest.mark.parametrize("open_file", [read, open_checkpoint])
def test_arguments_that_are_no_file_names(value, open_file) -> None:
    with pytest.raises(ModelFileError, match=rf"not {type(value).__name__}$"):
        open_file(value)


# --- files of the wrong kind ---


def encoded(write: Callable[[BinaryIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def write_zip(stream: BinaryIO) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a")


def write_tar(stream: BinaryIO) -> None:
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"))


WRONG_FILES: dict[str, bytes] = {
    "notes.txt": b"dear model",
    "model.ckpt.index": b"\0\0\x1fMobilenetV2/Conv/weights/RMSProp_1",
    "photo.jpg": encoded(partial(Image.new("RGB", (8, 8)).save, format="JPEG")),
    "stuff.zip": encoded(write_zip),
    "stuff.tgz": encoded(write_tar),
    "empty.tflite": b"",
    "one.pth": b"\x80",
    "short.h5": b"\x89HDF\r\n\x1a\n",
    "short.tflite": b"\x1c\0\0\0TFL3",
    "short.tgz": b"\x1f\x8b",
    "json.safetensors": b'12345678{"a": 1}',
    "huge.safetensors": b"\xff" * 7 + b'\x7f{"a": 1}',
}


OTHERS = ("folder.safetensors", "absent.safetensors", "long" * 100, "damaged.safetensors")


@pytest.fixture(params=[*WRONG_FILES, *OTHERS])
def wrong_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file that is no model or a damaged one, a folder, a missing file, an impossible name."""
    path: Path = tmp_path / "in" / request.param
    path.parent.mkdir()
    if request.param in WRONG_FILES:
        path.write_bytes(WRONG_FILES[request.param])
    elif request.param == "folder.safetensors":
        path.mkdir()
    elif request.param == "damaged.safetensors":
        small().save(path)
        path.write_bytes(path.read_bytes()[:-1])
    return path


def test_wrong_files_are_refused_by_name(wrong_file) -> None:
    with pytest.raises(ModelFileError, match=re.escape(str(wrong_file))):
        read(wrong_file)


def test_two_models_in_an_archive(tmp_path) -> None:
    inner = TFLiteWriter(small()).save(tmp_path / "inner.tflite")
    with tarfile.open(tmp_path / "two.tgz", "w:gz") as archive:
        archive.add(inner, "a.tflite")
        archive.add(inner, "b.tflite")
    with pytest.raises(ModelFileError, match=r"two\.tgz: holds 2 \.tflite files, not one"):
        read(tmp_path / "two.tgz")


def test_archive_whose_model_is_damaged_names_the_archive(tmp_path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as archive:
        archive.add(tmp_path / "x.tflite", "x.tflite")
    with pytest.raises(ModelFileError, match=r"bad\.tgz: (damaged|0 subgraphs)"):
        read(tmp_path / "bad.tgz")


def test_members_of_archives_are_never_unpacked(tmp_path) -> None:
    """A name that climbs out of the folder is only a name."""
    inner = TFLiteWriter(small()).save(tmp_path / "inner.tflite")
    with tarfile.open(tmp_path / "climbing.tgz", "w:gz") as archive:
        archive.add(inner, "../../escaped.tflite")
    before = sorted(tmp_path.parent.iterdir())
    assert read(tmp_path / "climbing.tgz").provenance["file"] == "climbing.tgz"
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize("existing", [None, b"precious"])
def test_convert_leaves_nothing_behind(tmp_path, wrong_file, existing, capsys) -> None:
    """Exit code 2, one line that starts with "error:" and names the file, OUT as it was."""
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "model.safetensors"
    if existing:
        out.write_bytes(existing)
    assert run(["convert", str(wrong_file), str(out)]) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert str(wrong_file) in complaint
    left = {file.name: file.read_bytes() for file in out.parent.iterdir()}
    assert left == ({out.name: existing} if existing else {})


IMPOSSIBLE_PLACES = ("absent/out.safetensors", "file/out.safetensors", "x" * 250 + ".safetensors")


@pytest.mark.parametrize("out", [*IMPOSSIBLE_PLACES, "folder.safetensors"])
def test_convert_to_places_that_cannot_be_written(tmp_path, out, capsys) -> None:
    small().save(tmp_path / "in.safetensors")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.iterdir())
    assert run(["convert", str(tmp_path / "in.safetensors"), str(tmp_path / out)]) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert "Traceback" not in complaint
    assert out in complaint
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("out", [*IMPOSSIBLE_PLACES, "."])
def test_saving_to_places_that_cannot_be_written(tmp_path, out) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="cannot be written"):
        small().save(tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_interrupted_saving_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    small(seed=1).save(path)
    before = path.read_bytes()

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(seed=2).save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["spaced name.pth", "löwe 狼.pth", b"latin-1 \xe9.pth"])
def test_odd_names_of_files(tmp_path, name) -> None:
    """Names are bytes on Linux, and need not be UTF-8."""
    source = tmp_path / os.fsdecode(name)
    save_pth(tmp_path / "x", tensors(torchvision(small())))
    (tmp_path / "x").rename(source)
    out = tmp_path / f"{source.stem}.safetensors"
    assert run(["convert", str(source), str(out)]) == 0
    assert Checkpoint.load(out).provenance["file"] == source.name


def test_the_same_model_gives_the_same_bytes(tmp_path) -> None:
    for name in ("a", "b", "c"):
        small().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()
    labelled = replace(small(), labels=("löwe", "\udcff"))
    labelled.save(tmp_path / "d")
    assert Checkpoint.load(tmp_path / "d").labels == labelled.labels


# --- labels ---


def test_labels_end_at_line_feeds_only(tmp_path) -> None:
    labels = ("a\u2028b", "c\x85d", "e\x0cf\x0bg\x1ch")
    for end in ("\n", "\r\n"):
        (tmp_path / "names.txt").write_bytes("".join(name + end for name in labels).encode())
        assert read_labels(tmp_path / "names.txt", 3) == labels


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            b"a\nb\nc\n",
            "3 labels, but the model has 2 classes: is it with or without the background class",
        ),
        (
            b"a\n",
            "1 labels, but the model has 2 classes: is it with or without the background class",
        ),
        (b"a\nb\nc\nd\n", r"4 labels, but the model has 2 classes$"),
        (b"", r"0 labels, but the model has 2 classes$"),
        (b"\xff\xfea\0\n\0b\0", "not a text file in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_label_files_that_do_not_fit(tmp_path, content, complaint, capsys) -> None:
    names, out = tmp_path / "names.txt", tmp_path / "out.safetensors"
    if content is not None:
        names.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"names\.txt: {complaint}"):
        read_labels(names, 2)
    small().save(tmp_path / "in.safetensors")
    assert run(["convert", str(tmp_path / "in.safetensors"), str(out), "--labels", str(names)]) == 2
    assert f"error: {names}: " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "content", ["rose\ntulip\n", "rose\r\ntulip", "\ufeffrose\ntulip\n\n\n", " rose \n tulip"]
)
def test_label_files_as_people_write_them(tmp_path, content) -> None:
    (tmp_path / "names.txt").write_bytes(content.encode())
    assert read_labels(tmp_path / "names.txt", 2) == ("rose", "tulip")


def test_a_text_of_gigabytes_is_not_read(tmp_path) -> None:
    path = tmp_path / "labels.txt"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(
        ModelFileError, match=r"labels\.txt: 2048 MB; a text has at most 16 MB here"
    ):
        read_labels(path, 10)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, {"a": np.ones(2)}])
def test_a_provenance_that_is_no_json_is_refused(tmp_path, value) -> None:
    with pytest.raises(ModelFileError, match="the provenance cannot be written as JSON"):
        replace(random_checkpoint(width_mult=0.35), provenance=value).save(
            tmp_path / "x.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_a_provenance_of_a_hundred_levels_is_refused(tmp_path) -> None:
    facts: dict[str, Any] = {}
    for _ in range(600):
        facts = {"a": facts}
    with pytest.raises(ModelFileError, match="nested more than 100 deep"):
        replace(random_checkpoint(width_mult=0.35), provenance=facts).save(
            tmp_path / "x.safetensors"
        )
