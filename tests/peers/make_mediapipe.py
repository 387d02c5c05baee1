"""Writes .tflite files with metadata for MediaPipe, an image for each, and our answers as JSON.

    python tests/peers/make_mediapipe.py FOLDER MODEL...

MODEL is a file or a name that `mobilenetv2.load` takes. `mediapipe_tasks.py`, run where MediaPipe is
installed, compares. The images have the sizes of the models, so that both get the same pixels.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.exporting import PHOTO
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.verification.compare import expected_results
from mobilenetv2.writers import WriteOptions
from mobilenetv2.writers.tflite import write


def main() -> None:
    """Writes the files of every model."""
    folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    cases = []
    for name in names:
        checkpoint = mnv2.load(name).checkpoint
        if not checkpoint.labels:
            labels = tuple(f"class {i}" for i in range(checkpoint.architecture.classes))
            checkpoint = replace(checkpoint, labels=labels)
        pixels = checkpoint.preprocessing(PHOTO)
        variants: dict[str, Any] = {"uint8": (checkpoint, "uint8")}
        if not isinstance(checkpoint, Int8Checkpoint):
            one = len(set(checkpoint.preprocessing.mean)) == 1
            variants |= {"float32": (checkpoint, "float32")} if one else {}
            variants["int8"] = (to_int8(checkpoint, pixels[None]), "uint8")
        for kind, (model, takes) in variants.items():
            cases.append(case(Path(folder), f"{Path(name).stem}-{kind}", model, takes, pixels))
    Path(folder, "cases.json").write_text(json.dumps(cases))


def case(folder: Path, name: str, checkpoint: Any, takes: str, pixels: Any) -> dict[str, Any]:
    """Writes one file and its image; returns what MediaPipe is to answer."""
    task = checkpoint.architecture.head.task
    results = "raw" if task == "segmentation" else "final"
    options = WriteOptions(
        input=takes, results=results, task_metadata=True, score_threshold=0.1, max_detections=20
    )
    write(checkpoint, folder / f"{name}.tflite", options)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    ours = expected_results(checkpoint, options, pixels[None])
    kept = {key: np.asarray(values[0]) for key, values in ours.items()}
    if task == "segmentation":
        np.save(folder / f"{name}.npy", kept.pop("scores").argmax(-1).astype(np.uint8))
    return {
        "name": name,
        "task": task,
        "labels": checkpoint.labels,
        "int8": isinstance(checkpoint, Int8Checkpoint),
        **{key: values.tolist() for key, values in kept.items()},
    }


if __name__ == "__main__":
    main()
