"""The ablations: what is compared, and the arithmetic of the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import read_dataset
from mobilenetv2.architecture import Stage
from mobilenetv2.cost import network_cost
from mobilenetv2.graph import layers
from mobilenetv2.insight.ablations import (
    BASE,
    NETWORK,
    Outcome,
    summarise,
    train_variant,
    variants,
)


def test_variants_differ_in_one_choice() -> None:
    found = variants()
    base = found.pop(BASE)
    v1 = found.pop("MobileNetV1 at equal cost")
    assert (base.bottleneck, base.shortcut) == ("linear", "bottleneck")
    changed = {
        name: {key for key in ("bottleneck", "shortcut") if getattr(a, key) != getattr(base, key)}
        for name, a in found.items()
    }
    assert changed == {
        "ReLU6 on the bottleneck": {"bottleneck"},
        "shortcut between expansions": {"shortcut"},
        "no shortcut": {"shortcut"},
    }
    for architecture in found.values():  # the choices cost nothing
        assert network_cost(architecture).macs == network_cost(base).macs
        assert network_cost(architecture).parameters == network_cost(base).parameters
    assert network_cost(v1).macs == pytest.approx(network_cost(base).macs, rel=0.04)
    maps = [{layer.out_shape[1] for layer in layers(a) if layer.block} for a in (v1, base)]
    assert maps[0] == maps[1] == {16, 8, 4}
    assert not any(layer.kind == "add" for layer in layers(v1))


def test_summary_by_hand() -> None:
    other = "no shortcut"
    outcomes = [Outcome(BASE, i, top1) for i, top1 in enumerate((80.0, 81.0, 82.0))]
    outcomes += [Outcome(other, i, top1) for i, top1 in enumerate((76.0, 80.0))]
    base, found = summarise(outcomes)
    assert (base.variant, base.seeds, base.top1, base.deviation) == (BASE, 3, 81.0, 1.0)
    assert (base.difference, base.difference_error) == (0, 0)
    assert 2 < base.regular_macs / base.macs < 9  # Section 3.1: at most k^2
    assert (found.variant, found.seeds, found.top1, found.difference) == (other, 2, 78.0, -3.0)
    assert found.deviation == pytest.approx(math.sqrt(8))
    assert found.difference_error == pytest.approx(math.sqrt(8 / 2 + 1 / 3))


def test_a_network_learns_what_can_be_learned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level - 30, level + 30, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    tiny = replace(
        NETWORK,
        stages=(Stage(1, 16, 1, 1), Stage(2, 24, 1, 2)),
        last_channels=32,
        resolution=(16, 16),
    )
    test = read_dataset(tmp_path / "test")
    runs = [
        train_variant(tiny, tmp_path / "train", test, tmp_path / out, epochs=4, seed=0)
        for out in ("a", "b", "a")  # anew, anew, and what is there already
    ]
    assert runs == [100.0, 100.0, 100.0]


def test_five_networks_are_compared(shared: Callable[[str], Path]) -> None:
    assert NETWORK.classes == len(read_dataset(shared("data/cifar10/test.zip")).classes)
    assert len(variants()) == 5
