"""Models by name: those that ship with the package, and published ones, fetched and verified.

The environment variable `MOBILENETV2_CACHE` sets the cache folder, and `MOBILENETV2_MIRROR` a server
that has the same files as HOST/PATH, for machines that cannot reach the publishers. Accuracies and
addresses are those that the publishers state.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import DownloadError, ModelFileError
from .files import MAX_FOREIGN_BYTES, sha256
from .images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .paper_tables import SLIM
from .paths import ABSENT, obstacle

# Width, resolution, ImageNet top-1 and top-5 of TF-slim's 22 models; Keras's are the same weights.
SLIM_ACCURACY = tuple((row.width_mult, row.resolution, row.top1, row.top5) for row in SLIM)
# Name, file, which ends in the first eight digits of its sha256, top-1, top-5, and the side of the
# image from which the crop of 224 is cut.
TORCHVISION = (
    ("torchvision-v1", "mobilenet_v2-b0353104.pth", 71.878, 90.286, 256),
    ("torchvision-v2", "mobilenet_v2-7ebf99e0.pth", 72.154, 90.822, 232),
)
TIMM = (  # name, file, width, top-1, top-5
    ("timm-050", "mobilenetv2_050-3d30d450.pth", 0.5, 65.928, 86.114),
    ("timm-100", "mobilenetv2_100_ra-b33bc2c4.pth", 1.0, 72.910, 91.000),
    ("timm-110d", "mobilenetv2_110d_ra-77090ade.pth", 1.1, 75.056, 92.186),
    ("timm-120d", "mobilenetv2_120d_ra-5987e2ed.pth", 1.2, 77.300, 93.516),
    ("timm-140", "mobilenetv2_140_ra-21a4e913.pth", 1.4, 76.528, 93.008),
)
HUGGING_FACE = ((1.4, 224), (1.0, 224), (0.75, 160), (0.35, 96))  # TF-slim's, converted


@dataclass(frozen=True)
class Published:
    """A model that has a name.

    Attributes:
        name: As `load` takes it.
        source: Who published it.
        url: Where it is fetched from; "" if it ships with the package.
        licence: Its licence.
        width_mult: Its width multiplier.
        resolution: The side of its images, in pixels.
        top1: Percent right on `dataset`: for ImageNet's validation set as the publisher states,
            for CIFAR-10's test set as measured here; None if unknown.
        top5: The same for the five most probable classes.
        sha256: As the publisher states it, often only its first eight digits, or "".
        preprocessing: Where it differs from what this kind of file usually needs.
        dataset: Of the accuracies.
    """

    name: str
    source: str
    url: str
    licence: str
    width_mult: float
    resolution: int
    top1: float | None
    top5: float | None
    sha256: str = ""
    preprocessing: Preprocessing | None = None
    dataset: str = "ImageNet"


BUNDLED = {"cifar10": 92.44, "cifar10-int8": 92.47}  # top-1


def models() -> tuple[Published, ...]:
    """All models that have a name, those that ship with the package first."""
    bundled = [
        Published(name, "this package", "", "Apache-2.0", 1.0, 32, top1, None, dataset="CIFAR-10")
        for name, top1 in BUNDLED.items()
    ]
    return (*bundled, *_torchvision(), *_timm(), *_hugging_face(), *_keras(), *_slim())


def _torchvision() -> list[Published]:
    base = "https://download.pytorch.org/models/"
    return [
        Published(
            name, "torchvision", base + file, "BSD-3-Clause", 1.0, 224, top1, top5, _digits(file),
            Preprocessing(crop_fraction=224 / side, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
        for name, file, top1, top5, side in TORCHVISION
    ]  # fmt: skip


def _timm() -> list[Published]:
    base = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
    return [
        Published(name, "timm", base + file, "Apache-2.0", width, 224, top1, top5, _digits(file))
        for name, file, width, top1, top5 in TIMM
    ]


def _hugging_face() -> list[Published]:
    accuracy = {(width, side): (top1, top5) for width, side, top1, top5 in SLIM_ACCURACY}
    base = "https://huggingface.co/google/mobilenet_v2_{}_{}/resolve/main/model.safetensors"
    return [
        Published(
            f"hf-{width}-{side}", "Hugging Face", base.format(width, side), "other", width, side,
            *accuracy[width, side],
            preprocessing=Preprocessing(size=(side, side), crop_fraction=side / (side + 32)),
        )
        for width, side in HUGGING_FACE
    ]  # fmt: skip


def _keras() -> list[Published]:
    base = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_{}.h5"
    return [
        Published(
            f"keras-{w}-{side}",
            "Keras",
            base + file.format(w, side),
            "Apache-2.0",
            w,
            side,
            top1,
            top5,
        )
        for w, side, top1, top5 in SLIM_ACCURACY
    ]


def _slim() -> list[Published]:
    base = "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_{}_{}.tgz"
    return [
        Published(
            f"slim-{w}-{side}", "TF-slim", base.format(w, side), "Apache-2.0", w, side, top1, top5
        )
        for w, side, top1, top5 in SLIM_ACCURACY
    ]


def _digits(file: str) -> str:
    return file.removesuffix(".pth").rpartition("-")[2]


def find(name: str) -> Published:
    """The model of that name.

    Raises:
        ModelFileError: There is none; the message names similar ones.
    """
    known = {model.name: model for model in models()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ModelFileError(
        f"{name:.1000}: no such file, and no model of that name{hint} (`mobilenetv2 models` lists them)"
    )


def published_file(path: Path) -> Published | None:
    """torchvision's model whose published file this is, by the digits in its name or its checksum."""
    models = _torchvision()
    named = [model for model in models if model.sha256 in path.name]
    if not named and path.is_file():
        checksum = sha256(path)
        named = [model for model in models if checksum.startswith(model.sha256)]
    return named[0] if named else None


def find_imagenet(width_mult: float) -> Published:
    """TF-slim's ImageNet weights of that width at 224.

    Raises:
        ModelFileError: None are published; the message lists the widths that are.
    """
    names = {width: f"slim-{width}-{side}" for width, side, *_ in SLIM_ACCURACY if side == 224}
    width_mult = round(float(width_mult), 4)  # 1.4 as a NumPy float32 is 1.399999976
    if width_mult not in names:
        listed = ", ".join(str(width) for width in sorted(names))
        raise ModelFileError(
            f"no ImageNet weights of width {width_mult:g} are published; there are {listed}"
        )
    return find(names[width_mult])


def bundled_path(name: str) -> Path:
    """The file of a model that ships with the package."""
    return Path(__file__).with_name("bundled") / f"{name}.safetensors"


def cache_folder() -> Path:
    """The folder of fetched and converted files: `MOBILENETV2_CACHE`, or the system's cache."""
    import pooch

    return Path(os.environ.get("MOBILENETV2_CACHE") or pooch.os_cache("mobilenetv2"))


def fetch(model: Published) -> Path:
    """The published file of a model, from the cache or from its address.

    It is verified if the publisher states a checksum.

    Raises:
        DownloadError: No connection, no such file, or a wrong checksum, and then it is removed.
    """
    import pooch

    url = _mirrored(model.url)
    file = f"{model.name}-{urlsplit(model.url).path.rpartition('/')[2]}"
    pooch.get_logger().setLevel("WARNING")
    kept = cache_folder() / file
    if (reason := obstacle(kept)) not in ("", ABSENT):
        raise DownloadError(f"{kept}: {reason}; remove it")
    try:
        downloader = pooch.HTTPDownloader(timeout=60, progressbar=_SizeLimit())
        path = Path(
            pooch.retrieve(url, None, fname=file, path=cache_folder(), downloader=downloader)
        )
    except Exception as error:  # requests', urllib3's and the file system's
        raise DownloadError(
            f"{model.name} could not be fetched from {url}: {error}. Fetch that file by other means and pass it "
            "instead of the name (--model FILE), or name a mirror in MOBILENETV2_MIRROR"
        ) from None
    checksum = sha256(path)
    if not checksum.startswith(model.sha256):
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{model.name}: the file from {url} has the sha256 {checksum}, which should begin with {model.sha256}; "
            "it was removed. Try again, or fetch the file by other means and pass it instead of the name (--model FILE)"
        )
    return path


class _SizeLimit:
    """What pooch takes for a progress bar: ends a download that is larger than any published file."""

    def __init__(self) -> None:
        self.total = 0
        self.received = 0

    def update(self, count: int) -> None:
        """Counts received bytes."""
        self.received += count
        if self.received > MAX_FOREIGN_BYTES:
            raise OSError(f"more than {MAX_FOREIGN_BYTES >> 20} MB")

    def reset(self) -> None:
        """Called at the end, before the whole size is counted."""
        self.received = 0

    def close(self) -> None:
        """There is nothing to close."""


def _mirrored(url: str) -> str:
    mirror = os.environ.get("MOBILENETV2_MIRROR")
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
