"""`mobilenetv2 benchmark` and what stands behind it. No test looks at how long anything took."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.cost import network_cost
from mobilenetv2.errors import UserError
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier, named_head
from mobilenetv2.runtime import Engine, _native
from mobilenetv2.runtime.timing import measure, measure_steps
from mobilenetv2.zoo import models

from .conftest import random_checkpoint

FACTS = [
    "model", "isa", "threads", "batch", "height", "width", "runs", "median_ms", "p10_ms", "p90_ms",
    "images_per_second", "macs", "gmacs_per_second", "peak_gmacs_per_second", "peak_share",
    "activation_bytes", "weight_bytes",
]  # fmt: skip
STEP = [
    "first", "last", "kind", "median_ms", "time_share", "macs", "gmacs_per_second", "peak_share",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch) -> None:
    monkeypatch.setattr("mobilenetv2.runtime.timing.WARM_UP_SECONDS", 0)
    monkeypatch.setattr("mobilenetv2.runtime.timing.SECONDS", 0)


@pytest.fixture
def model(tmp_path) -> str:
    path = tmp_path / "model.safetensors"
    random_checkpoint(width_mult=0.35, classes=7).save(path)
    return str(path)


def facts(capsys, *arguments: str) -> dict:
    assert run(["benchmark", "--format", "json", *arguments]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return found


def test_json_tells_all(model, capsys) -> None:
    found = facts(
        capsys, "--model", model, "--threads", "2", "--batch", "3", "--resolution", "64x48",
        "--isa", "scalar", "--runs", "4",
    )  # fmt: skip
    assert list(found) == FACTS
    asked = {"model": model, "isa": "scalar", "threads": 2, "batch": 3, "height": 64, "width": 48}
    assert found.items() >= {**asked, "runs": 4}.items()
    assert (
        found["macs"]
        == network_cost(Architecture(width_mult=0.35, head=Classifier(7)), 64, 48).macs
    )
    assert found["p10_ms"] <= found["median_ms"] <= found["p90_ms"]
    assert found["images_per_second"] == pytest.approx(3e3 / found["median_ms"])
    rate = found["macs"] * 3 / found["median_ms"] / 1e6
    assert found["gmacs_per_second"] == pytest.approx(rate)
    assert found["peak_share"] == pytest.approx(rate / found["peak_gmacs_per_second"])
    engine = Engine(random_checkpoint(width_mult=0.35, classes=7), 2, "scalar")
    assert found["activation_bytes"] == engine.activation_bytes(64, 48, 3)
    assert found["weight_bytes"] == engine.weight_bytes


def test_the_bundled_model_at_its_own_size_by_default(capsys, monkeypatch) -> None:
    monkeypatch.delenv("MOBILENETV2_ISA", raising=False)
    found = facts(capsys)
    assert (found["model"], found["height"], found["width"]) == (models()[0].name, 32, 32)
    assert found["isa"] == _native.kernel_names()[-1]
    assert found["batch"] == 1
    assert found["runs"] >= 10


@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_profile_adds_up(threads, batch, capsys) -> None:
    found = facts(
        capsys, "--profile", "--runs", "3", "--threads", str(threads), "--batch", str(batch)
    )
    steps = found.pop("steps")
    assert list(found) == FACTS
    assert all(list(step) == STEP for step in steps)
    assert sum(step["macs"] for step in steps) == found["macs"]
    assert sum(step["time_share"] for step in steps) == pytest.approx(1)
    assert (steps[0]["first"], steps[-1]["last"]) == ("features.0.0", "classifier.1")
    for step in steps:
        rate = step["macs"] * batch / max(step["median_ms"], 1e-6) / 1e6
        assert step["gmacs_per_second"] == pytest.approx(rate)
        share = rate / found["peak_gmacs_per_second"]
        assert step["peak_share"] == pytest.approx(share)


@pytest.mark.parametrize("head", ["features", "deeplabv3_aspp"])
def test_other_heads(head) -> None:
    architecture = Architecture(width_mult=0.35, head=named_head(head, 5), output_stride=16)
    engine = Engine(random_checkpoint(architecture), 2)
    timing = measure(engine, 65, 33, batch=2, runs=1)
    steps = measure_steps(engine, timing)
    assert timing.macs == network_cost(architecture, 65, 33).macs
    assert sum(step.macs for step in steps) == timing.macs
    assert steps[-1].last == layers(architecture)[-1].name


def test_csv(capsys) -> None:
    assert run(["benchmark", "--runs", "2", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(row) == FACTS
    assert row["runs"] == "2"
    assert run(["benchmark", "--runs", "2", "--format", "csv", "--profile"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == STEP
    assert sum(int(row["macs"]) for row in rows) == 34_611_712


def test_table(capsys) -> None:
    assert run(["benchmark", "--runs", "2"]) == 0
    brief = capsys.readouterr().out
    assert all(f" {name.replace('_', ' ')} " in brief for name in FACTS)
    assert "features.0.0" not in brief
    assert run(["benchmark", "--runs", "2", "--profile"]) == 0
    whole = capsys.readouterr().out
    assert all(f" {name.replace('_', ' ')} " in whole for name in (*FACTS, *STEP))
    assert "features.0.0" in whole


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--runs", "0"], "--runs"),
        (["--batch", "0"], "--batch"),
        (["--batch", "many"], "--batch"),
        (["--threads", "0"], "--threads"),
        (["--threads", "5000"], "threads must be a whole number from 1 to 1024, not 5000"),
        (["--isa", "mmx"], "isa must be one that this machine has (scalar"),
        (["--resolution", "big"], "'big' is neither a side such as 224 nor HEIGHTxWIDTH"),
        (["--resolution", "0"], "height must be"),
        (["--resolution", "32x70000"], "width must be"),
        (["--model", "gone.safetensors"], "gone.safetensors: no such file, and no model"),
        (["--format", "xml"], "--format"),
    ],
)
def test_bad_values_are_refused(arguments, complaint, capsys) -> None:
    assert run(["benchmark", *arguments]) == 2
    out, err = capsys.readouterr()
    assert complaint in err
    assert "Traceback" not in out + err


def test_bad_numbers_are_refused_from_python() -> None:
    engine = Engine(random_checkpoint(width_mult=0.35), 1)
    for name in ("batch", "runs"):
        with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
            measure(engine, 32, 32, **{name: 0})


def test_a_batch_beyond_the_memory_is_refused(monkeypatch) -> None:
    engine = Engine(random_checkpoint(width_mult=0.35), 1)

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mobilenetv2.runtime.timing._images", no_memory)
    with pytest.raises(UserError, match="5 images of 32x40 do not fit in memory"):
        measure(engine, 32, 40, batch=5)


def test_memory_of_a_batch_stops_growing() -> None:
    """More images than run at once go one group after another."""
    engine = Engine(random_checkpoint(width_mult=0.35), 1)
    sizes = [engine.activation_bytes(64, 64, batch) for batch in (1, 2, 4, 64)]
    assert engine.activation_bytes(64, 64) == sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_weights_are_counted_as_packed() -> None:
    """The first layer twice: for pixels and for values. Vectors of the scalar kernels are whole."""
    architecture = Architecture(width_mult=0.35, head=Classifier(7))
    found = [layer for layer in layers(architecture) if layer.weight]
    floats = sum(math.prod(layer.weight_shape) + layer.out_shape[0] for layer in [*found, found[0]])
    engine = Engine(random_checkpoint(architecture), 1, "scalar")
    assert engine.weight_bytes == 4 * floats


def test_the_peak_is_of_instruction_sets_that_are_here() -> None:
    for isa in _native.kernel_names():
        assert _native.fma_rate(isa) > 0
    with pytest.raises(ValueError, match="mmx"):
        _native.fma_rate("mmx")
