"""How layers become steps, and that the extension refuses a plan that its kernels cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mobilenetv2.architecture import MOBILENET_V2, SMALL_IMAGES, Architecture, Stage
from mobilenetv2.graph import network
from mobilenetv2.heads import Classifier, DeepLab, Features
from mobilenetv2.runtime import Engine, Reference, _native
from mobilenetv2.runtime.plan import Plan
from mobilenetv2.runtime.steps import group

from .conftest import random_checkpoint
from .int8 import random_int8

ISAS = _native.kernel_names()
SMALL = Architecture(width_mult=0.35, head=Classifier(7), resolution=(32, 32))


def outline(architecture: Architecture) -> list[tuple[str, ...]]:
    return [(step.kind, *step.layers) for step in group(network(architecture)).steps]


def test_the_network_of_the_paper() -> None:
    steps = outline(Architecture())
    assert steps[0] == (
        "rows",
        *("features.0.0", "features.1.conv.0.0", "features.1.conv.1"),
        *("features.2.conv.0.0", "features.2.conv.1.0", "features.2.conv.2"),
    )
    assert steps[1] == (
        "block",
        *("features.3.conv.0.0", "features.3.conv.1.0", "features.3.conv.2", "features.3.add"),
    )
    assert [step[0] for step in steps] == ["rows"] + ["block"] * 15 + ["matmul", "mean", "matmul"]


def test_shortcuts_between_expansions_keep_wide_tensors_apart() -> None:
    kinds = {step[1:]: step[0] for step in outline(replace(SMALL, shortcut="expansion"))}
    assert kinds["features.4.add",] == "add"
    assert kinds["features.3.conv.1.0",] == "rows"


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (64, 64), (224, 224)])
@pytest.mark.parametrize(
    "architecture",
    [Architecture(), SMALL_IMAGES, Architecture(head=DeepLab(aspp=True), output_stride=8)],
)
def test_steps_do_not_depend_on_the_size(architecture, size) -> None:
    assert group(network(architecture, *size)) == group(network(architecture))


def test_blocked_tensors_exist_within_steps_only() -> None:
    steps = group(network(Architecture()))
    assert not steps.blocked & {step.output for step in steps.steps}
    assert {"features.0.0", "features.1.conv.0.0", "features.3.conv.0.0"} <= steps.blocked
    assert "features.1.conv.1" not in steps.blocked  # dense: an expansion reads it


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(64, 64), (128, 128)])
def test_dilations_beyond_four(isa, size, pixels) -> None:
    """Dilation 8 and more on small maps, where a block runs over its whole plane."""
    strided = (replace(stage, repeats=2, stride=2) for stage in MOBILENET_V2[1:6])
    architecture = Architecture(
        width_mult=0.35,
        stages=(MOBILENET_V2[0], *strided, MOBILENET_V2[6]),
        head=Features(),
        output_stride=8,
    )
    assert max(layer.dilation for layer in network(architecture).layers) == 8
    checkpoint, images = random_checkpoint(architecture), pixels(2, *size, 3)
    expected = Reference(checkpoint)(images)
    for threads in (1, 2):
        np.testing.assert_allclose(Engine(checkpoint, threads, isa)(images), expected, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_an_image_far_from_the_architectures_own_size(isa, pixels) -> None:
    architecture = Architecture(
        stages=(Stage(1, 24, 1, 2), Stage(1, 40, 1, 1)), head=Features(), resolution=(2, 2)
    )
    checkpoint, images = random_checkpoint(architecture), pixels(1, 64, 64, 3)
    expected = Reference(checkpoint)(images)
    np.testing.assert_allclose(Engine(checkpoint, 1, isa)(images), expected, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_expansions_of_unlike_shapes_are_not_added(isa, pixels) -> None:
    stages = (Stage(2, 8, 2, 1), Stage(10, 16, 1, 1))
    architecture = Architecture(
        stages=stages, stem_channels=8, head=Classifier(5), shortcut="expansion"
    )
    sums = [layer for layer in network(architecture).layers if layer.kind == "add"]
    assert [layer.name for layer in sums] == ["features.2.add"]
    checkpoint, images = random_checkpoint(architecture), pixels(1, 32, 32, 3)
    expected = Reference(checkpoint)(images)
    np.testing.assert_allclose(Engine(checkpoint, 1, isa)(images), expected, atol=1e-4)


def first(kind: _native.StepKind, steps: list[_native.Step]) -> _native.Step:
    return next(step for step in steps if step.kind == kind)


def with_stage(step: _native.Step, **changes: int) -> None:
    stages = step.stages  # a copy
    for name, value in changes.items():
        setattr(stages[-1], name, value)
    step.stages = stages


ROWS, PLANE, MATMUL = _native.StepKind.ROWS, _native.StepKind.PLANE, _native.StepKind.MATMUL
BROKEN: dict[str, tuple[_native.StepKind, Callable[[_native.Step], None], str]] = {
    "no input": (MATMUL, lambda step: setattr(step, "inputs", []), "reads nothing"),
    "input outside": (MATMUL, lambda step: setattr(step, "inputs", [1 << 40]), "outside"),
    "output outside": (MATMUL, lambda step: setattr(step, "output", 1 << 40), "outside"),
    "no such matrix": (MATMUL, lambda step: setattr(step, "matrix", 10_000), "no such matrix"),
    "another depth": (MATMUL, lambda step: setattr(step, "in_channels", 8), "depth|outside"),
    "another size": (MATMUL, lambda step: setattr(step, "out_height", 3), "size|outside"),
    "negative size": (MATMUL, lambda step: setattr(step, "in_height", -1), "out of range"),
    "reads the image": (MATMUL, lambda step: setattr(step, "inputs", [_native.IMAGE]), "image"),
    "no stripe": (ROWS, lambda step: setattr(step, "stripes", 0), "no stripes"),
    "stripes": (ROWS, lambda step: setattr(step, "stripes", 999), "too many"),
    "narrow stripes": (
        ROWS,
        lambda step: (setattr(step, "stripes", 16), with_stage(step, dilation=9))[0],
        "too narrow",
    ),
    "no stage": (ROWS, lambda step: setattr(step, "stages", []), "image|at least one stage"),
    "no strip": (ROWS, lambda step: with_stage(step, strip=0), "out of range"),
    "stride": (ROWS, lambda step: with_stage(step, stride=0), "out of range"),
    "kernel": (ROWS, lambda step: with_stage(step, kernel=5), "3x3"),
    "depthwise": (ROWS, lambda step: with_stage(step, depthwise=99), "no such depthwise"),
    "row without input": (ROWS, lambda step: with_stage(step, top=99), "no row of the input"),
    "unlike shortcut": (ROWS, lambda step: with_stage(step, shortcut=True), "shortcut"),
    "no chunk": (PLANE, lambda step: setattr(step, "chunk", 0), "at least one panel"),
    "no projection": (PLANE, lambda step: with_stage(step, project=-1), "whole inverted residual"),
    "scratch": (PLANE, lambda step: setattr(step, "scratch", 1 << 40), "scratch lies outside"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_that_kernels_cannot_run_is_refused(name: str) -> None:
    kind, damage, complaint = BROKEN[name]
    engine = Engine(random_checkpoint(SMALL), 1)
    steps = list(engine._plan_for(64, 64).native_steps)
    damage(first(kind, steps))
    with pytest.raises(ValueError, match=complaint):
        engine._packed.native.plan(steps, 1)


def test_rows_in_place_read_as_many_above_as_below() -> None:
    engine = Engine(random_checkpoint(SMALL), 1)
    steps = list(engine._plan_for(64, 64).native_steps)
    step = next(step for step in steps if step.inputs == [step.output])
    with_stage(step, top=0)
    with pytest.raises(ValueError, match="as many rows lie above as below"):
        engine._packed.native.plan(steps, 1)


def test_more_threads_than_the_network_has_are_refused() -> None:
    engine = Engine(random_checkpoint(SMALL), 1)
    with pytest.raises(ValueError, match="neither one thread nor all of them"):
        engine._packed.native.plan(list(engine._plan_for(64, 64).native_steps), 2)


@pytest.mark.parametrize("shape", [(1, 64, 65, 3), (1, 64, 64, 1), (0, 64, 64, 3)])
def test_arrays_of_another_size_are_refused(shape) -> None:
    engine = Engine(random_checkpoint(SMALL), 1)
    answer, plan = np.zeros((1, 1, 1, 7), np.float32), engine._plan_for(64, 64).native
    with pytest.raises(ValueError, match="another size"):
        engine._packed.native.run_pixels(plan, np.zeros(shape, np.uint8), [answer])
    images = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="one array per output"):
        engine._packed.native.run_pixels(plan, images, [])
    with pytest.raises(ValueError, match="an output of another size"):
        engine._packed.native.run_pixels(plan, images, [answer[..., :6].copy()])
    with pytest.raises(TypeError):  # what is written into a copy would be lost
        engine._packed.native.run_pixels(
            plan, images, [np.zeros((1, 1, 1, 14), np.float32)[..., ::2]]
        )


LABELS, CONCAT, RESIZE = (
    _native.StepKind.LABELS,
    _native.StepKind.CONCAT,
    _native.StepKind.RESIZE,
)
BROKEN_INT8: dict[str, tuple[_native.StepKind, Callable[[_native.Step], None], str]] = {
    "no labels": (LABELS, lambda step: setattr(step, "label_bytes", 3), "1 or 2 bytes"),
    "too few labels": (LABELS, lambda step: setattr(step, "in_channels", 300), "outside|bytes"),
    "labels inside": (LABELS, lambda step: setattr(step, "output", 0), "an output|outside"),
    "floats as bytes": (
        LABELS,
        lambda step: setattr(step, "reads_floats", False),
        "no input of",
    ),
    "bytes as floats": (
        RESIZE,
        lambda step: setattr(step, "reads_floats", True),
        "outside|overlap",
    ),
    "no table": (CONCAT, lambda step: setattr(step, "rescaling", [0] * 256), "one table per input"),
    "bytes as an answer": (
        CONCAT,
        lambda step: setattr(step, "output", _native.ANSWER),
        "not an output",
    ),
}


@pytest.mark.parametrize("name", BROKEN_INT8)
def test_a_plan_of_a_mask_that_cannot_run_is_refused(name: str) -> None:
    kind, damage, complaint = BROKEN_INT8[name]
    engine, plan = planned_mask()
    steps = list(plan.native_steps)
    damage(first(kind, steps))
    with pytest.raises(ValueError, match=complaint):
        engine._packed.native.plan(steps, 1)


def test_a_mask_of_another_type_is_refused() -> None:
    engine, plan = planned_mask()
    scores, mask = plan.empty_answers(1).values()
    images = np.zeros((1, 33, 33, 3), np.uint8)
    with pytest.raises(ValueError, match="another type"):
        engine._packed.native.run_pixels(
            plan.native, images, [scores, np.zeros(mask.shape, np.uint16)]
        )


def planned_mask() -> tuple[Engine, Plan]:
    engine = Engine(random_int8(head="deeplabv3", width_mult=0.35, resolution=(33, 33)), 1)
    names = ("head.logits",)
    return engine, engine._plan_for(33, 33, engine._packed_steps(names), names, 1, "head.resize")
