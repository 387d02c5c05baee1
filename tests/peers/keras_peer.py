"""Keras: `keras.applications.MobileNetV2` in each of the ways Keras saves it, now and in its past."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparing import (
    ODD,
    SQUARE,
    WIDTHS,
    Array,
    Case,
    Row,
    compare,
    compare_or_refuse,
    controls,
    fact,
)

from mobilenetv2.formats import read
from mobilenetv2.writers import WriteOptions
from mobilenetv2.writers import keras as writer

os.environ["KERAS_BACKEND"] = "torch"


def randomised(model: Any, seed: int) -> Any:
    """Fills a model with seeded weights that keep the signal's scale, and batch norms that are not
    the identity.
    """
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.weights]
        if hasattr(layer, "layers"):
            randomised(layer, seed + 1000)
        elif len(shapes) == 4:  # gamma, beta, moving mean, moving variance
            gamma, variance = rng.uniform(0.5, 1.5, shapes[0]), rng.uniform(0.5, 2, shapes[0])
            layer.set_weights(
                [gamma, rng.normal(0, 0.2, shapes[0]), rng.normal(0, 0.2, shapes[0]), variance]
            )
        else:
            layer.set_weights([rng.normal(0, deviation(layer, shape), shape) for shape in shapes])
    return model


def deviation(layer: Any, shape: tuple[int, ...]) -> float:
    """Deviation of a kernel or bias."""
    if len(shape) == 1:
        return 0.2
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    return float((2 / np.prod(shape[:2] if depthwise else shape[:-1])) ** 0.5)


def runner(model: Any) -> Callable[[Array], Array]:
    """The model in inference mode, as a function."""
    return lambda x: model(x, training=False).detach().cpu().numpy()


def save_three(model: Any, folder: Path, name: str) -> dict[str, Path]:
    """The model as `.keras`, as legacy `.h5`, and its weights as `.weights.h5`."""
    paths = {kind: folder / f"{name}{kind}" for kind in (".keras", ".h5", ".weights.h5")}
    model.save(paths[".keras"])
    model.save(paths[".h5"])
    model.save_weights(paths[".weights.h5"])
    return paths


def check_keras(folder: Path) -> Iterator[Row]:
    """Every width at one of the sizes (Keras fixes the padding when it builds), heads, and older
    files.
    """
    import absl.logging
    import keras

    absl.logging.set_verbosity("error")  # each legacy save is a warning
    for seed, alpha in enumerate(WIDTHS):
        size = (SQUARE, ODD)[seed % 2]
        model = randomised(
            build(alpha=alpha, input_shape=(*size, 3), classifier_activation=None), seed
        )
        case = Case("keras", f"MobileNetV2 {alpha}", runner(model))
        paths = save_three(model, folder, f"keras_{alpha}")
        for format_, path in paths.items():
            yield from compare(case, path, format_, (size,))
        for ending in (".h5", ".weights.h5"):
            yield keras_loads_what_we_write(case, paths[".keras"], ending, alpha, size)
        for format_ in (".keras", ".h5"):
            yield fact(case, paths[format_], format_, "size", lambda c: c.preprocessing.size, size)
    yield from controls(case, paths[".weights.h5"], ".weights.h5")
    yield from without_top(folder)
    yield from another_head(folder, keras)
    yield from trained(folder, keras)
    yield from old_files(folder)


def keras_loads_what_we_write(
    case: Case, path: Path, ending: str, alpha: float, size: tuple[int, int]
) -> Row:
    """The file that `writers.keras` writes, as the weights of `keras.applications.MobileNetV2`."""
    what, written = "Keras loads it", path.with_name(f"written{ending}")
    options = {"alpha": alpha, "input_shape": (*size, 3), "classifier_activation": None}
    try:
        writer.write(read(path, int8=False), written, WriteOptions())
        model = build(weights=str(written), **options)
    except Exception as error:
        return case.broken(f"our {ending}", what, error)
    return case.same(f"our {ending}", what, runner(model), size)


def build(**options: Any) -> Any:
    """`keras.applications.MobileNetV2` without a download."""
    import keras

    return keras.applications.MobileNetV2(**{"weights": None} | options)


def without_top(folder: Path) -> Iterator[Row]:
    """include_top=False: the output is the last map."""
    model = randomised(build(alpha=0.5, include_top=False, input_shape=(*ODD, 3)), 90)
    for format_, path in save_three(model, folder, "bare").items():
        yield from compare(
            Case("keras", "MobileNetV2 0.5, no top", runner(model)), path, format_, (ODD,)
        )


def another_head(folder: Path, keras: Any) -> Iterator[Row]:
    """The usual transfer learning: the network as a layer, pooled, and a Dense layer after it."""
    pooled = build(alpha=0.35, include_top=False, pooling="avg", input_shape=(*SQUARE, 3))
    model = randomised(keras.Sequential([pooled, keras.layers.Dense(5)]), 91)
    for format_, path in save_three(model, folder, "nested").items():
        yield from compare_or_refuse(
            Case("keras", "Sequential([..., Dense(5)])", runner(model)), path, format_
        )


def trained(folder: Path, keras: Any) -> Iterator[Row]:
    """A compiled and trained model, whose files hold the optimiser's state as well."""
    model = build(alpha=0.35, classes=4, input_shape=(*SQUARE, 3), classifier_activation=None)
    model = randomised(model, 92)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    case = Case("keras", "one step of Adam, 4 classes", runner(model))
    with torch.enable_grad():
        model.train_on_batch(np.concatenate([case.images(SQUARE)] * 2), np.array([0, 3]))
    for format_, path in save_three(model, folder, "trained").items():
        yield from compare(case, path, format_, (SQUARE,))


# Weights-only files of Keras 2: the names differ by version, and Keras never reads them (it goes by
# order)

LAYER = re.compile(r"(?:expanded_conv|block_(\d+))_(expand|depthwise|project)(_BN)?")


def published_name(layer: str) -> str:
    """`block_3_expand_BN` -> `bn3_conv_3_bn_expand`: the names inside the files that Keras
    publishes.
    """
    if layer == "predictions":
        return "Logits"
    if not (match := LAYER.fullmatch(layer)):
        return layer
    number, part = match.group(1) or "0", match.group(2)
    return (
        f"bn{number}_conv_{number}_bn_{part}"
        if match.group(3)
        else f"mobl{number}_conv_{number}_{part}"
    )


def short_name(layer: str) -> str:
    """`block_3_expand_BN` -> `bn3_conv_bn_expand`: what Keras wrote in 2018, for a few versions."""
    if not (match := LAYER.fullmatch(layer)):
        return published_name(layer)
    number, part = match.group(1) or "0", match.group(2)
    if not match.group(3):
        return f"mobl{number}_conv_{part}"
    plain = part == "depthwise" or number == "0"
    return f"bn{number}_conv_{part}" if plain else f"bn{number}_conv_bn_{part}"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "today's names": lambda layer: layer,
    "published names": published_name,
    "names of 2018": short_name,
}


def old_files(folder: Path) -> Iterator[Row]:
    """Weights-only `.h5` in each spelling; Keras itself must load them as well, else they prove
    nothing.
    """
    size = (160, 160)
    options = {"alpha": 0.35, "classifier_activation": None, "input_shape": (*size, 3)}
    model = randomised(build(**options), 93)
    for spelling, rename in SPELLINGS.items():
        path = folder / spelling / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_160.h5"
        path.parent.mkdir()
        write_keras2(path, model, rename)
        case = Case("keras", f"0.35, {spelling}", runner(model))
        yield case.same(
            "Keras 2 .h5", "Keras loads it", runner(build(**options, weights=str(path))), size
        )
        yield from compare(case, path, "Keras 2 .h5", (size,))
        yield fact(case, path, "Keras 2 .h5", "size", lambda c: c.preprocessing.size, size)


def write_keras2(path: Path, model: Any, rename: Callable[[str], str]) -> None:
    """Writes the weights-only layout of Keras 2 (`layer_names`, `weight_names`,
    `LAYER/LAYER/ARRAY:0`).
    """
    import h5py

    names = [rename(layer.name) for layer in model.layers]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in names])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.6"
        for name, layer in zip(names, model.layers):
            group = file.create_group(name)
            kernel = "depthwise_kernel" if type(layer).__name__ == "DepthwiseConv2D" else "kernel"
            weights = [
                f"{name}/{kernel if weight.name == 'kernel' else weight.name}:0"
                for weight in layer.weights
            ]
            group.attrs["weight_names"] = np.array([weight.encode() for weight in weights])
            for weight, value in zip(weights, layer.get_weights()):
                group.create_dataset(weight, data=value)
