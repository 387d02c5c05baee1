"""Published models by name, converted once and kept; and TF-slim's `.tgz` archives, of which the
.tflite is read.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

from .. import zoo
from ..checkpoint import Checkpoint
from ..errors import ModelFileError
from ..int8 import AnyCheckpoint

MAX_TFLITE_BYTES = 1 << 28


def open_published(name: str, width_mult: float | None = None) -> Checkpoint:
    """The published model of that name, fetched and converted at first use.

    Raises:
        ModelFileError: No such name, or the published file is not what it should be.
        DownloadError: It could not be fetched or verified.
    """
    if name == "imagenet":
        model = zoo.find_imagenet(1.0 if width_mult is None else float(width_mult))
    else:
        model = zoo.find(name)
    converted = zoo.cache_folder() / f"{model.name}.safetensors"
    if converted.is_file():
        try:
            return Checkpoint.load(converted)
        except ModelFileError:  # damaged, or of another release: made again below
            converted.unlink()
    checkpoint = _fetched(model)
    preprocessing = model.preprocessing or replace(
        checkpoint.preprocessing, size=(model.resolution, model.resolution)
    )
    stated = {
        "name": model.name,
        "url": model.url,
        "licence": model.licence,
        "top1": model.top1,
        "top5": model.top5,
    }
    checkpoint = replace(
        checkpoint,
        architecture=replace(checkpoint.architecture, resolution=preprocessing.size),
        preprocessing=preprocessing,
        provenance=checkpoint.provenance | stated,
    )
    checkpoint.save(converted)
    return checkpoint


def _fetched(model: zoo.Published) -> Checkpoint:
    """What the published file holds; a file that cannot be read does not stay in the cache."""
    from . import read

    file = zoo.fetch(model)
    try:
        checkpoint = read(file, int8=False)
        found = checkpoint.architecture.width_mult
        if found != model.width_mult:
            raise ModelFileError(f"{file}: the file is width {found:g}, not {model.width_mult:g}")
    except ModelFileError as error:
        file.unlink()
        raise ModelFileError(
            f"{model.name}: what came from {model.url} was removed: {error}"
        ) from None
    return checkpoint


def read_tgz(path: Path, int8: bool = True) -> AnyCheckpoint:
    """The one .tflite inside a `.tgz`, as TF-slim publishes its checkpoints.

    Raises:
        ModelFileError: Damaged, or not exactly one .tflite in it.
    """
    from .tflite import checkpoint_from

    try:
        with tarfile.open(path, "r:gz") as archive:
            members = [
                member
                for member in archive.getmembers()
                if member.isfile() and member.name.endswith(".tflite")
            ]
            if len(members) != 1:
                raise ModelFileError(f"{path}: holds {len(members)} .tflite files, not one")
            if members[0].size > MAX_TFLITE_BYTES:
                raise ModelFileError(f"{path}: the .tflite in it is larger than any MobileNetV2")
            file = archive.extractfile(members[0])
            content = file.read() if file else b""
    except ModelFileError:
        raise
    except Exception as error:  # tarfile and zlib raise nearly anything on damaged archives
        raise ModelFileError(f"{path}: a damaged archive: {error}") from None
    return checkpoint_from(path, content, int8)
