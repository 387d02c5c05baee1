"""The names of torchvision and timm on `mobilenetv2.nn.mobilenet_v2`: the same shapes and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparing import ODD, Array, Case, Row
from pytorch_peers import randomised, runner
from torch import Tensor, nn

from mobilenetv2 import zoo
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.formats import read
from mobilenetv2.nn import mobilenet_v2
from mobilenetv2.nn.build import TORCHVISION_WEIGHTS

ROWS = [[1, 16, 1, 1], [4, 24, 2, 2], [3, 40, 3, 2], [6, 80, 1, 2]]
TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "num_classes=7, dropout=0.5": {"num_classes": 7, "dropout": 0.5},
    "inverted_residual_setting": {"inverted_residual_setting": ROWS},
    "setting, width 0.6": {"inverted_residual_setting": ROWS, "width_mult": 0.6},
    "round_nearest=16": {"round_nearest": 16, "width_mult": 0.35},
    "round_nearest=4": {"round_nearest": 4, "width_mult": 0.75},
    "norm_layer": {"norm_layer": partial(nn.BatchNorm2d, eps=1e-2, momentum=0.2)},
}


def check_torchvision_names(folder: Path) -> Iterator[Row]:
    """Arguments and ways of use of torchvision's `mobilenet_v2`."""
    from torchvision.models import MobileNet_V2_Weights
    from torchvision.models import mobilenet_v2 as theirs

    for seed, (name, options) in enumerate(TORCHVISION_OPTIONS.items()):
        model = randomised(theirs(**options), seed)
        ours = mobilenet_v2(**options)
        ours.load_state_dict(model.state_dict(), strict=True)
        yield compared("torchvision", name, "forward", model, ours.eval())
        momenta = [
            {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
            for net in (model, ours)
        ]
        if "norm_layer" in options:
            yield equal(
                "torchvision", name, "momentum", [{round(m, 9) for m in x} for x in momenta]
            )
    model = randomised(theirs(), 90)
    ours = mobilenet_v2()
    ours.load_state_dict(model.state_dict(), strict=True)
    ours.eval()
    yield compared("torchvision", "default", "net.features(x)", model.features, ours.features)
    scripts = torch.jit.script(model), torch.jit.script(ours)
    yield compared("torchvision", "default", "torch.jit.script", *scripts)
    yield compared("torchvision", "default", "torch.fx", model, torch.fx.symbolic_trace(ours))
    yield equal("torchvision", "default", "last_channel", [model.last_channel, ours.last_channel])
    for net in (model, ours):
        torch.manual_seed(0)
        net.classifier[1] = nn.Linear(net.last_channel, 5)
    yield compared("torchvision", "classifier[1] replaced", "forward", model, ours)
    for enum in MobileNet_V2_Weights:
        urls = [enum.url, zoo.find(TORCHVISION_WEIGHTS[enum.name]).url]
        yield equal("torchvision", str(enum), "url", urls)
    default = zoo.find(TORCHVISION_WEIGHTS["DEFAULT"]).url
    yield equal("torchvision", "DEFAULT", "url", [MobileNet_V2_Weights.DEFAULT.url, default])


def check_timm_names(folder: Path) -> Iterator[Row]:
    """Arguments and methods of timm's models."""
    import timm
    from timm.models import adapt_input_conv

    name = "mobilenetv2_100"
    full = randomised(timm.create_model(name), 80)
    torch.save(full.state_dict(), folder / "full.pth")
    checkpoint = read(folder / "full.pth")
    create = partial(timm.create_model, name)
    ours = mobilenet_v2(weights=checkpoint).eval()
    yield equal("timm", name, "feature_info", [without_names(x.feature_info) for x in (full, ours)])
    for attribute in ("num_classes", "num_features", "head_hidden_size"):
        yield equal("timm", name, attribute, [getattr(x, attribute) for x in (full, ours)])
    last = partial(torch.full, (2, 1280, 3, 4), 0.5)
    for pre_logits in (False, True):
        heads = [partial(at_head, x, last(), pre_logits) for x in (full, ours)]
        yield compared("timm", name, f"forward_head, {pre_logits}", *heads)
    for options in (
        {},
        {"indices": 2},
        {"indices": (1, -1)},
        {"indices": (0, 2), "stop_early": True},
        {"intermediates_only": True},
        {"extra_blocks": True},
        {"extra_blocks": True, "indices": (0, 4)},
    ):
        calls = [partial(intermediates, x, options) for x in (full, ours)]
        yield compared("timm", name, f"intermediates {shown(options)}", *calls)
    for options in (
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
        {"drop_rate": 0.5},
        {"output_stride": 16},
        {"output_stride": 8, "num_classes": 0},
    ):
        yield from same_options(create, full, checkpoint, options)
    for options in (
        {},
        {"out_indices": (1, 3)},
        {"out_indices": (0, -1)},
        {"out_indices": 3},
        {"output_stride": 16},
        {"output_stride": 8, "out_indices": (2, 4)},
    ):
        yield from same_options(create, full, checkpoint, {"features_only": True, **options})
    yield from same_heads(full, ours)
    for channels in (1, 2, 4, 6):
        kernel = adapt_input_conv(channels, full.conv_stem.weight.clone())
        net = mobilenet_v2(weights=checkpoint, in_chans=channels)
        kernels = [lambda _, k=k: k.flatten(1) for k in (kernel, net.features[0][0].weight)]
        yield compared("timm", f"in_chans={channels}", "first kernel", *kernels)


def same_options(
    create: Callable[..., Any], full: nn.Module, checkpoint: Checkpoint, options: dict[str, Any]
) -> Iterator[Row]:
    """One set of arguments: output and levels."""
    theirs, ours = create(**options).eval(), mobilenet_v2(weights=checkpoint, **options).eval()
    theirs.load_state_dict(full.state_dict(), strict=False)
    yield compared("timm", shown(options), "forward", theirs, ours)
    infos = [net.feature_info for net in (theirs, ours)]
    if "features_only" in options:
        infos = [info.get_dicts() for info in infos]
    yield equal("timm", shown(options), "feature_info", [without_names(x) for x in infos])


def same_heads(theirs: Any, ours: Any) -> Iterator[Row]:
    """`reset_classifier` and `get_classifier`, with the same weights in both."""
    for arguments in ((6,), (0,), (0, ""), (4, "avg")):
        for net in (theirs, ours):
            net.reset_classifier(*arguments)
        heads = [net.get_classifier() for net in (theirs, ours)]
        heads[1].load_state_dict(heads[0].state_dict(), strict=True)
        yield compared("timm", f"reset_classifier{arguments}", "forward", theirs, ours.eval())


def compared(
    package: str, model: str, what: str, theirs: Callable[..., Any], ours: Callable[..., Any]
) -> Row:
    """Compares two functions of an image batch in PyTorch's layout."""
    case = Case(package, model[:29], runner(lambda x: flat(theirs(x))))
    ours_in_numpy: Callable[[Array], Array] = runner(lambda x: flat(ours(x)))
    return case.same("our nn", what[:24], ours_in_numpy, ODD)


def equal(package: str, model: str, what: str, values: list[Any]) -> Row:
    """Compares two values exactly: theirs, ours."""
    verdict = "equal" if values[0] == values[1] else f"FAIL: {values[1]}, not {values[0]}"
    return Row(package, model[:29], "our nn", what, None, verdict)


def flat(value: Any) -> Tensor:
    """A tensor as it is; several as one, (N, all values), with their shapes."""
    if isinstance(value, Tensor):
        return value
    shapes = torch.tensor([float(side) for each in value for side in each.shape])
    together = torch.cat([each.flatten(1) for each in value], 1)
    return torch.cat([together, shapes.expand(len(together), -1)], 1)


def at_head(net: Any, last: Tensor, pre_logits: bool, _: Tensor) -> Tensor:
    return net.forward_head(last, pre_logits=pre_logits)  # type: ignore[no-any-return]


def intermediates(net: Any, options: dict[str, Any], x: Tensor) -> list[Tensor]:
    answer = net.forward_intermediates(x, **options)
    return answer if isinstance(answer, list) else [answer[0], *answer[1]]


def without_names(levels: Any) -> list[dict[str, Any]]:
    """Levels without the names of modules, which are those of each package, and without `index`."""
    return [{k: v for k, v in level.items() if k not in ("module", "index")} for level in levels]


def shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items()) or "default"
