"""Hugging Face's config.json and preprocessor_config.json beside the arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, UserError
from ..files import read_text
from ..images import Preprocessing
from .assemble import Rules, assumed

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
OTHER_TASKS = ("regression", "multi_label_classification")


def with_config(path: Path, rules: Rules) -> Rules:
    """The rules in the two files.

    The former has padding, epsilon, size, output stride and labels, the latter how images are
    prepared.

    Raises:
        ModelFileError: A file is damaged, or says what is not what runs here; the message names it.
    """
    config = _json_beside(path, "config.json")
    images = _json_beside(path, "preprocessor_config.json")
    try:
        labels = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
        named = [labels[index] for index in range(len(labels))]
        size = _pair(config.get("image_size", 224))
        configured = replace(
            rules,
            padding="same" if config.get("tf_padding", True) else "symmetric",
            bn_epsilon=float(config.get("layer_norm_eps", rules.bn_epsilon)),
            preprocessing=_preprocessing(images, size),
            labels=() if all(label.startswith("LABEL_") for label in named) else tuple(named),
            output_stride=config.get("output_stride", 32),
        )
        if not images and rules.head is not None:  # a segmenter: as TF's own
            configured = replace(configured, preprocessing=Preprocessing(size=size, resize="fit"))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelFileError(
            f"{path.with_name('config.json')}: with preprocessor_config.json, not a Hugging Face "
            f"config: {error or type(error).__name__}"
        ) from None
    if config.get("hidden_act", "relu6") != "relu6":
        raise ModelFileError(
            f"{path.with_name('config.json')}: hidden_act is {config['hidden_act']!r:.80}; only models "
            "with 'relu6' are read"
        )
    if config.get("problem_type") in OTHER_TASKS:
        raise ModelFileError(
            f"{path.with_name('config.json')}: problem_type is {config['problem_type']!r}; only "
            "models whose classes exclude each other are read"
        )
    notes: tuple[str, ...] = () if images else (assumed(configured),)
    if not config and rules.head is not None:
        stride = configured.output_stride
        notes += (f"there is no config.json; the output stride is assumed to be {stride}",)
    return replace(configured, notes=notes)


def _pair(size: Any) -> tuple[int, int]:
    """A size as the files write it: a number, two, or a dictionary."""
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _preprocessing(images: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    """What preprocessor_config.json says.

    Args:
        images: Its content.
        size: In config.json.

    Raises:
        UserError: It prepares images in another way than `Preprocessing` can.
    """
    for step in ("do_resize", "do_center_crop"):
        stretched = isinstance(images.get("size"), Mapping) and "height" in images["size"]
        if images.get(step, True) is not True and not (stretched and step == "do_center_crop"):
            raise UserError(f"{step} is {images[step]!r:.20}: such images are not made here")
    mean = images.get("image_mean", (0.5,) * 3) if images.get("do_normalize", True) else (0.0,) * 3
    std = images.get("image_std", (0.5,) * 3) if images.get("do_normalize", True) else (1.0,) * 3
    factor = images.get("rescale_factor", 1 / 255) if images.get("do_rescale", True) else 1.0
    to_unit = 1.0 if factor == 1 / 255 else 255 * factor
    resample = images.get("resample", 2)
    if resample not in RESAMPLE:
        raise UserError(f"resample is {resample!r:.20}, not one of {', '.join(map(str, RESAMPLE))}")
    crop = _pair(images.get("crop_size", size))
    before = images.get("size", {"shortest_edge": min(crop) + 32})
    values: dict[str, Any] = {
        "interpolation": RESAMPLE[resample],
        "mean": tuple(float(value) / to_unit for value in mean),
        "std": tuple(float(value) / to_unit for value in std),
    }
    if isinstance(before, Mapping) and "shortest_edge" not in before:
        if images.get("do_center_crop", True) and "crop_size" in images and _pair(before) != crop:
            raise UserError("images are stretched and then cropped: such images are not made here")
        return Preprocessing(size=_pair(before), resize="stretch", **values)
    side = before["shortest_edge"] if isinstance(before, Mapping) else before
    return Preprocessing(size=crop, crop_fraction=min(crop) / side, **values)


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file beside `path`; {} if there is no such file."""
    file = path.with_name(name)
    if not file.exists():
        return {}
    try:
        value = json.loads(read_text(file))
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{file}: not a Hugging Face config: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{file}: not a Hugging Face config: not an object")
    return value
