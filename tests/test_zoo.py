"""Models by name: the list, and fetching from a server on this machine: verified, converted once."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import mobilenetv2
from mobilenetv2 import zoo
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run
from mobilenetv2.cost import network_cost
from mobilenetv2.errors import DownloadError, ModelFileError
from mobilenetv2.formats import open_checkpoint
from mobilenetv2.int8 import Int8Checkpoint

from .conftest import random_checkpoint
from .writers import (
    TFLiteWriter,
    difference,
    hugging_face,
    save_pth,
    save_safetensors,
    tensors,
    timm,
    torchvision,
    write_keras_legacy,
)

TENSORFLOW = {"padding": "same", "bn_epsilon": 1e-3}


class Mirror:
    """A web server with the files given to `hold`; remembers the requested paths."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut = 0  # bytes promised but not sent
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                content = mirror.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write((content or b"")[: len(content or b"") - mirror.cut])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def hold(self, model: zoo.Published, content: bytes) -> None:
        parts = urlsplit(model.url)
        self.files[f"/{parts.netloc}{parts.path}"] = content


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Mirror]:
    """The only server that can be reached, and an empty cache."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    made = Mirror()
    monkeypatch.setenv("MOBILENETV2_MIRROR", made.address)
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    yield made
    made.server.shutdown()
    made.server.server_close()


def slim_archive(folder: Path, checkpoint: Checkpoint) -> Path:
    inner = TFLiteWriter(checkpoint, dense=False, pool="AVERAGE_POOL_2D").save(folder / "x.tflite")
    (folder / "model.ckpt.index").write_bytes(b"not read")
    with tarfile.open(folder / "x.tgz", "w:gz") as archive:
        archive.add(folder / "model.ckpt.index", "./mobilenet_v2_0.35_160.ckpt.index")
        archive.add(inner, "./mobilenet_v2_0.35_160.tflite")
    return folder / "x.tgz"


def small(**changes: object) -> Checkpoint:
    return random_checkpoint(**{"width_mult": 0.35, "classes": 3, **changes})


FILES: dict[str, tuple[dict[str, object], Callable[[Path, Checkpoint], Path]]] = {
    "slim-0.35-160": ({"resolution": (160, 160), **TENSORFLOW}, slim_archive),
    "keras-0.35-96": (
        TENSORFLOW,
        lambda folder, c: write_keras_legacy(folder / "x.h5", c, "published"),
    ),
    "hf-0.35-96": (
        TENSORFLOW,
        lambda folder, c: save_safetensors(folder / "x.safetensors", hugging_face(c)),
    ),
    "torchvision-v2": (
        {"width_mult": 1.0},
        lambda folder, c: save_pth(folder / "x.pth", tensors(torchvision(c))),
    ),
    "timm-050": (
        {"width_mult": 0.5},
        lambda folder, c: save_pth(folder / "x.pth", tensors(timm(c))),
    ),
}


def state_checksums(monkeypatch, content: bytes) -> None:
    """Publishes all PyTorch files with the checksum of this content."""
    digits = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setattr(zoo, "_digits", lambda file: digits)


def published(mirror: Mirror, tmp_path: Path, monkeypatch, name: str) -> Checkpoint:
    """Publishes a random model of the right width under a name."""
    changes, write = FILES[name]
    checkpoint = small(**changes)
    content = write(tmp_path, checkpoint).read_bytes()
    state_checksums(monkeypatch, content)
    mirror.hold(zoo.find(name), content)
    return checkpoint


@pytest.mark.parametrize(
    ("name", "side", "fraction", "mean", "interpolation"),
    [
        ("slim-0.35-160", 160, 0.875, 0.5, "bilinear"),
        ("keras-0.35-96", 96, 0.875, 0.5, "bilinear"),
        ("hf-0.35-96", 96, 0.75, 0.5, "bilinear"),
        ("torchvision-v2", 224, 224 / 232, 0.485, "bilinear"),
        ("timm-050", 224, 0.875, 0.485, "bicubic"),
    ],
)
def test_fetched_converted_and_kept(
    mirror, tmp_path, monkeypatch, capfd, name, side, fraction, mean, interpolation
) -> None:
    original = published(mirror, tmp_path, monkeypatch, name)
    imported = open_checkpoint(name)
    assert len(mirror.requests) == 1
    assert difference(original, imported) < 1e-5
    assert imported.architecture.resolution == imported.preprocessing.size == (side, side)
    assert imported.preprocessing.crop_fraction == fraction
    assert imported.preprocessing.mean[0] == mean
    assert imported.preprocessing.interpolation == interpolation
    entry = zoo.find(name)
    assert imported.provenance["name"] == name
    assert imported.provenance["url"] == entry.url
    assert (imported.provenance["top1"], imported.provenance["top5"]) == (entry.top1, entry.top5)
    (raw,) = (
        path
        for path in zoo.cache_folder().iterdir()
        if path.suffix != ".safetensors" or path.stem != name
    )
    raw.unlink()  # the converted file is enough
    again = open_checkpoint(name)
    assert len(mirror.requests) == 1
    assert (again.architecture, again.provenance) == (imported.architecture, imported.provenance)
    for array, values in imported.arrays.items():
        np.testing.assert_array_equal(again.arrays[array], values)
    assert capfd.readouterr().out == ""


def test_a_cache_that_several_fill_at_once(mirror, tmp_path, monkeypatch) -> None:
    original = published(mirror, tmp_path, monkeypatch, "slim-0.35-160")
    start = threading.Barrier(4)

    def fetched(_: int) -> Checkpoint:
        start.wait()
        return open_checkpoint("slim-0.35-160")

    with ThreadPoolExecutor(4) as threads:
        for imported in threads.map(fetched, range(4)):
            assert difference(original, imported) < 1e-5
    files = sorted(path.suffix for path in zoo.cache_folder().iterdir())
    assert files == [".safetensors", ".tgz"]  # and nothing half-written


@pytest.mark.parametrize("name", ["slim-0.35-160", "torchvision-v2"])
def test_a_damaged_converted_file_is_made_again(mirror, tmp_path, monkeypatch, name) -> None:
    published(mirror, tmp_path, monkeypatch, name)
    open_checkpoint(name)
    converted = zoo.cache_folder() / f"{name}.safetensors"
    whole = converted.read_bytes()
    converted.write_bytes(whole[: len(whole) // 2])
    open_checkpoint(name)
    assert len(mirror.requests) == 1  # the published file was still there
    assert converted.read_bytes() == whole


def test_imagenet_is_tf_slims_at_224(mirror, tmp_path) -> None:
    checkpoint = small(**TENSORFLOW)
    content = slim_archive(tmp_path, checkpoint).read_bytes()
    for width, name in ((0.35, "slim-0.35-224"), (0.5, "slim-0.5-224"), (1.4, "slim-1.4-224")):
        mirror.hold(zoo.find(name), content)
        assert zoo.find_imagenet(width).name == name
        assert zoo.find_imagenet(np.float32(width)).name == name
    assert open_checkpoint("imagenet", 0.35).provenance["name"] == "slim-0.35-224"
    with pytest.raises(ModelFileError, match=r"slim-0\.5-224: .*the file is width 0\.35, not 0\.5"):
        open_checkpoint("imagenet", 0.5)


# --- what can go wrong ---


def cached() -> list[str]:
    return sorted(path.name for path in zoo.cache_folder().iterdir())


def test_a_download_that_does_not_end(mirror, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "MAX_FOREIGN_BYTES", 1 << 20)
    mirror.hold(zoo.find("slim-0.35-160"), bytes(3 << 20))
    with pytest.raises(DownloadError, match="slim-0.35-160 could not be fetched .* more than 1 MB"):
        open_checkpoint("slim-0.35-160")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_pipe_in_the_cache_is_not_waited_for(mirror, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    os.mkfifo(tmp_path / "cache" / "slim-0.35-160-mobilenet_v2_0.35_160.tgz")
    with pytest.raises(DownloadError, match="not a regular file but a FIFO; remove it"):
        open_checkpoint("slim-0.35-160")


def test_a_wrong_checksum(mirror, tmp_path) -> None:
    content = FILES["torchvision-v2"][1](tmp_path, small(width_mult=1.0)).read_bytes()
    model = zoo.find("torchvision-v2")
    assert model.sha256 == "7ebf99e0"
    mirror.hold(model, content)
    for times in (1, 2):
        with pytest.raises(DownloadError, match=r"should begin with 7ebf99e0") as caught:
            open_checkpoint("torchvision-v2")
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
        assert "--model FILE" in str(caught.value)
        assert cached() == []
        assert len(mirror.requests) == times


def test_a_file_that_changed_in_the_cache(mirror, tmp_path, monkeypatch) -> None:
    """The checksum is that of the file in the cache, not of the response."""
    published(mirror, tmp_path, monkeypatch, "timm-050")
    open_checkpoint("timm-050")
    (raw,) = zoo.cache_folder().glob("*.pth")
    raw.write_bytes(b"something else")
    (zoo.cache_folder() / "timm-050.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"timm-050: the file from .* has the sha256"):
        open_checkpoint("timm-050")
    assert cached() == []
    open_checkpoint("timm-050")
    assert len(mirror.requests) == 2


@pytest.mark.parametrize(
    "content",
    [b"<html>please log in</html>", b"", b"\x1f\x8b damaged"],
    ids=["a page", "nothing", "damaged"],
)
def test_a_fetched_file_that_is_not_a_model(mirror, content) -> None:
    """It must not stay in the cache, else the name would never work again."""
    mirror.hold(zoo.find("slim-1.0-224"), content)
    with pytest.raises(
        ModelFileError, match=r"slim-1\.0-224: the file from https://\S+ was removed"
    ):
        open_checkpoint("slim-1.0-224")
    assert cached() == []


def test_no_such_file_on_the_server(mirror) -> None:
    with pytest.raises(
        DownloadError, match=r"keras-1\.0-224 could not be fetched from http\S+: .*404"
    ) as caught:
        open_checkpoint("keras-1.0-224")
    assert "--model FILE" in str(caught.value)
    assert "MOBILENETV2_MIRROR" in str(caught.value)
    assert mirror.requests == [
        "/storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    ]
    assert cached() == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # pooch leaves it to the collector
def test_a_body_that_ends_early(mirror, tmp_path, monkeypatch) -> None:
    published(mirror, tmp_path, monkeypatch, "hf-0.35-96")
    mirror.cut = 1000
    with pytest.raises(DownloadError, match=r"hf-0\.35-96 could not be fetched"):
        open_checkpoint("hf-0.35-96")
    assert cached() == []
    gc.collect()
    mirror.cut = 0
    assert open_checkpoint("hf-0.35-96").architecture.width_mult == 0.35


def test_nobody_answers(mirror, monkeypatch, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        monkeypatch.setenv("MOBILENETV2_MIRROR", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(DownloadError, match=r"slim-1\.0-224 could not be fetched"):
            open_checkpoint("slim-1.0-224")
        assert run(["inspect", "slim-1.0-224"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: slim-1.0-224 could not be fetched from http://127.0.0.1:")
    assert err.count("\n") == 1


def test_a_cache_that_cannot_be_made(mirror, tmp_path, monkeypatch) -> None:
    published(mirror, tmp_path, monkeypatch, "hf-0.35-96")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="could not be fetched"):
        open_checkpoint("hf-0.35-96")


def test_convert_by_name(mirror, tmp_path, monkeypatch, capfd) -> None:
    published(mirror, tmp_path, monkeypatch, "keras-0.35-96")
    out = tmp_path / "out.safetensors"
    assert run(["convert", "keras-0.35-96", str(out)]) == 0
    assert capfd.readouterr().out == ""
    assert Checkpoint.load(out).provenance["name"] == "keras-0.35-96"


# --- the list ---


def test_the_list() -> None:
    models = zoo.models()
    counts = {
        "this package": 2,
        "torchvision": 2,
        "timm": 5,
        "Hugging Face": 4,
        "Keras": 22,
        "TF-slim": 22,
    }
    assert Counter(model.source for model in models) == counts
    assert len({model.name for model in models}) == len(models) == 57
    assert len({model.url for model in models}) == len(models) - 1
    for model in models[2:]:
        assert urlsplit(model.url).scheme == "https"
        assert model.licence
        assert 40 < model.top1 < model.top5 < 95
        assert model.name.isprintable()
        assert " " not in model.name
    assert [model.name for model in models[:2]] == ["cifar10", "cifar10-int8"]
    assert [model.dataset for model in models] == ["CIFAR-10"] * 2 + ["ImageNet"] * 55
    assert models == mobilenetv2.models()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (
            "slim-1.0-224",
            "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_1.0_224.tgz",
        ),
        (
            "slim-0.35-96",
            "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_0.35_96.tgz",
        ),
        (
            "hf-1.4-224",
            "https://huggingface.co/google/mobilenet_v2_1.4_224/resolve/main/model.safetensors",
        ),
        ("torchvision-v1", "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"),
    ],
)
def test_addresses(name, url) -> None:
    assert zoo.find(name).url == url


def test_checksums_are_what_the_names_state() -> None:
    stated = {model.name: model.sha256 for model in zoo.models() if model.sha256}
    assert stated == {
        "torchvision-v1": "b0353104", "torchvision-v2": "7ebf99e0", "timm-050": "3d30d450",
        "timm-100": "b33bc2c4", "timm-110d": "77090ade", "timm-120d": "5987e2ed", "timm-140": "21a4e913",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("slim-1.0-244", "slim-1.0-224"),
        ("cifar", "cifar10"),
        ("torchvision", "torchvision-v1"),
        ("timm_100", "timm-100"),
    ],
)
def test_unknown_names_give_close_ones(name, close) -> None:
    with pytest.raises(ModelFileError, match=rf"{name}: no such file.*did you mean .*{close}"):
        open_checkpoint(name)
    with pytest.raises(
        ModelFileError, match=r"no model of that name \(`mobilenetv2 models` lists them\)"
    ):
        open_checkpoint("~~~~")


def test_widths_that_are_not_published() -> None:
    with pytest.raises(
        ModelFileError,
        match=r"width 0\.25 are published; there are 0\.35, 0\.5, 0\.75, 1\.0, 1\.3, 1\.4$",
    ):
        open_checkpoint("imagenet", 0.25)


@pytest.mark.parametrize("same", [1, 1.0, "1", "1.0", "1.00", np.float32(1), np.float64(1)])
def test_the_name_does_not_follow_how_a_width_is_written(same) -> None:
    assert zoo.find_imagenet(same).name == "slim-1.0-224"


def test_a_width_of_less_precision() -> None:
    assert zoo.find_imagenet(np.float32(1.4)).name == "slim-1.4-224"


def test_the_bundled_model_needs_no_network(mirror) -> None:
    checkpoint = open_checkpoint("cifar10")
    assert mirror.requests == []
    assert not zoo.cache_folder().exists()
    quantized = open_checkpoint("cifar10-int8")
    for name, bundled in (("cifar10", checkpoint), ("cifar10-int8", quantized)):
        entry = zoo.find(name)
        assert (entry.width_mult, entry.resolution) == (
            bundled.architecture.width_mult,
            bundled.preprocessing.size[0],
        )
    assert len(checkpoint.labels) == 10
    assert checkpoint.labels == quantized.labels
    assert isinstance(quantized, Int8Checkpoint)
    with pytest.raises(ModelFileError, match="cifar10-int8.*an int8 model"):
        open_checkpoint("cifar10-int8", int8=False)


def test_what_ships_is_small() -> None:
    sizes = [zoo.bundled_path(name).stat().st_size for name in zoo.BUNDLED]
    assert sum(sizes) < 4_000_000
    assert network_cost(open_checkpoint("cifar10").architecture).parameters <= 1_000_000
