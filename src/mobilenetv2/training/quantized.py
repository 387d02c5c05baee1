"""Where training with the rounding of int8 begins: the trained network, quantised."""

from __future__ import annotations

import logging

from ..checkpoint import Checkpoint
from ..errors import UserError, shortened
from ..int8 import Int8Checkpoint
from ..runtime.quantize import check_quantizable, read_images, to_int8
from .run_folder import Settings
from .splits import Split

LOG = logging.getLogger(__name__)
CALIBRATION_IMAGES = 100


def quantized_start(checkpoint: Checkpoint, settings: Settings, split: Split) -> Int8Checkpoint:
    """The network in int8, quantised by images of the training data, evenly spaced among them; if
    these are in shards, by images of the validation data.

    Raises:
        UserError: The network is not trained yet or cannot be quantised.
    """
    if settings.new:
        raise UserError(
            f"int8 goes on from a trained model, but {shortened(settings.new, 2)} would be new: train "
            "in float32 first, and give its model.safetensors as the weights (--weights)"
        )
    check_quantizable(checkpoint)
    samples = split.train.samples or split.val.samples
    count = min(len(samples), CALIBRATION_IMAGES)
    LOG.info("quantising by %d images", count)
    chosen = [samples[i * len(samples) // count] for i in range(count)]
    pixels, _ = read_images(settings.preprocessing, chosen)
    return to_int8(checkpoint, pixels, per_layer=settings.recipe.int8 == "layer")
