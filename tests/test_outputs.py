"""Outputs by name: networks with several of them, and any tensor of a network from its engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mobilenetv2.architecture import Architecture
from mobilenetv2.cost import bottleneck_memory, operator_memory
from mobilenetv2.errors import UserError
from mobilenetv2.graph import layers, network
from mobilenetv2.heads import Classifier, Features
from mobilenetv2.int8 import stored_tensors
from mobilenetv2.layer import Builder
from mobilenetv2.runtime import Engine, Int8Reference, Reference
from mobilenetv2.runtime.runner import KEPT_PACKINGS
from mobilenetv2.runtime.steps import group

from .conftest import random_checkpoint
from .int8 import random_int8

SMALL = Architecture(width_mult=0.35, head=Classifier(7), resolution=(40, 40))


@dataclass(frozen=True)
class Pyramid(Features):
    """The last convolution's map, and a map from within the network that a block reads too."""

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        inner = next(layer for layer in net.layers if layer.name == "features.6.add")
        return inner.name, net.at


PYRAMID = Architecture(width_mult=0.35, head=Pyramid(), resolution=(40, 40))


def test_a_network_with_several_outputs_answers_with_a_dict(pixels) -> None:
    checkpoint, images = random_checkpoint(PYRAMID), pixels(3, 50, 37, 3)
    names = network(PYRAMID).outputs
    expected = Reference(checkpoint)(images)
    assert tuple(expected) == names == ("features.6.add", "features.18.0")
    for threads in (1, 3):
        answer = Engine(checkpoint, threads)(images)
        assert tuple(answer) == names
        for name in names:
            np.testing.assert_allclose(answer[name], expected[name], atol=1e-4)


@pytest.mark.parametrize("rounding", ["nearest", "twice"])
def test_an_int8_network_with_several_outputs(rounding, pixels) -> None:
    checkpoint, images = random_int8(rounding, **vars(PYRAMID)), pixels(2, 50, 37, 3)
    expected, answer = Int8Reference(checkpoint)(images), Engine(checkpoint, 2)(images)
    assert tuple(answer) == tuple(expected) == network(PYRAMID).outputs
    for name, values in answer.items():
        np.testing.assert_array_equal(values, expected[name])


def test_every_tensor_of_a_network_can_be_had(pixels) -> None:
    checkpoint, images = random_checkpoint(SMALL), pixels(2, 33, 41, 3)
    names = [layer.name for layer in layers(SMALL)]
    expected = Reference(checkpoint).run(images, names)
    engine = Engine(checkpoint, 2)
    for name in names:
        (values,) = engine.outputs(images, [name]).values()
        np.testing.assert_allclose(values, expected[name], atol=1e-4, err_msg=name)
    together = engine.outputs(images, names)
    assert list(together) == names
    for name, values in together.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("side", "sides"), [(300, (19, 10)), (320, (20, 10))])
def test_the_maps_that_ssdlite_reads(pixels, side, sides) -> None:
    """The expansion of block 13, counted from 0, at stride 16, and the last one at stride 32."""
    names = "features.14.conv.0.0", "features.18.0"
    maps = Engine(random_checkpoint(), 2).outputs(pixels(1, side, side, 3), names)
    shapes = [maps[name].shape for name in names]
    assert shapes == [(1, sides[0], sides[0], 576), (1, sides[1], sides[1], 1280)]


def test_the_answer_is_the_same_after_other_outputs(pixels) -> None:
    engine, images = Engine(random_checkpoint(SMALL), 1), pixels(1, 40, 40, 3)
    before = engine(images)
    engine.outputs(images, ["features.3.conv.0.0", "features.4.conv.2"])
    np.testing.assert_array_equal(engine(images), before)


def test_weights_are_not_kept_for_every_choice_of_outputs(pixels) -> None:
    """Memory stays bounded, and what was dropped is right when it is asked for again."""
    checkpoint, images = random_checkpoint(SMALL), pixels(1, 40, 40, 3)
    engine = Engine(checkpoint, 1)
    names = [f"features.{block}.conv.0.0" for block in (3, 4, 5, 6, 3, 5)]
    expected = Reference(checkpoint).run(images, set(names))
    for name in names:
        np.testing.assert_allclose(engine.outputs(images, [name])[name], expected[name], atol=1e-4)
        assert len(engine._repacked) <= KEPT_PACKINGS
    before = list(engine._repacked)
    engine.outputs(images, ["features.5.conv.0.0", "features.4.conv.2"])
    assert engine._repacked == before  # the same steps, or fewer


def test_outputs_that_are_steps_of_their_own_share_the_weights(pixels) -> None:
    engine = Engine(random_checkpoint(SMALL), 1)
    engine.outputs(pixels(1, 40, 40, 3), ["features.4.conv.2", "features.18.0", "pool"])
    assert engine._repacked == []


@pytest.mark.parametrize("rounding", ["nearest", "twice"])
def test_stored_tensors_of_an_int8_network_can_be_had(rounding, pixels) -> None:
    checkpoint, images = random_int8(rounding, **vars(SMALL)), pixels(2, 40, 40, 3)
    oracle, engine = Int8Reference(checkpoint), Engine(checkpoint, 2)
    apart = {step.output for step in group(network(SMALL)).steps if step.output != "classifier.1"}
    names = [name for name in stored_tensors(SMALL, rounding) if name in apart]
    assert "features.6.add" in names
    expected = oracle.run(images, names)
    for name, values in engine.outputs(images, names).items():
        np.testing.assert_array_equal(values, oracle.real(name, expected[name]), err_msg=name)


@pytest.mark.parametrize("names", [["features.99"], ["image"], []])
def test_names_of_no_layer_are_refused(names, pixels) -> None:
    with pytest.raises(UserError, match="no layer named"):
        Engine(random_checkpoint(SMALL), 1).outputs(pixels(1, 8, 8, 3), names)


@pytest.mark.parametrize(
    ("rounding", "names"),
    [
        ("nearest", ["features.3.conv.2"]),
        ("twice", ["features.3.conv.2", "features.3.add"]),
    ],
)
def test_a_projection_is_not_stored_beside_its_sum_in_int8(rounding, names, pixels) -> None:
    engine = Engine(random_int8(rounding, **vars(SMALL)), 1)
    with pytest.raises(UserError, match="adds a shortcut before it stores the sum"):
        engine.outputs(pixels(1, 40, 40, 3), names)


def test_outputs_are_held_to_the_end() -> None:
    """Activation memory counts an output until the last layer, although nobody reads it again."""
    plain, pyramid = replace(PYRAMID, head=Features()), PYRAMID
    inner = math.prod(network(pyramid)["features.6.add"].out_shape) * 4
    for memory in (operator_memory, bottleneck_memory):
        before, after = memory(plain)[-1], memory(pyramid)[-1]
        assert after.held_bytes == before.held_bytes + inner


@dataclass(frozen=True)
class Early(Features):
    """A map from within the network alone: layers behind it are described and not needed."""

    def build(self, net: Builder, output_stride: int) -> tuple[str, ...]:
        return ("features.6.add",)


def test_layers_that_nobody_needs_are_not_run_and_not_held(pixels) -> None:
    architecture = replace(PYRAMID, head=Early())
    checkpoint, images = random_checkpoint(architecture), pixels(2, 40, 40, 3)
    expected = Reference(checkpoint)(images)
    np.testing.assert_allclose(Engine(checkpoint, 2)(images), expected, atol=1e-4)
    last = operator_memory(architecture)[-1]
    assert last.output_bytes == 0
    assert last.held_bytes == expected[0].nbytes


def test_only_what_the_outputs_need_is_run() -> None:
    steps = group(network(SMALL), ["features.4.conv.2"]).steps
    assert steps[-1].output == "features.4.conv.2"
    assert {name for step in steps for name in step.layers} == {
        layer.name for layer in layers(SMALL) if layer.block is None or layer.block <= 4
    } - {"features.18.0", "pool", "classifier.1"}
