"""Classifies the images below a folder with Dask, and writes one row per image as Parquet.

python examples/dask_folder.py photos/ rows/ --model cifar10 --workers 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import dask.bag
import pyarrow as pa
from dask.distributed import Client, LocalCluster

from mobilenetv2.batch import Classifier
from mobilenetv2.datasets import collect_images

META = {"path": str, "label": str, "index": int, "probability": float, "error": str}
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("index", pa.int64()),
        ("probability", pa.float64()),
        ("error", pa.string()),
    ]
)
ROWS = 64  # of one task


def classify_folder(folder: Path, output: Path, model: str) -> None:
    """Writes the rows of all images below a folder, on the workers of the current client.

    Args:
        folder: Where the images are, on every machine.
        output: A folder for the Parquet files.
        model: A file on every machine, or a name.
    """
    classifier = Classifier(model, threads=1)  # a worker that gets it loads the model, once

    def classify(paths: list[str]) -> list[dict[str, Any]]:
        columns = classifier({"path": list(paths)})
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    paths = [sample.name for sample in collect_images([str(folder)]).samples]
    if not paths:
        sys.exit(f"{folder}: no images")
    rows = dask.bag.from_sequence(paths, partition_size=ROWS).map_partitions(classify)
    rows.to_dataframe(meta=META).to_parquet(str(output), schema=SCHEMA, write_index=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="cifar10", help="a file on every machine, or a name")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    # processes, not threads: in one process, tasks would wait for each other's Python
    with (
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        classify_folder(options.folder, options.output, options.model)


if __name__ == "__main__":
    main()
