"""Classifies the images below a folder with Ray Data, and writes one row per image as Parquet.

python examples/ray_folder.py photos/ rows/ --model cifar10 --workers 2

Each worker is an actor that loads the model once. Rows come in any order; their column `path` says
which is which.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import ray

from mobilenetv2.batch import Classifier
from mobilenetv2.datasets import collect_images

READING, WRITING = 0.1, 0.1  # processors that Ray keeps for one task of each kind


def check_room(workers: int, each: float) -> None:
    """Refuses what would wait for ever: Ray starts a task only where the processors that it asks for
    are free, and says nothing while they are not.
    """
    available = ray.cluster_resources().get("CPU", 0)
    needed = workers * each + READING + WRITING
    if needed > available:
        most = math.floor(100 * (available - READING - WRITING) / workers + 1e-9) / 100
        sys.exit(
            f"{workers} workers with {each:g} processors each leave none of {available:g} for reading and "
            f"writing, and Ray would wait for ever: fewer --workers, or --cpus {most:g}"
        )


def classify_folder(
    folder: Path,
    output: Path,
    model: str,
    workers: int,
    cpus: float,
    batch: int = 64,
    classifier: type = Classifier,
) -> None:
    """Writes the rows of all images below a folder.

    Args:
        folder: Where the images are, on every machine.
        output: A folder for the Parquet files.
        model: A file or a name.
        workers: Actors, each with a model of its own.
        cpus: Processors that each keeps.
        batch: Images that a worker gets at once.
        classifier: What each makes of its batches.
    """
    check_room(workers, cpus)
    paths = [sample.name for sample in collect_images([str(folder)]).samples]
    if not paths:
        sys.exit(f"{folder}: no images")
    # the names travel, and a worker reads its files itself: one that cannot be read is a row too
    rows = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=min(len(paths), 4 * workers)
    )
    rows = rows.map_batches(
        classifier,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={"threads": 1},
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=batch,
        # as NumPy's, columns of a batch without an answer would have no type
        batch_format="pyarrow",
        num_cpus=cpus,
    )
    rows.write_parquet(str(output), ray_remote_args={"num_cpus": WRITING})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="cifar10", help="a file on every machine, or a name")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=0.8, help="processors that each worker keeps")
    options = parser.parse_args()
    ray.init(log_to_driver=False)
    classify_folder(options.folder, options.output, options.model, options.workers, options.cpus)


if __name__ == "__main__":
    main()
