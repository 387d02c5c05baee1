"""The programs of examples/: every image has one row, equal to what `classify` prints."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.batch import Classifier
from mobilenetv2.cli import run

from .conftest import REPOSITORY, random_checkpoint

EXAMPLES = REPOSITORY / "examples"
SMALL = Architecture(width_mult=0.35, resolution=(32, 32))
Rows = dict[str, tuple[Any, ...]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    replace(random_checkpoint(SMALL, classes=4), labels=tuple("abcd")).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in a folder and below it: good ones, odd names, a broken one and an empty one."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for i in range(20):
        values = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        name = ("below/n{}.png", "a b {} ü%20.PNG", "{}.jpg")[i % 3].format(i)
        Image.fromarray(values).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "2.jpg").read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def expected(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Rows:
    """By path: label, index, rounded probability; of broken images nothing."""
    arguments = [str(folder), "--model", str(model), "--top", "1", "--format", "csv"]
    assert run(["classify", *arguments]) == 1
    printed = csv.DictReader(io.StringIO(capsys.readouterr().out))
    rows: Rows = {
        row["file"]: (row["label"], int(row["index"]), float(row["probability"])) for row in printed
    }
    assert len(rows) == 20
    return rows


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    source = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )


def check(output: Path, expected: Rows, key: str = "path") -> None:
    """The Parquet files of a folder have the expected rows, once each, and two with an error."""
    from pyarrow import parquet

    files = sorted(output.rglob("*.parquet"))
    rows = [row for file in files for row in parquet.ParquetFile(file).read().to_pylist()]
    assert len(rows) == len(expected) + 2
    good = {
        row[key].removeprefix("file:"): (row["label"], row["index"], round(row["probability"], 6))
        for row in rows
        if not row["error"]
    }
    assert good == expected
    broken = [row for row in rows if row["error"]]
    assert sorted(Path(row[key]).stem for row in broken) == ["broken", "empty"]
    assert {(row["label"], row["index"]) for row in broken} == {("", -1)}


def test_ray(folder: Path, model: Path, expected: Rows, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install '.[ray]'")
    done = python(
        EXAMPLES / "ray_folder.py", folder, tmp_path / "rows", "--model", model, "--workers", 2
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "rows", expected)


@pytest.fixture
def ray_example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module, with Ray on two processors."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install '.[ray]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import ray_folder

    ray.init(
        num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False
    )
    yield ray_folder
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_ray_says_what_would_hang_and_a_killed_worker_loses_nothing(
    ray_example: Any, folder: Path, model: Path, expected: Rows, tmp_path: Path
) -> None:
    with pytest.raises(
        SystemExit, match=r"Ray would wait for ever: fewer --workers, or --cpus 0\.9$"
    ):
        ray_example.classify_folder(folder, tmp_path / "rows", str(model), 2, 0.95)

    marker = tmp_path / "killed"

    class Killed(Classifier):
        """Ends its process in the middle of its second batch, the first time."""

        calls = 0

        def __call__(self, batch: Any) -> Any:
            rows = super().__call__(batch)
            self.calls += 1
            if self.calls == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return rows

    ray_example.classify_folder(folder, tmp_path / "rows", str(model), 1, 0.8, 4, Killed)
    assert marker.exists()
    check(tmp_path / "rows", expected)


def test_spark(folder: Path, model: Path, expected: Rows, tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="Spark is not installed: pip install '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed, which Spark needs")
    done = python(EXAMPLES / "spark_folder.py", folder, tmp_path / "rows", "--model", model)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "rows", expected)


def test_dask(folder: Path, model: Path, expected: Rows, tmp_path: Path) -> None:
    reason = "Dask is not installed: pip install '.[dask]'"
    pytest.importorskip("dask.dataframe", reason=reason)
    pytest.importorskip("distributed", reason=reason)
    done = python(EXAMPLES / "dask_folder.py", folder, tmp_path / "rows", "--model", model)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "rows", expected)


def test_webdataset(folder: Path, model: Path, expected: Rows, tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="WebDataset is not installed: pip install webdataset")
    pytest.importorskip("pyarrow", reason="PyArrow is not installed: pip install pyarrow")
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".PNG", ".jpg"))
    keys = {}
    for part in range(2):
        with tarfile.open(tmp_path / f"train-{part}.tar", "w") as shard:
            for number, file in list(enumerate(files))[part::2]:
                key = file.stem if file.stem in ("broken", "empty") else f"{number:03}"
                keys[str(file)] = key
                shard.add(file, key + file.suffix)
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "000.jpg"
            shard.addfile(link)
    shards = sorted(tmp_path.glob("*.tar"))
    output = tmp_path / "rows"
    for links in (2, 0):  # the second run leaves out what is there
        done = python(EXAMPLES / "webdataset_shards.py", *shards, "-o", output, "--model", model)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("'link.png': a link, left out") == links
        assert sorted(path.name for path in output.iterdir()) == [
            "train-0.parquet",
            "train-1.parquet",
        ]
    check(output, {keys[path]: row for path, row in expected.items()}, "key")
    program = EXAMPLES / "webdataset_shards.py"
    done = python(program, shards[0], tmp_path / "other" / shards[0].name, "-o", output)
    assert (done.returncode, "two shards of one name" in done.stderr) == (2, True)
