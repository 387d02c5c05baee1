"""What a Python user types first: images of any kind, a model as bytes, copies, help, star imports."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ImageError, MissingExtraError, ModelFileError, NotFiniteError
from mobilenetv2.heads import DeepLab, Features
from mobilenetv2.images import Preprocessing, decode
from mobilenetv2.model import Model
from mobilenetv2.runtime import Reference
from mobilenetv2.zoo import bundled_path

from .conftest import REPOSITORY, random_checkpoint
from .int8 import random_int8

CAT = REPOSITORY / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def model() -> Model:
    return mnv2.load("cifar10", threads=2)


@pytest.fixture(scope="module")
def expected(model: Model) -> list[mnv2.Prediction]:
    return model.classify(str(CAT))


def sources() -> dict[str, object]:
    image = decode(CAT)
    return {
        "path": CAT,
        "bytes": CAT.read_bytes(),
        "bytearray": bytearray(CAT.read_bytes()),
        "memoryview": memoryview(CAT.read_bytes()),
        "stream": io.BytesIO(CAT.read_bytes()),
        "PIL image": image,
        "array": np.asarray(image),
        "RGBA array": np.asarray(image.convert("RGBA")),
        "array with negative strides": np.asarray(image)[::-1].copy()[::-1],
        "read-only array": np.asarray(image),
    }


@pytest.mark.parametrize("kind", sources())
def test_an_image_of_any_kind_is_classified_alike(kind, model, expected) -> None:
    assert model.classify(sources()[kind]) == expected


def test_an_open_file_is_classified_again_and_again(model, expected) -> None:
    with open(CAT, "rb") as file:
        assert model.classify(file) == expected
        assert model.classify(file) == expected


def test_grey_arrays_are_grey_images(model) -> None:
    grey = decode(CAT).convert("L")
    expected = model.classify(grey.convert("RGB"))
    assert model.classify(np.asarray(grey)) == expected
    assert model.classify(np.asarray(grey)[:, :, None]) == expected


def test_a_list_gives_a_list_for_each(model, expected) -> None:
    grey = np.asarray(decode(CAT).convert("L"))
    assert model.classify([CAT, CAT.read_bytes(), grey]) == [
        expected,
        expected,
        model.classify(grey),
    ]
    assert model.classify((CAT,), top=2) == [expected[:2]]
    assert model.classify([]) == []
    pixels = np.asarray(decode(CAT))
    assert model.classify(np.stack([pixels, pixels])) == [expected, expected]
    with pytest.raises(ImageError, match="absent.jpg: no such file"):
        model.classify([CAT, "absent.jpg"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), r"not \(4, 4, 3\) float64; multiply values from 0 to 1 by 255"),
        (np.zeros((4, 4, 3), np.int64), r"not \(4, 4, 3\) int64$"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\) uint8; move the channels to the end"),
        (np.zeros((5, 4, 2), np.uint8), r"not \(5, 4, 2\) uint8$"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (b"", "not an image"),
        ("x" * 5_000_000, "File name too long"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_image_is_refused_in_one_short_line(image, message, model) -> None:
    with pytest.raises(ImageError, match=message) as raised:
        model.classify(image)
    assert len(str(raised.value)) < 1200


def test_a_file_opened_as_text_is_refused(model, tmp_path) -> None:
    with open(CAT, encoding="latin-1") as file, pytest.raises(ImageError, match=r"cat\.jpg.*'rb'"):
        model.classify(file)


def test_a_model_is_loaded_from_its_content(model, expected, tmp_path) -> None:
    content = bundled_path("cifar10").read_bytes()
    assert mnv2.load(content).classify(CAT) == expected
    assert mnv2.load(io.BytesIO(content)).classify(CAT) == expected
    with pytest.raises(ModelFileError, match="^<bytes>: not a model file"):
        mnv2.load(b"cifar10")
    with pytest.raises(ModelFileError, match="^<bytes>: "):
        mnv2.load(content[:-1])
    with pytest.raises(ModelFileError, match="not int"):
        mnv2.load(3)
    with (
        open(CAT, encoding="latin-1") as file,
        pytest.raises(ModelFileError, match="opened as 'rb', not str"),
    ):
        mnv2.load(file)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("name", ["cifar10", "cifar10-int8"])
def test_models_are_copied_and_pickled(copied, name) -> None:
    original = mnv2.load(name, threads=1, isa="scalar")
    again = copied(original)
    assert again is not original
    assert (again.engine.threads, again.engine.isa) == (1, "scalar")
    assert again.classify(CAT) == original.classify(CAT)
    engine = copied(original.engine)
    pixels = np.full((1, 32, 32, 3), 90, np.uint8)
    assert np.array_equal(engine(pixels), original.engine(pixels))


def test_what_was_left_to_the_machine_is_chosen_again(monkeypatch, model) -> None:
    monkeypatch.setenv("MOBILENETV2_THREADS", "3")
    content = pickle.dumps(mnv2.load("cifar10"))
    monkeypatch.setenv("MOBILENETV2_THREADS", "1")
    assert pickle.loads(content).engine.threads == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_maps_a_method(method, model, expected) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(model.classify, [str(CAT), CAT.read_bytes()]) == [expected, expected]


def test_threads_share_a_model(model, expected) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.classify, [CAT] * 40)) == [expected] * 40


def not_finite(name: str, value: float = 3e38) -> Checkpoint:
    """A model with one array whose values are so large that sums overflow."""
    checkpoint = random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=4)
    arrays = {**checkpoint.arrays, name: np.full_like(checkpoint.arrays[name], value)}
    return replace(checkpoint, arrays=arrays)


def test_an_answer_that_is_not_finite_is_an_error(pixels) -> None:
    run = Model(not_finite("classifier.1.weight"), threads=1).engine
    with pytest.raises(NotFiniteError, match=r"^the values after layer classifier\.1 are not"):
        run(pixels(1, 32, 32, 3))
    with pytest.raises(NotFiniteError, match=r"^image 0 of the batch: .* classifier\.1 "):
        run(pixels(2, 32, 32, 3))
    run = Model(not_finite("features.17.conv.3.weight", 2e38), threads=1).engine
    with pytest.raises(NotFiniteError, match=r"^the values after layer features\.17\.conv\.2 "):
        run.outputs(pixels(1, 32, 32, 3), ["features.17.conv.2"])


def test_weights_that_overflow_when_folded_are_refused(pixels) -> None:
    with pytest.raises(ModelFileError, match=r"^layer features\.18\.0: its weights are too large"):
        Model(not_finite("features.18.0.weight"), threads=1)
    whole = random_int8(width_mult=0.35, resolution=(32, 32))
    layers = {
        name: replace(layer, scale=layer.scale * 1e30) for name, layer in whole.layers.items()
    }
    small = {name: replace(stored, scale=1e-30) for name, stored in whole.activations.items()}
    with pytest.raises(ModelFileError, match="its weights are too large"):
        Model(replace(whole, layers=layers, activations=small), threads=1)


def test_one_answer_that_is_not_finite_leaves_the_others(tmp_path) -> None:
    """Without biases and means, a black image has zeros everywhere, and a white one has not."""
    checkpoint = not_finite("classifier.1.weight")
    arrays = {
        name: np.zeros_like(array) if name.endswith(("bias", "running_mean")) else array
        for name, array in checkpoint.arrays.items()
    }
    own = Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    labels = ("a", "b", "c", "d")
    model = Model(replace(checkpoint, arrays=arrays, preprocessing=own, labels=labels), threads=1)
    black, white = tmp_path / "black.png", tmp_path / "white.png"
    Image.new("RGB", (32, 32)).save(black)
    Image.new("RGB", (32, 32), "white").save(white)
    results = dict(model.classify_files([black, white]))
    assert isinstance(results[black], list)
    assert isinstance(results[white], NotFiniteError)
    assert str(results[white]).startswith(f"{white}: the values after layer ")
    dataset = tmp_path / "data"
    for name, path in (("a", black), ("b", white)):
        (dataset / name).mkdir(parents=True)
        path.rename(dataset / name / path.name)
    evaluation = mnv2.evaluate(model, mnv2.read_dataset(dataset))
    assert evaluation.images == 1
    assert len(evaluation.skipped) == 1
    assert evaluation.confusion.sum() == 1


def test_floats_from_0_to_1_are_warned_of(pixels) -> None:
    checkpoint = random_checkpoint(width_mult=0.35)
    values = (pixels(1, 32, 32, 3) / 255).astype(np.float32)
    for engine in (
        Model(checkpoint, 1),
        Model(random_int8(width_mult=0.35, resolution=(32, 32)), 1),
    ):
        with pytest.warns(UserWarning, match="from 0 to 1, but these weights expect -1 to 1"):
            engine(values)
        engine(values - 0.5)
    own = Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    Model(replace(checkpoint, preprocessing=own), 1)(values)  # these expect 0 to 1


def test_the_warning_names_the_line_that_called(pixels) -> None:
    model = Model(random_checkpoint(width_mult=0.35), 1)
    values = (pixels(1, 32, 32, 3) / 255).astype(np.float32)
    with pytest.warns(UserWarning, match="from 0 to 1") as warnings:
        model(values)
    assert warnings[0].filename == __file__


def test_features_of_files(model, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    results = dict(model.features_files([CAT, broken]))
    pixels = model.checkpoint.preprocessing(decode(CAT))[None]
    assert np.array_equal(results[CAT], model.features(pixels)[0])
    assert isinstance(results[broken], ImageError)


@pytest.mark.parametrize("top", [0, -1, 1.5, "3", None, True])
def test_a_number_of_classes_that_is_none(top, model) -> None:
    with pytest.raises(mnv2.UserError, match="top must be a whole number of at least 1"):
        model.classify(CAT, top)


@pytest.mark.parametrize("one", ["examples/cat.jpg", CAT, b"bytes"])
def test_one_file_is_no_list_of_files(one, model) -> None:
    for run in (model.classify_files, model.features_files):
        with pytest.raises(mnv2.UserError, match="a list of files is needed"):
            next(run(one))


def test_a_model_without_a_head_has_features(pixels) -> None:
    architecture = Architecture(width_mult=0.35, head=Features())
    checkpoint = random_checkpoint(architecture)
    x = pixels(2, 64, 64, 3)
    found = Model(checkpoint, 1).features(x)
    assert found.shape == (2, 1280)
    assert np.abs(found - Reference(checkpoint)(x).mean((1, 2))).max() < 1e-4
    segments = random_checkpoint(Architecture(width_mult=0.35, head=DeepLab(), output_stride=16))
    with pytest.raises(mnv2.UserError, match="no features of a whole image"):
        Model(segments, 1).features(x)


BASE_INSTALL = """
import importlib.util, sys
ABSENT = ("torch", "lightning", "tensorboard", "h5py", "matplotlib", "webdataset")

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ABSENT else find(name, *rest)
sys.meta_path.insert(0, NotInstalled())
import mobilenetv2
"""


def base_install(code: str) -> str:
    """What a program prints where only the base install is there."""
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL + code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_works_in_the_base_install() -> None:
    text = base_install("help(mobilenetv2); help(mobilenetv2.nn); help(mobilenetv2.training)")
    assert "MobileNetV2, complete" in text
    assert "Needs the extra `train`" in text


def test_a_star_import_gives_all_names_of_the_base_install() -> None:
    code = "from mobilenetv2 import *; print(load('cifar10').classify('examples/cat.jpg', top=1)[0].label)"
    assert base_install(code) == "cat\n"
    names = base_install("print(*mobilenetv2.__all__)").split()
    assert {"load", "Model", "evaluate", "quantize"} <= set(names)
    assert all(hasattr(mnv2, name) for name in names)


def test_what_needs_an_extra_is_an_import_error_that_says_so() -> None:
    code = """
print(hasattr(mobilenetv2, "nn"), hasattr(mobilenetv2, "training"), hasattr(mobilenetv2, "other"))
from mobilenetv2 import UserError
for statement in ("from mobilenetv2.nn import mobilenet_v2", "mobilenetv2.training.fit",
                  "from mobilenetv2.training import *"):
    try:
        exec(statement)
    except ImportError as error:
        print(isinstance(error, UserError), error)
"""
    lines = base_install(code).splitlines()
    assert lines[0] == "True True False"
    assert lines[1] == (
        "True mobilenetv2.nn.mobilenet_v2 needs PyTorch; in the checkout of mobilenetv2: "
        "pip install '.[train]'"
    )
    assert lines[2].startswith("True training needs torch, lightning, tensorboard; ")
    assert lines[3] == lines[2]
    assert issubclass(MissingExtraError, ImportError)


def test_a_module_that_the_program_replaced_by_none_is_missing(monkeypatch) -> None:
    from mobilenetv2.errors import missing_modules

    monkeypatch.setitem(sys.modules, "torch", None)
    assert missing_modules("torch", "numpy") == ["torch"]


def test_what_is_no_checkpoint_is_refused() -> None:
    for value in ("cifar10", None, CAT):
        with pytest.raises(mnv2.UserError, match="a Checkpoint or Int8Checkpoint is needed"):
            Model(value)


def test_preprocessing_takes_what_classify_takes(model) -> None:
    preprocessing = model.checkpoint.preprocessing
    pixels = preprocessing(decode(CAT))
    for source in (CAT, str(CAT), CAT.read_bytes(), np.asarray(decode(CAT))):
        assert np.array_equal(preprocessing(source), pixels)
    with pytest.raises(ImageError, match="not NoneType"):
        preprocessing(None)
    for wrong in (pixels[..., :2], pixels.astype(np.float32)):
        with pytest.raises(ImageError, match=r"pixels must be \(\.\.\., 3\) uint8"):
            preprocessing.normalize(wrong)


def test_evaluate_takes_a_folder(model, tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(CAT.read_bytes())
    assert mnv2.evaluate(model, tmp_path).scores.top1 == 100
    assert mnv2.evaluate(model, mnv2.read_dataset(tmp_path)).scores.top1 == 100
