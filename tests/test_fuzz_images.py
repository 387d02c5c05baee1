"""Damaged images, lists and archives end in a result or in one line, never in anything else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from .fuzzing_images import check_dataset, check_image, dataset_inputs, images_inputs, whole_images


def test_whole_images_are_decoded_or_refused() -> None:
    files = list(whole_images())
    assert len(files) > 30
    for content in files:
        check_image(content)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is odd in these files
@pytest.mark.parametrize("seed", range(4))
def test_damaged_images(seed: int) -> None:
    for content in islice(images_inputs(seed), 500):
        check_image(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
def test_damaged_lists_and_archives(tmp_path: Path, seed: int) -> None:
    for ending, content in islice(dataset_inputs(seed), 300):
        check_dataset(ending, content, tmp_path)
