"""torchvision, timm and transformers: their models, randomised, saved by their own savers, against
our readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.formats import read
from mobilenetv2.nn import mobilenet_v2
from mobilenetv2.writers import WriteOptions, torchvision
from mobilenetv2.writers import timm as timm_writer


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Fills a model with seeded weights that keep the signal's scale, and batch norms that are not
    the identity.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.2, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def runner(run: Callable[[Tensor], Tensor]) -> Callable[[Array], Array]:
    """Channels last in and out, around a function of PyTorch's layout."""

    def channels_last(x: Array) -> Array:
        out = run(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        return (out.permute(0, 2, 3, 1) if out.ndim == 4 else out).numpy()

    return channels_last


def save_both(model: nn.Module, folder: Path, name: str) -> dict[str, Path]:
    """The state dict as `.pth` and as `.safetensors`."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    paths = {".pth": folder / f"{name}.pth", ".safetensors": folder / f"{name}.safetensors"}
    torch.save(state, paths[".pth"])
    save_file(state, paths[".safetensors"])
    return paths


# torchvision


def check_torchvision(folder: Path) -> Iterator[Row]:
    """torchvision's state dicts read by us, ours by torchvision, and theirs by our modules."""
    from torchvision.models import mobilenet_v2 as theirs

    for seed, width in enumerate(WIDTHS):
        model = randomised(theirs(width_mult=width), seed)
        case = Case("torchvision", f"mobilenet_v2 {width}", runner(model))
        paths = save_both(model, folder, f"torchvision_{width}")
        yield from compare(case, paths[".pth"], ".pth")
        yield from compare(case, paths[".safetensors"], ".safetensors", (ODD,))
        yield torchvision_loads_ours(case, paths[".pth"], theirs(width_mult=width))
        yield torchvision_loads_what_we_write(case, paths[".pth"], theirs(width_mult=width))
        yield from modules_load_theirs(case, model, width)
    yield from controls(case, paths[".pth"], ".pth")
    few = randomised(theirs(num_classes=7), 90)
    case = Case("torchvision", "mobilenet_v2, 7 classes", runner(few))
    wrapped = folder / "wrapped.pth"
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(few).state_dict()}, wrapped)
    yield from compare(case, wrapped, ".pth, DataParallel")


def torchvision_loads_ours(case: Case, path: Path, fresh: nn.Module) -> Row:
    """The arrays of our own file go into torchvision's model with strict=True and give its logits."""
    what, ours = "torchvision loads it", path.with_name("ours.safetensors")
    try:
        read(path).save(ours)
        fresh.load_state_dict(load_file(ours), strict=True)
    except Exception as error:
        return case.broken("our .safetensors", what, error)
    return case.same("our .safetensors", what, runner(fresh.eval()), ODD)


def torchvision_loads_what_we_write(case: Case, path: Path, fresh: nn.Module) -> Row:
    """The file that `writers.torchvision` writes goes into torchvision's model with strict=True, with
    another epsilon of ours than torchvision's.
    """
    what, written = "torchvision loads it", path.with_name("written.pth")
    try:
        torchvision.write(other_epsilon(read(path, int8=False)), written, WriteOptions())
        fresh.load_state_dict(torch.load(written, weights_only=True), strict=True)
    except Exception as error:
        return case.broken("our .pth", what, error)
    return case.same("our .pth", what, runner(fresh.eval()), ODD)


def other_epsilon(checkpoint: Checkpoint) -> Checkpoint:
    """The same network with an epsilon of 1e-3, and variances that make up for it."""
    missing = np.float32(1e-3 - checkpoint.architecture.bn_epsilon)
    arrays = {
        name: array - missing if name.endswith("running_var") else array
        for name, array in checkpoint.arrays.items()
    }
    architecture = replace(checkpoint.architecture, bn_epsilon=1e-3)
    return replace(checkpoint, architecture=architecture, arrays=arrays)


def modules_load_theirs(case: Case, model: nn.Module, width: float) -> Iterator[Row]:
    """torchvision's state dict goes into `mobilenetv2.nn` with strict=True and gives the same
    logits.
    """
    module = mobilenet_v2(width_mult=width)
    try:
        module.load_state_dict(model.state_dict(), strict=True)
    except Exception as error:
        yield case.broken("state_dict", "our modules load it", error)
        return
    for size in (SQUARE, ODD):
        yield case.same(
            "state_dict", f"our modules, {size[0]} x {size[1]}", runner(module.eval()), size
        )


# timm


def check_timm(folder: Path) -> Iterator[Row]:
    """All models of timm, one without its head, and one for grey images."""
    import timm

    for seed, name in enumerate(timm.list_models("mobilenetv2_*")):
        model = randomised(timm.create_model(name), seed)
        case = Case("timm", name, runner(model))
        paths = save_both(model, folder, name)
        yield from compare(case, paths[".pth"], ".pth", (SQUARE,))
        yield from compare(case, paths[".safetensors"], ".safetensors", (ODD,))
        yield timm_loads_what_we_write(case, paths[".pth"], folder / f"{name}_written")
    yield from controls(case, paths[".pth"], ".pth")
    bare = randomised(timm.create_model("mobilenetv2_100", num_classes=0), 90)
    case = Case("timm", "mobilenetv2_100, no head", runner(bare.forward_features))
    yield from compare(case, save_both(bare, folder, "bare")[".pth"], ".pth")
    grey = randomised(timm.create_model("mobilenetv2_050", in_chans=1), 91)
    case = Case("timm", "mobilenetv2_050, 1 channel", runner(grey), channels=1)
    yield from compare_or_refuse(case, save_both(grey, folder, "grey")[".pth"], ".pth")


def timm_loads_what_we_write(case: Case, path: Path, folder: Path) -> Row:
    """The files that `writers.timm` writes are a folder that timm reads, configuration included."""
    import timm

    what = "timm loads it"
    folder.mkdir()
    try:
        _, config = timm_writer.write(
            other_epsilon(read(path, int8=False)), folder / "model.safetensors", WriteOptions()
        )
        config.rename(folder / "config.json")
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:
        return case.broken("our .safetensors", what, error)
    return case.same("our .safetensors", what, runner(model.eval()), ODD)


# transformers

UNUSUAL: dict[str, dict[str, Any]] = {
    "image_size=[192, 256]": {"image_size": [192, 256]},
    "output_stride=16": {"output_stride": 16},
    "output_stride=8": {"output_stride": 8},
    "hidden_act=relu": {"hidden_act": "relu"},
    "not first_layer_is_expansion": {"first_layer_is_expansion": False},
    "min_depth=16, width 0.35": {"min_depth": 16, "depth_multiplier": 0.35},
    "depth_divisible_by=4": {"depth_divisible_by": 4, "depth_multiplier": 0.35},
    "expand_ratio=4": {"expand_ratio": 4.0},
}


SEGMENTERS: dict[str, dict[str, Any]] = {
    "segmenter": {},
    "segmenter, stride 16": {"output_stride": 16, "num_labels": 21, "depth_multiplier": 0.5},
    "segmenter, stride 8": {"output_stride": 8, "num_labels": 21, "tf_padding": False},
    "segmenter, not rounded": {
        "output_stride": 16,
        "depth_multiplier": 0.5,
        "depth_divisible_by": 1,
        "min_depth": 1,
    },
}


def check_transformers(folder: Path) -> Iterator[Row]:
    """`save_pretrained` folders of both padding rules, heads and options, with and without the
    config.
    """
    import transformers
    from transformers import MobileNetV2ForImageClassification as Classifier
    from transformers import MobileNetV2ForSemanticSegmentation, MobileNetV2Model

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed, (width, tf_padding) in enumerate(itertools.product(WIDTHS, (True, False))):
        options = {"depth_multiplier": width, "tf_padding": tf_padding, "num_labels": 1001}
        case, path = pretrained(
            folder, f"{width}, tf_padding={tf_padding}", Classifier, seed, options
        )
        yield from compare(case, path, "save_pretrained")
        rule = "same" if tf_padding else "symmetric"
        yield fact(case, path, "save_pretrained", "padding", lambda c: c.architecture.padding, rule)
    yield from controls(case, path, "save_pretrained")
    yield from without_config(*pretrained(folder, "no config.json", Classifier, 90, {}))
    yield from named_labels(folder, Classifier)
    yield from compare(
        *pretrained(folder, "MobileNetV2Model", MobileNetV2Model, 92, {}), "save_pretrained"
    )
    for name, options in {
        "last convolution of 640": {"depth_multiplier": 0.5, "finegrained_output": False},
        "layer_norm_eps=1e-5": {"layer_norm_eps": 1e-5},
    }.items():
        yield from compare(
            *pretrained(folder, name, Classifier, 93, options), "save_pretrained", (SQUARE,)
        )
    for name, options in UNUSUAL.items():
        yield from compare_or_refuse(
            *pretrained(folder, name, Classifier, 94, options), "save_pretrained"
        )
    for dtype in (torch.float16, torch.bfloat16):
        case, path = pretrained(
            folder, str(dtype).removeprefix("torch."), Classifier, 95, {}, dtype
        )
        yield from compare_or_refuse(case, path, "save_pretrained")
    for name, options in SEGMENTERS.items():
        case, path = pretrained(folder, name, MobileNetV2ForSemanticSegmentation, 96, options)
        yield from compare(replace(case, run=enlarged(case.run)), path, "save_pretrained")


def pretrained(
    folder: Path,
    name: str,
    kind: Any,
    seed: int,
    options: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> tuple[Case, Path]:
    """A saved model, and where its arrays are; with a smaller dtype, the outputs are those of the
    rounded weights.
    """
    from transformers import MobileNetV2Config

    model = randomised(kind(MobileNetV2Config(**options)), seed).to(dtype)
    model.save_pretrained(folder / name)
    model.float()
    field = "last_hidden_state" if kind.__name__ == "MobileNetV2Model" else "logits"
    case = Case("transformers", name, runner(lambda x: getattr(model(pixel_values=x), field)))
    return case, folder / name / "model.safetensors"


def without_config(case: Case, path: Path) -> Iterator[Row]:
    """The arrays alone are taken as TensorFlow's."""
    alone = path.with_name("alone")
    alone.mkdir()
    yield from compare(case, path.rename(alone / path.name), "model.safetensors")


def named_labels(folder: Path, kind: Any) -> Iterator[Row]:
    """Labels and image size come from the config."""
    names = {0: "cat", 1: "dog", 2: "newt"}
    options = {
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
        "image_size": 160,
    }
    case, path = pretrained(folder, "3 labels, 160 pixels", kind, 91, options)
    yield from compare(case, path, "save_pretrained", (SQUARE,))
    yield fact(case, path, "save_pretrained", "labels", lambda c: c.labels, tuple(names.values()))
    yield fact(case, path, "save_pretrained", "size", lambda c: c.preprocessing.size, (160, 160))


def enlarged(small: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Segmentation logits at the image's size, corners aligned."""

    def large(x: Array) -> Array:
        maps = torch.from_numpy(small(x)).permute(0, 3, 1, 2)
        maps = nn.functional.interpolate(maps, x.shape[1:3], mode="bilinear", align_corners=True)
        return maps.permute(0, 2, 3, 1).numpy()

    return large
