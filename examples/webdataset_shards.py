"""Classifies the images in WebDataset shards: one Parquet file per .tar file.

python examples/webdataset_shards.py train-*.tar -o rows/ --model cifar10 --workers 2

A shard whose rows are there is left out, so that a run that was ended goes on where it was. Links in a
shard are named on stderr: they hold no image.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import webdataset as wds
from pyarrow import parquet

from mobilenetv2.batch import Classifier
from mobilenetv2.paths import ENDINGS

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.string()),
        ("index", pa.int64()),
        ("probability", pa.float64()),
        ("error", pa.string()),
    ]
)
ROWS = 64  # at once


def images(shard: Path) -> Iterator[tuple[str, bytes | None]]:
    """The key and the image of each sample."""
    for sample in wds.WebDataset(str(shard), shardshuffle=False, empty_check=False):
        endings = [name for name in sample if name.lower() in ENDINGS.split()]
        yield sample["__key__"], sample[endings[0]] if endings else None


def name_links(shard: Path) -> None:
    """Names the members that WebDataset leaves out."""
    with tarfile.open(shard) as members:
        for member in members:
            if member.issym() or member.islnk():
                print(f"{shard}: {member.name!a}: a link, left out", file=sys.stderr)


def classify_shard(shard: Path, output: Path, model: str) -> Path:
    """Writes the rows of a shard, under a temporary name until they are complete."""
    path = output / f"{shard.stem}.parquet"
    if path.exists():
        return path
    name_links(shard)
    classifier = loaded(model)
    part = path.with_suffix(".part")
    samples = images(shard)
    with parquet.ParquetWriter(part, SCHEMA) as writer:
        while batch := list(islice(samples, ROWS)):
            keys, contents = zip(*batch)
            writer.write_table(pa.table(classifier({"key": keys, "bytes": contents}), SCHEMA))
    return part.rename(path)


_loaded: dict[str, Classifier] = {}


def loaded(model: str) -> Any:
    """The model of a process, loaded with its first shard."""
    if model not in _loaded:
        _loaded[model] = Classifier(model, threads=1)
    return _loaded[model]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="cifar10", help="a file or a name")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if len({shard.stem for shard in options.shards}) < len(options.shards):
        parser.error(
            "two shards of one name, whose rows would have one name too: two runs are needed"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    work = partial(classify_shard, output=options.output, model=options.model)
    with get_context("spawn").Pool(options.workers) as pool:
        for done, path in enumerate(pool.imap_unordered(work, options.shards), 1):
            print(f"{done} of {len(options.shards)}: {path}")


if __name__ == "__main__":
    main()
