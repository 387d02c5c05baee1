"""Published models by name: fetched, converted once and kept."""

from __future__ import annotations

from dataclasses import replace

from .. import zoo
from ..checkpoint import Checkpoint
from ..errors import ModelFileError
from .reader import read


def open_published(name: str, width_mult: float | None = None) -> Checkpoint:
    """The published model of that name, fetched and converted at first use.

    Raises:
        ModelFileError: No such name, or the published file is another model.
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
        except ModelFileError:  # damaged, or of another release: converted again below
            converted.unlink(missing_ok=True)
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
    """The checkpoint in the published file; a file that cannot be read is removed from the cache."""
    file = zoo.fetch(model)
    try:
        checkpoint = read(file, int8=False)
        width = checkpoint.architecture.width_mult
        if width != model.width_mult:
            raise ModelFileError(f"{file}: the file is width {width:g}, not {model.width_mult:g}")
    except ModelFileError as error:
        file.unlink(missing_ok=True)
        raise ModelFileError(
            f"{model.name}: the file from {model.url} was removed: {error}"
        ) from None
    return checkpoint
