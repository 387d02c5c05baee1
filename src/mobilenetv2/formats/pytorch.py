"""Reads state dicts of torchvision, timm and Hugging Face (and older d-li14 / tonylins ones), `.pth` or `.safetensors`.

Names are turned into torchvision's, one rule a source; the arrays then tell width, depth and classes. Padding, epsilon
and preprocessing come with the source: torchvision and timm pad symmetrically with epsilon 1e-5, Hugging Face's models
are TF-slim's (SAME padding, epsilon 1e-3) unless the config.json beside the file says otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint, read_safetensors
from ..errors import MissingExtraError, ModelFileError, UserError
from ..images import Preprocessing
from .assemble import IMAGENET_MEAN, IMAGENET_STD, Rules, assemble

Arrays = Mapping[str, NDArray[Any]]
Rename = Callable[[str], "str | None"]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
TORCHVISION = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
TIMM = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic")


def read_pth(path: Path) -> Checkpoint:
    """A checkpoint of a `.pth` file, unpickled with `weights_only=True`: nothing in it can run.

    Raises:
        ModelFileError: Damaged, holding more than arrays, or not a MobileNetV2.
        MissingExtraError: PyTorch, which alone reads these files, is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("reading .pth needs PyTorch: pip install 'mobilenetv2[train]'") from None
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "unpickling failed"
        raise ModelFileError(
            f"{path}: refused: damaged, or it holds more than arrays, and unpickling that can run code ({reason}). "
            "If you trust it, save its state_dict alone and convert that"
        ) from None
    except Exception as error:  # a damaged archive makes torch raise nearly anything
        raise ModelFileError(f"{path}: not a readable .pth file: {error or type(error).__name__}") from None
    while isinstance(content, Mapping) and (wrapper := next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelFileError(f"{path}: holds a {type(content).__name__}, not a state dict")
    strange = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ModelFileError(_quantised(path, content) or f"{path}: not a state dict: {strange[0]!r} is not an array")
    arrays = {}
    for name, tensor in content.items():
        if tensor.is_quantized or tensor.is_sparse:
            raise ModelFileError(_quantised(path, content) or f"{path}: {name} is not a dense float array")
        arrays[str(name)] = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    return read_state_dict(path, arrays)


def read_foreign_safetensors(path: Path) -> Checkpoint:
    """A checkpoint of another library's `.safetensors` file."""
    return read_state_dict(path, read_safetensors(path)[1])


def read_state_dict(path: Path, arrays: Arrays) -> Checkpoint:
    """A checkpoint of named arrays in any of the layouts this module knows.

    Raises:
        ModelFileError: None of them, or arrays are missing, extra or misshapen.
    """
    for name in arrays:
        if name.endswith(("_packed_params._packed_params", ".scale", ".zero_point")):
            raise ModelFileError(_quantised(path, arrays))
    arrays = _without_prefix(arrays)
    renaming = _renaming(arrays)
    if renaming is None:
        first = ", ".join(sorted(arrays)[:3])
        raise ModelFileError(f"{path}: not a MobileNetV2 of torchvision, timm or Hugging Face; its arrays are {first}, ...")
    rename, rules = renaming
    renamed: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if name.endswith("num_batches_tracked"):
            continue
        new = rename(name) or name
        if new in renamed:
            raise ModelFileError(f"{path}: two arrays would be {new}")
        renamed[new] = array.astype(np.float32) if array.dtype.kind == "f" else array
    if rules.source.startswith("Hugging Face"):
        rules = _with_config(path, rules)
    return assemble(path, renamed, rules)


def _quantised(path: Path, content: Mapping[Any, Any]) -> str:
    """The refusal of torchvision's quantised weights, or "" where the content is something else."""
    if not any(str(name).endswith(("_packed_params", ".scale", ".zero_point")) for name in content):
        return ""
    return f"{path}: quantised PyTorch weights are not read: take the float weights and quantise those"


def _without_prefix(arrays: Arrays) -> Arrays:
    """Takes off what DataParallel, torch.compile and Lightning put before every name."""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in arrays)), None):
        arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays


def _renaming(arrays: Arrays) -> tuple[Rename, Rules] | None:
    if "conv_stem.weight" in arrays:
        return _from_timm(arrays), Rules("timm", "symmetric", 1e-5, TIMM)
    if any("conv_stem.first_conv." in name for name in arrays):
        return _from_hugging_face(arrays), Rules("Hugging Face", "same", 1e-3)
    if "features.0.0.weight" in arrays and "features.1.conv.0.weight" in arrays:
        return _from_flat(arrays), Rules("PyTorch (flat blocks)", "symmetric", 1e-5, TORCHVISION)
    if "features.0.0.weight" in arrays:
        return _classifier_moved, Rules("torchvision", "symmetric", 1e-5, TORCHVISION)
    return None


def _from_timm(arrays: Arrays) -> Rename:
    """blocks.STAGE.INDEX.{conv_pw, bn1, ...}; the first block's conv_pw is its projection."""
    places = {m.group(1): None for name in arrays if (m := re.match(r"blocks\.(\d+\.\d+)\.", name))}
    ordered = sorted(places, key=lambda place: tuple(map(int, place.split("."))))
    index = {place: i + 1 for i, place in enumerate(ordered)}
    first = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    others = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
    last = f"features.{len(index) + 1}"
    top = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1"}
    top["classifier"] = "classifier.1"

    def rename(name: str) -> str | None:
        if match := re.fullmatch(r"blocks\.(\d+\.\d+)\.(\w+)\.(\w+)", name):
            place, part, array = match.groups()
            inner = (first if place == "0.0" else others).get(part)
            return inner and f"features.{index[place]}.conv.{inner}.{array}"
        part, _, array = name.partition(".")
        return f"{top[part]}.{array}" if part in top else None

    return rename


def _from_hugging_face(arrays: Arrays) -> Rename:
    """mobilenet_v2.{conv_stem, layer.I, conv_1x1}.PART.{convolution, normalization}; stem and first block are one."""
    depth = sum(name.endswith("expand_1x1.convolution.weight") for name in arrays) + 1
    stem = {"first_conv": ("features.0.0", "features.0.1")}
    stem |= {"conv_3x3": ("features.1.conv.0.0", "features.1.conv.0.1"), "reduce_1x1": ("features.1.conv.1", "features.1.conv.2")}
    block = {"expand_1x1": ("0.0", "0.1"), "conv_3x3": ("1.0", "1.1"), "reduce_1x1": ("2", "3")}
    last = (f"features.{depth + 1}.0", f"features.{depth + 1}.1")

    def rename(name: str) -> str | None:
        name = name.removeprefix("mobilenet_v2.")
        if name.startswith("classifier."):
            return _classifier_moved(name)
        match = re.fullmatch(r"(?:(conv_stem|layer\.(\d+))\.(\w+)|conv_1x1)\.(convolution|normalization)\.(\w+)", name)
        if not match:
            return None
        place, number, part, kind, array = match.groups()
        which = kind == "normalization"
        if place is None:
            return f"{last[which]}.{array}"
        if part not in (stem if place == "conv_stem" else block):
            return None
        if place == "conv_stem":
            return f"{stem[part][which]}.{array}"
        return f"features.{int(number) + 2}.conv.{block[part][which]}.{array}"

    return rename


def _from_flat(arrays: Arrays) -> Rename:
    """d-li14 and tonylins: a block is one flat Sequential with activations counted; the last convolution may be `conv`."""
    depth = max(int(name.split(".")[1]) for name in arrays if re.match(r"features\.\d+\.conv\.", name))
    short = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    long = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}

    def rename(name: str) -> str | None:
        if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(\w+)", name):
            number, place, array = match.groups()
            inner = (long if f"features.{number}.conv.6.weight" in arrays else short).get(place)
            return inner and f"features.{number}.conv.{inner}.{array}"
        if match := re.fullmatch(r"conv\.(0|1)\.(\w+)", name):
            return f"features.{depth + 1}.{match.group(1)}.{match.group(2)}"
        return _classifier_moved(name)

    return rename


def _classifier_moved(name: str) -> str:
    """`classifier.weight` of models whose head is one layer, not a Sequential with dropout first."""
    return re.sub(r"^classifier\.(weight|bias)$", r"classifier.1.\1", name)


def _with_config(path: Path, rules: Rules) -> Rules:
    """Padding, epsilon, size and labels from the config.json that Hugging Face puts beside the arrays."""
    file = path.with_name("config.json")
    if not file.is_file():
        return rules
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        side = int(config.get("image_size", 224))
        labels = {int(index): str(label) for index, label in config.get("id2label", {}).items()}
        named = [labels[index] for index in range(len(labels))]
        return Rules(
            rules.source,
            "same" if config.get("tf_padding", True) else "symmetric",
            float(config.get("layer_norm_eps", rules.bn_epsilon)),
            Preprocessing(size=(side, side), crop_fraction=side / (side + 32)),
            () if all(label.startswith("LABEL_") for label in named) else tuple(named),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UserError) as error:
        raise ModelFileError(f"{file}: not a Hugging Face config: {error or type(error).__name__}") from None
