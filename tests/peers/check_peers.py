"""Checks importers and names against the real packages: torchvision, timm, transformers,
mmdetection and Keras.

    python tests/peers/check_peers.py [--only torchvision] [--output tests/peers/last_output.txt]

Each package builds its own model, fills it with seeded random weights and batch-norm statistics,
and saves it with its own saver. The file is read by `mobilenetv2.formats.read` and run by the NumPy
reference; the logits must equal the package's. It needs its own environment: see README.md.
The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched

import torch
from comparing import COLUMNS, TOLERANCE, Row
from detector_peers import check_detectors
from image_peers import check_images
from keras_peer import check_keras
from names_peers import check_timm_names, check_torchvision_names
from pytorch_peers import check_timm, check_torchvision, check_transformers

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "mmdet",
    "keras",
    "h5py",
    "safetensors",
    "numpy",
    "pillow",
)
CHECKS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "torchvision": check_torchvision,
    "timm": check_timm,
    "transformers": check_transformers,
    "detectors": check_detectors,
    "keras": check_keras,
    "images": check_images,
    "torchvision names": check_torchvision_names,
    "timm names": check_timm_names,
}


def main() -> int:
    """Runs the checks, prints the table, returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CHECKS, help="one group of checks")
    parser.add_argument("--output", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    lines = heading()
    print("\n".join(lines))
    rows = []
    for name in [arguments.only] if arguments.only else CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            for row in CHECKS[name](Path(folder)):
                rows.append(row)
                lines.append(str(row).replace(folder, "...").rstrip())
                print(lines[-1], flush=True)
    failures = sum(row.failed for row in rows)
    lines += ["", f"{len(rows) - failures} passed, {failures} failed"]
    print("\n".join(lines[-2:]))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failures > 0)


def heading() -> list[str]:
    """The versions, the meaning of the verdicts, and the head of the table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return [
        f"Python {platform.python_version()}, {versions}",
        f"equal: the outputs differ by at most {TOLERANCE:g} * max(1, largest output)",
        "refused: not promised, and the reader raises an error instead of giving a wrong output",
        "",
        COLUMNS,
        "-" * len(COLUMNS),
    ]


if __name__ == "__main__":
    sys.exit(main())
