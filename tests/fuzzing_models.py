"""Damages small model files of every kind, and reads them in a process that watches over time and memory.

The only outcomes allowed are a checkpoint and a `UserError` of one line. `tools/fuzz` runs the same
for as long as one likes.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mobilenetv2.checkpoint import FORMAT, Checkpoint, save_model
from mobilenetv2.errors import UserError
from mobilenetv2.files import read_safetensors
from mobilenetv2.formats import read
from mobilenetv2.heads import DeepLab, SSDLite, ssd_anchor_sizes
from mobilenetv2.int8 import Int8Checkpoint

from .conftest import REPOSITORY, random_checkpoint
from .int8 import Int8TFLiteWriter, random_int8
from .writers import (
    LAYOUTS,
    TFLiteWriter,
    hugging_face,
    keras_config,
    mmdetection,
    save_pth,
    save_safetensors,
    tensors,
    torchvision_ssdlite,
    write_keras_archive,
    write_keras_legacy,
    write_keras_weights,
)

INPUT_SECONDS = 20  # until a single file counts as a hang
MEMORY_GROWTH = 300 << 20  # bytes, of the largest resident size
ADDRESS_SPACE = 2 << 30  # bytes beyond what is there before the first file
NUMBERS = (
    0,
    1,
    2,
    3,
    255,
    256,
    65535,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
TOKENS = (
    "", "0", "1", "-1", "3", "1e999", "NaN", "0.5", "65536", "4294967296", "1e-30", "null", "true", "[]", "{}", '""', "[[]]",
    '"\\ud800"', '"relu6"', '"sigmoid"', "9" * 5000, "[" * 2000, '{"a":' * 2000,
)  # fmt: skip
SAME = {"padding": "same", "bn_epsilon": 1e-3}
SMALL = {"width_mult": 0.1, "last_channels": 64, "classes": 3, "resolution": (64, 64)}


def small(**changes: object) -> Checkpoint:
    settings = {**SMALL, **changes}
    if "head" in changes:
        del settings["classes"]
    return random_checkpoint(**settings)


SIX = (((0.5, 0.5),) * 6,) * 6


def detector(anchors: Any = None, first_map: str = "expansion", **changes: object) -> Checkpoint:
    head = SSDLite(2, (8, 8, 8, 8), anchors or ssd_anchor_sizes(), first_map=first_map)
    return small(head=head, **changes)


def segmenter(**changes: object) -> Checkpoint:
    return small(head=DeepLab(3), last_channels=None, resolution=(33, 33), **changes)


def write_tgz(path: Path) -> None:
    inner = TFLiteWriter(small(**SAME)).save(path.with_name("inner.tflite"))
    with tarfile.open(path, "w:gz") as archive:
        archive.add(inner, "./mobilenet_v2_0.1_64.tflite")
    inner.unlink()


def whole_config() -> dict[str, Any]:
    return keras_config(small(**SAME), whole=True)


READERS: dict[str, Callable[[Path], object]] = {
    "ours": lambda path: small().save(path),
    "int8": lambda path: random_int8("twice", **SMALL).save(path),
    "torchvision": lambda path: save_safetensors(path, LAYOUTS["torchvision"](small())),
    "timm": lambda path: save_safetensors(path, LAYOUTS["timm"](small())),
    "hugging_face": lambda path: save_safetensors(path, LAYOUTS["hugging_face"](small(**SAME))),
    "pth": lambda path: save_pth(path, {"state_dict": tensors(LAYOUTS["timm"](small())), "epoch": 3}),
    "legacy_pth": lambda path: save_pth(
        path, {"state_dict_ema": tensors(LAYOUTS["torchvision"](small()))}, legacy=True
    ),
    "h5": lambda path: write_keras_legacy(path, small(**SAME), style="published"),
    "whole_h5": lambda path: write_keras_legacy(
        path, small(**SAME), whole=True, keras=3, config=whole_config()
    ),
    "weights_h5": lambda path: write_keras_weights(path, small(**SAME)),
    "keras": lambda path: write_keras_archive(path, small(**SAME), whole_config()),
    "tflite": lambda path: TFLiteWriter(small(**SAME)).save(path),
    "half_tflite": lambda path: TFLiteWriter(small(), half=True, dense=False).save(path),
    "int8_tflite": lambda path: Int8TFLiteWriter(random_int8("twice", **SMALL)).save(path),
    "detector_tflite": lambda path: TFLiteWriter(detector(**SAME)).save(path),
    "segmenter_tflite": lambda path: TFLiteWriter(segmenter(**SAME)).save(path),
    "detector_pth": lambda path: save_pth(path, {
        "meta": {"CLASSES": ("cat", "dog")}, "state_dict": tensors(mmdetection(detector(SIX, "input")))}),
    "detector_safetensors": lambda path: save_safetensors(path, torchvision_ssdlite(detector(SIX))),
    "segmenter_safetensors": lambda path: save_safetensors(path, hugging_face(segmenter(**SAME))),
    "tgz": write_tgz,
}  # fmt: skip


# --- damage ---


def damaged(reader: str, content: bytes, index: int) -> bytes:
    """A valid file with the damage of this number, always the same."""
    rng = np.random.default_rng([zlib.crc32(reader.encode()), index])
    inside = {
        "ours": damaged_header, "int8": damaged_header, "pth": damaged_member, "keras": damaged_member,
        "tgz": damaged_tgz, "torchvision": damaged_safetensors, "timm": damaged_safetensors,
        "hugging_face": damaged_safetensors, "detector_pth": damaged_member,
        "detector_safetensors": damaged_safetensors, "segmenter_safetensors": damaged_safetensors, "whole_h5": damaged_config,
    }  # fmt: skip
    if reader in inside and rng.random() < 0.7:
        return inside[reader](content, rng)
    for _ in range(1 + int(rng.geometric(0.6))):
        content = damaged_bytes(content, rng)
    return content


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Bits, bytes or numbers changed; a range removed, doubled, copied or zeroed; the end cut off.

    Mostly near the ends, where the structure is.
    """
    changed = bytearray(content or b"\0")
    reach = min(len(changed), int(10 ** rng.uniform(1, 6)))
    at = int(rng.integers(0, reach))
    at = at if rng.random() < 0.6 else len(changed) - 1 - at
    length = int(10 ** rng.uniform(0, 3.5))
    kind = int(rng.integers(0, 8))
    if kind == 0:
        changed[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(0, 256))]))
    elif kind == 2:
        width = int(rng.choice([2, 4, 8]))
        number = NUMBERS[int(rng.integers(0, len(NUMBERS)))] % (1 << (8 * width))
        changed[at : at + width] = number.to_bytes(width, "little")
    elif kind == 3:
        del changed[at:]
    elif kind == 4:
        del changed[at : at + length]
    elif kind == 5:
        changed[at:at] = changed[at : at + length]
    elif kind == 6:
        source = int(rng.integers(0, len(changed)))
        part = changed[source : source + length]
        changed[at : at + len(part)] = part
    else:
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    return bytes(changed)


def damaged_text(text: str, rng: np.random.Generator) -> str:
    """JSON with one value, name or bracket changed."""
    tokens = list(re.finditer(r'"[^"]*"|-?\d[\d.e+-]*|[\[\]{},:]|\w+', text))
    if not tokens:
        return TOKENS[int(rng.integers(0, len(TOKENS)))]
    token = tokens[int(rng.integers(0, len(tokens)))]
    other = tokens[int(rng.integers(0, len(tokens)))]
    replacement = other[0] if rng.random() < 0.4 else TOKENS[int(rng.integers(0, len(TOKENS)))]
    return text[: token.start()] + replacement + text[token.end() :]


def damaged_header(content: bytes, rng: np.random.Generator) -> bytes:
    """A file of ours with a changed text or array, whose checksum fits."""
    path = Path(os.environ["FUZZ_FOLDER"], "rewritten")
    path.write_bytes(content)
    header, arrays = read_safetensors(path)
    texts = {
        name: text for name, text in header.items() if name not in ("format", "version", "checksum")
    }
    assert header["format"] == FORMAT
    name = str(rng.choice(sorted(texts)))
    if rng.random() < 0.8:
        texts[name] = damaged_text(texts[name], rng)
    else:
        name = str(rng.choice(sorted(arrays)))
        array = arrays.pop(name)
        changes: list[Callable[[], Any]] = [
            lambda: array[..., :-1], lambda: array.astype(np.float64), lambda: array[None],
            lambda: np.full_like(array, 127), lambda: np.zeros(0, array.dtype), lambda: array.ravel(),
        ]  # fmt: skip
        arrays[name if rng.random() < 0.8 else name + "x"] = changes[int(rng.integers(0, 6))]()
    save_model(path, texts, arrays)
    return path.read_bytes()


def damaged_safetensors(content: bytes, rng: np.random.Generator) -> bytes:
    """A changed header with a length that fits."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = damaged_text(content[8:end].decode(), rng).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + content[end:]


def damaged_member(content: bytes, rng: np.random.Generator) -> bytes:
    """An archive with one changed member, whose checksum fits."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as archive:
        names = source.namelist()
        structure = [name for name in names if name.endswith((".pkl", ".json", ".h5"))]
        chosen = str(rng.choice(structure if rng.random() < 0.9 else names))
        for name in names:
            member = source.read(name)
            if name == chosen and name.endswith(".json"):
                member = damaged_text(member.decode(), rng).encode("utf-8", "surrogatepass")
            elif name == chosen:
                member = damaged_bytes(member, rng)
            archive.writestr(name, member)
    return written.getvalue()


def damaged_tgz(content: bytes, rng: np.random.Generator) -> bytes:
    """A changed archive that is compressed again."""
    return gzip.compress(damaged_bytes(gzip.decompress(content), rng), 1)


def damaged_config(content: bytes, rng: np.random.Generator) -> bytes:
    """A changed configuration of the same length."""
    start = content.index(b'{"class_name": "Functional"')
    text, end = json.JSONDecoder().raw_decode(content.decode("latin-1"), start)
    changed = damaged_text(json.dumps(text), rng).encode("utf-8", "surrogatepass")
    return content[:start] + changed[: end - start].ljust(end - start) + content[end:]


# --- reading ---


@dataclass
class Outcome:
    """What a run over one reader gave.

    Attributes:
        inputs: How many damaged files were read.
        read: How many of them gave a checkpoint.
        findings: What went wrong, by the number of the input.
    """

    inputs: int = 0
    read: int = 0
    findings: dict[int, str] = field(default_factory=dict)


def fuzz(reader: str, folder: Path, first: int, count: int, seconds: float = 1e9) -> Outcome:
    """Reads damaged files in other processes; one that ends in a crash or a hang is replaced.

    Args:
        reader: One of `READERS`.
        folder: For the files.
        first: Number of the first damage.
        count: How many there are at most.
        seconds: When to stop.
    """
    outcome, at, until = Outcome(), first, time.monotonic() + seconds
    while at < first + count and time.monotonic() < until and len(outcome.findings) < 20:
        left = until - time.monotonic()
        numbers = map(str, (at, first + count, min(left, 1e9)))
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing_models", reader, str(folder), *numbers],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "FUZZ_FOLDER": str(folder), "OMP_NUM_THREADS": "1"},
        )
        last = at - 1
        with child:
            for line in child.stdout or ():
                event = json.loads(line)
                last = event["index"]
                if event["outcome"] == "begun":
                    outcome.inputs += 1
                elif event["outcome"] == "read":
                    outcome.read += 1
                else:
                    outcome.findings[last] = event["outcome"]
            errors = child.stderr.read() if child.stderr else ""
        if child.returncode == 0:
            break
        outcome.findings.setdefault(last, f"the process ended with {child.returncode}: {errors}")
        at = last + 1
    return outcome


def run_child(
    reader: str, folder: Path, first: int, end: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Events of reading the damaged files one after the other, in this process."""
    path = folder / f"{reader}-model"
    READERS[reader](path)
    content = path.read_bytes()
    read(path)
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
    until = time.monotonic() + seconds
    for index in range(first, end):
        if time.monotonic() > until:
            return
        path.write_bytes(damaged(reader, content, index))
        yield {"index": index, "outcome": "begun"}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        signal.alarm(INPUT_SECONDS)  # ends the process, even inside of a library
        outcome = outcome_of(path)
        signal.alarm(0)
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        if growth > MEMORY_GROWTH:
            outcome = f"memory grew by {growth >> 20} MB"
        if outcome:
            yield {"index": index, "outcome": outcome}


def outcome_of(path: Path) -> str:
    """ "read", "" for an error as it should be, or what is wrong."""
    try:
        checkpoint = read(path)
    except UserError as error:
        message = str(error)
        sound = message.startswith(str(path)) and "\n" not in message and len(message) < 5000
        return "" if sound else f"unclear: {message:.2000}"
    except BaseException:
        return traceback.format_exc()
    return "read" if isinstance(checkpoint, Checkpoint | Int8Checkpoint) else repr(checkpoint)


if __name__ == "__main__":
    for event in run_child(
        sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    ):
        print(json.dumps(event), flush=True)
