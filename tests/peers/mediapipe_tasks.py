"""Runs the files of `make_mediapipe.py` in MediaPipe's tasks and compares their answers with ours.

    python tests/peers/mediapipe_tasks.py FOLDER

Needs mediapipe alone. The exit code is 1 where an answer is not the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

FLOAT_DIFFERENCE, INT8_DIFFERENCE = 1e-3, 0.1  # of probabilities
SAME_SHARE = {False: 0.999, True: 0.9}  # of places of a mask, and of detections


def main() -> int:
    """Runs every case; the exit code."""
    folder = Path(sys.argv[1])
    passed = True
    print(f"mediapipe {mediapipe.__version__}")
    for case in json.loads((folder / "cases.json").read_text()):
        path = folder / f"{case['name']}.tflite"
        image = mediapipe.Image.create_from_file(str(path.with_suffix(".png")))
        task, words = RUNS[case["task"]], ""
        same, words = task(case, BaseOptions(model_asset_path=str(path)), image, path)
        passed &= same
        print(f"{'same' if same else 'DIFFERS'}  {case['name']}: {words}")
    return not passed


def classify(case: Any, base: BaseOptions, image: Any, path: Path) -> tuple[bool, str]:
    """ImageClassifier: the probability of every label."""
    options = vision.ImageClassifierOptions(base_options=base)
    with vision.ImageClassifier.create_from_options(options) as task:
        categories = task.classify(image).classifications[0].categories
    scores = {each.index: each.score for each in categories}
    wrong = [each for each in categories if each.category_name != case["labels"][each.index]]
    largest = max(abs(p - scores.get(i, 0)) for i, p in enumerate(case["probabilities"]))
    allowed = INT8_DIFFERENCE if case["int8"] else FLOAT_DIFFERENCE
    best = int(np.argmax(case["probabilities"])) == categories[0].index
    words = f"{categories[0].category_name} {categories[0].score:.3f}, probabilities within {largest:.2g}"
    return not wrong and best and largest <= allowed, words


def detect(case: Any, base: BaseOptions, image: Any, path: Path) -> tuple[bool, str]:
    """ObjectDetector: boxes, labels and scores."""
    options = vision.ObjectDetectorOptions(base_options=base)
    with vision.ObjectDetector.create_from_options(options) as task:
        detections = task.detect(image).detections
    size = np.array([image.width, image.height] * 2)
    ours = [
        (case["labels"][index], np.array(box) * size)
        for index, box in zip(case["classes"], case["boxes"], strict=True)
    ]
    theirs = []
    for each in detections:
        box = each.bounding_box
        corners = (box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)
        theirs.append((each.categories[0].category_name, np.array(corners)))
    # MediaPipe rounds to whole pixels
    same = sum(
        any(label == other and np.abs(box - corners).max() <= 3 for other, corners in theirs)
        for label, box in ours
    )
    words = f"{same} of our {len(ours)} detections among its {len(theirs)}"
    enough = SAME_SHARE[case["int8"]] * max(len(ours), len(theirs))
    return bool(ours) and same >= enough, words


def segment(case: Any, base: BaseOptions, image: Any, path: Path) -> tuple[bool, str]:
    """ImageSegmenter: the class of every place."""
    options = vision.ImageSegmenterOptions(
        base_options=base, output_category_mask=True, output_confidence_masks=True
    )
    with vision.ImageSegmenter.create_from_options(options) as task:
        result = task.segment(image)
        mask = np.array(result.category_mask.numpy_view()).squeeze()
        confidence = np.stack([m.numpy_view().squeeze() for m in result.confidence_masks])
        labels = list(task.labels)
    ours = np.load(path.with_suffix(".npy"))
    share = float((mask == ours).mean())
    sums = float(np.abs(confidence.sum(0) - 1).max())
    right = not labels or labels == list(case["labels"])
    words = f"{100 * share:.2f} % of places the same, confidences sum to 1 within {sums:.1g}"
    return right and share >= SAME_SHARE[case["int8"]] and sums < 1e-3, words


RUNS = {"classification": classify, "detection": detect, "segmentation": segment}

if __name__ == "__main__":
    sys.exit(main())
