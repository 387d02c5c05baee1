"""The paper's ideas as experiments: against cases whose answer is known, and the paper's theorem."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import UserError
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier
from mobilenetv2.insight.interventions import (
    ClippedEngine,
    Judge,
    classes,
    clip_bottlenecks,
    narrow_bottlenecks,
    narrowed_checkpoint,
)
from mobilenetv2.insight.manifold import Moments, directions_for, effective_rank, observe
from mobilenetv2.insight.memory import measure_memory, resident_growth
from mobilenetv2.insight.photos import read_photos
from mobilenetv2.insight.theory import (
    invertibility,
    is_invertible,
    lemma_one,
    linear_regions,
    panels,
    preserved_share,
    recover,
    relu,
    spiral,
    survival,
    surviving_area,
    there_and_back,
    twin,
)
from mobilenetv2.runtime import Engine, Reference

from .conftest import random_checkpoint

TINY = replace(SMALL_IMAGES, width_mult=0.35, head=Classifier(3))


@pytest.fixture
def checkpoint() -> Checkpoint:
    return random_checkpoint(TINY)


def with_norm(checkpoint: Checkpoint, layer: str, gamma: float, beta: np.ndarray) -> Checkpoint:
    """A model whose layer gives gamma * normalised + beta, channel by channel."""
    norm = next(one.norm for one in layers(checkpoint.architecture) if one.name == layer)
    changed = {
        f"{norm}.weight": np.full(len(beta), gamma, np.float32),
        f"{norm}.bias": beta.astype(np.float32),
    }
    return replace(checkpoint, arrays={**checkpoint.arrays, **changed})


# Figure 1 and Theorem 1


@pytest.mark.parametrize(
    ("outputs", "share"),
    [(2, 1 / 4), (3, 4 / 8), (5, 26 / 32), (15, 32752 / 2**15), (30, 1073741793 / 2**30)],
)
def test_theorem_one(outputs: int, share: float) -> None:
    assert preserved_share(outputs, 2) == share


def test_theorem_one_of_a_real_block() -> None:
    assert 1 - preserved_share(96, 16) == pytest.approx(2.0e-12, rel=0.02)


@pytest.mark.parametrize(
    ("degrees", "share"),
    [
        ((0, 90), 0.25),
        ((0, 60), 1 / 3),  # half planes that overlap by 120 degrees
        ((0, 179), 1 / 360),
        ((10, 130, 250), 0.5),
        ((0, 1, 2), 179 / 360 + 1 / 360),
        ((0, 90, 180, 270), 1),  # each direction has two rows within 90 degrees
    ],
)
def test_surviving_area_of_known_rows(degrees: tuple[float, ...], share: float) -> None:
    angles = np.radians(np.array(degrees, float) + 0.001)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert surviving_area(rows[None])[0] == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_measured_area_is_the_theorem_s(seed: int) -> None:
    found = survival((2, 3, 5, 15), matrices=1000, seed=seed)
    for row in found:
        assert abs(row.area - row.theorem) <= 3 * row.area_error + 1e-12, row
        assert row.invertible == pytest.approx(row.area, abs=0.01)
    assert found[1].area_error < 1e-12  # of two opposite directions one survives, whatever the rows
    assert found[0].area_error > 1e-3
    distortions = [row.distortion for row in found]
    assert distortions == sorted(distortions, reverse=True)


def test_a_spiral_that_is_not_cut_comes_back() -> None:
    rows = np.array([[1.0, 0], [0, 1], [1, 1]])
    points = np.abs(spiral(50))
    assert there_and_back(points, rows) == pytest.approx(points, abs=1e-12)
    assert there_and_back(-points, rows) == pytest.approx(0)


def test_panels_are_those_of_the_figure() -> None:
    found = panels(seed=3)
    assert [panel.dimension for panel in found] == [2, 3, 5, 15, 30]
    assert [panel.matrix.shape for panel in found] == [(n, 2) for n in (2, 3, 5, 15, 30)]
    assert np.array_equal(found[2].points, there_and_back(spiral(), found[2].matrix))


# Appendix A


def test_lemma_one() -> None:
    found = lemma_one(samples=4000)
    assert found.moved == 0
    assert found.interior == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 4000))
    assert np.array_equal(found.outputs, relu(found.points))


def test_lemma_two_by_hand() -> None:
    rows = np.array([[1.0, 0], [0, 1], [1, 1]])
    told, cut = np.array([2.0, 1]), np.array([1.0, -2])
    assert is_invertible(rows, relu(rows @ told))
    assert recover(rows, relu(rows @ told)) == pytest.approx(told)
    assert not is_invertible(rows, relu(rows @ cut))  # only one entry is left
    other = twin(rows, cut)
    assert relu(rows @ other) == pytest.approx([1, 0, 0])
    assert abs(other - cut).max() > 0.1


def test_lemma_two_wants_independent_rows() -> None:
    rows, x = np.array([[1.0, 0], [2, 0], [0, 1]]), np.array([1.0, -1])
    assert not is_invertible(rows, relu(rows @ x))  # two entries, but they say the same
    assert relu(rows @ twin(rows, x)) == pytest.approx([1, 2, 0])


def test_nothing_left_has_a_twin() -> None:
    rows, x = np.array([[1.0, 0], [0, 1]]), np.array([-1.0, -1])
    other = twin(rows, x)
    assert not relu(rows @ other).any()
    assert (other != x).any()


def test_linear_where_nothing_is_cut() -> None:
    found = linear_regions(16, (8, 16, 32))
    assert [row.rank for row in found] == [8, 16, 16]
    assert found[0].carried == pytest.approx(0.5, abs=0.03)
    assert [row.carried for row in found[1:]] == pytest.approx([1, 1])
    assert max(row.bent_uncut for row in found) < 1e-20
    assert min(row.bent_cut for row in found) > 0.1


def test_invertibility_is_the_theorem_s() -> None:
    for row in invertibility(8, (1, 2, 3, 6), samples=400):
        error = math.sqrt(row.theorem * (1 - row.theorem) / row.samples)
        assert abs(row.invertible - row.theorem) <= 3 * error + 1e-3
        assert row.outputs == row.expansion * 8
        assert row.recovery_error < 1e-8
        assert row.twin_error is None or row.twin_error < 1e-8


# a model's own manifold


@pytest.mark.parametrize(
    ("variances", "rank", "directions"),
    [
        ([2.0, 2, 2, 2], 4, 4),
        ([5.0, 0, 0, 0], 1, 1),
        ([0.0, 0, 0], 0, 0),
        ([4.0, 1, 0], math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2))), 2),
        ([99.0, 1, 0], math.exp(-(0.99 * math.log(0.99) + 0.01 * math.log(0.01))), 1),
        ([98.9, 1.1], math.exp(-(0.989 * math.log(0.989) + 0.011 * math.log(0.011))), 2),
    ],
)
def test_effective_rank(variances: list[float], rank: float, directions: int) -> None:
    assert effective_rank(np.array(variances)) == pytest.approx(rank)
    assert directions_for(np.array(variances)) == directions


def test_moments_in_parts() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(3, 1, (300, 3)) @ rng.normal(size=(3, 8))
    moments = Moments(8)
    for part in np.array_split(rows, 7):
        moments.add(part)
        moments.spectrum()
    assert moments.mean == pytest.approx(rows.mean(axis=0))
    assert moments.covariance == pytest.approx(np.cov(rows.T, bias=True))
    variances, directions = moments.spectrum()
    assert directions_for(variances, 1 - 1e-9) == 3
    assert directions @ np.diag(variances) @ directions.T == pytest.approx(moments.covariance)


def test_positivity_of_a_constructed_layer(checkpoint: Checkpoint, pixels) -> None:
    layer = next(one for one in layers(TINY) if one.role == "expand")
    channels, alive = layer.out_shape[0], 5
    beta = np.where(np.arange(channels) < alive, 1, -1)
    found = observe(with_norm(checkpoint, layer.name, 0, beta), pixels(3, 32, 32, 3))
    row = found.trained[0]
    assert row.layer == layer.name
    assert (row.least, row.mean, row.most) == pytest.approx([alive / channels] * 3)
    assert row.deviation == pytest.approx(0, abs=1e-9)
    assert row.dead == channels - alive
    assert (layer.name, channels - alive, channels) in found.dead
    assert row.threshold == layer.in_shape[0] / channels
    assert row.below == (1 if alive / channels < row.threshold else 0)
    span = found.expansions[0]
    assert (span.effective_rank, span.channels_99) == (0, 0)


def test_a_bottleneck_of_one_direction(checkpoint: Checkpoint, pixels) -> None:
    project = next(
        one for one in layers(TINY) if one.role == "project" and f"features.{one.block}.add" not in
        {layer.name for layer in layers(TINY)}
    )  # fmt: skip
    weight = np.zeros(project.weight_shape, np.float32)
    weight[:, 0] = np.arange(1, len(weight) + 1)[:, None, None]
    one_direction = replace(checkpoint, arrays={**checkpoint.arrays, project.weight: weight})
    norm = np.zeros(len(weight))
    found = observe(with_norm(one_direction, project.name, 1, norm), pixels(2, 32, 32, 3))
    span = next(span for span in found.bottlenecks if span.layer == project.name)
    assert span.effective_rank == pytest.approx(1, abs=1e-3)
    assert span.channels_99 == 1


def test_before_training_half_is_positive(checkpoint: Checkpoint, pixels) -> None:
    found = observe(checkpoint, pixels(4, 32, 32, 3))
    assert len(found.initial) == len(found.trained) == len(found.expansions)
    for row in found.initial:
        assert 0.35 < row.mean < 0.65
        assert row.least < row.mean < row.most
        assert row.dead == 0


def test_manifold_is_the_reference_s(checkpoint: Checkpoint, pixels) -> None:
    x = pixels(5, 32, 32, 3)
    found = observe(checkpoint, x)
    assert found.photos == 5
    for row in (found.trained[0], found.trained[-1]):
        positive = (Reference(checkpoint).run(x, (row.layer,))[row.layer] > 0).mean(axis=3)
        assert row.mean == pytest.approx(positive.mean())
        assert (row.least, row.most) == pytest.approx((positive.min(), positive.max()))
        assert row.deviation == pytest.approx(positive.std(), abs=1e-9)
        assert row.below == pytest.approx((positive < row.threshold).mean())
    last = found.bottlenecks[-1]  # 4 x 4: all places are taken
    values = Reference(checkpoint).run(x, (last.layer,))[last.layer].reshape(-1, last.channels)
    covariance = np.cov(values.T.astype(float), bias=True)
    wanted = effective_rank(np.maximum(np.linalg.eigvalsh(covariance), 0))
    assert last.effective_rank == pytest.approx(wanted, rel=1e-4)


def test_a_network_without_expansions(pixels) -> None:
    checkpoint = random_checkpoint(
        replace(V1, width_mult=0.25, head=Classifier(3), resolution=(32, 32))
    )
    x = pixels(2, 32, 32, 3)
    found = observe(checkpoint, x)
    assert (found.expansions, found.trained, found.initial) == ((), (), ())
    assert len(found.bottlenecks) == 13
    judge = Judge(x, classes(Engine(checkpoint, 1), x))
    assert clip_bottlenecks(checkpoint, judge) == ()


# interventions


def test_relu6_on_all_bottlenecks_is_the_other_architecture(checkpoint: Checkpoint, pixels) -> None:
    x = pixels(3, 32, 32, 3)
    names = [one.name for one in layers(TINY) if one.role == "project"]
    engine = ClippedEngine(checkpoint, 1)
    plain = engine(x)
    wanted = Engine(replace(checkpoint, architecture=replace(TINY, bottleneck="relu6")), 1)(x)
    assert np.array_equal(engine.clip(names)(x), wanted)
    assert not np.allclose(plain, wanted, atol=1e-3)
    assert np.array_equal(engine.clip([])(x), plain)


def test_relu6_on_one_bottleneck(checkpoint: Checkpoint, pixels) -> None:
    x = pixels(2, 32, 32, 3)
    project = [one for one in layers(TINY) if one.role == "project"][4]
    low, zero = (
        with_norm(checkpoint, project.name, 0, np.full(project.out_shape[0], value))
        for value in (-2, 0)
    )
    assert not np.allclose(Engine(low, 1)(x), Engine(zero, 1)(x), atol=1e-3)
    assert np.allclose(ClippedEngine(low, 1).clip([project.name])(x), Engine(zero, 1)(x), atol=1e-6)


def test_what_clipping_says(checkpoint: Checkpoint, pixels) -> None:
    x = pixels(8, 32, 32, 3)
    engine = Engine(checkpoint, 1)
    said = classes(engine, x)
    assert np.array_equal(said, engine(x).argmax(axis=1))
    truth = np.where(np.arange(8) < 6, said, (said + 1) % 3)
    judge = Judge(x, said, truth)
    assert (judge(engine).agreement, judge(engine).accuracy) == (100, 75)
    assert Judge(x, said)(engine).accuracy is None
    steps: list[int] = []
    found = clip_bottlenecks(checkpoint, judge, lambda: steps.append(1))
    assert [row.block for row in found] == [*range(1, 18), None]
    assert len(steps) == 17
    everywhere = Engine(replace(checkpoint, architecture=replace(TINY, bottleneck="relu6")), 1)
    assert found[-1].effect == judge(everywhere)


def test_narrowing_by_hand(checkpoint: Checkpoint) -> None:
    """Two directions of three hundred to one: the strong channels stay, the others become their
    mean.
    """
    found = layers(TINY)
    moments = {}
    for block in range(1, 18):
        layer = [one for one in found if one.block == block][-1]
        rows = np.ones((400, layer.out_shape[0]))
        rows[:, 0] += np.tile([-30.0, 30], 200)
        rows[:, 1] += np.tile([-1.0, -1, 1, 1], 100)
        moments[layer.name] = Moments(layer.out_shape[0])
        moments[layer.name].add(rows)
    narrowed, kept, channels = narrowed_checkpoint(checkpoint, moments, 0.99)
    assert kept == 17
    assert channels == sum(one.out_shape[0] for one in found if one.role == "project")
    reader = next(one for one in found if one.role == "expand")
    x = np.random.default_rng(0).normal(size=reader.in_shape[0])
    seen = np.where(np.arange(len(x)) == 0, x, 1)
    assert output(narrowed, reader, x) == pytest.approx(output(checkpoint, reader, seen), abs=1e-4)


def output(checkpoint: Checkpoint, layer, x: np.ndarray) -> np.ndarray:
    """Of a 1 x 1 convolution and its batch norm, for one pixel, before the activation."""
    from mobilenetv2.folding import fold

    weight, bias = fold(checkpoint, layer)
    return weight[:, :, 0, 0] @ x + bias


def test_all_directions_change_nothing(checkpoint: Checkpoint, pixels) -> None:
    x = pixels(6, 32, 32, 3)
    moments = observe(checkpoint, x).moments
    narrowed, kept, channels = narrowed_checkpoint(checkpoint, moments, 1)
    assert kept <= channels
    assert np.allclose(Engine(narrowed, 1)(x), Engine(checkpoint, 1)(x), atol=1e-3)
    judge = Judge(x, classes(Engine(checkpoint, 1), x))
    found = narrow_bottlenecks(checkpoint, moments, judge, (0.5, 0.99))
    assert found[0].kept < found[1].kept <= channels


# memory


def test_memory_by_hand() -> None:
    """8 x 8 pixels, a stem of 8 channels and stride 2, a block to 16 channels, one that expands them
    by 2 and has a shortcut, a classifier of 4.
    """
    stages = (Stage(1, 16, 1, 1), Stage(2, 16, 1, 1))
    architecture = Architecture(
        stages=stages, stem_channels=8, last_channels=None, head=Classifier(4), resolution=(8, 8)
    )
    found = measure_memory(random_checkpoint(architecture), 8, 8, 1)
    image, stem, thin, wide, pooled, answer = 3 * 64, 8 * 16, 16 * 16, 32 * 16, 16, 4
    operators = [
        image + stem, stem + stem, stem + thin,
        thin + wide, wide + wide + thin, wide + thin + thin, 3 * thin,
        thin + pooled, pooled + answer,
    ]  # fmt: skip
    assert [step.held_bytes for step in found.operators] == [4 * count for count in operators]
    blocks = [image + stem, stem + thin, thin + thin, thin + pooled, pooled + answer]
    assert [step.held_bytes for step in found.bottlenecks] == [4 * count for count in blocks]
    assert [(step.first, step.last) for step in found.bottlenecks] == [
        (0, 0), (1, 2), (3, 6), (7, 7), (8, 8),
    ]  # fmt: skip
    assert found.layers[6] == "features.2.add"


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_of_the_runtime(threads: int) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, classes=5)
    found = measure_memory(checkpoint, 64, 96, threads)
    engine = Engine(checkpoint, threads)
    assert found.threads == threads
    assert found.activation_bytes == engine.activation_bytes(64, 96)
    assert max(step.held_bytes for step in found.runtime) == found.activation_bytes
    ends = [-1, *(step.last for step in found.runtime)]
    assert [step.first for step in found.runtime] == [end + 1 for end in ends[:-1]]
    assert ends[-1] == len(found.layers) - 1


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or sys.platform != "linux", reason="needs Linux"
)
def test_a_process_grows_as_planned() -> None:
    architecture = Architecture(width_mult=0.35, head=Classifier(5))
    planned = Engine(random_checkpoint(architecture), 1).activation_bytes(224, 224)
    found = resident_growth(architecture, 224, 224, 1)
    assert found is not None
    assert 0.4 * planned < found < planned + (256 << 10)


# photos


def test_photos_with_and_without_classes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("dog/1.png", "cat/2.png", "cat/3.png", "cat/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "cat" / "3.png").write_bytes(b"no image")
    labelled = replace(checkpoint, labels=("emu", "cat", "dog"))
    found = read_photos(labelled, tmp_path)
    assert [Path(name).name for name in found.names] == ["2.png", "4.png", "1.png"]
    assert found.truth is not None
    assert found.truth.tolist() == [1, 1, 2]
    assert found.pixels.shape == (3, 32, 32, 3)
    assert len(found.skipped) == 1
    assert "3.png" in found.skipped[0]

    other = replace(checkpoint, labels=("ant", "bee", "fly"))
    unlabelled = read_photos(other, tmp_path, samples=2)
    assert unlabelled.truth is None
    assert "cat" in unlabelled.unlabelled
    assert [Path(name).name for name in unlabelled.names] == ["2.png", "4.png"]

    with pytest.raises(UserError, match=r"none of the 1 photos can be read"):
        read_photos(other, one_broken(tmp_path / "broken"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in this folder"):
        read_photos(other, tmp_path / "empty")


def one_broken(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    return folder
