"""State dicts of timm's MobileNetV2, as `.safetensors`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..architecture import MOBILENET_V2, Architecture
from ..checkpoint import Checkpoint
from ..int8 import AnyCheckpoint
from .options import WriteOptions, WriterError, description
from .state_dicts import EPSILON, check, state_dict, timm_names, with_float16_kernels

DEEPER = {"110d": (1.1, (1, 3, 4, 5, 4, 4, 1)), "120d": (1.2, (1, 3, 5, 6, 5, 5, 1))}
WIDTHS = {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "140": 1.4}


def write(checkpoint: AnyCheckpoint, path: Path, options: WriteOptions) -> tuple[Path, ...]:
    """Writes a state dict with timm's names, and a `.json` with timm's configuration.

    In a folder as `model.safetensors` and `config.json` they are what
    `timm.create_model("local-dir:FOLDER", pretrained=True)` reads. TensorFlow's padding is an
    argument of the model there. Batch norms with another epsilon than timm's are recomputed for it.

    Args:
        checkpoint: A classifier or feature extractor.
        path: The file.
        options: What it is to be like.

    Returns:
        The files.

    Raises:
        WriterError: Options or a network that timm does not have.
    """
    architecture = checkpoint.architecture
    check(checkpoint, options, "timm", in_channels=3)
    assert isinstance(checkpoint, Checkpoint)
    config = configuration(checkpoint, model_name(architecture), options)
    from safetensors.numpy import save_file

    arrays = state_dict(checkpoint, timm_names(architecture), EPSILON)
    if options.float16:
        arrays = with_float16_kernels(arrays, "timm")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # NumPy makes arrays without axes one-dimensional there
    contiguous = {name: array.reshape(arrays[name].shape) for name, array in contiguous.items()}
    save_file(contiguous, path, {"format": "pt"})
    facts = path.with_suffix(".json")
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    facts.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path, facts


def model_name(architecture: Architecture) -> str:
    """timm's name of a network.

    Raises:
        WriterError: It has none of this width and depth.
    """
    plain = {name: Architecture(width_mult=width) for name, width in WIDTHS.items()}
    deeper = {
        name: Architecture(
            width_mult=width,
            scale_ends=False,
            stages=tuple(
                replace(stage, repeats=count)
                for stage, count in zip(MOBILENET_V2, repeats, strict=True)
            ),
        )
        for name, (width, repeats) in DEEPER.items()
    }
    for name, candidate in {**plain, **deeper}.items():
        same = ("width_mult", "stages", "scale_ends")
        if all(getattr(architecture, field) == getattr(candidate, field) for field in same):
            return f"mobilenetv2_{name}"
    names = ", ".join([*plain, *deeper])
    raise WriterError(
        f"timm: it has MobileNetV2 {names}, none of width {architecture.width_mult:g} and these "
        "stages: use --to torchvision"
    )


def configuration(checkpoint: Checkpoint, name: str, options: WriteOptions) -> dict[str, Any]:
    """timm's config.json, with our description as a further entry."""
    architecture, p = checkpoint.architecture, checkpoint.preprocessing
    arguments = {"pad_type": "same"} if architecture.padding == "same" else {}
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": architecture.classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, *p.size],
            "fixed_input_size": False,
            "interpolation": p.interpolation,
            "crop_pct": p.crop_fraction if p.resize == "short_side" else 1.0,
            "crop_mode": "squash" if p.resize == "stretch" else "center",
            "mean": list(p.mean),
            "std": list(p.std),
            "num_classes": architecture.classes,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
        "mobilenetv2": description(checkpoint, options),
    }
    if checkpoint.labels:
        config["label_names"] = list(checkpoint.labels)
    return config
