"""`mobilenetv2 benchmark` and the functions it calls. No test depends on how long anything took."""

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

COLUMNS = [
    "model", "precision", "isa", "threads", "batch", "height", "width", "runs", "median_ms", "p10_ms", "p90_ms",
    "images_per_second", "macs", "gmacs_per_second", "peak_gmacs_per_second", "peak_share",
    "activation_bytes", "weight_bytes",
]  # fmt: skip
STEP_COLUMNS = [
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


def measured(capsys, *arguments: str) -> dict:
    """The single JSON object that the command prints."""
    assert run(["benchmark", "--format", "json", *arguments]) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    return summary


def test_a_long_run_is_announced(model, capsys, monkeypatch) -> None:
    monkeypatch.setattr("mobilenetv2.runtime.timing._call_ms", lambda *_: 2.0)
    assert run(["benchmark", model, "--batch", "500", "--resolution", "32", "--runs", "99"]) == 0
    notice = "about 100 seconds; a smaller --batch or fewer --runs take less\n"
    assert capsys.readouterr().err == notice
    assert run(["benchmark", model, "--batch", "5", "--resolution", "32", "--runs", "99"]) == 0
    assert capsys.readouterr().err == ""


def test_json_has_every_column(model, capsys) -> None:
    summary = measured(
        capsys, "--model", model, "--threads", "2", "--batch", "3", "--resolution", "64x48",
        "--isa", "scalar", "--runs", "4",
    )  # fmt: skip
    assert list(summary) == COLUMNS
    assert summary.items() >= {
        "model": model, "isa": "scalar", "threads": 2, "batch": 3, "height": 64, "width": 48,
        "runs": 4,
    }.items()  # fmt: skip
    assert (
        summary["macs"]
        == network_cost(Architecture(width_mult=0.35, head=Classifier(7)), 64, 48).macs
    )
    assert summary["images_per_second"] == pytest.approx(3e3 / summary["median_ms"])
    rate = summary["macs"] * 3 / summary["median_ms"] / 1e6
    assert summary["gmacs_per_second"] == pytest.approx(rate)
    assert summary["peak_share"] == pytest.approx(rate / summary["peak_gmacs_per_second"])
    engine = Engine(random_checkpoint(width_mult=0.35, classes=7), 2, "scalar")
    assert summary["activation_bytes"] == engine.activation_bytes(64, 48, 3)
    assert summary["weight_bytes"] == engine.weight_bytes


def test_in_bfloat16(model, capsys) -> None:
    isa = _native.bf16_kernel_names()[-1]
    flags = ("--precision", "bf16", "--isa", isa, "--runs", "3", "--resolution", "64")
    summary = measured(capsys, "--model", model, *flags)
    assert (summary["precision"], summary["isa"]) == ("bf16", isa)
    engine = Engine(random_checkpoint(width_mult=0.35, classes=7), summary["threads"], isa, "bf16")
    assert summary["weight_bytes"] == engine.weight_bytes
    assert 0 < _native.bf16_fma_rate(isa) < math.inf


def test_percentiles_are_those_of_the_calls(monkeypatch) -> None:
    times = iter([100.0, *(float(ms) for ms in range(11, 0, -1))])  # the warm-up, then 11 calls
    monkeypatch.setattr("mobilenetv2.runtime.timing._call_ms", lambda *_: next(times))
    timing = measure(Engine(random_checkpoint(width_mult=0.35), 1), 32, 32, runs=11)
    assert (timing.p10_ms, timing.median_ms, timing.p90_ms) == pytest.approx((2, 6, 10))
    assert timing.runs == 11


def test_the_bundled_model_at_its_own_size_by_default(capsys, monkeypatch) -> None:
    monkeypatch.delenv("MOBILENETV2_ISA", raising=False)
    summary = measured(capsys)
    assert (summary["model"], summary["height"], summary["width"]) == (models()[0].name, 32, 32)
    assert summary["isa"] == _native.kernel_names()[-1]
    assert summary["batch"] == 1
    assert summary["runs"] == 10


@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_profile_adds_up(threads, batch, capsys) -> None:
    summary = measured(
        capsys, "--profile", "--runs", "3", "--threads", str(threads), "--batch", str(batch)
    )
    steps = summary.pop("steps")
    assert list(summary) == COLUMNS
    assert all(list(step) == STEP_COLUMNS for step in steps)
    assert sum(step["macs"] for step in steps) == summary["macs"]
    assert sum(step["time_share"] for step in steps) == pytest.approx(1)
    assert (steps[0]["first"], steps[-1]["last"]) == ("features.0.0", "classifier.1")
    for step in steps:
        rate = step["macs"] * batch / max(step["median_ms"], 1e-6) / 1e6
        assert step["gmacs_per_second"] == pytest.approx(rate)
        share = rate / summary["peak_gmacs_per_second"]
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
    assert list(row) == COLUMNS
    assert row["runs"] == "2"
    assert run(["benchmark", "--runs", "2", "--format", "csv", "--profile"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == STEP_COLUMNS
    assert sum(int(row["macs"]) for row in rows) == 34_611_712


def test_table(capsys) -> None:
    assert run(["benchmark", "--runs", "2"]) == 0
    summary = capsys.readouterr().out
    assert [name for name in COLUMNS if f" {name.replace('_', ' ')} " not in summary] == []
    assert "features.0.0" not in summary
    assert run(["benchmark", "--runs", "2", "--profile"]) == 0
    profile = capsys.readouterr().out
    columns = (*COLUMNS, *STEP_COLUMNS)
    assert [name for name in columns if f" {name.replace('_', ' ')} " not in profile] == []
    assert "features.0.0" in profile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "0"], "--runs"),
        (["--batch", "0"], "--batch"),
        (["--batch", "many"], "--batch"),
        (["--threads", "0"], "--threads"),
        (["--threads", "5000"], "threads must be a whole number from 1 to 1024, not 5000"),
        (["--isa", "mmx"], "isa must be one that this machine has (scalar"),
        (["--precision", "fp16"], "precision must be float32 or bf16, not 'fp16'"),
        (["--resolution", "big"], "'big' is neither a side such as 224 nor HEIGHTxWIDTH"),
        (["--resolution", "0"], "height must be"),
        (["--resolution", "32x70000"], "width must be"),
        (["--model", "gone.safetensors"], "gone.safetensors: no such file, and no model"),
        (["--format", "xml"], "--format"),
    ],
)
def test_bad_values_are_refused(arguments, message, capsys) -> None:
    assert run(["benchmark", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("name", ["batch", "runs"])
def test_bad_numbers_are_refused_from_python(name) -> None:
    engine = Engine(random_checkpoint(width_mult=0.35), 1)
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
    """Images that do not run at once run one group after another."""
    engine = Engine(random_checkpoint(width_mult=0.35), 1)
    sizes = [engine.activation_bytes(64, 64, batch) for batch in (1, 2, 4, 64)]
    assert engine.activation_bytes(64, 64) == sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_weights_are_counted_as_packed() -> None:
    """The stem counts twice: it is packed for uint8 pixels and for float values. With the scalar
    kernels no vector is padded.
    """
    architecture = Architecture(width_mult=0.35, head=Classifier(7))
    weighted = [layer for layer in layers(architecture) if layer.weight]
    numbers = [math.prod(layer.weight_shape) + layer.out_shape[0] for layer in weighted]
    engine = Engine(random_checkpoint(architecture), 1, "scalar")
    assert engine.weight_bytes == 4 * (sum(numbers) + numbers[0])


@pytest.mark.parametrize("rate", [_native.fma_rate, _native.byte_fma_rate])
def test_the_peak_of_an_unknown_instruction_set_is_refused(rate) -> None:
    with pytest.raises(ValueError, match="mmx"):
        rate("mmx")


@pytest.mark.parametrize("isa", _native.kernel_names())
def test_the_peak_is_measured_on_each_instruction_set(isa) -> None:
    assert 0 < _native.fma_rate(isa) < math.inf
