"""Classifies the images below a folder with Spark, and writes one row per image as Parquet.

python examples/spark_folder.py photos/ rows/ --model cifar10

The content of the model file goes to all workers as a broadcast. Spark needs Java 17 or later.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from mobilenetv2.batch import Classifier
from mobilenetv2.datasets import collect_images
from mobilenetv2.paths import ENDINGS

SCHEMA = "path string, label string, index long, probability double, error string"
ROWS = 64  # that a worker gets at once, with the images in them
ENDING = "*.{" + ",".join(f"{e},{e.upper()}" for e in ENDINGS.split()) + "}"


def classify_folder(spark: SparkSession, folder: Path, output: Path, model: str) -> None:
    """Writes the rows of all images below a folder.

    Args:
        spark: The session.
        folder: Where the images are. An address such as s3a://bucket/photos is read by the same lines,
            without `empty_files`.
        output: A folder for the Parquet files.
        model: A file, or a name that every worker can load.
    """
    content = Path(model).read_bytes() if os.path.exists(model) else model
    broadcast = spark.sparkContext.broadcast(content)

    def classify(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        classifier = Classifier(broadcast.value, threads=1)
        for frame in frames:
            yield pd.DataFrame(classifier({name: frame[name].to_numpy() for name in frame}))

    files = (
        spark.read.format("binaryFile")
        .option("recursiveFileLookup", True)
        .option("pathGlobFilter", ENDING)
        .load(str(folder))
    )
    rows = files.select("path", "content").union(empty_files(spark, folder))
    rows.mapInPandas(classify, SCHEMA).write.parquet(str(output))


def empty_files(spark: SparkSession, folder: Path) -> DataFrame:
    """The images without content in a folder of this machine, which Spark's reader leaves out."""
    paths = [sample.name for sample in collect_images([str(folder)]).samples]
    empty = [
        (f"file:{path}", b"") for path in map(os.path.abspath, paths) if not os.path.getsize(path)
    ]
    return spark.createDataFrame(empty, "path string, content binary")


def session(workers: int) -> SparkSession:
    """Spark on this machine."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else another Python runs the workers
    return (
        SparkSession.builder.master(f"local[{workers}]")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", ROWS)
        .config("spark.ui.enabled", False)
        .getOrCreate()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    spark = session(options.workers)
    classify_folder(spark, options.folder, options.output, options.model)
    spark.stop()


if __name__ == "__main__":
    main()
