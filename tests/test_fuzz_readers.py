"""Damaged files of every kind give a checkpoint or one line, in little time and memory."""

from __future__ import annotations

import pytest

from .fuzzing_models import READERS, damaged, fuzz

INPUTS = 60


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_give_a_checkpoint_or_an_error(tmp_path, reader) -> None:
    outcome = fuzz(reader, tmp_path, 0, INPUTS)
    assert not outcome.findings
    assert outcome.inputs == INPUTS
    assert outcome.read < INPUTS * 0.75


def test_the_damage_of_a_number_is_always_the_same() -> None:
    content = bytes(range(256)) * 10
    first, again = ([damaged("tflite", content, index) for index in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40
