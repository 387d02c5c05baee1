"""The command line: output formats, exit codes, and inputs that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.cli import run

from .conftest import REPOSITORY, random_checkpoint

PHOTO = REPOSITORY / "examples" / "cat.jpg"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images (one in a subfolder, one with an upper-case suffix), a damaged one, and a text."""
    rng = np.random.default_rng(0)
    (tmp_path / "deeper").mkdir()
    for name in ("a.png", "b.JPG", "deeper/c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "b.JPG").read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_classify_csv(folder, capsys) -> None:
    assert run(["classify", str(folder), "--format", "csv", "--top", "3"]) == 1
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["file", "rank", "index", "label", "probability"]
    assert [row["file"] for row in rows[::3]] == [
        str(folder / name) for name in ("a.png", "b.JPG", "deeper/c.png")
    ]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 3
    probabilities = [float(row["probability"]) for row in rows[:3]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert f"{folder / 'broken.jpg'}: cannot be decoded" in err
    assert "ignored 1 files that are not images by name: .txt (1)" in err
    assert "1 of 4 could not be read" in err


def test_classify_json_has_one_object_per_file(folder, capsys) -> None:
    files = [str(folder / "a.png"), str(folder / "b.JPG")]
    assert run(["classify", *files, "--format", "json", "--top", "2"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [Path(entry["file"]).name for entry in entries] == ["a.png", "b.JPG"]
    assert list(entries[0]["predictions"][0]) == ["rank", "index", "label", "probability"]
    assert len(entries[0]["predictions"]) == 2


def test_classify_the_image_that_ships(capsys) -> None:
    assert run(["classify", str(PHOTO)]) == 0
    out = capsys.readouterr().out
    assert "cat" in out.splitlines()[3], out


def test_top_beyond_the_classes(capsys) -> None:
    assert run(["classify", str(PHOTO), "--top", "50", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 10
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1, abs=1e-4)


def test_patterns_and_lists(folder, capsys, monkeypatch) -> None:
    names = f"{folder / 'a.png'}\n\n{folder / 'gone.png'}\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
    assert (
        run(["classify", str(folder / "**" / "*.png"), "-", "--format", "csv", "--top", "1"]) == 1
    )
    out, err = capsys.readouterr()
    assert [Path(row["file"]).name for row in csv.DictReader(io.StringIO(out))] == [
        "a.png",
        "c.png",
    ]
    assert "gone.png: no such file" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["classify", "gone.jpg"], "gone.jpg: no such file or folder"),
        (
            ["classify", str(PHOTO), "--model", "gone.safetensors"],
            "gone.safetensors: no such file, and no model",
        ),
        (["classify", str(PHOTO), "--model", "slim-1.0-22"], "did you mean slim-1.0-224"),
        (["classify", str(PHOTO), "--top", "0"], "--top"),
        (["classify", str(PHOTO), "--model", str(PHOTO)], "cat.jpg: not a model file"),
        (["classify"], "PATH"),
        (["nonsense"], "nonsense"),
        (["convert", "cifar10", "out.bin"], "no format is known by its ending"),
        (["convert", "cifar10", "no/such/folder/out.safetensors"], "does not exist"),
        (["inspect", "gone.tflite"], "gone.tflite"),
        (["cost", "--head", "features", "--classes", "5"], "--head features has no classes"),
        (["cost", "gone.tflite"], "gone.tflite"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments, complaint, capsys) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert complaint in err
    assert "Traceback" not in out + err


def test_a_missing_image_among_others(folder, capsys) -> None:
    assert (
        run(["classify", str(folder / "gone.png"), str(folder / "a.png"), "--format", "csv"]) == 1
    )
    out, err = capsys.readouterr()
    assert "gone.png: no such file" in err
    assert "a.png" in out


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_large_images_within_the_limit_are_no_warning(
    command, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "cat" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run([command, str(tmp_path)]) == 0
    assert not caught
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_the_limit_of_pixels_is_one_for_all_commands(
    command, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "cat").mkdir()
    for side in (10, 100):
        Image.new("RGB", (side, side)).save(tmp_path / "cat" / f"{side}.png")
    for limit, code in (("9999", 1), ("10000", 0)):
        monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", limit)
        assert run([command, str(tmp_path)]) == code
        assert ("100.png: more than 9999 pixels" in capsys.readouterr().err) == (code == 1)
    monkeypatch.setenv("MOBILENETV2_MAX_PIXELS", "many")
    assert run([command, str(tmp_path)]) == 2
    assert "MOBILENETV2_MAX_PIXELS must be a whole number" in capsys.readouterr().err


def test_convert_and_inspect(tmp_path, capsys) -> None:
    random_checkpoint(width_mult=0.35, classes=3).save(tmp_path / "in.safetensors")
    labels, out = tmp_path / "names.txt", tmp_path / "out.safetensors"
    labels.write_text("rose\ntulip\nfern with, comma\n", encoding="utf-8")
    source = str(tmp_path / "in.safetensors")
    assert run(["convert", source, str(out), "--labels", str(labels)]) == 0
    assert "width 0.35, 224 x 224, 3 classes with labels" in capsys.readouterr().err
    assert run(["inspect", str(out), "--format", "json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "mobilenetv2"
    assert facts["labels"] == ["rose", "tulip", "fern with, comma"]
    assert facts["architecture"]["width_mult"] == 0.35
    assert run(["inspect", str(out), "--format", "csv"]) == 0
    assert '\nlabels,"3: rose, ..., fern with, comma"\n' in capsys.readouterr().out
    assert run(["inspect", str(out), "--arrays", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["shape"] == "16x3x3x3"
    assert len(rows) == 262
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.safetensors",
        "names.txt",
        "out.safetensors",
    ]


def test_convert_can_drop_the_background(tmp_path, shared, capsys) -> None:
    source, out = shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"), tmp_path / "a.safetensors"
    assert run(["convert", str(source), str(out), "--drop-background", "--float"]) == 0
    assert "1000 classes with labels" in capsys.readouterr().err
    assert run(["classify", str(PHOTO), "--model", str(out), "--format", "json", "--top", "1"]) == 0
    (best,) = json.loads(capsys.readouterr().out)[0]["predictions"]
    from mobilenetv2.labels import imagenet_labels

    assert imagenet_labels(1000)[best["index"]] == best["label"]
    assert run(["convert", str(out), str(tmp_path / "b.safetensors"), "--drop-background"]) == 2
    assert "not the background" in capsys.readouterr().err


def test_models_lists_the_bundled_ones_first(capsys) -> None:
    assert run(["models", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows[:2]] == ["cifar10", "cifar10-int8"]
    assert len(rows) == 57


@pytest.mark.parametrize(
    "arguments", [["models"], ["cost"], ["cost", "cifar10"], ["inspect", "cifar10"], ["--help"]]
)
def test_tables_print(arguments, capsys) -> None:
    assert run(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_a_reader_that_leaves_is_no_error(tmp_path) -> None:
    command = f"{sys.executable} -m mobilenetv2 models --format csv | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("name,")
    assert "Traceback" not in done.stderr


def test_interrupting_exits_130(monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mobilenetv2.loading.load", interrupted)
    assert run(["classify", str(PHOTO)]) == 130


@pytest.mark.parametrize(
    ("name", "options", "top1", "top5"),
    [
        ("tf2_mobilenet_v2_1.0_224_ptq", ["--float"], 875, 979),
        ("mobilenet_v2_1.0_224_quant", ["--float"], 873, 980),
        ("tf2_mobilenet_v2_1.0_224_ptq", [], 875, 978),
        ("mobilenet_v2_1.0_224_quant", [], 875, 980),
    ],
)
def test_a_thousand_photos(shared, tmp_path, capsys, name, options, top1, top5) -> None:
    """The published numbers of right predictions, through convert and classify, as float32 and as
    int8; about 780 would mean wrong padding.
    """
    model = tmp_path / "model.safetensors"
    assert run(["convert", str(shared(f"models/{name}.tflite")), str(model), *options]) == 0
    photos = shared("data/imagenet-sample")
    assert run(["classify", str(photos), "--model", str(model), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    with open(photos / "labels.csv", encoding="utf-8", newline="") as file:
        expected = {
            row["file"]: (int(row["index"]) + 1, row["label"]) for row in csv.DictReader(file)
        }
    right = [
        row for row in rows if (int(row["index"]), row["label"]) == expected[Path(row["file"]).name]
    ]
    assert len(rows) == 5000
    assert (sum(row["rank"] == "1" for row in right), len(right)) == (top1, top5)


@pytest.mark.parametrize(
    ("options", "index"), [([], 286), (["--index", "dataset"], 285), (["--index", "model"], 286)]
)
def test_classes_counted_without_the_background(
    shared, capsys, options: list[str], index: int
) -> None:
    model = str(shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"))
    arguments = ["--model", model, "--top", "1001", "--format", "csv", *options]
    assert run(["classify", str(PHOTO), *arguments]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    by_label = {row["label"]: row["index"] for row in rows}
    assert by_label["Egyptian cat"] == str(index)
    assert by_label["background"] == ("" if index == 285 else "0")


@pytest.mark.parametrize(
    "arguments", [["classify", str(PHOTO)], ["benchmark", "--runs", "1"], ["evaluate", "photos"]]
)
def test_threads_for_one_run(arguments: list[str], tmp_path, monkeypatch, capsys) -> None:
    from mobilenetv2 import model as module

    monkeypatch.chdir(tmp_path)
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/1.jpg").write_bytes(PHOTO.read_bytes())
    monkeypatch.setenv("MOBILENETV2_THREADS", "2")
    engines, engine = [], module.Engine
    monkeypatch.setattr(
        module, "Engine", lambda *given: engines.append(engine(*given)) or engines[-1]
    )
    assert run([*arguments, "--threads", "3"]) == 0
    assert run(arguments) == 0
    assert [e.threads for e in engines] == [3, 2]
    assert run([*arguments, "--threads", "1025"]) == 2
    assert "threads must be a whole number from 1 to 1024, not 1025" in capsys.readouterr().err


def test_quantize_and_explain_take_threads(capsys) -> None:
    for name in ("quantize", "explain", "features"):
        assert run([name, "--threads", "0"]) == 2
        assert "threads must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["cost"], ["inspect"], ["benchmark", "--runs", "1"], ["quantize", "--calibrate", str(PHOTO), "-o", "q.safetensors"],
     ["explain", "-o", "x.html", "--samples", "1"]],
)  # fmt: skip
def test_the_model_as_an_argument_or_an_option(
    arguments: list[str], tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    complaints = []
    for given in (["gone"], ["--model", "gone"], ["--weights=gone"]):
        assert run([*arguments, *given]) == 2
        complaints.append(capsys.readouterr().err)
    assert set(complaints) == {complaints[0]}
    assert "gone: no such file, and no model of that name" in complaints[0]
    assert run([*arguments, "one", "--model", "two"]) == 2
    assert "two models, one and --model two: give one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        (["benchmark", "--batch-size", "x"], ["benchmark", "--batch", "x"]),
        (["benchmark", "--batch_size=x"], ["benchmark", "--batch=x"]),
        (["cost", "--imgsz", "x"], ["cost", "--resolution", "x"]),
        (["cost", "--num_classes", "x"], ["cost", "--classes", "x"]),
        (
            ["classify", "--weights", "gone", str(PHOTO)],
            ["classify", "--model", "gone", str(PHOTO)],
        ),
        (
            ["train", "d", "-o", "r", "--model", "gone"],
            ["train", "d", "-o", "r", "--weights", "gone"],
        ),
        (["train", "--learning-rate", "x"], ["train", "--lr", "x"]),
        (["train", "--weight_decay", "x"], ["train", "--weight-decay", "x"]),
        (["classify", "--topk", "x"], ["classify", "--top", "x"]),
    ],
)
def test_other_programs_names_of_options(arguments, same, capsys) -> None:
    assert run(same) == 2
    complaint = capsys.readouterr().err
    assert run(arguments) == 2
    assert capsys.readouterr().err == complaint
    assert "No such option" not in complaint


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["train", "--device", "cuda"], "no option --device: the networks run on the CPU"),
        (["train", "--optimizer", "adam"], "write `train --set optimizer=adamw`"),
        (["classify", "--imgsz", "320", "x"], "the model says at which size it runs"),
        (["evaluate", "--batch_size", "8"], "images are grouped by the program"),
        (["evaluate", "--data", "photos"], "the data are an argument without a name"),
        (["convert", "--model", "a"], "the model is an argument without a name here"),
        (["classify", "--json", "x"], "`--format json`"),
        (["classify", "--modle", "x"], "Did you mean '--model'?"),
    ],
)
def test_advice_about_options_that_are_not_there(arguments, advice, capsys) -> None:
    assert run(arguments) == 2
    assert advice in capsys.readouterr().err


def test_words_after_two_dashes_are_no_options(capsys) -> None:
    assert run(["classify", "--", "--batch_size"]) == 2
    assert "--batch_size: no such file or folder" in capsys.readouterr().err
