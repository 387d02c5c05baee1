"""One row of the table, and the comparison of a file of a package with the package itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.runtime import Reference

Array = NDArray[Any]
Size = tuple[int, int]
TOLERANCE = 1e-4  # of the largest logit, at least of 1
SQUARE, ODD = (224, 224), (97, 130)
WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
COLUMNS = f"{'package':<21}{'model':<30}{'format':<19}{'compared':<25}{'max diff':>9}  verdict"


@dataclass(frozen=True)
class Row:
    """One row of the table; `difference` is the largest absolute one, None if there is none."""

    package: str
    model: str
    format: str
    what: str
    difference: float | None
    verdict: str

    @property
    def failed(self) -> bool:
        """Whether this row makes the whole run fail."""
        return self.verdict.startswith("FAIL")

    def __str__(self) -> str:
        package = f"{self.package} {importlib.metadata.version(self.package)}"
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        return f"{package:<21}{self.model:<30}{self.format:<19}{self.what:<25}{difference:>9}  {self.verdict}"


@dataclass(frozen=True)
class Case:
    """A model of a package; `run` turns images (N, H, W, channels) into its output, (N, classes) or
    (N, H, W, C).
    """

    package: str
    model: str
    run: Callable[[Array], Array]
    channels: int = 3

    def images(self, size: Size) -> Array:
        """A seeded normalised image (1, height, width, channels) float32."""
        noise = np.random.default_rng(size).standard_normal((1, *size, self.channels))
        return np.clip(noise, -3, 3).astype(np.float32)

    def row(self, format_: str, what: str, difference: float | None, verdict: str) -> Row:
        """A row about this model."""
        return Row(self.package, self.model, format_, what, difference, verdict)

    def same(self, format_: str, what: str, ours: Callable[[Array], Array], size: Size) -> Row:
        """Compares the output of `ours` with this model's for an image of one size."""
        x = self.images(size)
        try:
            difference, allowed = distance(ours(x), self.run(x))
        except Exception as error:
            return self.broken(format_, what, error)
        # `<=` is False for a NaN
        verdict = "equal" if difference <= allowed else f"FAIL: allowed is {allowed:.1e}"
        return self.row(format_, what, difference, verdict)

    def broken(self, format_: str, what: str, error: Exception) -> Row:
        """A failed row for an exception."""
        return self.row(format_, what, None, f"FAIL: {type(error).__name__}: {error}")


def distance(ours: Array, theirs: Array) -> tuple[float, float]:
    """The largest absolute difference, and the largest that is allowed."""
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {ours.shape}, theirs is {theirs.shape}")
    return float(np.abs(ours - theirs).max()), TOLERANCE * max(1.0, float(np.abs(theirs).max()))


def compare(
    case: Case, path: Path, format_: str, sizes: tuple[Size, ...] = (SQUARE, ODD)
) -> Iterator[Row]:
    """Reads a file and compares our output with the package's at each size."""
    try:
        reference = Reference(read(path))
    except Exception as error:
        yield case.broken(format_, "reading", error)
        return
    for size in sizes:
        yield case.same(format_, f"{size[0]} x {size[1]}", reference, size)


def compare_or_refuse(case: Case, path: Path, format_: str) -> Iterator[Row]:
    """For files that need not be readable: the right output or a refusal, never a wrong output."""
    try:
        read(path)
    except ModelFileError as error:
        yield case.row(
            format_, "reading", None, f"refused: {str(error).removeprefix(f'{path}: ')[:120]}"
        )
        return
    except Exception:
        pass  # compare() reports it
    yield from compare(case, path, format_, (SQUARE,))


def controls(case: Case, path: Path, format_: str) -> Iterator[Row]:
    """Shows that the other padding rule and the other epsilon make a difference."""
    x = case.images(SQUARE)
    theirs = case.run(x)
    checkpoint = read(path)
    a = checkpoint.architecture
    others = {
        "control: padding": replace(a, padding="same" if a.padding == "symmetric" else "symmetric"),
        "control: epsilon": replace(a, bn_epsilon=1e-3 if a.bn_epsilon < 1e-4 else 1e-5),
    }
    for what, other in others.items():
        difference, allowed = distance(
            Reference(replace(checkpoint, architecture=other))(x), theirs
        )
        verdict = (
            "differs, as it must"
            if difference > 3 * allowed
            else "FAIL: the comparison does not notice it"
        )
        yield case.row(format_, what, difference, verdict)


def fact(
    case: Case, path: Path, format_: str, what: str, get: Callable[[Checkpoint], Any], expected: Any
) -> Row:
    """One property of the checkpoint, compared exactly."""
    try:
        value = get(read(path))
    except Exception as error:
        return case.broken(format_, what, error)
    equal = value == expected
    verdict = f"equal: {expected}" if equal else f"FAIL: {value}, not {expected}"
    return case.row(format_, what, None, verdict)
