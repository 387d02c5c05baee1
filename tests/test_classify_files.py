"""`Model.classify_files`: many files on several workers give the results of one at a time, in order,
and no more is read when the caller stops.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import images as images_module
from mobilenetv2.errors import ImageError
from mobilenetv2.model import Model, Prediction
from mobilenetv2.pipeline import GROUP, map_images

from .conftest import random_checkpoint

CHECKPOINT = random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=7)
COUNT = 23


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of many sizes; a damaged one, a missing one, and a whole group of damaged ones."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number:02}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        height, width = rng.integers(20, 90, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        if number in (5, *range(12, 16)):
            path.write_bytes(b"no image")
    paths[9].unlink()
    return paths


def alone(path: Path) -> list[Prediction] | str:
    try:
        return Model(CHECKPOINT, 1).classify(path, 3)
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("count", [0, 1, 2, GROUP + 1, COUNT])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_files_as_one_at_a_time(files: list[Path], threads: int, count: int) -> None:
    results = list(Model(CHECKPOINT, threads).classify_files(files[:count], 3))
    assert [path for path, _ in results] == files[:count]
    printed = [str(r) if isinstance(r, ImageError) else r for _, r in results]
    assert printed == [alone(path) for path in files[:count]]
    if count == COUNT:
        assert sum(isinstance(result, ImageError) for _, result in results) == 6


def test_five_classes_by_default(files: list[Path]) -> None:
    model = Model(CHECKPOINT, 1)
    assert len(model.classify(files[0])) == 5
    [(_, predictions)] = model.classify_files(files[:1])
    assert predictions == model.classify(files[0])


def test_probabilities_of_large_logits(files: list[Path]) -> None:
    model = Model(CHECKPOINT, 1)
    logits = np.array([[0, 2000, 0, 1999, 0, 0, 0]], np.float32)
    model.engine.logits = lambda pixels: [logits[0].data]  # type: ignore[method-assign, assignment]
    best = [(p.index, round(p.probability, 6)) for p in model.classify(files[0], 3)]
    assert best == [(1, 0.731059), (3, 0.268941), (0, 0.0)]


@pytest.mark.parametrize(
    ("count", "groups", "alone"), [(1, [1], False), (2, [2], True), (9, [4, 4, 1], True)]
)
def test_only_a_single_image_runs_on_all_threads(
    count: int, groups: list[int], alone: bool
) -> None:
    calls = []

    def run(pixels: memoryview, on_this_thread: bool) -> np.ndarray:
        calls.append((len(pixels), on_this_thread))
        return np.asarray(pixels)[:, 0, 0, 0]

    results = map_images(
        range(count),
        prepare=lambda source: (np.full((2, 2, 3), source, np.uint8).data, (2, source)),
        run=run,
        use=lambda source, size, output: (source, size[1], int(output)),
        workers=1,
    )
    assert list(results) == [(source, (source,) * 3) for source in range(count)]
    assert calls == [(size, alone) for size in groups]


@pytest.mark.parametrize("threads", [1, 3])
def test_leaving_early_reads_no_further(files: list[Path], threads: int) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield files[taken % 5]

    before = threading.active_count()
    results = Model(CHECKPOINT, threads).classify_files(endless())
    assert len(list(islice(results, 10))) == 10
    results.close()  # type: ignore[attr-defined]
    assert taken <= 10 + GROUP * (2 * threads + 2)
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_no_fault_of_a_file_ends_the_run(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    decode = images_module.decode

    def interrupted(path: Path, **options: int | None) -> Image.Image:
        if path == files[7]:
            raise error
        return decode(path, **options)

    monkeypatch.setattr(images_module, "decode", interrupted)
    results = Model(CHECKPOINT, 2).classify_files(files)
    assert [path for path, _ in islice(results, GROUP)] == files[:GROUP]
    before = threading.active_count()
    with pytest.raises(error):
        list(results)
    assert threading.active_count() <= before - 2
