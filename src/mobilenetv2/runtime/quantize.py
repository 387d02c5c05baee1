"""Post-training quantisation: a float network becomes an int8 network by the ranges that its tensors
have on some images.

Weights are int8, symmetric, with one scale per output channel; activations uint8, with one scale per
tensor (Krishnamoorthi 2018, arXiv 1806.08342). What docs/notes/quantization.md measured decided the rest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_kind, check_list
from ..checkpoint import Checkpoint
from ..datasets import Sample
from ..errors import ImageError, UserError
from ..folding import fold
from ..graph import layers
from ..images import Preprocessing, decode
from ..int8 import Activation, AnyCheckpoint, Int8Checkpoint, stored_tensors
from ..int8_layers import Int8Layer
from .inputs import check_images
from .int8_scales import int8_obstacle
from .reference import Reference

FEW_IMAGES = 32  # fewer are warned of
# correlation of neighbouring pixels: 1000 photos had 0.65 at least, noise 0 to 0.4
NOISE = 0.5
BATCH = 4  # images at once
SAMPLES = 4096  # values per tensor and image that the range is chosen by
BINS = 4096
SHRINK = np.linspace(0.2, 1, 24)  # ranges that are tried, as shares of the observed one
RELU6 = Activation(6 / 255, 0)
BIAS_LIMIT = 1 << 30  # leaves the other half of an int32 to the products
SMALLEST_SCALE = 1e-12  # of channels whose weights are all 0


def quantize(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8] | Iterable[str | os.PathLike[str]],
    *,
    per_layer: bool = False,
) -> Int8Checkpoint:
    """The same network in int8, its activations' ranges observed on images. The same images give the
    same int8 network.

    Warns (`UserWarning`) of files that cannot be read, which are skipped, of fewer than 32
    images, of images that look like noise or are blank, and of weights that had been quantised
    before.

    Args:
        checkpoint: A classifier, or a network that ends in features.
        images: Files of the kind that the model will see, which `checkpoint.preprocessing`
            prepares; or pixels (N, H, W, C) uint8 that are prepared already. About 100 will do.
        per_layer: One scale for all weights of a layer, for hardware that has no others. It costs
            accuracy, which training with the rounding (`train --int8`) brings back.

    Raises:
        UserError: The model is quantised already or of another kind, no image can be read, or
            activations overflow.
    """
    check_quantizable(checkpoint)
    complaints: list[str] = []
    if isinstance(images, np.ndarray) and images.dtype.kind not in "UO":  # else names of files
        check_images(images, checkpoint.architecture.in_channels)
        if images.dtype != np.uint8:
            raise UserError(f"an array of images must be uint8 pixels, not {images.dtype}")
    else:
        images, complaints = read_images(checkpoint.preprocessing, images)
    for complaint in complaints + doubts(checkpoint, images):
        warnings.warn(complaint, stacklevel=2)
    return to_int8(checkpoint, images, per_layer=per_layer)


def check_quantizable(checkpoint: AnyCheckpoint) -> Checkpoint:
    """Refuses a checkpoint that is int8 already or has layers without int8 kernels.

    Returns:
        The same checkpoint.

    Raises:
        UserError: It is refused; the message says why.
    """
    check_kind("checkpoint", checkpoint, Checkpoint, Int8Checkpoint)
    if isinstance(checkpoint, Int8Checkpoint):
        raise UserError(
            "quantised already: use it as it is, or quantise the float model it is from"
        )
    obstacle = int8_obstacle(checkpoint.architecture, "nearest")
    if obstacle:
        raise UserError(f"the model cannot be quantised: {obstacle}")
    return checkpoint


def read_images(
    preprocessing: Preprocessing,
    files: Iterable[str | os.PathLike[str] | Sample],
    advance: Callable[[], object] = lambda: None,
    purpose: str = "calibrate",
) -> tuple[NDArray[np.uint8], list[str]]:
    """The pixels (N, H, W, C) of all files that can be read, and what is wrong with the others.

    Args:
        preprocessing: How they are prepared.
        files: Their names, or samples.
        advance: Called after each.
        purpose: What they are for, for messages.

    Raises:
        UserError: None can be read.
    """
    check_list("images", files)
    pixels, complaints = [], []
    for file in files:
        try:
            image = file.decode() if isinstance(file, Sample) else decode(file)
            pixels.append(preprocessing(image))
        except ImageError as error:
            complaints.append(f"{error} (skipped)")
        advance()
    if not pixels:
        reasons = "; ".join(complaints[:3]) or "there are none"
        raise UserError(f"no images to {purpose} with: {reasons}")
    return np.stack(pixels), complaints


def doubts(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> list[str]:
    """Reasons why a network calibrated on these pixels may not be a good one."""
    reasons = []
    if len(pixels) < FEW_IMAGES:
        reasons.append(
            f"{len(pixels)} image{'s' if len(pixels) > 1 else ''} to calibrate with: "
            f"take {FEW_IMAGES} or more, of all kinds that the model will see"
        )
    correlation = _correlation(pixels)
    if correlation is None:
        reasons.append("the images are blank: calibrate with images that the model will see")
    elif correlation < NOISE:
        reasons.append(
            f"the images look like noise (neighbouring pixels correlate by {correlation:.2f}, those of "
            "photographs by 0.9): calibrate with images that the model will see"
        )
    source = str(checkpoint.provenance.get("source", ""))
    if "int8" in source:
        reasons.append(
            f"the weights were quantised before ({source}) and are now rounded again: "
            "quantise the float weights they were made of if you have them"
        )
    return reasons


def _correlation(pixels: NDArray[np.uint8]) -> float | None:
    """Of neighbouring pixels in a channel, over all images; None where nothing varies."""
    together = apart = 0.0
    for image in pixels:
        varying = image - image.mean(axis=(0, 1))
        for a, b in ((varying[1:], varying[:-1]), (varying[:, 1:], varying[:, :-1])):
            together += float((a * b).sum())
            apart += float(np.sqrt((a * a).sum() * (b * b).sum()))
    return together / apart if apart else None


def to_int8(
    checkpoint: Checkpoint,
    pixels: NDArray[np.uint8],
    advance: Callable[[], object] = lambda: None,
    *,
    per_layer: bool = False,
) -> Int8Checkpoint:
    """Quantises by images that are pixels already.

    Args:
        checkpoint: The float model.
        pixels: (N, H, W, C) uint8.
        advance: Called after each image, to show progress.
        per_layer: As for `quantize`.
    """
    activations, means = _observe(checkpoint, pixels, advance)
    image_scale, image_zeros, gains, offsets = image_scales(checkpoint.preprocessing)
    means["image"] = image_scale * (pixels.mean(axis=(0, 1, 2)) - image_zeros)
    int8_layers = {}
    for layer in layers(checkpoint.architecture):
        if layer.weight is None:
            continue
        weight, bias = fold(checkpoint, layer)
        (source,) = layer.sources
        if source == "image":
            bias = bias + np.einsum("oihw,i->o", weight, offsets)
            weight = weight * gains[:, None, None]
        step = image_scale if source == "image" else activations[source].scale
        mean = means[source].reshape(layer.groups, -1)
        int8_layers[layer.name] = quantized_layer(weight, bias, step, mean, per_layer)
    stored = stored_tensors(checkpoint.architecture, "nearest")
    return Int8Checkpoint(
        architecture=checkpoint.architecture,
        layers=int8_layers,
        image_scale=image_scale,
        image_zero_points=image_zeros,
        activations={name: activations[name] for name in stored},
        unstored={name: of for name, of in activations.items() if name not in stored},
        labels=checkpoint.labels,
        preprocessing=checkpoint.preprocessing,
        provenance={**checkpoint.provenance, "calibration_images": len(pixels)},
    )


def quantized_layer(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    step: float,
    mean: NDArray[np.float64],
    per_layer: bool = False,
) -> Int8Layer:
    """A layer in int8.

    A channel's scale is the least that keeps its weights within -127..127 and its bias within
    2**30. What rounding the weights adds to the output on average is taken off the bias (Nagel et
    al. 2019, arXiv 1906.04721, Section 4.2, with observed means, at borders as elsewhere).

    Args:
        weight: As a checkpoint's kernel.
        bias: (out,).
        step: Scale of the input.
        mean: Of the input's channels, (groups, in / groups).
        per_layer: All channels get the greatest of their scales.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    floor = np.maximum(np.abs(bias) / (step * BIAS_LIMIT), SMALLEST_SCALE)
    scale = np.maximum(largest / 127, floor).astype(np.float32)
    if per_layer:
        scale[:] = scale.max()
    exact = scale.astype(np.float64)
    by_channel = exact.reshape(-1, *[1] * (weight.ndim - 1))
    rounded = np.clip(np.rint(weight / by_channel), -127, 127)
    added = (rounded * by_channel - weight).reshape(*weight.shape[:2], -1).sum(axis=2) * mean
    bias = bias - added.sum(axis=1)
    return Int8Layer(
        rounded.astype(np.int8), scale, np.rint(bias / (step * exact)).astype(np.int32)
    )


def image_scales(
    preprocessing: Preprocessing,
) -> tuple[float, tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Scale and zero points of the image; and per channel, what its weights are multiplied by and
    what a weight adds to the bias.

    normalised = scale * pixel + shift = gain * image_scale * (pixel - zero) + offset. The offset is
    less than half a grey level, unless no pixel stands for 0. It is added at the border too, where
    it should not be.
    """
    scale, offset = preprocessing.scale_offset()
    zeros = np.clip(np.rint(-offset / scale), 0, 255)
    image_scale = float(scale.mean())
    return image_scale, tuple(map(int, zeros)), scale / image_scale, offset + scale * zeros


def _observe(
    checkpoint: Checkpoint, pixels: NDArray[np.uint8], advance: Callable[[], object]
) -> tuple[dict[str, Activation], dict[str, NDArray[np.float64]]]:
    """How each tensor is stored by a runtime that stores all, outputs of ReLU6 as 0..6 and the
    others by their values on the images; and the mean of each channel of those that are not resized.
    """
    kinds = {layer.name: layer.activation for layer in layers(checkpoint.architecture)}
    resized = {
        layer.name: layer.sources[0]
        for layer in layers(checkpoint.architecture)
        if layer.kind == "resize"
    }
    stored = stored_tensors(checkpoint.architecture, "nearest")
    every = stored_tensors(checkpoint.architecture, "twice")
    names = [name for name in every if name not in resized]
    reference = Reference(checkpoint)
    # two: tensors that our runtime does not store have no influence on those that it stores
    generators = {True: np.random.default_rng(0), False: np.random.default_rng(1)}
    samples: dict[str, list[NDArray[Any]]] = {name: [] for name in names if kinds[name] != "relu6"}
    means = {name: np.zeros(1) for name in names}
    for begin in range(0, len(pixels), BATCH):
        batch = pixels[begin : begin + BATCH]
        for name, values in reference.run(batch, names).items():
            mean = values.mean(axis=(1, 2), dtype=np.float64).sum(axis=0) / len(pixels)
            if not np.isfinite(mean).all():
                raise UserError(f"the output of {name} overflows on the calibration images")
            means[name] = means[name] + mean
            if name in samples:
                rng = generators[name in stored]
                places = rng.integers(0, values.size, len(batch) * SAMPLES)
                samples[name] += [values.ravel()[places], np.array([values.min(), values.max()])]
        for _ in batch:
            advance()
    activations = {
        name: best_activation(np.concatenate(samples[name])) if name in samples else RELU6
        for name in names
    }
    for name, source in resized.items():
        activations[name] = activations[source]
    return activations, means


def best_activation(values: NDArray[np.floating[Any]]) -> Activation:
    """The range within that of the values, and with 0 in it, that stores them with the least
    squared error: what lies outside is clipped, what lies inside is rounded.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low == high:
        return Activation(1 / 255, 0)  # nothing but zeros; any scale will do
    counts, edges = np.histogram(values.astype(np.float64), BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    candidates = [
        _activation(lower, upper)
        for lower in np.unique(low * SHRINK)
        for upper in np.unique(high * SHRINK)
    ]
    return min(
        candidates, key=lambda stored: float(counts @ (_stored(centres, stored) - centres) ** 2)
    )


def _activation(low: float, high: float) -> Activation:
    scale = (high - low) / 255
    return Activation(float(scale), int(np.rint(-low / scale)))


def _stored(values: NDArray[np.float64], stored: Activation) -> NDArray[np.float64]:
    """The values after they were stored."""
    steps = np.clip(np.rint(values / stored.scale), -stored.zero_point, 255 - stored.zero_point)
    return steps * stored.scale
