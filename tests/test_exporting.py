"""A file of another format gets its name only after its own runtime gave our results."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mobilenetv2 as mnv2
from mobilenetv2 import UserError, exporting
from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.exporting import MismatchError
from mobilenetv2.heads import SSD
from mobilenetv2.int8 import AnyCheckpoint
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.verification import compare
from mobilenetv2.verification import onnx as onnx_runner
from mobilenetv2.writers import FORMATS, WriteOptions, WriterError

from .conftest import random_checkpoint

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[1]


def test_the_photo_of_the_package_is_the_example() -> None:
    assert exporting.PHOTO.read_bytes() == (ROOT / "examples" / "cat.jpg").read_bytes()


def test_the_command_knows_every_format() -> None:
    from mobilenetv2.cli.convert import OURS, TARGETS

    assert set(TARGETS) == {OURS, *FORMATS}


def test_a_model_is_written_and_checked(tmp_path) -> None:
    exported = mnv2.export(mnv2.load("cifar10"), tmp_path / "cifar10.onnx")
    assert exported.files == (tmp_path / "cifar10.onnx",)
    assert exported.runtime.startswith("onnxruntime ")
    assert (exported.images, exported.unchecked, exported.format) == (1, "", "onnx")
    assert [each.result for each in exported.differences] == ["logits"]
    assert exported.differences[0].largest < 1e-4
    assert os.listdir(tmp_path) == ["cifar10.onnx"]


def test_other_results_leave_nothing_and_keep_what_was_there(tmp_path, monkeypatch, capsys) -> None:
    target = tmp_path / "cifar10.onnx"
    target.write_bytes(b"before")
    honest = onnx_runner.run

    def changed(*arguments):
        return {name: values + 0.1 for name, values in honest(*arguments).items()}

    monkeypatch.setattr(onnx_runner, "run", changed)
    with pytest.raises(MismatchError, match="not written: onnxruntime .* gives other logits"):
        mnv2.export(mnv2.load("cifar10"), target)
    assert run(["convert", "cifar10", str(target)]) == 1
    assert "gives other logits" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["cifar10.onnx"]
    assert target.read_bytes() == b"before"
    assert run(["convert", "cifar10", str(target), "--no-verify"]) == 0
    assert "not checked" in capsys.readouterr().err
    assert target.read_bytes() != b"before"


def test_values_that_are_not_numbers_pass_nowhere(tmp_path, monkeypatch) -> None:
    honest = onnx_runner.run
    monkeypatch.setattr(
        onnx_runner, "run", lambda *a: {n: v * np.nan for n, v in honest(*a).items()}
    )
    with pytest.raises(MismatchError):
        mnv2.export(mnv2.load("cifar10"), tmp_path / "a.onnx")
    assert os.listdir(tmp_path) == []


def written_of(changed: AnyCheckpoint, monkeypatch) -> None:
    """Lets every format write another model than the one that is given."""
    write = exporting.writer
    monkeypatch.setattr(
        exporting, "writer", lambda to: lambda _, path, options: write(to)(changed, path, options)
    )


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".xml", ".param", ".mlpackage", ".pth"])
def test_a_float16_file_of_slightly_other_weights_is_refused(suffix, tmp_path, monkeypatch) -> None:
    needs = {".xml": "openvino", ".param": "ncnn", ".mlpackage": "coremltools", ".pth": "torch"}
    pytest.importorskip(needs.get(suffix, "ai_edge_litert"))
    checkpoint = random_checkpoint(Architecture(width_mult=0.35, resolution=(64, 64)), classes=10)
    target = tmp_path / f"a{suffix}"
    exported = mnv2.export(checkpoint, target, float16=True)
    assert exported.runtime
    name = "features.0.0.weight"
    kernel = checkpoint.arrays[name] * np.float32(1.004)  # four steps of float16
    written_of(replace(checkpoint, arrays={**checkpoint.arrays, name: kernel}), monkeypatch)
    with pytest.raises(UserError, match="gives other logits|are others than the model's"):
        mnv2.export(checkpoint, tmp_path / f"b{suffix}", float16=True)
    assert not (tmp_path / f"b{suffix}").exists()


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".xml"])
def test_an_int8_detector_of_other_codes_is_refused(suffix, tmp_path, monkeypatch) -> None:
    pytest.importorskip({".xml": "openvino"}.get(suffix, "ai_edge_litert"))
    floats = random_checkpoint(Architecture(width_mult=0.35, resolution=(64, 64), head=SSD(3)))
    checkpoint = to_int8(floats, np.stack([floats.preprocessing(exporting.PHOTO)]))
    options: dict[str, object] = {"results": "final", "score_threshold": 1.0}
    exported = mnv2.export(checkpoint, tmp_path / f"a{suffix}", **options)
    assert [each.result for each in exported.differences] == ["boxes", "codes", "scores"]
    layer = checkpoint.layers["head.boxes.0"]
    changed = replace(layer, weight=np.roll(layer.weight, 1, axis=0))
    changed_layers = {**checkpoint.layers, "head.boxes.0": changed}
    written_of(replace(checkpoint, layers=changed_layers), monkeypatch)
    with pytest.raises(MismatchError, match="gives other codes than ours"):
        mnv2.export(checkpoint, tmp_path / f"b{suffix}", **options)


def test_without_its_runtime_a_file_is_written_and_that_is_said(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(["convert", "cifar10", str(tmp_path / "a.onnx")]) == 0
    said = capsys.readouterr().err
    assert "not checked: `pip install onnxruntime`" in said
    assert (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a.xyz"], "no format is known by its ending"),
        ([".onnx"], ".onnx: a name is missing in front of the ending"),
        (["a.onnx", "--verify", "absent"], "no images to verify with: there are none"),
        (["a.onnx", "--to", "tflite"], "must end in .tflite"),
        (["a.onnx", "--opset", "3"], "opset"),
        (["a.mnv2", "--input", "float32"], "program: --input float32: it takes uint8"),
        (["a.onnx", "--int8"], "--int8 needs --calibrate"),
        (["a.onnx", "--calibrate", "photos"], "--calibrate goes with --int8"),
        (["a.onnx", "--verify", "photos", "--no-verify"], "contradict"),
        (["a.safetensors", "--batch", "5"], "for files of other libraries"),
        (["folder", "--to", "transformers.js"], "a folder with other files"),
        (["missing/a.onnx"], "the folder missing does not exist"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(
    arguments, complaint, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "mine.txt").write_text("mine")
    assert run(["convert", "cifar10", *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert os.listdir() == ["folder"]
    assert os.listdir("folder") == ["mine.txt"]


@pytest.mark.parametrize("name", ["hf", "proj.mlpackage"])
def test_a_folder_of_others_is_kept(name, tmp_path, capsys) -> None:
    """As downloads from Hugging Face are: a configuration beside weights."""
    folder = tmp_path / name
    (folder / "onnx").mkdir(parents=True)
    for file in ("config.json", "Manifest.json", "model.safetensors", "onnx/thesis.txt"):
        (folder / file).write_text("mine")
    to = "coreml" if name.endswith("mlpackage") else "transformers.js"
    assert run(["convert", "cifar10", str(folder), "--to", to]) == 2
    assert "a folder with other files" in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == [
        "Manifest.json",
        "config.json",
        "model.safetensors",
        "onnx",
    ]


def test_links_are_followed_and_the_working_folder_stays(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "a.onnx").symlink_to(tmp_path / "store" / "real.onnx")
    (tmp_path / "tj").symlink_to(tmp_path / "store" / "tj")
    (tmp_path / "store" / "tj").mkdir()
    model = mnv2.load("cifar10")
    mnv2.export(model, tmp_path / "a.onnx", verify=False)
    mnv2.export(model, tmp_path / "tj", "transformers.js", verify=False)
    assert (tmp_path / "a.onnx").is_symlink()
    assert (tmp_path / "tj").is_symlink()
    assert sorted(os.listdir(tmp_path / "store")) == ["real.onnx", "tj"]
    assert (tmp_path / "store" / "tj" / "onnx" / "model.onnx").is_file()
    monkeypatch.chdir(tmp_path / "store" / "tj")
    assert run(["convert", "cifar10", ".", "--to", "transformers.js"]) == 2
    assert "the folder that this runs in" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "store")) == ["real.onnx", "tj"]
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(WriterError, match="no regular file"):
        mnv2.export(model, tmp_path / "pipe.onnx")


def test_a_folder_of_ours_is_replaced_whole(tmp_path) -> None:
    folder = tmp_path / "tj"
    for _ in range(2):
        mnv2.export(mnv2.load("cifar10"), folder, "transformers.js")
    mnv2.export(mnv2.load("cifar10-int8"), folder, "transformers.js")
    assert os.listdir(folder / "onnx") == ["model_quantized.onnx"]
    assert os.listdir(tmp_path) == ["tj"]


@pytest.mark.parametrize("suffix", [".bin", ".json", ".labels.txt"])
def test_files_beside_are_not_overwritten(suffix, tmp_path, capsys) -> None:
    pytest.importorskip("ncnn")
    mine = tmp_path / f"run{suffix}"
    mine.write_text("mine")
    assert run(["convert", "cifar10", str(tmp_path / "run.param")]) == 2
    assert f"run{suffix}: is there already, and ncnn would replace it" in capsys.readouterr().err
    assert (os.listdir(tmp_path), mine.read_text()) == ([mine.name], "mine")
    mine.unlink()
    for _ in range(2):  # an export replaces its own
        assert run(["convert", "cifar10", str(tmp_path / "run.param")]) == 0


@pytest.mark.parametrize("earlier", [True, False])
def test_files_that_belong_together_are_placed_together(earlier, tmp_path) -> None:
    """The second cannot be placed, since a folder has its name."""
    made = tmp_path / "made"
    made.mkdir()
    for suffix in (".xml", ".bin", ".json"):
        (made / f"a{suffix}").write_text("new")
    (tmp_path / "a.bin").mkdir()
    if earlier:
        (tmp_path / "a.xml").write_text("before")
    written = [made / f"a{suffix}" for suffix in (".xml", ".bin", ".json")]
    with pytest.raises(IsADirectoryError):
        exporting._placed(written, tmp_path)
    left = ["a.bin", "a.xml", "made"] if earlier else ["a.bin", "made"]
    assert sorted(os.listdir(tmp_path)) == left
    assert not earlier or (tmp_path / "a.xml").read_text() == "before"
    assert (tmp_path / "a.bin").is_dir()


def test_the_model_that_is_read_is_not_overwritten(tmp_path, capsys) -> None:
    pytest.importorskip("openvino")
    model = tmp_path / "model.bin"
    mnv2.load("cifar10").checkpoint.save(model)
    (tmp_path / "model.xml").write_text("of an earlier export")
    before = model.read_bytes()
    assert run(["convert", str(model), str(tmp_path / "model.xml")]) == 2
    assert "OUT is IN itself" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_unknown_options_and_formats_are_named(tmp_path) -> None:
    model = mnv2.load("cifar10")
    with pytest.raises(mnv2.UserError, match="unknown fields: optset"):
        mnv2.export(model, tmp_path / "a.onnx", optset=17)
    with pytest.raises(WriterError, match="no format 'onx'"):
        mnv2.export(model, tmp_path / "a.onnx", to="onx")
    with pytest.raises(mnv2.UserError, match="batch"):
        mnv2.export(model, tmp_path / "a.onnx", batch=0)
    with pytest.raises(mnv2.UserError, match="iou_threshold"):  # some runtimes take it for another
        mnv2.export(model, tmp_path / "a.onnx", iou_threshold=0)
    assert os.listdir(tmp_path) == []


def test_a_killed_export_leaves_nothing_under_the_name(tmp_path) -> None:
    """The writer waits before it is done; the process is killed meanwhile."""
    program = (
        "import sys, time, mobilenetv2 as mnv2\n"
        "from mobilenetv2.verification import onnx\n"
        "onnx.run = lambda *a: (print('written', flush=True), time.sleep(60))\n"
        "mnv2.export(mnv2.load('cifar10'), sys.argv[1])\n"
    )
    target = tmp_path / "a.onnx"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.1)
    assert not target.exists()


def test_a_terminated_export_leaves_nothing(tmp_path, monkeypatch) -> None:
    usual = signal.getsignal(signal.SIGTERM)

    def terminated(*arguments):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(onnx_runner, "run", terminated)
    with pytest.raises(SystemExit) as ended:
        run(["convert", "cifar10", str(tmp_path / "a.onnx")])
    assert ended.value.code == 143
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == usual


def test_two_exports_into_one_stem_do_not_mix(tmp_path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    pytest.importorskip("openvino")
    placed, held = exporting._placed, []

    def placed_in_turn(written, folder):
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        held.append(len(written))
        return placed(written, folder)

    monkeypatch.setattr(exporting, "_placed", placed_in_turn)
    write = exporting.writer

    def meanwhile(format_):
        """Another export is placed while this one writes."""
        monkeypatch.setattr(exporting, "writer", write)
        mnv2.export(mnv2.load("cifar10"), tmp_path / "a.xml", verify=False)
        return write(format_)

    monkeypatch.setattr(exporting, "writer", meanwhile)
    with pytest.raises(WriterError, match=r"a\.bin: is there already, and ncnn would replace it"):
        mnv2.export(mnv2.load("cifar10"), tmp_path / "a.param", verify=False)
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.xml"]
    assert held == [2]


MEANINGLESS = [
    (["a.onnx", "--batch", "2", "--dynamic", "batch"], "--batch 2 and --dynamic batch contradict"),
    (
        ["a.onnx", "--results", "final", "--iou-threshold", "0.5"],
        "onnx: --iou-threshold 0.5: it is",
    ),
    (["a.onnx", "--max-detections", "9"], "onnx: --max-detections 9: it is for final results of a"),
    (["a.pth", "--batch", "2"], "torchvision: --batch 2: a file has weights alone"),
    (["a", "--to", "transformers.js", "--batch", "2"], "transformers.js: --batch 2: it takes any"),
    (["a.onnx", "--batch", "99999999"], "--batch must be a whole number from 1 to 65536, not 9999"),
    (["a.tflite", "--opset", "17"], "tflite: --opset 17: it is a version of ONNX's operators"),
    (["a.tflite", "--layout", "nchw"], "tflite: --layout nchw: LiteRT's operators read NHWC"),
    (["a.mnv2", "--dynamic", "size"], "program: --dynamic size: a program is for images of one si"),
    (["a.param", "--dynamic", "batch"], "ncnn: --dynamic batch: a file of ncnn takes one image"),
    (["a.xml", "--task-metadata"], "openvino: --task-metadata: MediaPipe's tasks read .tflite fil"),
]


@pytest.mark.parametrize(("words", "message"), MEANINGLESS)
def test_options_that_mean_nothing_are_refused_by_name(words, message, tmp_path, capsys) -> None:
    if words[0].endswith((".pth", ".xml")):
        pytest.importorskip({".pth": "torch", ".xml": "openvino"}[words[0][1:]])
    assert run(["convert", "cifar10", str(tmp_path / words[0]), *words[1:]]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("a.onnx", ["--opset", "11"], "onnx: --opset 11: the graph is written with 13 to"),
        ("a.onnx", ["--float16"], "onnx: --float16: the weights of an int8 model are int8"),
        ("a.param", [], "ncnn: its int8 has one scale per tensor"),
        ("a.foo", [], "no format is known by its ending"),
    ],
)
def test_what_an_int8_file_cannot_be_is_said_before_images_are_read(
    name, words, message, tmp_path, capsys
) -> None:
    words = ["convert", "cifar10", str(tmp_path / name), "--int8", "--calibrate", "absent", *words]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "absent" not in said


def test_a_file_of_any_size_is_checked_at_two(tmp_path) -> None:
    exported = mnv2.export(mnv2.load("cifar10"), tmp_path / "a.onnx", dynamic_size=True, batch=None)
    assert len(exported.differences) == 2


def test_another_size(tmp_path) -> None:
    import onnx

    mnv2.export(mnv2.load("cifar10"), tmp_path / "a.onnx", size=(48, 40))
    shape = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape
    assert [side.dim_value for side in shape.dim] == [1, 3, 48, 40]


def test_int8_with_calibration_images(tmp_path, capsys) -> None:
    photo = str(ROOT / "examples" / "cat.jpg")
    arguments = ["convert", "cifar10", str(tmp_path / "a.onnx"), "--int8", "--calibrate", photo]
    assert run(arguments) == 0
    said = capsys.readouterr().err
    assert "warning: 1 image to calibrate with" in said
    assert "gives our results on 1 image" in said


def test_detections_are_compared_by_class_and_place() -> None:
    ours = {
        "boxes": [np.array([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])],
        "scores": [np.array([0.9, 0.8])],
        "classes": [np.array([1, 2])],
    }
    same = compare._of_detections(ours, ours, 1.0)
    assert (same.largest, same.passed) == (0.0, True)
    other = {**ours, "classes": [np.array([1, 3])]}
    different = compare._of_detections(ours, other, 0.99)
    assert (different.largest, different.passed) == (0.5, False)
    none = {"boxes": [np.zeros((0, 4))], "scores": [np.zeros(0)], "classes": [np.zeros(0, int)]}
    assert compare._of_detections(none, none, 1.0).passed
    assert not compare._of_detections(ours, none, 0.9).passed


def test_options_have_the_defaults_of_the_docs() -> None:
    options = WriteOptions()
    assert (options.input, options.results, options.batch) == ("float32", "raw", 1)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".xml", ".param", ".mlpackage", ".mnv2"])
def test_labels_that_are_no_utf_8(suffix, tmp_path) -> None:
    """As folders with names in Latin-1 give them."""
    for each in FORMATS.values():
        if each.suffix == suffix:
            for module in {*each.needs, each.runs_with[1]} - {""}:
                pytest.importorskip(module)
    labels = tuple(f"caf\udce9 {index}" for index in range(10))
    model = replace(mnv2.load("cifar10").checkpoint, labels=labels)
    assert mnv2.export(model, tmp_path / f"a{suffix}").differences[0].passed


def test_wrong_arguments_are_named(tmp_path) -> None:
    model = mnv2.load("cifar10")
    for images, complaint in (
        ([], "images: none to run the file on"),
        (np.zeros((1, 8, 8, 3), np.uint8), "images: pixels must be"),
    ):
        with pytest.raises(mnv2.UserError, match=complaint):
            mnv2.export(model, tmp_path / "a.onnx", images=images)
    with pytest.raises(mnv2.UserError, match="model must be"):
        mnv2.export("cifar10", tmp_path / "a.onnx")
    photo = ROOT / "examples" / "cat.jpg"
    assert mnv2.export(model, tmp_path / "a.onnx", images=str(photo)).images == 1


def test_a_runtime_that_does_not_load_is_said(tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "stub" / "onnxruntime"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('libfoo.so.1: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path / "stub"))
    monkeypatch.delitem(sys.modules, "onnxruntime")
    assert run(["convert", "cifar10", str(tmp_path / "a.onnx")]) == 0
    assert "onnxruntime is installed, but does not load: libfoo.so.1" in capsys.readouterr().err
    assert (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("place", ["write", "replace", "mkdtemp"])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(place, tmp_path, monkeypatch) -> None:
    target = tmp_path / "a.onnx"
    target.write_bytes(b"before")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    if place == "write":
        monkeypatch.setattr(exporting, "writer", lambda format_: full)
    elif place == "replace":
        monkeypatch.setattr(exporting.os, "replace", full)
    else:
        monkeypatch.setattr(exporting.tempfile, "mkdtemp", full)
    with pytest.raises(mnv2.UserError, match="a.onnx: cannot be written: No space left"):
        mnv2.export(mnv2.load("cifar10"), target)
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert target.read_bytes() == b"before"
