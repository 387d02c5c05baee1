"""Programs: the file that runs without Python gives the engine's own answers, and none but whole ones
are run.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from mobilenetv2.runtime import Engine, _native
from mobilenetv2.runtime.program import Program, program_bytes
from mobilenetv2.runtime.rounding import int8_obstacle

from .conftest import random_checkpoint
from .int8 import random_int8
from .test_random_architectures import ROUNDINGS, random_architecture, random_images

COUNT = int(os.environ.get("MOBILENETV2_ARCHITECTURES", "60"))


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("seed", range(COUNT))
def test_the_engines_own_bits(seed: int, int8: bool) -> None:
    """For any architecture and head, on a random instruction set, with one thread and several."""
    rng = np.random.default_rng(seed)
    architecture = random_architecture(rng)
    images = random_images(rng, architecture)
    rounding, unsigned = ROUNDINGS[seed % len(ROUNDINGS)]
    if not int8:
        checkpoint = random_checkpoint(architecture, seed)
    elif int8_obstacle(architecture, rounding):
        return
    else:
        checkpoint = random_int8(rounding, unsigned, seed, **vars(architecture))
    names = _native.byte_kernel_names() if int8 else _native.kernel_names()
    isa, size = str(rng.choice(names)), images.shape[1:3]
    masks = [False, True] if architecture.head.task == "segmentation" else [False]
    for mask in masks:
        content = program_bytes(checkpoint, size, batch=2, mask=mask)
        assert content == program_bytes(checkpoint, size, batch=2, mask=mask)
        for threads in (1, int(rng.integers(2, 5))):
            engine = Engine(checkpoint, threads, isa)
            answers = Program(content, threads, isa)(images)
            if mask:
                np.testing.assert_array_equal(answers["mask"][..., 0], engine.mask(images))
                continue
            expected = engine(images)
            if not isinstance(expected, dict):
                expected = {next(iter(answers)): expected}
            assert list(answers) == list(expected)
            for name, values in expected.items():
                np.testing.assert_array_equal(answers[name].reshape(values.shape), values)
