"""What tests share: the material beside the repository, random models, and the command line in this
process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.graph import array_shapes
from mobilenetv2.images import Preprocessing

REPOSITORY = Path(__file__).parents[1]

# under pytest -n, PyTorch's threads would spin beside other tests
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Real weights, photos and reference answers by path; absent, the test is skipped, but fails
    under CI=true.
    """
    root = Path(os.environ.get("MOBILENETV2_SHARED", REPOSITORY.parent / "shared"))

    def find(path: str) -> Path:
        if not (root / path).exists():
            message = f"{root / path} is absent (MOBILENETV2_SHARED names the folder)"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        return root / path

    return find


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder of that name that `build` has filled, once for all workers."""
    import fcntl  # which Windows lacks

    folder = factory.getbasetemp()
    if re.fullmatch(r"popen-gw\d+", folder.name):
        folder = folder.parent
    done = folder / f"{name}.done"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            build(folder / name)
            done.touch()
    return folder / name


def random_checkpoint(
    architecture: Architecture | None = None, seed: int = 0, **changes: object
) -> Checkpoint:
    """A model with random weights and batch-norm statistics whose activations stay in a sensible
    range.
    """
    classes = changes.pop("classes", None)
    architecture = replace(architecture or Architecture(), **changes)  # type: ignore[arg-type]
    if architecture.classes and isinstance(classes, int):
        architecture = architecture.with_classes(classes)
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in array_shapes(architecture).items():
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 2, shape)
        elif name.endswith(("running_mean", "bias")):
            array = rng.normal(0, 0.2, shape)
        elif len(shape) == 1:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        arrays[name] = array.astype(np.float32)
    channels = architecture.in_channels
    preprocessing = Preprocessing(
        size=architecture.resolution, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    return Checkpoint(architecture, arrays, (), preprocessing, {"source": "random"})


@pytest.fixture
def pixels() -> Callable[..., np.ndarray]:
    """Random images (N, H, W, 3) uint8."""
    return lambda *shape, seed=0: np.random.default_rng(seed).integers(
        0, 256, shape, dtype=np.uint8
    )
