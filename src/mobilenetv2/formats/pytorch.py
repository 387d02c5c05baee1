"""Reads state dicts of torchvision, timm, Hugging Face, d-li14 and tonylins: `.pth`, `.safetensors`.

Each source has a rule that turns its names into torchvision's; the arrays then show width, depth
and classes. Padding, epsilon and preprocessing depend on the source: torchvision and timm pad
symmetrically with epsilon 1e-5, Hugging Face's models are TF-slim's (SAME padding, epsilon 1e-3)
unless the config.json beside the file says otherwise.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..errors import MissingExtraError, ModelFileError, UserError, install_hint
from ..files import read_safetensors
from ..images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .assemble import IN_BLOCK, Rules, assemble

Arrays = Mapping[str, NDArray[Any]]
Rename = Callable[[str], "str | None"]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
TORCHVISION = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
TIMM = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic")


def read_pth(path: Path) -> Checkpoint:
    """The checkpoint in a `.pth` file, unpickled with `weights_only=True`: nothing in it can run.

    Raises:
        ModelFileError: Damaged, not a MobileNetV2, or with more in it than arrays.
        MissingExtraError: PyTorch is not installed; nothing else reads these files.
    """
    content = _unpickled(path)
    for _ in WRAPPERS:  # a limit, since a dictionary may contain itself
        inner = [
            content[name]
            for name in WRAPPERS
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)
        ]
        content = inner[0] if inner else content
    if not isinstance(content, Mapping) or not content:
        raise ModelFileError(f"{path}: holds a {type(content).__name__}, not a state dict")
    _refuse_quantised(path, map(str, content))
    return read_state_dict(
        path, {str(name): _array(path, name, value) for name, value in content.items()}
    )


def _unpickled(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError(f"reading .pth needs PyTorch; {install_hint('train')}") from None
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles and kinds of storage
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds {forbidden.group(1)} beside arrays"
            if forbidden
            else "it is damaged, or holds more than arrays"
        )
        raise ModelFileError(
            f"{path}: refused: {reason}, and unpickling that can run code. "
            "If you trust it, save its state_dict alone and convert that"
        ) from None
    except Exception as error:  # a damaged archive makes torch raise nearly anything
        # After its first sentence torch advises to unpickle without safety.
        reason, *_ = re.split(r"\.\s|\n", str(error))
        raise ModelFileError(
            f"{path}: not a readable .pth file: {reason or type(error).__name__}"
        ) from None


def _array(path: Path, name: object, value: Any) -> NDArray[Any]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelFileError(f"{path}: not a state dict: {name!r} is not an array")
    try:
        array: NDArray[Any] = (
            (value.float() if value.is_floating_point() else value).detach().numpy()
        )
    except Exception:  # sparse, quantised, or without values
        raise ModelFileError(f"{path}: {name} is not a dense array") from None
    return array


def read_foreign_safetensors(path: Path) -> Checkpoint:
    """The checkpoint in another library's `.safetensors` file.

    Raises:
        ModelFileError: As for `read_state_dict`.
    """
    arrays = read_safetensors(path)[1]
    _refuse_quantised(path, arrays)
    return read_state_dict(path, arrays)


def read_state_dict(path: Path, arrays: Arrays) -> Checkpoint:
    """The checkpoint of arrays that have the names of any source that this module knows.

    Args:
        path: Their file, for messages; Hugging Face's config.json is read beside it.
        arrays: By name.

    Raises:
        ModelFileError: No known source, or arrays are missing, extra or of a wrong shape.
    """
    arrays = _without_prefix(arrays)
    renaming = _renaming(arrays)
    if renaming is None:
        first = ", ".join(sorted(arrays)[:3]) or "none"
        raise ModelFileError(
            f"{path}: not a MobileNetV2 of torchvision, timm or Hugging Face; its first arrays: {first}"
        )
    rename, rules = renaming
    renamed: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        norm = name.removesuffix("num_batches_tracked")
        if norm != name and f"{norm}running_var" in arrays:
            continue
        new = rename(name) or name
        if new in renamed:
            raise ModelFileError(f"{path}: two arrays would be {new}")
        renamed[new] = array
    if rules.source.startswith("Hugging Face"):
        rules = _with_config(path, rules)
    return assemble(path, renamed, rules)


def _refuse_quantised(path: Path, names: Iterable[str]) -> None:
    """Refuses torchvision's quantised weights, whose layers are grouped in another way."""
    if any(name.endswith(("_packed_params", ".scale", ".zero_point")) for name in names):
        raise ModelFileError(
            f"{path}: quantised PyTorch weights are not read: take the float weights and quantise those"
        )


def _without_prefix(arrays: Arrays) -> Arrays:
    """Removes what DataParallel, torch.compile and Lightning put in front of every name."""
    while arrays and (
        prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in arrays)), None)
    ):
        arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays


def _renaming(arrays: Arrays) -> tuple[Rename, Rules] | None:
    if any(name.startswith("blocks.0.0.") for name in arrays):
        return _from_timm(arrays), Rules("timm", "symmetric", 1e-5, TIMM)
    if any("conv_stem.first_conv." in name for name in arrays):
        return _from_hugging_face(arrays), Rules("Hugging Face", "same", 1e-3)
    if any(re.match(r"features\.\d+\.conv\.\d\.\d\.", name) for name in arrays):
        return _classifier_moved, Rules("torchvision", "symmetric", 1e-5, TORCHVISION)
    if any(IN_BLOCK.match(name) for name in arrays):
        return _from_flat(arrays), Rules("PyTorch (flat blocks)", "symmetric", 1e-5, TORCHVISION)
    return None


def _from_timm(arrays: Arrays) -> Rename:
    """blocks.STAGE.INDEX.{conv_pw, bn1, ...}; the first block's conv_pw is its projection."""
    places = {
        m.group(1): None
        for name in arrays
        if (m := re.match(r"blocks\.(\d{1,3}\.\d{1,3})\.", name))
    }
    ordered = sorted(places, key=lambda place: tuple(map(int, place.split("."))))
    index = {place: i + 1 for i, place in enumerate(ordered)}
    first = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    others = {
        "conv_pw": "0.0",
        "bn1": "0.1",
        "conv_dw": "1.0",
        "bn2": "1.1",
        "conv_pwl": "2",
        "bn3": "3",
    }
    last = f"features.{len(index) + 1}"
    top = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": f"{last}.0",
        "bn2": f"{last}.1",
    }
    top["classifier"] = "classifier.1"

    def rename(name: str) -> str | None:
        if match := re.fullmatch(r"blocks\.(\d{1,3}\.\d{1,3})\.(\w+)\.(\w+)", name):
            place, part, array = match.groups()
            inner = (first if place == "0.0" else others).get(part)
            return inner and f"features.{index[place]}.conv.{inner}.{array}"
        part, _, array = name.rpartition(".")
        return f"{top[part]}.{array}" if part in top else None

    return rename


def _from_hugging_face(arrays: Arrays) -> Rename:
    """mobilenet_v2.{conv_stem, layer.I, conv_1x1}.PART.{convolution, normalization}; stem and first
    block are one.
    """
    depth = sum(name.endswith("expand_1x1.convolution.weight") for name in arrays) + 1
    stem = {"first_conv": ("features.0.0", "features.0.1")}
    stem |= {
        "conv_3x3": ("features.1.conv.0.0", "features.1.conv.0.1"),
        "reduce_1x1": ("features.1.conv.1", "features.1.conv.2"),
    }
    block = {"expand_1x1": ("0.0", "0.1"), "conv_3x3": ("1.0", "1.1"), "reduce_1x1": ("2", "3")}
    last = (f"features.{depth + 1}.0", f"features.{depth + 1}.1")

    def rename(name: str) -> str | None:
        name = name.removeprefix("mobilenet_v2.")
        if name.startswith("classifier."):
            return _classifier_moved(name)
        match = re.fullmatch(
            r"(?:(conv_stem|layer\.(\d{1,3}))\.(\w+)|conv_1x1)\.(convolution|normalization)\.(\w+)",
            name,
        )
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
    """d-li14 and tonylins: a block is one flat Sequential, activations counted; the last
    convolution may be `conv`.
    """
    depth = max(int(match.group(1)) for match in map(IN_BLOCK.match, arrays) if match)
    short = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    long = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}

    def rename(name: str) -> str | None:
        if match := re.fullmatch(r"features\.(\d{1,3})\.conv\.(\d)\.(\w+)", name):
            number, place, array = match.groups()
            inner = (long if f"features.{number}.conv.6.weight" in arrays else short).get(place)
            return inner and f"features.{number}.conv.{inner}.{array}"
        if match := re.fullmatch(r"conv\.(0|1)\.(\w+)", name):
            return f"features.{depth + 1}.{match.group(1)}.{match.group(2)}"
        return _classifier_moved(name)

    return rename


def _classifier_moved(name: str) -> str:
    """Renames `classifier.weight` of models whose head is one layer, without a dropout before it."""
    return re.sub(r"^classifier\.(weight|bias)$", r"classifier.1.\1", name)


def _with_config(path: Path, rules: Rules) -> Rules:
    """The rules in Hugging Face's config.json and preprocessor_config.json beside the arrays.

    The former has padding, epsilon, size, output stride and labels, the latter mean and std.
    """
    config = _json_beside(path, "config.json")
    images = _json_beside(path, "preprocessor_config.json")
    try:
        size = config.get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        labels = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
        named = [labels[index] for index in range(len(labels))]
        configured = Rules(
            rules.source,
            "same" if config.get("tf_padding", True) else "symmetric",
            float(config.get("layer_norm_eps", rules.bn_epsilon)),
            Preprocessing(
                size=(height, width),
                crop_fraction=height / (height + 32),
                mean=tuple(images.get("image_mean", (0.5, 0.5, 0.5))),
                std=tuple(images.get("image_std", (0.5, 0.5, 0.5))),
            ),
            () if all(label.startswith("LABEL_") for label in named) else tuple(named),
            output_stride=config.get("output_stride", 32),
        )
    except (ValueError, TypeError, KeyError, AttributeError, UserError) as error:
        raise ModelFileError(
            f"{path.with_name('config.json')}: with preprocessor_config.json, not a Hugging Face "
            f"config: {error or type(error).__name__}"
        ) from None
    if config.get("hidden_act", "relu6") != "relu6":
        raise ModelFileError(
            f"{path.with_name('config.json')}: hidden_act is {config['hidden_act']!r}; only models "
            "with 'relu6' are read"
        )
    return configured


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file beside `path`; {} if there is no such file."""
    file = path.with_name(name)
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{file}: not a Hugging Face config: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{file}: not a Hugging Face config: not an object")
    return value
