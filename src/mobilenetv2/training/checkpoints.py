"""A network in training as a model file, in float32 or in int8; and where training in int8 begins."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..decoding import NarrowRangeWarning
from ..errors import UserError, shortened
from ..int8 import AnyCheckpoint, Int8Checkpoint
from ..nn.backbone import Backbone
from ..runtime.quantize import check_quantizable, read_images, to_int8
from .run_folder import RunFolder, Settings
from .splits import Split

LOG = logging.getLogger(__name__)
CALIBRATION_IMAGES = 100


def checkpoint_of(net: Backbone, settings: Settings, scores: Mapping[str, float]) -> AnyCheckpoint:
    """A network of a run as a model file has it, with the scores of its validation."""
    provenance = {
        "source": f"mobilenetv2 train {settings.version}",
        "trained_on": {
            "data": settings.data,
            "val": settings.val,
            "train_images": settings.images["train"],
            "val_images": settings.images["val"],
        },
        "weights": dict(settings.weights),
        "start": settings.start.to_dict(),
        "recipe": settings.recipe.to_dict(),
        "validation": dict(scores),
    }
    return net.to_checkpoint(
        labels=settings.classes, preprocessing=settings.preprocessing, provenance=provenance
    )


def calibrated_start(
    net: Backbone, settings: Settings, split: Split, folder: RunFolder
) -> Int8Checkpoint:
    """The network in int8, quantised by images of the training data, evenly spaced among them; if
    these are in shards, by images of the validation data. It is kept in the folder.

    Raises:
        UserError: The network is not trained yet or cannot be quantised.
    """
    if settings.new:
        raise UserError(
            f"int8 goes on from a trained model, but {shortened(settings.new, 2)} would be new: train "
            "in float32 first, and give its model.safetensors as the weights (--weights)"
        )
    checkpoint = check_quantizable(checkpoint_of(net, settings, {}))
    samples = split.train.samples or split.val.samples
    count = min(len(samples), CALIBRATION_IMAGES)
    LOG.info("quantising by %d images", count)
    chosen = [samples[i * len(samples) // count] for i in range(count)]
    with quiet_about_range():
        pixels, _ = read_images(settings.preprocessing, chosen)
    calibrated = to_int8(checkpoint, pixels, per_layer=settings.recipe.int8 == "layer")
    calibrated.save(folder.calibrated)
    return calibrated


@contextmanager
def quiet_about_range() -> Iterator[None]:
    """In the block, images that keep few grey levels are not mentioned: they were counted before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NarrowRangeWarning)
        yield
