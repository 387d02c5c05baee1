"""Ablations: the paper's choices taken back one by one, each network trained from several seeds.

Sandler et al. 2018, Section 6.4 and Figure 6: a linear bottleneck against one with ReLU6, and the
shortcut between bottlenecks, between expansions, or absent; and MobileNetV1 (Howard et al. 2017) at
equal cost. Needs the extra `train`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..architecture import SMALL_IMAGES, Architecture, Stage
from ..cost import network_cost, regular_convolution_macs
from ..datasets import Dataset
from ..heads import Classifier

BASE = "linear bottleneck, shortcut between bottlenecks"
STRIDES = (1, 2, 2, 1, 1, 1, 1)  # 16, 8 and then 4 pixels
NETWORK = replace(
    SMALL_IMAGES,
    width_mult=0.35,
    stem_stride=2,
    stages=tuple(
        replace(stage, stride=stride)
        for stage, stride in zip(SMALL_IMAGES.stages, STRIDES, strict=True)
    ),
    last_channels=320,
    head=Classifier(10),
)
V1_STAGES = (  # MobileNetV1 with the same maps
    Stage(expansion=1, channels=64, repeats=1, stride=1),
    Stage(expansion=1, channels=128, repeats=2, stride=2),
    Stage(expansion=1, channels=256, repeats=2, stride=2),
    Stage(expansion=1, channels=512, repeats=6, stride=1),
    Stage(expansion=1, channels=1024, repeats=2, stride=1),
)


@dataclass(frozen=True)
class Outcome:
    """One network, trained once: percent of the test images right."""

    variant: str
    seed: int
    top1: float


@dataclass(frozen=True)
class Summary:
    """One variant over its seeds.

    Attributes:
        variant: Its name.
        macs: Multiply-adds an image.
        regular_macs: With a regular convolution in the place of each depthwise one and the 1x1
            convolution behind it (Section 3.1).
        parameters: How many.
        seeds: How many networks were trained.
        top1: Mean percent right.
        deviation: Standard deviation over the seeds, in points; NaN of one.
        difference: Points above the base's mean.
        difference_error: Standard error of that, the two variants' seeds being independent; 0 of
            the base.
    """

    variant: str
    macs: int
    regular_macs: int
    parameters: int
    seeds: int
    top1: float
    deviation: float
    difference: float
    difference_error: float


def variants(network: Architecture = NETWORK) -> dict[str, Architecture]:
    """What is compared, by name, the paper's own choice first."""
    return {
        BASE: network,
        "ReLU6 on the bottleneck": replace(network, bottleneck="relu6"),
        "shortcut between expansions": replace(network, shortcut="expansion"),
        "no shortcut": replace(network, shortcut="none"),
        "MobileNetV1 at equal cost": equal_cost_v1(network),
    }


def equal_cost_v1(network: Architecture) -> Architecture:
    """MobileNetV1 of the width whose multiply-adds come nearest to the network's."""
    v1 = replace(
        network, stages=V1_STAGES, last_channels=None, bottleneck="relu6", shortcut="none",
        width_mult=1.0,
    )  # fmt: skip
    target_macs = network_cost(network).macs
    widths = (replace(v1, width_mult=width / 100) for width in range(10, 141))
    return min(widths, key=lambda a: abs(network_cost(a).macs - target_macs))


def train_variant(
    architecture: Architecture,
    data: str | Path,
    test: Dataset,
    out: Path,
    *,
    epochs: int,
    seed: int,
) -> float:
    """Trains one network by the recipe "modern" and counts its right answers.

    A run that is there already is gone on with, or only judged.

    Args:
        architecture: Which network.
        data: Images to train with, as for `mobilenetv2 train`.
        test: Images that are only counted at the end.
        out: Folder of the run.
        epochs: Passes over the images.
        seed: Of the weights, the order and the augmentation.

    Returns:
        Percent of `test` right.
    """
    from ..evaluation import evaluate
    from ..loading import load
    from ..training import Machine, Start, fit
    from ..training.recipes import MODERN

    recipe = MODERN.changed(
        {
            "epochs": epochs,
            "seed": seed,
            "warmup_epochs": epochs / 10,
            "drop_rate": 0.0,
            "augmentation.crop": "pad",
            "augmentation.policy": "none",
        }
    )
    start = Start(architecture=architecture)
    fit(data, out, recipe, start, machine=Machine(workers=0), resume=out.exists())
    return evaluate(load(out / "model.safetensors"), test).scores.top1


def summarise(outcomes: Iterable[Outcome], network: Architecture = NETWORK) -> Iterator[Summary]:
    """The mean and spread of each variant that has outcomes, and its distance from the base's."""
    known = variants(network)
    by_variant: dict[str, list[float]] = {name: [] for name in known}
    for outcome in outcomes:
        by_variant[outcome.variant].append(outcome.top1)
    base = by_variant[BASE]
    for name, top1s in by_variant.items():
        if not top1s:
            continue
        cost = network_cost(known[name])
        difference = statistics.fmean(top1s) - statistics.fmean(base) if base else math.nan
        error = math.hypot(
            _deviation(top1s) / math.sqrt(len(top1s)), _deviation(base) / math.sqrt(len(base) or 1)
        )
        yield Summary(
            name, cost.macs, regular_convolution_macs(known[name]), cost.parameters, len(top1s),
            statistics.fmean(top1s), _deviation(top1s), difference, 0.0 if name == BASE else error,
        )  # fmt: skip


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
