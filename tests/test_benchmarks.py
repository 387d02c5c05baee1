"""The benchmarks' own arithmetic, and that every peer is given our network and our images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folder import classes, disagreements
from int8_files import activations, with_all_stored
from latency import FLOAT, Case, cases, random_pixels, table, uncorrelated
from measure import markdown, process, ratio, turn
from peer_files import random_checkpoint, recipe, write
from peers import PEERS, Recipe
from startup import goals

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
def integers(checkpoint) -> Int8Checkpoint:
    images = random_pixels(2, (4, 96, 96, 3))
    return with_all_stored(to_int8(checkpoint, images), checkpoint, images)


def logits_of(
    peer: str, checkpoint: AnyCheckpoint, folder: Path, images: np.ndarray, batch: int | None
) -> np.ndarray:
    for module in MODULES[peer]:
        pytest.importorskip(module)
    path = write(checkpoint, peer, folder, batch)
    precision = "float32" if isinstance(checkpoint, Checkpoint) else "int8"
    return PEERS[peer].load(path, 1)(PEERS[peer].prepare[precision](images))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_peer_runs_our_network(tmp_path, checkpoint, pixels, peer, batch) -> None:
    sources = pixels(batch, 96, 96, 3)
    wanted = Reference(checkpoint)(sources)
    assert wanted.std() > 0.5  # else agreeing would be no news
    images = checkpoint.preprocessing.normalize(sources)
    found = logits_of(peer, checkpoint, tmp_path, images, batch)
    assert found.shape == (batch, 1000)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("peer", INT8)
@pytest.mark.parametrize("batch", [1, 3])
def test_peers_run_our_integers(tmp_path, checkpoint, integers, pixels, peer, batch) -> None:
    images = pixels(batch, 96, 96, 3)
    found = logits_of(peer, integers, tmp_path, images, batch)
    assert found.shape == (batch, 1000)
    assert uncorrelated(found, Reference(checkpoint)(images)) < 0.02  # of floats
    assert uncorrelated(found, Int8Reference(integers)(images)) < 0.02


def test_tensorflow_lites_reference_has_our_integers(tmp_path, integers, pixels) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path = write(integers, "litert", tmp_path, 2)
    reference = interpreter.OpResolverType.BUILTIN_REF
    run = interpreter.Interpreter(str(path), experimental_op_resolver_type=reference)
    run.allocate_tensors()
    images = pixels(2, 96, 96, 3)
    run.set_tensor(run.get_input_details()[0]["index"], PEERS["litert"].prepare["int8"](images))
    run.invoke()
    found = run.get_tensor(run.get_output_details()[0]["index"])
    wanted = Int8Reference(integers)(images)
    step = integers.activations["classifier.1"].scale
    np.testing.assert_allclose(found, wanted, atol=1.01 * step)  # its MEAN is not our average pool


def test_what_peers_do_not_know_is_refused(checkpoint, integers, pixels) -> None:
    with pytest.raises(SystemExit, match="all rounded"):
        activations(to_int8(checkpoint, pixels(1, 96, 96, 3)))
    with pytest.raises(SystemExit, match="one zero point"):
        activations(replace(integers, image_zero_points=(127, 128, 128)))


def test_an_open_batch_in_onnx(tmp_path, checkpoint, pixels) -> None:
    sources = pixels(2, 96, 96, 3)
    images = checkpoint.preprocessing.normalize(sources)
    found = logits_of("onnxruntime", checkpoint, tmp_path, images, None)
    np.testing.assert_allclose(found, Reference(checkpoint)(sources), atol=1e-3)


def test_peers_prepare_a_photo_as_we_do(tmp_path, checkpoint) -> None:
    recipe(checkpoint).save(tmp_path / "recipe.json")
    found = Recipe.read(tmp_path / "recipe.json")
    wanted = checkpoint.preprocessing
    np.testing.assert_allclose(found.image(CAT), wanted.normalize(wanted(decode(CAT))), atol=1e-6)
    assert found.labels[7] == "class 7"


def test_ratio_pair_by_pair() -> None:
    ours, theirs = [1.0, 10, 2, 4, 5], [2.0, 30, 8, 20, 30]  # 2, 3, 4, 5, 6 times
    assert ratio(theirs, ours) == pytest.approx((4, 2.4, 5.6))
    assert str(ratio(theirs, ours)) == "4.00 (2.40-5.60)"
    with pytest.raises(ValueError, match="as many"):
        ratio([1.0], [1.0, 2.0])


def test_everybody_begins_once() -> None:
    assert [turn("abc", r) for r in range(4)] == [list(o) for o in ("abc", "bca", "cab", "abc")]


def test_table_of_latencies() -> None:
    def result(runtime: str, rounds: list[float] | None) -> dict[str, object]:
        return {**vars(Case(1.0, 224, 1, 2)), "runtime": runtime, "rounds_ms": rounds}

    def last_row(results: list[dict[str, object]]) -> list[str]:
        return [cell.strip() for cell in table(results).splitlines()[-1].strip("|").split("|")]

    results = [result("mobilenetv2", [2, 4]), result("litert", [3, 6]), result("ncnn", None)]
    wanted = ["1.0 / 224", "2", "3.00", "4.50: 1.50 (1.50-1.50)", "disagrees", "1.50"]
    assert last_row(results) == wanted
    results[2] = result(FLOAT, [1, 2])  # no peer
    assert last_row(results)[-2:] == ["1.50: 0.50 (0.50-0.50)", "1.50"]


def test_default_cases_hold_each_width_and_resolution_once() -> None:
    class Options:
        widths = resolutions = batches = None
        threads = (1, 2)

    found = cases(Options())
    assert len(found) == len(set(found)) == 24
    assert Case(1.0, 224, 1, 2) in found
    assert Case(0.35, 96, 8, 1) in found


def test_goals_of_startup() -> None:
    def program(ms: list[float], resident: float) -> dict[str, list[float]]:
        return {"ms": ms, "resident_bytes": [resident]}

    results = {
        "mobilenetv2": program([120, 130], 45e6),
        "litert": program([110, 100], 50e6),
        "numpy": program([80, 80], 26e6),
    }
    time, memory = goals(results, 14_000_000).splitlines()
    assert time == "- time: LiteRT's +20 ms; goal +20 ms: met"
    assert memory.startswith("- memory: 1.12 times")
    assert memory.endswith("goal 1.2: met")
    results["mobilenetv2"] = program([121, 130], 60e6)
    assert goals(results, 14_000_000).count("missed") == 2


def test_answers_are_compared_by_file() -> None:
    ours = classes("file,rank,index\na/x.jpg,1,3\na/y.jpg,1,5\n")
    theirs = classes("file,index,label\nb/x.jpg,3,cat\nb/y.jpg,6,dog\nb/z.jpg,1,cow\n")
    assert ours == {"x.jpg": 3, "y.jpg": 5}
    assert disagreements(ours, ours) == 0
    assert disagreements(ours, theirs) == 2


def test_a_process_and_its_memory() -> None:
    large = process(sys.executable, "-c", "x = b'x' * (64 << 20); print('done')")
    assert large.output == "done\n"
    small = process(sys.executable, "-c", "")
    assert large.resident_bytes - small.resident_bytes == pytest.approx(64 << 20, rel=0.1)
    assert small.resident_bytes < 32 << 20  # nothing of this process, which is larger
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        process(sys.executable, "-c", "1 / 0")


def test_markdown_stands_in_columns() -> None:
    lines = markdown(["a", "b"], [["long", "1"], ["c", "22"]]).splitlines()
    assert lines == ["| a    | b  |", "| ---- | -- |", "| long | 1  |", "| c    | 22 |"]
