"""Programs: the file that runs without Python gives the engine's own answers, and none but whole ones
are run.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenetv2 import boxes
from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.cli import run
from mobilenetv2.errors import ModelFileError, NotFiniteError, UserError
from mobilenetv2.graph import network
from mobilenetv2.heads import Classifier, DeepLab, Features, Head, SSDLite
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.runtime import Engine, _native
from mobilenetv2.runtime.int8_reference import Int8Reference
from mobilenetv2.runtime.int8_scales import int8_obstacle
from mobilenetv2.runtime.program import Program, program_bytes, write_program

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


HEADER_BYTES, SECTIONS = 224, 10
SECTION_TABLE = HEADER_BYTES - 16 * SECTIONS


def small(int8: bool = False) -> bytes:
    """A small segmenter: it has steps of most kinds."""
    architecture = Architecture(
        width_mult=0.35,
        stages=(Stage(1, 8, 1, 1), Stage(6, 16, 2, 2)),
        head=DeepLab(3),
        last_channels=8,
    )
    model = random_int8(**vars(architecture)) if int8 else random_checkpoint(architecture)
    return program_bytes(model, (20, 24), mask=True)


def resealed(content: bytearray) -> bytes:
    """With the size and the checksum that it should have."""
    content[16:24] = struct.pack("<Q", len(content))
    content[12:16] = struct.pack("<I", zlib.crc32(content[16:]))
    return bytes(content)


def outcome(content: bytes) -> str:
    """Why a program is refused; "" where it runs."""
    try:
        program = Program(content, 1)
    except ModelFileError as error:
        return str(error)
    shape = tuple(program.description["size"])
    with suppress(NotFiniteError):
        program(np.zeros((1, *shape, 3), np.uint8))
    return ""


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_a_part_of_a_program_is_refused(int8: bool) -> None:
    content = small(int8)
    assert outcome(content) == ""
    for length in [*range(0, 400, 7), *range(400, len(content), len(content) // 50)]:
        assert "program" in outcome(content[:length])
        assert outcome(content[:length]) != ""
        if length >= HEADER_BYTES:  # as if it had been written like that
            assert "a section lies outside" in outcome(resealed(bytearray(content[:length])))
    assert "behind its last section" in outcome(resealed(bytearray(content + b"\0")))


def test_a_changed_bit_is_noticed() -> None:
    content = small()
    for position in range(24, len(content), len(content) // 97):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        assert "checksum" in outcome(bytes(changed))


def test_every_field_of_the_header_is_checked() -> None:
    """All of them, but for the batch and the threads, which may be others."""
    content = small()
    free = {28: "batch", 44: "threads"}
    for position in range(0, HEADER_BYTES, 4):
        if position in (12, 16, 20):  # checksum and size
            continue
        for value in (-1, 1 << 30, struct.unpack_from("<i", content, position)[0] + 1):
            changed = bytearray(content)
            struct.pack_into("<i", changed, position, value)
            allowed = position in free and 0 < value < 10
            assert (outcome(resealed(changed)) == "") == allowed, (position, value)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_numbers_in_records_are_checked(int8: bool) -> None:
    """A changed number gives an error or an answer, whatever it is."""
    content = small(int8)
    begin, _ = struct.unpack_from("<2Q", content, SECTION_TABLE)
    weights = struct.unpack_from("<Q", content, SECTION_TABLE + 16 * 7)[0]
    refused = 0
    for position in range(begin, weights, 4):
        changed = bytearray(content)
        value = (-1, 1 << 30, 0x7FC00000, 17)[position // 4 % 4]
        struct.pack_into("<i", changed, position, value)
        refused += outcome(resealed(changed)) != ""
    assert refused > (weights - begin) // 4 * 0.3


@pytest.mark.parametrize(("over", "refused"), [(0, False), (1, True)])
def test_sums_fit_32_bits_or_the_program_is_refused(over: int, refused: bool) -> None:
    """Whatever the image, no kernel's sum overflows; at the limit the answer is the oracle's."""
    model = random_int8(
        width_mult=0.35, stages=(Stage(1, 8, 1, 1),), last_channels=16, classes=3, resolution=(9, 9)
    )
    last = model.layers["classifier.1"]  # whose inputs have the zero point 0

    def with_bias(*bias: int) -> Int8Checkpoint:
        layer = replace(last, weight=np.full_like(last.weight, 127), bias=np.array(bias, np.int32))
        return replace(model, layers={**model.layers, "classifier.1": layer})

    most = [2**31 - 1 - 512 - 255 * 127 * last.weight[0].size] * 3
    written = struct.pack("<3i", 12345, 23456, 34567)  # a bias of 2**30 is the most that is written
    content = program_bytes(with_bias(12345, 23456, 34567))
    assert content.count(written) == 1
    most[1] += over
    content = resealed(bytearray(content.replace(written, struct.pack("<3i", *most))))
    assert ("a sum of it does not fit 32 bits" in outcome(content)) == refused
    if not refused:
        pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), np.uint8)
        (answer,) = Program(content)(pixels).values()
        expected = Int8Reference(with_bias(*most))(pixels)
        np.testing.assert_array_equal(answer.reshape(expected.shape), expected)


def test_a_small_file_gets_no_gigabytes() -> None:
    content = bytearray(small())
    steps = struct.unpack_from("<Q", content, SECTION_TABLE + 16 * 3)[0]
    struct.pack_into("<q", content, steps + 40, 1 << 28)  # where the first step's workspace ends
    assert "more memory than programs may" in outcome(resealed(content))


def test_a_program_describes_itself() -> None:
    program = Program(small())
    described = program.description
    assert described["task"] == "segmentation"
    assert described["size"] == [20, 24]
    assert described["outputs"][-1] == {"name": "mask", "type": "uint8", "shape": [1, 20, 24, 1]}
    assert described["preprocessing"]["size"] == [20, 24]


def test_detectors_have_what_boxes_are_made_of() -> None:
    head = SSDLite(classes=3)
    checkpoint = random_checkpoint(Architecture(width_mult=0.35, head=head, resolution=(96, 96)))
    described = Program(program_bytes(checkpoint)).description
    expected = boxes.anchors(head, network(checkpoint.architecture))
    np.testing.assert_array_equal(described["anchors"], expected)
    assert described["code_scales"] == list(boxes.CODE_SCALES)
    assert described["score"] == head.score


def test_arguments_are_checked(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(
        Architecture(width_mult=0.35, head=Classifier(3), resolution=(32, 32))
    )
    with pytest.raises(UserError, match="gives no mask"):
        program_bytes(checkpoint, mask=True)
    with pytest.raises(UserError, match="no NUL"):
        program_bytes(replace(checkpoint, labels=("a", "b\0", "c")))
    with pytest.raises(UserError, match="batch"):
        program_bytes(checkpoint, batch=0)
    with pytest.raises(UserError, match="threads"):
        program_bytes(checkpoint, threads=65)
    with pytest.raises(UserError, match="cannot be a program: step 0: it is too large"):
        program_bytes(checkpoint, (16000, 16000))
    with pytest.raises(UserError, match="up to 16384"):
        program_bytes(checkpoint, (1, 20000))
    with pytest.raises(UserError, match=r"pixels must be uint8 \(N, 32, 32, 3\), not uint8 \(1, 8"):
        Program(program_bytes(checkpoint))(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="cannot be written"):
        write_program(checkpoint, tmp_path / "none" / "a.mnv2")


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize(
    "head", [Classifier(5), Features(), DeepLab(3), SSDLite(classes=3)], ids=lambda head: head.task
)
def test_convert_writes_programs(head: Head, int8: bool, tmp_path: Path) -> None:
    options = {"width_mult": 0.35, "head": head, "resolution": (96, 96)}
    checkpoint = random_int8(**options) if int8 else random_checkpoint(**options)
    checkpoint.save(tmp_path / "model.safetensors")
    target = tmp_path / "model.mnv2"
    given = [] if head.task != "segmentation" else ["--results", "final"]
    source = str(tmp_path / "model.safetensors")
    assert run(["convert", source, str(target), "--resolution", "64", "--batch", "2", *given]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    program = Program(target.read_bytes())
    assert program.batch == 2
    engine = Engine(checkpoint, 1)
    if head.task == "segmentation":
        np.testing.assert_array_equal(program(pixels)["mask"][..., 0], engine.mask(pixels))
        return
    expected = engine(pixels)
    values = expected if isinstance(expected, dict) else {"": expected}
    for mine, theirs in zip(program(pixels).values(), values.values(), strict=True):
        np.testing.assert_array_equal(mine.reshape(theirs.shape), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dynamic", "size"], "--dynamic size: a program is for images of one size"),
        (["--dynamic", "batch"], "give the most images per run"),
        (["--layout", "nchw"], "pixels come in rows"),
        (["--results", "final"], "a program of a classification model gives raw results"),
        (["--float16"], "float32 or int8 weights"),
    ],
)
def test_convert_refuses_what_programs_do_not_have(options, message, tmp_path, capsys) -> None:
    assert run(["convert", "cifar10", str(tmp_path / "a.mnv2"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
