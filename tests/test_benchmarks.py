"""The arithmetic of the benchmarks, and that every peer runs our network on our pixels."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from compare_builds import main as compare_builds
from folder import best_classes, disagreements
from latency import OURS_FLOAT32, Case, cases, correlation_loss, random_pixels, table
from measure import RESULTS, markdown, process, ratio, turn
from peer_arrays import with_all_stored
from peer_files import random_checkpoint, recipe, write
from peers import PEERS, Recipe
from startup import goals

import mobilenetv2
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.images import decode
from mobilenetv2.int8 import AnyCheckpoint, Int8Checkpoint
from mobilenetv2.runtime import Int8Reference, Reference
from mobilenetv2.runtime.quantize import to_int8

MODULES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "litert": ("ai_edge_litert",),
    "ncnn": ("ncnn",),
    "torch": ("torch",),
}
INT8 = [name for name, peer in PEERS.items() if "int8" in peer.prepare]
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(0.35, 96)


@pytest.fixture(scope="module")
def quantized(checkpoint) -> Int8Checkpoint:
    calibration = random_pixels(2, (4, 96, 96, 3))
    return with_all_stored(to_int8(checkpoint, calibration), checkpoint, calibration)


def logits_of(
    peer: str, checkpoint: AnyCheckpoint, folder: Path, inputs: np.ndarray, batch: int | None
) -> np.ndarray:
    """What the peer makes of inputs (N, H, W, 3): uint8 pixels in int8, else normalised float32."""
    for module in MODULES[peer]:
        pytest.importorskip(module)
    path = write(checkpoint, peer, folder, batch)
    precision = "float32" if isinstance(checkpoint, Checkpoint) else "int8"
    return PEERS[peer].load(path, 1)(PEERS[peer].prepare[precision](inputs))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_peer_runs_our_network(tmp_path, checkpoint, pixels, peer, batch) -> None:
    images = pixels(batch, 96, 96, 3)
    expected = Reference(checkpoint)(images)
    # nearly constant logits would agree whatever the peer computes
    assert expected.std() > 0.5
    inputs = checkpoint.preprocessing.normalize(images)
    logits = logits_of(peer, checkpoint, tmp_path, inputs, batch)
    assert logits.shape == (batch, 1000)
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.parametrize("peer", INT8)
@pytest.mark.parametrize("batch", [1, 3])
def test_int8_peers_run_our_int8_network(
    tmp_path, checkpoint, quantized, pixels, peer, batch
) -> None:
    images = pixels(batch, 96, 96, 3)
    logits = logits_of(peer, quantized, tmp_path, images, batch)
    assert logits.shape == (batch, 1000)
    assert correlation_loss(logits, Reference(checkpoint)(images)) < 0.02
    assert correlation_loss(logits, Int8Reference(quantized)(images)) < 0.02


def test_tensorflow_lites_reference_kernels_run_our_int8_file(tmp_path, quantized, pixels) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path = write(quantized, "litert", tmp_path, 2)
    reference = interpreter.OpResolverType.BUILTIN_REF
    run = interpreter.Interpreter(str(path), experimental_op_resolver_type=reference)
    run.allocate_tensors()
    images = pixels(2, 96, 96, 3)
    run.set_tensor(run.get_input_details()[0]["index"], PEERS["litert"].prepare["int8"](images))
    run.invoke()
    logits = run.get_tensor(run.get_output_details()[0]["index"])
    # its MEAN rounds otherwise than our average pool
    tolerance = 1.01 * quantized.activations["classifier.1"].scale
    np.testing.assert_allclose(logits, Int8Reference(quantized)(images), atol=tolerance)


def test_an_open_batch_in_onnx(tmp_path, checkpoint, pixels) -> None:
    images = pixels(2, 96, 96, 3)
    inputs = checkpoint.preprocessing.normalize(images)
    logits = logits_of("onnxruntime", checkpoint, tmp_path, inputs, None)
    np.testing.assert_allclose(logits, Reference(checkpoint)(images), atol=1e-3)


def test_peers_prepare_an_image_as_we_do(tmp_path, checkpoint) -> None:
    recipe(checkpoint).save(tmp_path / "recipe.json")
    theirs = Recipe.read(tmp_path / "recipe.json")
    assert theirs.labels[7] == "class 7"
    ours = checkpoint.preprocessing
    pixels = ours(decode(CAT))
    np.testing.assert_array_equal(theirs.pixels(CAT), pixels)
    np.testing.assert_allclose(theirs.normalized(CAT), ours.normalize(pixels), atol=1e-6)


def test_ratio_pair_by_pair() -> None:
    # the ratios are 2, 3, 4, 5 and 6
    ours, theirs = [1.0, 10, 2, 4, 5], [2.0, 30, 8, 20, 30]
    assert ratio(theirs, ours) == pytest.approx((4, 2.4, 5.6))
    assert str(ratio(theirs, ours)) == "4.00 (2.40-5.60)"


def test_ratio_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="not 1 and 2"):
        ratio([1.0], [1.0, 2.0])


def test_each_round_begins_with_the_next_item() -> None:
    assert [turn("abc", r) for r in range(4)] == [list(o) for o in ("abc", "bca", "cab", "abc")]


def test_table_of_latencies() -> None:
    def result(runtime: str, rounds: list[float] | None) -> dict[str, object]:
        return {**vars(Case(1.0, 224, 1, 2)), "runtime": runtime, "rounds_ms": rounds}

    def last_row(results: list[dict[str, object]]) -> list[str]:
        return [cell.strip() for cell in table(results).splitlines()[-1].strip("|").split("|")]

    results = [result("mobilenetv2", [2, 4]), result("litert", [3, 6]), result("ncnn", None)]
    expected = ["1.0 / 224", "2", "3.00", "4.50: 1.50 (1.50-1.50)", "disagrees", "1.50"]
    assert last_row(results) == expected
    # faster than the best peer, but it is not a peer
    results[2] = result(OURS_FLOAT32, [1, 2])
    assert last_row(results)[-2:] == ["1.50: 0.50 (0.50-0.50)", "1.50"]


def test_default_cases_hold_each_width_and_resolution_once() -> None:
    options = Namespace(widths=None, resolutions=None, batches=None, threads=(1, 2))
    default = cases(options)
    assert len(default) == len(set(default)) == 24
    assert Case(1.0, 224, 1, 2) in default
    assert Case(0.35, 96, 8, 1) in default


def test_cases_are_the_product_of_the_options() -> None:
    options = Namespace(widths=[0.5], resolutions=None, batches=[1, 4], threads=[3])
    assert cases(options) == [Case(0.5, 224, 1, 3), Case(0.5, 224, 4, 3)]


def test_goals_of_startup() -> None:
    def program(ms: list[float], resident: float) -> dict[str, list[float]]:
        return {"ms": ms, "resident_bytes": [resident]}

    results = {"mobilenetv2": program([105, 115], 45e6), "litert": program([110, 100], 50e6)}
    assert goals(results).splitlines() == [
        "- time: LiteRT's +5 ms; goal +5 ms: met",
        "- memory: 45.0 MB; goal 50 MB: met",
    ]
    results["mobilenetv2"] = program([121, 130], 60e6)
    assert goals(results).count("missed") == 2


def test_predictions_are_compared_by_file() -> None:
    ours = best_classes("file,rank,index\na/x.jpg,1,3\na/y.jpg,1,5\n")
    theirs = best_classes("file,index,label\nb/x.jpg,3,cat\nb/y.jpg,6,dog\nb/z.jpg,1,cow\n")
    assert ours == {"x.jpg": 3, "y.jpg": 5}
    assert disagreements(ours, ours) == 0
    # y.jpg has another class, z.jpg only one prediction
    assert disagreements(ours, theirs) == 2


@pytest.mark.parametrize("name", ["latency", "latency-int8"])
def test_plot_reads_the_committed_results(tmp_path, monkeypatch, name) -> None:
    pytest.importorskip("matplotlib")
    import plot

    (results,) = RESULTS.glob(f"{name}-20*.json")
    drawing = tmp_path / "latency.svg"
    monkeypatch.setattr(sys, "argv", ["plot.py", str(results), str(drawing)])
    plot.main()
    assert drawing.stat().st_size > 10_000


def test_a_process_and_its_memory() -> None:
    large = process(sys.executable, "-c", "x = b'x' * (64 << 20); print('done')")
    assert large.output == "done\n"
    small = process(sys.executable, "-c", "")
    assert large.resident_bytes - small.resident_bytes == pytest.approx(64 << 20, rel=0.1)
    # this process is larger, and its memory must not count
    assert small.resident_bytes < 32 << 20


def test_a_process_that_fails_shows_its_error() -> None:
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        process(sys.executable, "-c", "1 / 0")


def test_markdown_columns_are_aligned() -> None:
    lines = markdown(["a", "b"], [["long", "1"], ["c", "22"]]).splitlines()
    assert lines == ["| a    | b  |", "| ---- | -- |", "| long | 1  |", "| c    | 22 |"]


def test_a_build_beside_itself_gives_the_same_bits(capsys) -> None:
    build = str(Path(mobilenetv2.__file__).parents[1])
    options = ["--model", "cifar10-int8", "--threads", "1", "--rounds", "2", "--calls", "1"]
    assert compare_builds([build, build, *options]) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")]
    assert cells[1:3] == ["cifar10-int8", "1"]
    assert cells[-2] == "yes"


def test_a_folder_without_a_build_is_named(tmp_path) -> None:
    with pytest.raises(SystemExit, match=f"{tmp_path}: no build"):
        compare_builds([str(tmp_path), str(tmp_path)])
