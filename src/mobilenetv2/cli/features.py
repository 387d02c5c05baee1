"""`mobilenetv2 features`: one vector per image, for search or for another classifier."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..printable import printable
from .batch import Batch
from .options import (
    max_pixels_option,
    model_option,
    precision_option,
    stretch_option,
    threads_option,
)
from .output import (
    OutputPath,
    notify_notes,
    rows_content,
    save_rows,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..datasets import Sample

KINDS = ("npy", "npz", "csv", "parquet")


class _FeaturesPath(OutputPath):
    """The name of the file to write; .npy has a list of the rows' names beside it."""

    def files(self, path: Path, options: Mapping[str, Any]) -> tuple[Path, ...]:
        return (path, _beside(path)) if _kind(path, options["kind"]) == "npy" else (path,)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=_FeaturesPath(),
    metavar="FILE",
    help="The file to write.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(KINDS),
    help="What to write.  [default: by the suffix of --output]",
)
@model_option
@max_pixels_option
@threads_option
@precision_option
@stretch_option
def features(
    paths: Sequence[str],
    target: Path,
    kind: str | None,
    model_name: str,
    max_pixels: int | None,
    stretch: bool,
    precision: str | None,
) -> int:
    """Write one vector for each image: the last map averaged over its positions, which is the input
    of the classifier.

    PATH is as for `classify`. FILE is .npy (images x channels, float32; x.files.csv beside
    x.npy has the names of the rows), .npz (the arrays "files" and "features"), .csv (a column for each
    channel) or .parquet (the columns "file" and "features"; needs pyarrow). Images that cannot be
    read are named on stderr and have no row, and the exit code is 1."""
    from ..errors import UserError
    from ..loading import load

    kind = _kind(target, kind)
    if kind not in KINDS:
        raise click.UsageError(f"{target}: must end in .{', .'.join(KINDS)}, or give --format")
    if kind == "npy" and target.exists() and not target.is_file():
        raise click.UsageError(f"{target}: .npy is two files; --format npz is one")
    if kind == "parquet":
        _pyarrow()
    batch = Batch(paths, "describe", stretch=stretch, max_pixels=max_pixels)
    model = load(model_name, precision=precision)
    notify_notes(model.checkpoint)
    results = model.features_files(batch.samples, batch.decode)
    names, vectors = _collected(batch.answers(results, "describing"), len(batch.samples))
    if vectors is None:
        raise UserError(f"none of the {len(batch.samples)} images could be read")
    _write(names, vectors, target, kind)
    return batch.exit_code()


def _kind(target: Path, kind: str | None) -> str:
    return kind or target.suffix.lower().removeprefix(".")


def _beside(target: Path) -> Path:
    """The list of the names of the rows: x.files.csv of x.npy, x.txt.files.csv of x.txt."""
    stem = target.stem if target.suffix.lower() == ".npy" else target.name
    return target.with_name(f"{stem}.files.csv")


def _collected(
    answers: Iterator[tuple[Sample, NDArray[np.float32]]], most: int
) -> tuple[list[str], NDArray[np.float32] | None]:
    """The names of the images that could be read, and (images, channels) float32."""
    import numpy as np

    names: list[str] = []
    vectors: NDArray[np.float32] | None = None
    for sample, vector in answers:
        if vectors is None:
            vectors = np.empty((most, len(vector)), np.float32)
        vectors[len(names)] = vector
        names.append(sample.name)
    return names, None if vectors is None else vectors[: len(names)]


def _write(names: list[str], vectors: NDArray[np.float32], target: Path, kind: str) -> None:
    import numpy as np

    from ..files import write_atomically, write_together

    content = io.BytesIO()
    if kind == "csv":
        columns = ["file", *(f"f{i}" for i in range(vectors.shape[1]))]
        rows = (
            dict(zip(columns, [Path(name), *vector.tolist()]))
            for name, vector in zip(names, vectors)
        )
        save_rows(rows, columns, target, "csv")
        return
    if kind == "npy":
        np.save(content, vectors)
        rows = ({"file": Path(name)} for name in names)
        text = rows_content(rows, ["file"], "csv")
        write_together({target: content.getbuffer(), _beside(target): text})
        return
    if kind == "npz":
        np.savez(content, files=np.array([printable(name) for name in names]), features=vectors)
    else:
        pyarrow, parquet = _pyarrow()
        table = pyarrow.table(
            {"file": [printable(name) for name in names], "features": list(vectors)}
        )
        parquet.write_table(table, content)
    write_atomically(target, content.getbuffer())


def _pyarrow() -> tuple[Any, Any]:
    from importlib import import_module

    from ..errors import MissingExtraError

    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtraError(
            "a .parquet file needs pyarrow: pip install pyarrow, or write .npz or .csv"
        ) from None
