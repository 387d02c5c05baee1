"""Models by name, against a server on 127.0.0.1 that stands in for the publishers."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilenetv2 import zoo
from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run
from mobilenetv2.errors import DownloadError, ModelFileError
from mobilenetv2.formats import open_checkpoint

from .conftest import random_checkpoint
from .writers import (
    TFLiteWriter,
    difference,
    hugging_face,
    save_pth,
    save_safetensors,
    tensors,
    torchvision,
    write_keras_legacy,
)

SLIM = "storage.googleapis.com/mobilenet_v2/checkpoints"
KERAS = "storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2"
HUGGING_FACE = "huggingface.co/google"
TORCHVISION = "download.pytorch.org/models"
TF = Architecture(width_mult=0.35, padding="same", bn_epsilon=1e-3)


class Mirror:
    """A folder served on a free port, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.cut_bodies = False
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                if mirror.cut_bodies:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    self.wfile.write(b"only this")
                    return
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, path: str) -> Path:
        """A place for a file below the mirror."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    (tmp_path / "served").mkdir()
    found = Mirror(tmp_path / "served")
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    monkeypatch.setenv("MOBILENETV2_MIRROR", found.url + "/")
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def slim_archive(path: Path, checkpoint: Checkpoint) -> None:
    """A `.tgz` as TF-slim publishes it: checkpoint files, a frozen graph, and the float .tflite."""
    TFLiteWriter(checkpoint).save(path.with_suffix(".tflite"))
    with tarfile.open(path, "w:gz") as archive:
        for name in ("model.ckpt.index", "model_frozen.pb"):
            archive.addfile(tarfile.TarInfo(f"./{name}"), io.BytesIO())
        archive.add(path.with_suffix(".tflite"), f"./{path.stem}.tflite")


def test_every_name_is_one_model() -> None:
    models = zoo.models()
    assert len({model.name for model in models}) == len(models) == 56
    assert models[0] is zoo.BUNDLED
    count = {
        source: sum(m.source == source for m in models) for source in {m.source for m in models}
    }
    assert count == {
        "this package": 1,
        "torchvision": 2,
        "timm": 5,
        "Hugging Face": 4,
        "Keras": 22,
        "TF-slim": 22,
    }
    assert all(model.url.startswith("https://") for model in models[1:])
    assert zoo.find("slim-0.35-96").url.endswith("/checkpoints/mobilenet_v2_0.35_96.tgz")
    assert zoo.find("slim-1.0-224").top1 == 71.8
    assert zoo.find("keras-1.4-224").url.endswith("tf_kernels_1.4_224.h5")
    assert zoo.find("torchvision-v2").sha256 == "7ebf99e0"
    assert zoo.find("torchvision-v2").preprocessing.resized(500, 600) == (232, 278)
    assert zoo.find("timm-120d").sha256 == "5987e2ed"


def test_the_bundled_model_needs_no_server() -> None:
    checkpoint = open_checkpoint("cifar10")
    assert checkpoint.labels[3] == "cat"
    assert sum(array.size for array in checkpoint.arrays.values()) < 1e6
    assert checkpoint.provenance["test_top1"] == 0.798


def test_tf_slims_archive(mirror: Mirror) -> None:
    model = replace(TF, resolution=(96, 96), classes=1001)
    published = random_checkpoint(model)
    slim_archive(mirror.put(f"{SLIM}/mobilenet_v2_0.35_96.tgz"), published)
    checkpoint = open_checkpoint("slim-0.35-96")
    assert difference(published, checkpoint) < 1e-5
    assert checkpoint.architecture == replace(model, resolution=(96, 96))
    assert checkpoint.preprocessing.size == (96, 96)
    assert checkpoint.labels[:2] == ("background", "tench, Tinca tinca")
    assert checkpoint.provenance["url"] == f"https://{SLIM}/mobilenet_v2_0.35_96.tgz"
    assert (checkpoint.provenance["top1"], checkpoint.provenance["licence"]) == (45.5, "Apache-2.0")
    assert open_checkpoint("slim-0.35-96").provenance == checkpoint.provenance
    assert mirror.asked == [f"/{SLIM}/mobilenet_v2_0.35_96.tgz"]  # fetched and converted once


def test_the_same_archive_as_a_file(mirror: Mirror, tmp_path: Path) -> None:
    slim_archive(tmp_path / "mobilenet_v2_0.35_224.tgz", random_checkpoint(TF))
    assert open_checkpoint(tmp_path / "mobilenet_v2_0.35_224.tgz").architecture == TF
    assert mirror.asked == []


def test_keras_and_its_size(mirror: Mirror) -> None:
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_128.h5"
    published = random_checkpoint(TF)
    write_keras_legacy(mirror.put(f"{KERAS}/{name}"), published)
    checkpoint = open_checkpoint("keras-0.35-128")
    assert difference(published, checkpoint) < 1e-5
    assert checkpoint.architecture.resolution == checkpoint.preprocessing.size == (128, 128)


def test_hugging_face(mirror: Mirror) -> None:
    published = random_checkpoint(replace(TF, classes=1001))
    path = mirror.put(f"{HUGGING_FACE}/mobilenet_v2_0.35_96/resolve/main/model.safetensors")
    save_safetensors(path, hugging_face(published))
    checkpoint = open_checkpoint("hf-0.35-96")
    assert difference(published, checkpoint) < 1e-5
    assert checkpoint.preprocessing.resized(300, 400) == (128, 170)  # short side 96 + 32


def test_a_checksum_that_fits(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "mobilenet_v2-b0353104.pth"
    path = save_pth(mirror.put(f"{TORCHVISION}/{file}"), tensors(torchvision(random_checkpoint())))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(zoo, "_digits", lambda name: digits[:8])
    assert open_checkpoint("torchvision-v1").preprocessing.mean == zoo.IMAGENET_MEAN


def test_a_checksum_that_does_not_fit(mirror: Mirror, tmp_path: Path) -> None:
    path = mirror.put(f"{TORCHVISION}/mobilenet_v2-7ebf99e0.pth")
    save_pth(path, tensors(torchvision(random_checkpoint(width_mult=0.35))))
    with pytest.raises(DownloadError, match=r"(?s)should begin with 7ebf99e0.*--model FILE"):
        open_checkpoint("torchvision-v2")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_not_what_its_name_says(mirror: Mirror, tmp_path: Path) -> None:
    slim_archive(mirror.put(f"{SLIM}/mobilenet_v2_0.5_96.tgz"), random_checkpoint(TF))
    with pytest.raises(ModelFileError, match="slim-0.5-96.*is width 0.35, not 0.5"):
        open_checkpoint("slim-0.5-96")
    assert list((tmp_path / "cache").iterdir()) == []


def test_absent_cut_off_and_unreachable(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match=r"slim-1.0-96 .*404.*--model FILE"):
        open_checkpoint("slim-1.0-96")
    mirror.cut_bodies = True
    with pytest.raises(DownloadError, match=r"slim-1.0-96 could not be fetched"):
        open_checkpoint("slim-1.0-96")
    monkeypatch.setenv("MOBILENETV2_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127.0.0.1:9/storage.*MOBILENETV2_MIRROR"):
        open_checkpoint("slim-1.0-96")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_converted_file_is_made_again(mirror: Mirror, tmp_path: Path) -> None:
    published = random_checkpoint(replace(TF, classes=1001))
    slim_archive(mirror.put(f"{SLIM}/mobilenet_v2_0.35_224.tgz"), published)
    open_checkpoint("imagenet", width_mult=0.35)
    (converted,) = (tmp_path / "cache").glob("*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-5])
    assert difference(published, open_checkpoint("slim-0.35-224")) < 1e-5


def test_widths_that_are_not_published() -> None:
    with pytest.raises(ModelFileError, match=r"width 0.25 .* 0.35, 0.5, 0.75, 1.0, 1.3, 1.4"):
        zoo.find_imagenet(0.25)
    assert zoo.find_imagenet(1).name == "slim-1.0-224"


def test_the_command_line_says_what_to_do(
    mirror: Mirror, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    assert run(["convert", "keras-1.0-96", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: keras-1.0-96 could not be fetched from http://127.0.0.1:")
    assert not out.exists()
