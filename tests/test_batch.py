"""The classes of `mobilenetv2.batch`: rows in, rows out, whatever the images are."""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.batch import Classifier, Detector, Features, Segmenter
from mobilenetv2.cli import run
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.heads import DeepLab, SSDLite

from .conftest import random_checkpoint

SMALL = Architecture(width_mult=0.35, resolution=(32, 32))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model file of each task."""
    folder = tmp_path_factory.mktemp("models")
    heads = {"detection": SSDLite(2), "segmentation": DeepLab(3), "features": "features"}
    paths = {name: folder / f"{name}.safetensors" for name in ("classification", *heads)}
    checkpoint = random_checkpoint(SMALL, classes=4)
    replace(checkpoint, labels=tuple("abcd")).save(paths["classification"])
    for name, head in heads.items():
        random_checkpoint(replace(SMALL, head=head)).save(paths[name])
    return paths


def png(seed: int, side: int = 40) -> bytes:
    content = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def same(got: Any, expected: Any) -> bool:
    return np.array_equal(np.asarray(got), np.asarray(expected))


def test_a_broken_image_is_a_row(models: dict[str, Path]) -> None:
    classifier = Classifier(models["classification"], threads=1)
    values = np.array([png(0), b"", png(1), None, b"no image", png(2)[:900]], object)
    batch = {"bytes": values, "path": [f"{i}.png" for i in range(6)], "truth": np.arange(6)}
    rows = classifier(batch)
    assert list(rows) == ["path", "truth", "label", "index", "probability", "error"]
    assert rows["path"] is batch["path"]
    assert rows["truth"] is batch["truth"]
    assert [text.split(":")[0] for text in rows["error"]] == [
        "",
        "1.png",
        "",
        *("3.png", "4.png", "5.png"),
    ]
    model = mnv2.load(models["classification"])
    for i in (0, 2):
        (best,) = model.classify(values[i], top=1)
        assert (rows["label"][i], rows["index"][i], rows["probability"][i]) == (
            best.label,
            best.index,
            best.probability,
        )
    for i in (1, 3, 4, 5):
        assert (rows["label"][i], rows["index"][i]) == ("", -1)
        assert np.isnan(rows["probability"][i])


def test_bytes_arrays_and_names_give_the_same_rows(models: dict[str, Path], tmp_path: Path) -> None:
    classifier = Classifier(models["classification"])
    contents = [png(i) for i in range(5)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.png").write_bytes(content)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    pixels = np.stack([np.asarray(mnv2.decode(content)) for content in contents])
    expected = classifier({"bytes": contents})
    for batch in (
        {"image": pixels},
        {"image": list(pixels), "path": paths},
        {"path": paths},
        {"path": np.array(paths)},
        {"path": [path.encode() for path in paths]},
        {"path": np.array([*paths[:4], paths[4].replace("/4", "//4")], "S")},
        {"content": contents, "path": ["s3://nowhere"] * 5},
    ):
        rows = classifier(batch)
        for name in ("label", "index", "probability", "error"):
            assert same(rows[name], expected[name])
        assert set(rows) - set(expected) == set(batch) & {"path"}
    named = Classifier(models["classification"], column="jpg", prefix="predicted_")
    rows = named({"jpg": contents, "label": np.arange(5)})
    assert list(rows)[:2] == ["label", "predicted_label"]
    assert same(rows["predicted_index"], expected["index"])
    assert same(rows["predicted_error"], expected["error"])


def test_zero_bytes_at_the_end_of_an_image_are_kept(models: dict[str, Path]) -> None:
    content = io.BytesIO()
    Image.new("RGB", (30, 30)).save(content, "BMP")  # black: it ends with zeros
    values = np.array([content.getvalue()])
    assert len(bytes(values[0])) < len(content.getvalue())
    assert list(Classifier(models["classification"])({"bytes": values})["error"]) == [""]


def test_several_classes_are_lists(models: dict[str, Path]) -> None:
    classifier = Classifier(models["classification"], top=9)
    rows = classifier({"bytes": [png(0), b""]})
    best = mnv2.load(models["classification"]).classify(png(0), top=4)
    assert rows["label"].tolist() == [[p.label for p in best], [""] * 4]
    assert rows["index"].tolist() == [[p.index for p in best], [-1] * 4]
    assert rows["probability"][0] == [p.probability for p in best]
    assert np.isnan(rows["probability"][1]).all()


def test_boxes_masks_and_features(models: dict[str, Path]) -> None:
    batch = {"bytes": [png(0), b"", png(1, 50)]}
    good = [png(0), png(1, 50)]
    detector = Detector(models["detection"], threshold=0.3, limit=3, classes=(1,))
    rows = detector(batch)
    model = mnv2.load(models["detection"])
    expected = model.detect(good, threshold=0.3, limit=3, classes=(1,))
    assert any(len(each) for each in expected)
    for i, each in zip((0, 2), expected):
        assert rows["boxes"][i] == each.boxes.tolist()
        assert rows["scores"][i] == each.scores.tolist()
        assert rows["labels"][i] == list(each.labels)
        assert rows["indices"][i] == each.indices.tolist()
    assert [rows[name][1] for name in ("boxes", "scores", "labels", "indices")] == [[]] * 4

    masks = [each.mask for each in mnv2.load(models["segmentation"]).segment(good)]
    arrays = Segmenter(models["segmentation"])(batch)["mask"]
    files = Segmenter(models["segmentation"], png=True)(batch)["mask"]
    assert [mask.shape for mask in arrays] == [(40, 40), (0, 0), (50, 50)]
    for i, mask in zip((0, 2), masks):
        assert same(arrays[i], mask)
        assert same(Image.open(io.BytesIO(files[i])), mask)
    assert files[1] == b""

    for task in ("classification", "features"):
        vectors = Features(models[task])(batch)["features"]
        model = mnv2.load(models[task])
        pixels = np.stack([model.checkpoint.preprocessing(image) for image in good])
        assert same(np.stack(vectors)[[0, 2]], model.features(pixels))
        assert np.isnan(vectors[1]).all()


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation", "features"])
def test_an_empty_batch_has_the_columns(models: dict[str, Path], task: str) -> None:
    kind = {"classification": Classifier, "detection": Detector, "segmentation": Segmenter}.get(
        task, Features
    )
    mapper = kind(models[task])
    full, empty = mapper({"path": ["absent.png"]}), mapper({"path": np.empty(0, object)})
    assert list(full) == list(empty)
    for name in set(full) - {"path"}:
        assert full[name].dtype == empty[name].dtype
        assert (full[name].shape, empty[name].shape) == ((1,), (0,))


@pytest.mark.parametrize("content", [False, True])
def test_a_copy_answers_alike(models: dict[str, Path], content: bool) -> None:
    file = models["detection"]
    model = file.read_bytes() if content else file
    mapper = Detector(model, threshold=0.2, limit=2, threads=1, prefix="p_", max_pixels=2000)
    copied = pickle.loads(pickle.dumps(mapper))
    assert copied.model is not mapper.model
    assert copied.model.engine.threads == 1
    batch = {"bytes": [png(0), png(1, 50)]}  # the second has too many pixels
    rows, again = mapper(batch), copied(batch)
    assert rows["p_error"][0] == ""
    assert "more than 2000 pixels" in rows["p_error"][1]
    assert {name: list(cells) for name, cells in rows.items()} == {
        name: list(cells) for name, cells in again.items()
    }
    assert len(pickle.dumps(Detector(file))) < 1000  # the name travels, not the model


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation", "features"])
def test_a_table_has_the_same_rows_and_types_whatever_is_in_it(
    models: dict[str, Path], task: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    kind = {"classification": Classifier, "detection": Detector, "segmentation": Segmenter}
    mapper = kind.get(task, Features)(models[task], prefix="p_")
    full = {"id": [1, 2], "bytes": [png(0), b""], "path": ["a", "b"]}
    rows, table = mapper(full), mapper(pyarrow.table(full))
    assert (
        table.column_names
        == list(rows)
        == ["id", "path", *map("p_{}".format, mapper.types), "p_error"]
    )
    for name, cells in rows.items():
        expected = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells]
        np.testing.assert_equal(table[name].to_pylist(), expected)
    for empty in (["nothing"], []):
        typed = mapper(pyarrow.table({"path": pyarrow.array(empty, "string")})).schema
        assert [typed.field(name) for name in typed.names[1:]] == [
            table.schema.field(name) for name in table.column_names[2:]
        ]


def test_a_call_makes_one_call(models: dict[str, Path]) -> None:
    """Ray's wrapper of the class runs one call at a time: a call within a call would never end."""
    pyarrow = pytest.importorskip("pyarrow")
    lock = threading.Lock()

    class OneAtATime(Classifier):
        def __call__(self, batch: Any) -> Any:
            assert lock.acquire(blocking=False)
            try:
                return super().__call__(batch)
            finally:
                lock.release()

    rows = OneAtATime(models["classification"])(pyarrow.table({"bytes": [png(0)]}))
    assert rows["error"].to_pylist() == [""]


def test_wrong_arguments_are_named(models: dict[str, Path]) -> None:
    file = models["classification"]
    for make, message in (
        (
            lambda: Detector(file),
            r"a model for classification: mobilenetv2.batch.Classifier runs it",
        ),
        (
            lambda: Classifier(models["detection"].read_bytes()),
            r"the model is a model for detection: .*Detector",
        ),
        (lambda: Features(models["segmentation"]), "Segmenter runs it"),
        (lambda: Classifier(models["features"]), "Features runs it"),
        (lambda: Classifier(file, top=0), "top must be"),
        (lambda: Classifier(file, threads=0), "threads must be"),
        (lambda: Classifier(file, column=1), "column must be"),  # type: ignore[arg-type]
        (lambda: Classifier(file, prefix=None), "prefix must be"),  # type: ignore[arg-type]
        (lambda: Classifier(file, max_pixels=0), "max_pixels must be"),
        (lambda: Detector(models["detection"], threshold=2), "threshold"),
        (lambda: Detector(models["detection"], classes=("cow",)), "no class 'cow'"),
        (lambda: Segmenter(models["segmentation"], png=1), "png must be"),  # type: ignore[arg-type]
        (lambda: Classifier("absent.safetensors"), "absent.safetensors"),
        (lambda: Classifier(3), "a model is"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=message):
            make()
    with pytest.raises(ModelFileError):
        Classifier(b"no model")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([b""], "a dictionary of columns, not list: .*batch_format='numpy'"),
        ({"jpg": [b""]}, "no column bytes or image or content or path, but jpg: column="),
        ({"bytes": [b""], "path": []}, "one length"),
        ({"path": ["a"], "id": 5}, "the column id must be a list or an array .*, not int"),
        ({"path": None}, "the column path must be .*, not NoneType"),
        ({"path": ["a"], "id": (i for i in [1])}, "the column id must be .*, not generator"),
        ({"path": ["a"], "id": np.array(1)}, "the column id must be .*, not ndarray"),
        ({"path": "cat.jpg"}, "the column path must be .*, not str"),
        ({"bytes": b"content"}, "the column bytes must be .*, not bytes"),
        (
            {"image": np.zeros((9, 9, 3), np.uint8)},
            r"one image, \(9, 9, 3\): .*image=array\[None\]",
        ),
        ({"bytes": [b""], "label": [1]}, "a column label already: prefix="),
    ],
)
def test_a_wrong_batch_is_refused(models: dict[str, Path], batch: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(models["classification"])(batch)


def test_names_and_errors_are_text_for_every_table(models: dict[str, Path]) -> None:
    rows = Classifier(models["classification"])(
        {"path": ["no\udcff\n.png", Path("absent"), 7, None]}
    )
    assert [text.encode() for text in rows["error"]]
    assert rows["error"][0] == r"no\xff\x0a.png: no such file or folder"
    assert all(rows["error"])


@pytest.mark.parametrize("table", [False, True])
def test_missing_cells_change_no_columns(models: dict[str, Path], table: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow") if table else None

    def mapped(**batch: list[Any]) -> Any:
        classifier = Classifier(models["classification"])
        return classifier(pyarrow.table(batch) if pyarrow else batch)

    def names(rows: Any) -> list[str]:
        return list(rows.column_names if table else rows)

    full = names(mapped(bytes=[png(0)], id=[1]))
    assert names(mapped(bytes=[None], id=[1])) == full
    assert "path" in names(mapped(path=[None], id=[1]))
    if not table:
        rows = mapped(path=["absent.png", float("nan")], id=[1, 2])
        assert list(rows)[:2] == ["path", "id"]
        assert rows["error"][1] == "row 1: no image: the value is missing"


def test_errors_of_decoded_images_have_the_name_of_the_row(models: dict[str, Path]) -> None:
    batch = {"image": [np.zeros((5, 5, 2), np.uint8)] * 2, "path": ["street.jpg", None]}
    first, second = Classifier(models["classification"])(batch)["error"]
    assert first.startswith("street.jpg: an image as an array must be")
    assert second.startswith("row 1: an image as an array must be")


@pytest.mark.filterwarnings("ignore::mobilenetv2.decoding.NarrowRangeWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_rows_of_classify(
    shared: Any, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(shared("data/odd-images"), folder, ignore=shutil.ignore_patterns("*.md"))
    file = str(models["classification"])
    assert run(["classify", str(folder), "--model", file, "--top", "2", "--format", "csv"]) == 1
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    paths = sorted(str(path) for path in folder.iterdir())
    contents = [Path(path).read_bytes() for path in paths]
    mapped = Classifier(file, top=2, threads=1)({"bytes": contents, "path": paths})
    flat = [
        {"file": path, "rank": rank, "index": index, "label": label, "probability": round(p, 6)}
        for path, error, *cells in zip(
            *(mapped[n] for n in ("path", "error", "index", "label", "probability"))
        )
        for rank, (index, label, p) in enumerate(zip(*cells), 1)
        if not error
    ]
    assert sorted(map(str, ({k: str(v) for k, v in row.items()} for row in flat))) == sorted(
        map(str, printed)
    )
    broken = {Path(path).name for path, error in zip(paths, mapped["error"]) if error}
    assert broken == {
        "truncated.jpg",
        "truncated.png",
        "zero_byte.jpg",
        "text_renamed.jpg",
        "bomb_20000x10000.png",
    }
