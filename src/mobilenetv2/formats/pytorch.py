"""Reads state dicts of torchvision, timm, Hugging Face, d-li14, tonylins and mmdetection: `.pth`,
`.safetensors`.

Each source has a rule that turns its names into torchvision's; the arrays then show width, depth
and classes. Padding, epsilon and preprocessing depend on the source: torchvision and timm pad
symmetrically with epsilon 1e-5, Hugging Face's models are TF-slim's (SAME padding, epsilon 1e-3)
unless the config.json beside the file says otherwise.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint, Shaped
from ..errors import ArchitectureError, MissingExtraError, ModelFileError, install_hint, shortened
from ..files import open_safetensors
from ..heads import DeepLab
from ..images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from ..zoo import published_file
from .assemble import IN_BLOCK, Rules, StoredArray, assemble, assumed
from .hf_config import with_config
from .pickles import refuse_dangerous_pickles
from .pytorch_detectors import Layout, mmdetection, mmdetection_labels, torchvision_ssdlite
from .state_dicts import StoredNetwork, choose_network

Arrays = Mapping[str, Shaped]
Rename = Callable[[str], "str | None"]
SAFETENSORS_TYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
SEGMENTER_PARTS = {  # of Hugging Face's
    "conv_pool": "image_pooling",
    "conv_aspp": "aspp0",
    "conv_projection": "concat_projection",
    "classifier": "logits",
}
TIMM_BLOCK = (  # places in the first block, and in others
    {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"},
    {
        "conv_pw": "0.0",
        "bn1": "0.1",
        "conv_dw": "1.0",
        "bn2": "1.1",
        "conv_pwl": "2",
        "bn3": "3",
    },
)
MAX_LISTED = 100
TORCHVISION = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
TIMM = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic")


def read_pth(path: Path, weights_of: str | None = None) -> Checkpoint:
    """The checkpoint in a `.pth` file, unpickled with `weights_only=True`: nothing in it can run.

    Args:
        path: The file.
        weights_of: Of several sets of weights, as for `choose_network`.

    Raises:
        ModelFileError: Damaged, not a MobileNetV2, or with more in it than arrays.
        MissingExtraError: PyTorch is not installed; nothing else reads these files.
    """
    content = _unpickled(path)
    network = choose_network(path, content, weights_of)
    _refuse_quantised(path, network.arrays)
    arrays = {name: _stored(path, name, value) for name, value in network.arrays.items()}
    return _read_network(path, replace(network, arrays=arrays), mmdetection_labels(content))


def _unpickled(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError(f"reading .pth needs PyTorch; {install_hint('train')}") from None
    import pickle

    refuse_dangerous_pickles(path)
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


def _stored(path: Path, name: str, value: Any) -> StoredArray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelFileError(f"{path}: not a state dict: {name!r:.200} is not an array")
    dense = value.layout is torch.strided and not (value.is_quantized or value.is_meta)
    floats = value.is_floating_point()
    try:
        if not dense:
            raise TypeError
        dtype = np.dtype(np.float32) if floats else torch.empty(0, dtype=value.dtype).numpy().dtype
    except Exception:  # a type that NumPy lacks
        raise ModelFileError(f"{path}: {name} is not a dense array") from None
    detached = value.detach()
    # without data of its own: one number may be repeated over any shape
    return StoredArray(
        tuple(value.shape), dtype, lambda: (detached.float() if floats else detached).numpy()
    )


def read_foreign_safetensors(path: Path, weights_of: str | None = None) -> Checkpoint:
    """The checkpoint in another library's `.safetensors` file.

    Raises:
        ModelFileError: As for `read_state_dict`.
    """
    with open_safetensors(path) as file:
        arrays = {name: _sliced(path, file, name) for name in file.keys()}  # noqa: SIM118
        _refuse_quantised(path, arrays)
        return read_state_dict(path, arrays, weights_of)


def _sliced(path: Path, file: Any, name: str) -> StoredArray:
    stored = file.get_slice(name)
    dtype = SAFETENSORS_TYPES.get(stored.get_dtype())
    if dtype is None:
        raise ModelFileError(
            f"{path}: holds arrays of a type that NumPy lacks, such as bfloat16: save them as float32"
        )
    return StoredArray(
        tuple(stored.get_shape()), np.dtype(dtype), lambda: np.asarray(file.get_tensor(name))
    )


def read_state_dict(path: Path, arrays: Arrays, weights_of: str | None = None) -> Checkpoint:
    """The checkpoint of arrays that have the names of any source that this module knows.

    Args:
        path: Their file, for messages; Hugging Face's config.json is read beside it.
        arrays: By name.
        weights_of: As for `read_pth`.

    Raises:
        ModelFileError: No known source, or arrays are missing, extra or of a wrong shape.
    """
    return _read_network(path, choose_network(path, arrays, weights_of))


def _read_network(path: Path, network: StoredNetwork, labels: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint of a network; `labels` stand beside it and are a detector's."""
    arrays = network.arrays
    try:
        layout = _layout(arrays)
    except (ModelFileError, ArchitectureError) as error:
        raise ModelFileError(f"{path}: {error}") from None
    if layout is None:
        raise ModelFileError(
            f"{path}: not a MobileNetV2 of torchvision, timm, Hugging Face or mmdetection; its first arrays: "
            f"{shortened(sorted(arrays), 3) or 'none'}"
        )
    renamed: dict[str, Shaped] = {}
    unused = list(network.left_out)
    for name, array in arrays.items():
        norm = name.removesuffix("num_batches_tracked")
        if norm != name and f"{norm}running_var" in arrays:
            continue
        if layout.unused(name):
            unused.append(name)
            continue
        new = layout.rename(name) or name
        if new in renamed:
            raise ModelFileError(f"{path}: two arrays would be {new}")
        renamed[new] = layout.in_order(new, array)
    rules = _with_preprocessing(path, layout.rules)
    provenance: dict[str, Any] = dict(rules.provenance)
    if network.averaged:
        provenance["weights"] = f"averages ({network.name})"
    if unused:
        provenance["left_out"] = unused[:MAX_LISTED]
    rules = replace(rules, provenance=provenance, notes=(*network.notes, *rules.notes))
    if rules.head is not None and len(labels) == rules.head.classes:
        rules = replace(rules, labels=labels)
    return assemble(path, renamed, rules)


def _with_preprocessing(path: Path, rules: Rules) -> Rules:
    """The rules with what is known of the preprocessing of this very file."""
    if rules.source.startswith("Hugging Face"):
        return with_config(path, rules)
    model = published_file(path) if rules.source == "torchvision" else None
    if model is not None and model.preprocessing is not None:
        note = f"recognised as {model.name}: {model.preprocessing.in_words()}"
        return replace(rules, preprocessing=model.preprocessing, notes=(note,))
    note = assumed(rules)
    if rules.head is not None:
        note += "; so are its anchors and the epsilon of its batch norms"
    if rules.source == "torchvision":
        note += " (V1; if these are the V2 weights, whose short side is 232, put 7ebf99e0 into the file's name)"
    return replace(rules, notes=(note,))


def _refuse_quantised(path: Path, names: Iterable[str]) -> None:
    """Refuses torchvision's quantised weights, whose layers are grouped in another way."""
    if any(name.endswith(("_packed_params", ".scale", ".zero_point")) for name in names):
        raise ModelFileError(
            f"{path}: quantised PyTorch weights are not read: take the float weights and quantise those"
        )


def _layout(arrays: Arrays) -> Layout | None:
    """The source of these arrays; None: it is not known."""
    if any(name.startswith("blocks.0.0.") for name in arrays):
        return Layout(_from_timm(arrays), Rules("timm", "symmetric", 1e-5, TIMM))
    if any("conv_stem.first_conv." in name for name in arrays):
        return _hugging_face(arrays)
    parts = {name.split(".")[0] for name in arrays}
    if {"backbone", "bbox_head"} <= parts and any("backbone.layer1.0." in name for name in arrays):
        return mmdetection(arrays)
    if any(name.startswith("backbone.features.0.1.conv.") for name in arrays):
        return torchvision_ssdlite(arrays)
    if any(re.match(r"features\.\d+\.conv\.\d\.\d\.", name) for name in arrays):
        return Layout(_classifier_moved, Rules("torchvision", "symmetric", 1e-5, TORCHVISION))
    if any(IN_BLOCK.match(name) for name in arrays):
        rules = Rules("PyTorch (flat blocks)", "symmetric", 1e-5, TORCHVISION)
        return Layout(_from_flat(arrays), rules)
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
    top = timm_ends(len(index))

    def rename(name: str) -> str | None:
        if match := re.fullmatch(r"blocks\.(\d{1,3}\.\d{1,3})\.(\w+)\.(\w+)", name):
            place, part, array = match.groups()
            inner = TIMM_BLOCK[place != "0.0"].get(part)
            return inner and f"features.{index[place]}.conv.{inner}.{array}"
        part, _, array = name.rpartition(".")
        return f"{top[part]}.{array}" if part in top else None

    return rename


def timm_ends(blocks: int) -> dict[str, str]:
    """Our paths of timm's layers before and behind so many blocks."""
    last = f"features.{blocks + 1}"
    return {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": f"{last}.0",
        "bn2": f"{last}.1",
        "classifier": "classifier.1",
    }


def _hugging_face(arrays: Arrays) -> Layout:
    """A classifier, a feature extractor, or a segmenter, which does not use its last convolution."""
    rules = Rules("Hugging Face", "same", 1e-3)
    logits = "segmentation_head.classifier.convolution.bias"
    if not any(name.startswith("segmentation_head.") for name in arrays):
        return Layout(_from_hugging_face(arrays), rules)
    if len(arrays[logits].shape if logits in arrays else ()) != 1:
        raise ModelFileError(f"not a segmenter of Hugging Face: {logits} is missing, or no list")
    return Layout(
        _from_hugging_face(arrays),
        replace(rules, head=DeepLab(arrays[logits].shape[0])),
        unused=lambda name: name.removeprefix("mobilenet_v2.").startswith("conv_1x1."),
    )


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
        if match := re.fullmatch(
            r"segmentation_head\.(\w+)\.(convolution|normalization)\.(\w+)", name
        ):
            part = SEGMENTER_PARTS.get(match[1])
            place = "" if part == "logits" else f".{int(match[2] == 'normalization')}"
            return part and f"head.{part}{place}.{match[3]}"
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
