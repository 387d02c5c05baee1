"""How long detection and segmentation take: published files in our runtime and in two others, in turns.

    pip install '.[benchmark]'
    python benchmarks/tasks.py ssd_mobilenet_v2.tflite deeplabv3_mnv2_pascal_quant.tflite --images photos/

Every file runs
  - in LiteRT, as it is, with its default delegate (XNNPACK);
  - in ONNX Runtime, with the same weights in float32;
  - in ours: in float32; in int8, quantised here with the images; and a quantised file also in its own
    integers.

A segmenter's answer is the class of every pixel, but in ONNX Runtime the scores, which is less work; a
detector's are the raw boxes and scores. `mobilenetv2 evaluate` says how good the answers are.
In every round each runtime waits until no thread of the process spins, is called once untimed and
then `--calls` times; the median is its time in that round. A ratio is the other's time over ours in
the same round: above 1 we are faster. Ours gets uint8 pixels, the others what is fastest for them.
Before anything is timed, the others' answers must be ours in float32: boxes and scores within 1e-3,
masks on 99.5 % of the pixels, or 85 % where the file is quantised.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, ratio, report, timed
from numpy.typing import NDArray
from peer_files import write_onnx
from peers import nchw

import mobilenetv2 as mnv2
from mobilenetv2.boxes import probabilities
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cost import network_cost
from mobilenetv2.datasets import collect_images
from mobilenetv2.heads import SSDHead
from mobilenetv2.runtime.quantize import read_images, to_int8

PACKAGES = ("ai-edge-litert", "onnxruntime")
LITERT, ONNX = "LiteRT", "ONNX Runtime"
FLOAT, INT8, IMPORTED = "float32", "int8", "int8 of the file"
TOLERANCE = 1e-3  # of box codes and scores
Call = Callable[[], Any]


def main() -> int:
    """Times all files, prints and writes the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.tflite")
    parser.add_argument("--images", required=True, help="to quantise with: a folder, .zip or .csv")
    parser.add_argument("--samples", type=int, default=32, help="of them; default: 32")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="default: 1")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--calls", type=int, default=5, help="per round; default: 5")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    watch, results = Watch(), []
    for file in options.files:
        checkpoints = models_of(file, options.images, options.samples)
        for threads in options.threads:
            with tempfile.TemporaryDirectory() as folder:
                calls = all_calls(file, checkpoints, threads, Path(folder))
                times = timed(calls, options.rounds, options.calls)
            results.append(
                {
                    "file": file.name,
                    "threads": threads,
                    "macs": network_cost(checkpoints[FLOAT].architecture).macs,
                    "times": times,
                }
            )
    report("tasks", machine(PACKAGES), watch, results, table(results), options.output)
    return 0


def models_of(file: Path, images: str, samples: int) -> dict[str, Any]:
    """Our checkpoints of a file, by how they compute."""
    checkpoint = mnv2.load(file, int8=False).checkpoint
    assert isinstance(checkpoint, Checkpoint)
    found = collect_images([images]).samples
    chosen = [found[i * len(found) // samples] for i in range(min(samples, len(found)))]
    pixels, _ = read_images(checkpoint.preprocessing, chosen)
    checkpoints = {FLOAT: checkpoint, INT8: to_int8(checkpoint, pixels)}
    own = mnv2.load(file).checkpoint
    return checkpoints if isinstance(own, Checkpoint) else {**checkpoints, IMPORTED: own}


def all_calls(
    file: Path, checkpoints: dict[str, Any], threads: int, folder: Path
) -> dict[str, Call]:
    """What is timed, by name."""
    checkpoint = checkpoints[FLOAT]
    shape = (1, *checkpoint.preprocessing.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    calls = {name: our_call(own, threads, pixels) for name, own in checkpoints.items()}
    calls[LITERT] = litert_call(file, threads, pixels, checkpoint)
    write_onnx(checkpoint, folder / "model.onnx")
    calls[ONNX] = onnx_call(folder / "model.onnx", threads, pixels, checkpoint)
    ours, head = calls[FLOAT](), checkpoint.architecture.head
    check(LITERT, ours, calls[LITERT](), 0.85 if IMPORTED in calls else 0.995)
    if isinstance(head, SSDHead):
        # its file makes probabilities of the scores
        ours = ours[0], probabilities(head, ours[1])
    check(ONNX, ours, calls[ONNX](), 0.995)
    return calls


def check(name: str, ours: Any, theirs: Any, lowest: float) -> None:
    """Raises SystemExit if another runtime's answer is not ours.

    Args:
        name: Of the runtime.
        ours: A mask, or box codes and scores.
        theirs: The same, or scores (N, classes, H, W) of a mask.
        lowest: Share of the pixels of a mask that must be equal.
    """
    if isinstance(ours, np.ndarray):
        theirs = theirs.argmax(1) if theirs.ndim > ours.ndim else theirs
        share = float((ours == theirs).mean())
        if share < lowest:
            raise SystemExit(f"{name}: {100 * share:.1f} % of the pixels have our class")
        return
    for a, b in zip(ours, theirs, strict=True):
        difference = float(np.abs(a - b).max())
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: differs by {difference:g}")


def our_call(checkpoint: Any, threads: int, pixels: NDArray[np.uint8]) -> Call:
    if checkpoint.architecture.head.task == "segmentation":
        segmenter = mnv2.Segmenter(checkpoint, threads)
        return lambda: segmenter.masks(pixels)
    detector = mnv2.Detector(checkpoint, threads)
    return lambda: detector.raw(pixels)


def litert_call(
    file: Path, threads: int, pixels: NDArray[np.uint8], checkpoint: Checkpoint
) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    given = pixels if image["dtype"] == np.uint8 else checkpoint.preprocessing.normalize(pixels)
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def call() -> Any:
        interpreter.set_tensor(image["index"], given)
        interpreter.invoke()
        answer = [interpreter.get_tensor(output) for output in outputs]
        return answer if len(answer) > 1 else answer[0]

    return call


def onnx_call(file: Path, threads: int, pixels: NDArray[np.uint8], checkpoint: Checkpoint) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {"image": nchw(checkpoint.preprocessing.normalize(pixels))}

    def call() -> Any:
        outputs = session.run(None, given)
        return outputs if len(outputs) > 1 else outputs[0]

    return call


def table(results: list[dict[str, Any]]) -> str:
    """A row for each file, number of threads and way of ours."""
    rows = []
    for result in results:
        times = result["times"]
        for name in (FLOAT, INT8, IMPORTED):
            if name in times:
                ours = float(np.median(times[name]))
                rows.append(
                    [
                        result["file"],
                        str(result["threads"]),
                        name,
                        f"{1e3 * ours:.1f}",
                        f"{1e-9 * result['macs'] / ours:.1f}",
                        *(
                            f"{1e3 * np.median(times[peer]):.1f}, {ratio(times[peer], times[name])}"
                            for peer in (LITERT, ONNX)
                        ),
                    ]
                )
    columns = ["file", "threads", "ours", "ms", "G multiply-adds / s"]
    return markdown([*columns, *(f"{peer}: ms, ratio" for peer in (LITERT, ONNX))], rows)


if __name__ == "__main__":
    sys.exit(main())
