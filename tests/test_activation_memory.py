"""What the runtime's activations take, and that what saves memory changes no answer: stripes of
columns, bands of pixels, places of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import Network, network
from mobilenetv2.heads import Classifier, DeepLab, Features
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime import Engine, _native, chains, plan, program, runner
from mobilenetv2.runtime.budgets import BUDGETS
from mobilenetv2.runtime.placing import Room
from mobilenetv2.runtime.program import Program, program_bytes
from mobilenetv2.runtime.steps import Steps, group

from .conftest import random_checkpoint
from .int8 import random_int8

WIDE = Architecture(head=Classifier(9))
SEGMENTER = Architecture(width_mult=0.5, head=DeepLab(21), output_stride=16)
BF16 = pytest.param(
    "bf16",
    marks=pytest.mark.skipif(
        _native.bf16_kernel_names() == ["scalar"], reason="needs instructions for bfloat16"
    ),
)


@cache
def model(precision: str, architecture: Architecture) -> AnyCheckpoint:
    if precision == "int8":
        return random_int8(**vars(architecture))
    return random_checkpoint(architecture)


def engine(checkpoint: AnyCheckpoint, precision: str, threads: int = 1) -> Engine:
    chosen = precision if isinstance(checkpoint, Checkpoint) else None
    return Engine(checkpoint, threads, precision=chosen)


@pytest.mark.parametrize("isa", _native.kernel_names())
def test_float32_at_224_takes_360_kilobytes(isa) -> None:
    run = Engine(model("float32", WIDE), 1, isa)
    assert run.activation_bytes(224, 224) == 359_872


@pytest.mark.parametrize("isa", _native.byte_kernel_names())
def test_int8_at_224_takes_197_kilobytes(isa) -> None:
    assert Engine(model("int8", WIDE), 1, isa).activation_bytes(224, 224) == 197_248


@pytest.mark.parametrize(("precision", "most"), [("float32", 2_200_000), ("int8", 620_000)])
def test_a_segmenter_at_513(precision: str, most: int) -> None:
    """One layer after another over the whole map, its head takes 4.5 and 1.1 MB."""
    run = engine(model(precision, replace(SEGMENTER, resolution=(65, 65))), precision)
    assert run.activation_bytes(513, 513) <= most
    steps = [names for *names, _ in run.activation_steps(513, 513)]
    assert [names for names in steps if steps.count(names) > 1] == []


def forced_stripes(patch: pytest.MonkeyPatch, architecture: Architecture, stripes: int) -> None:
    """Every network runs in so many stripes, also int8 and on several threads."""
    layers = {layer.name: layer for layer in network(architecture).layers}

    def grouped(described: Network, outputs: Sequence[str] | None = None) -> Steps:
        longer = chains.longer_chain(group(described, outputs), layers)
        assert longer is not None
        return longer

    patch.setattr(runner, "group", grouped)
    patch.setattr(program, "group", grouped)
    patch.setattr(plan, "longer_chain", lambda *_: None)
    patch.setattr(chains, "STRIPES", stripes)
    patch.setitem(BUDGETS, 1, replace(BUDGETS[1], stripe_rows=2))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("precision", ["float32", "int8", BF16])
def test_stripes_change_no_answer(precision, padding, monkeypatch, pixels) -> None:
    architecture = Architecture(
        width_mult=0.35, head=Features(), padding=padding, resolution=(97, 131)
    )
    checkpoint, images = model(precision, architecture), pixels(3, 97, 131, 3)
    monkeypatch.setattr(plan, "longer_chain", lambda *_: None)
    expected = engine(checkpoint, precision)(images)
    for stripes in (2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(chains, "NARROWEST", 5)
            forced_stripes(patch, architecture, stripes)
            for threads in (1, 2, 3):
                run = engine(checkpoint, precision, threads)
                first = run.activation_steps(97, 131)[0]
                assert first[:2] == ("features.0.0", "features.4.conv.2")
                np.testing.assert_array_equal(run(images), expected)
                np.testing.assert_array_equal(run(images[1:2]), expected[1:2])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_program_runs_in_stripes(precision, monkeypatch, pixels) -> None:
    architecture = Architecture(width_mult=0.35, head=Classifier(5), resolution=(65, 129))
    checkpoint, images = model(precision, architecture), pixels(2, 65, 129, 3)
    expected = engine(checkpoint, precision)(images)
    forced_stripes(monkeypatch, architecture, 2)
    content = program_bytes(checkpoint, batch=2)
    for threads in (1, 3):
        (answer,) = Program(content, threads)(images).values()
        np.testing.assert_array_equal(answer.reshape(expected.shape), expected)


@pytest.mark.parametrize("precision", ["float32", "int8", BF16])
@pytest.mark.parametrize("aspp", [False, True])
def test_bands_change_no_answer(precision, aspp, monkeypatch, pixels) -> None:
    architecture = Architecture(
        width_mult=0.35, head=DeepLab(5, aspp=aspp), output_stride=8, resolution=(97, 131)
    )
    checkpoint, images = model(precision, architecture), pixels(3, 97, 131, 3)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "banded", lambda steps, *_: ((step, None) for step in steps.steps))
        whole = engine(checkpoint, precision)
        scores, mask = whole(images), whole.mask(images)
        steps = whole._plan_for(97, 131).steps
    for threads in (1, 2):
        run = engine(checkpoint, precision, threads)
        assert len(run._plan_for(97, 131).steps) > len(steps)
        np.testing.assert_array_equal(run(images), scores)
        np.testing.assert_array_equal(run.mask(images), mask)
    if precision != "bf16":
        program_of_mask = Program(program_bytes(checkpoint, batch=3, mask=True), 2)
        (classes, *_) = (
            answer for answer in program_of_mask(images).values() if answer.dtype == np.uint8
        )
        np.testing.assert_array_equal(classes[..., 0], mask)


def test_rooms_share_a_place_only_at_different_times() -> None:
    before, long, after = Room(64, 0, 1), Room(32, 1, 3), Room(32, 2, 4)
    long.take_place([before])
    assert (before.begin, long.begin) == (0, 64)
    after.take_place([before, long])
    assert after.begin == 0
    wide = Room(96, 3, 5)
    wide.take_place([before, long, after])
    assert wide.begin == 96
