"""Small files that claim much: refused by name, before anything of that size is read."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import MAX_FOREIGN_BYTES
from mobilenetv2.formats import read

from .conftest import random_checkpoint
from .writers import (
    TFLiteWriter,
    save_pth,
    tensors,
    torchvision,
    write_keras_archive,
    write_keras_legacy,
)

MEGABYTES = 300  # that a file claims
READER = """
import json, resource, sys
from pathlib import Path
import h5py, tflite, torch
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

read(Path(sys.argv[1]))  # a sound file, so that everything is loaded
for name in sys.argv[2:]:
    before, message = peak(), "read"
    try:
        read(Path(name))
    except ModelFileError as error:
        message = str(error)
    print(json.dumps([message, peak() - before]))
"""


def small(**changes: object) -> Any:
    return random_checkpoint(
        **{"width_mult": 0.35, "classes": 2, "resolution": (64, 64), **changes}
    )


def unwritten_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for block in range(1, 17):
            file.create_dataset(f"block_{block}_expand/kernel:0", (1, 1, 8000, 800), np.float32)


def unwritten_h5_that_fits(path: Path) -> None:
    write_keras_legacy(path, small())
    with h5py.File(path, "r+") as file:
        del file["predictions"]
        file.create_dataset("predictions/predictions/kernel:0", (1280, 60_000), np.float32)
        file.create_dataset("predictions/predictions/bias:0", (60_000,), np.float32)


def chunk_that_inflates(path: Path) -> None:
    write_keras_legacy(path, small())
    with h5py.File(path, "r+") as file:
        name = "predictions/predictions/kernel:0"
        del file[name]
        array = file.create_dataset(name, (1280, 2), "f4", chunks=(1280, 2), compression="gzip")
        array.id.write_direct_chunk((0, 0), zlib.compress(bytes(MEGABYTES << 20), 1))


def chunk_larger_than_its_array(path: Path) -> None:
    write_keras_legacy(path, small())
    with h5py.File(path, "r+") as file:
        name = "predictions/predictions/bias:0"
        del file[name]
        file.create_dataset(
            name, (2,), "f4", chunks=(MEGABYTES << 18,), maxshape=(None,), compression="gzip"
        )
        file[name][:] = 1


def deflated_keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(MEGABYTES << 20))


def deflated_pth(path: Path) -> None:
    plain = save_pth(path.with_name("plain.pth"), {"a": torch.zeros(MEGABYTES << 18)})
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    plain.unlink()


def lying_archive(path: Path, names: tuple[str, ...]) -> None:
    """Members that unpack to more than the archive's tables say."""
    content = bytes(MEGABYTES << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            archive.writestr(name, content)
    stated, true = struct.pack("<I", 64), struct.pack("<I", len(content))
    path.write_bytes(path.read_bytes().replace(true, stated))


def pickled_bytearray(path: Path) -> None:
    size = struct.pack("<i", MEGABYTES << 20)
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ" + size + b"\x85R.")


def deflated_twice(path: Path) -> None:
    write_keras_legacy(path, small())
    with h5py.File(path, "r+") as file:
        name = "predictions/predictions/kernel:0"
        del file[name]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1280, 2))
        properties.set_deflate(9)
        properties.set_deflate(9)
        space, kind = h5py.h5s.create_simple((1280, 2)), h5py.h5t.IEEE_F32LE
        array = h5py.h5d.create(file.id, name.encode(), kind, space, properties)
        inflated = zlib.compress(bytes(MEGABYTES << 20), 9)
        array.write_direct_chunk((0, 0), zlib.compress(inflated, 9))


def large_file_of_ours(path: Path) -> None:
    """A file of ours with an array that its network lacks, as large as it likes."""
    header = {
        "__metadata__": {"format": "mobilenetv2", "architecture": Architecture().to_json()},
        "junk": {"dtype": "U8", "shape": [3 << 30], "data_offsets": [0, 3 << 30]},
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + (3 << 30))


def expanded_pth(path: Path, legacy: bool = False) -> None:
    arrays = tensors(torchvision(small()))
    repeated = torch.zeros(1, dtype=torch.half).expand(3_000_000_000)
    save_pth(path, arrays | {"features.3.conv.0.1.bias": repeated}, legacy=legacy)


def expanded_pth_that_fits(path: Path) -> None:
    head = {
        "classifier.1.weight": torch.zeros(1, 1).expand(60_000, 1280),
        "classifier.1.bias": torch.zeros(1).expand(60_000),
    }
    save_pth(path, tensors(torchvision(small())) | head)


class LargerThanItsStorage:
    """A tensor of a shape for which its storage has too few values."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[object, ...]:
        storage = torch.ones(4).storage()
        strides = (1,) * len(self.shape)
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (storage, 0, self.shape, strides, False, OrderedDict())


def larger_than_its_storage(path: Path, legacy: bool = False) -> None:
    save_pth(
        path,
        tensors(torchvision(small()))
        | {"classifier.1.bias": LargerThanItsStorage((MEGABYTES << 18,))},
        legacy=legacy,
    )


def inflated_tgz(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("a.tflite")
        member.size = MEGABYTES << 20
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(member, zeros)


def many_tensors(path: Path) -> None:
    writer = TFLiteWriter(small())
    writer.graph.tensors += writer.graph.tensors[:1] * 5000
    writer.save(path)


def one_buffer_for_all(path: Path) -> None:
    """Every kernel of a deep network is the same buffer of 4 MB."""
    writer = TFLiteWriter(small())
    large = writer.constant("large", np.zeros((1000, 1000), np.float32))
    for tensor in writer.graph.tensors:
        if tensor.buffer:
            tensor.buffer, tensor.shape = writer.graph.tensors[large].buffer, [1000, 1, 1, 1000]
    writer.save(path)


def sparse_safetensors(path: Path) -> None:
    values = MAX_FOREIGN_BYTES // 4
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, values * 4]}})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + values * 4)


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "unwritten.h5": (unwritten_h5, "not a MobileNetV2"),
    "fitting.h5": (unwritten_h5_that_fits, "its arrays? .* far larger"),
    "inflated.h5": (chunk_that_inflates, "has a chunk of more than 10240 bytes"),
    "chunk.h5": (chunk_larger_than_its_array, "bias:0 would take 300 MB of memory"),
    "model.keras": (deflated_keras, "its content would take 300 MB of memory"),
    "deflated.pth": (deflated_pth, "its content would take 300 MB of memory"),
    "lie.keras": (
        lambda path: lying_archive(path, ("config.json", "model.weights.h5")),
        "damaged",
    ),
    "lie.pth": (lambda path: lying_archive(path, ("lie/data.pkl",)), "not a readable .pth"),
    "bytearray.pth": (pickled_bytearray, "it makes a bytearray"),
    "twice.h5": (deflated_twice, "compressed with another method"),
    "ours.safetensors": (large_file_of_ours, "3072 MB, but its network has 13 MB of arrays"),
    "expanded.pth": (expanded_pth, r"features\.3\.conv\.0\.1\.bias is \(3000000000,\)"),
    "expanded-legacy.pth": (lambda path: expanded_pth(path, legacy=True), r"is \(3000000000,\)"),
    "fitting.pth": (expanded_pth_that_fits, "its arrays would take .* far larger"),
    "storage.pth": (larger_than_its_storage, "not a readable .pth file"),
    "storage-legacy.pth": (
        lambda path: larger_than_its_storage(path, legacy=True),
        "not a readable .pth file",
    ),
    "slim.tgz": (inflated_tgz, "its content would take .* of memory"),
    "many.tflite": (many_tensors, "far more than a MobileNetV2 has"),
    "shared.tflite": (one_buffer_for_all, "not a MobileNetV2|no width|has the shape"),
    "sparse.safetensors": (sparse_safetensors, "files of other libraries are read up to 512 MB"),
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """What reading each file gave, and by how many MB the memory grew; in one process."""
    folder = tmp_path_factory.mktemp("claims")
    write_keras_archive(folder / "sound.keras", small())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: TypedStorage is deprecated
        for name, (write, _) in BOMBS.items():
            write(folder / name)
    paths = [folder / name for name in ("sound.keras", *BOMBS)]
    command = [sys.executable, "-c", READER, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: (message.removeprefix(f"{folder / name}: "), megabytes)
        for name, (message, megabytes) in zip(BOMBS, lines, strict=True)
    }


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_small(results, name) -> None:
    message, megabytes = results[name]
    assert re.search(BOMBS[name][1], message), message
    assert megabytes < 200


def test_a_compressed_h5_is_read(tmp_path) -> None:
    path, checkpoint = tmp_path / "model.h5", small(padding="same", bn_epsilon=1e-3)
    write_keras_legacy(path, checkpoint)
    name = "predictions/predictions/kernel:0"
    with h5py.File(path, "r+") as file:
        kernel = file[name][()]
        del file[name]
        file.create_dataset(name, data=kernel, chunks=(100, 2), compression="gzip", shuffle=True)
    np.testing.assert_array_equal(
        read(path).arrays["classifier.1.weight"], checkpoint.arrays["classifier.1.weight"]
    )
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=kernel, compression="lzf")
    with pytest.raises(ModelFileError, match=r"predictions/kernel:0 is compressed with another"):
        read(path)


def test_many_networks_in_one_file_are_named_at_once(tmp_path) -> None:
    names = [f"n{i}.features.0.0.weight" for i in range(5000)]
    path = tmp_path / "many.safetensors"
    header = json.dumps(
        {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelFileError, match="holds several networks: n0, n1, n10.* and 4995 more"):
        read(path)


def test_many_small_chunks_are_read(tmp_path) -> None:
    path, checkpoint = tmp_path / "model.h5", small(padding="same", bn_epsilon=1e-3, classes=60)
    write_keras_legacy(path, checkpoint)
    name = "predictions/predictions/kernel:0"
    with h5py.File(path, "r+") as file:
        kernel = file[name][()]
        del file[name]
        file.create_dataset(name, data=kernel, chunks=(4, 2), compression="gzip")
    weight = read(path).arrays["classifier.1.weight"]
    np.testing.assert_array_equal(weight, checkpoint.arrays["classifier.1.weight"])
