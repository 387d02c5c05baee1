"""Float weights and images to integers: scales worked out by hand, what calibration images must
be, and how near the answers stay.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilenetv2
from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run
from mobilenetv2.errors import UserError
from mobilenetv2.folding import fold
from mobilenetv2.formats import read
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier
from mobilenetv2.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, decode
from mobilenetv2.int8 import Activation, Int8Checkpoint, stored_tensors
from mobilenetv2.model import Model
from mobilenetv2.runtime import Engine, Int8Reference, Reference
from mobilenetv2.runtime.compare import compare
from mobilenetv2.runtime.quantize import best_activation, doubts, quantize, quantized_layer

from .conftest import random_checkpoint

SMALL = Architecture(width_mult=0.35, head=Classifier(10), resolution=(48, 48))


def photos(count: int, side: int = 48, seed: int = 0) -> np.ndarray:
    """Images (N, side, side, 3) uint8 whose neighbouring pixels are alike, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    smooth = np.stack(
        [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in coarse]
    )
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def folder_of(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return folder


def decibel(wanted: np.ndarray, found: np.ndarray) -> float:
    return 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum())


def test_weights_are_rounded_by_channel() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (6, 4, 3, 3)) * 10.0 ** np.arange(-3, 3).reshape(6, 1, 1, 1)
    bias = rng.normal(0, 1, 6)
    layer = quantized_layer(weight, bias, 0.02, np.zeros(1))
    scale = layer.scale.astype(np.float64)
    assert layer.weight.dtype == np.int8
    assert layer.scale == pytest.approx(np.abs(weight).max(axis=(1, 2, 3)) / 127, rel=1e-6)
    assert np.abs(layer.weight).max(axis=(1, 2, 3)).tolist() == [127] * 6
    off = np.abs(layer.weight * scale.reshape(6, 1, 1, 1) - weight).max(axis=(1, 2, 3))
    assert (off <= scale / 2 * (1 + 1e-5)).all()
    assert (np.abs(layer.bias * scale * 0.02 - bias) <= scale * 0.02 / 2 * (1 + 1e-9)).all()


def test_what_rounding_adds_on_average_is_taken_off_the_bias() -> None:
    rng = np.random.default_rng(0)
    for groups, shape in ((1, (8, 6, 3, 3)), (8, (8, 1, 3, 3)), (1, (8, 6))):
        weight = rng.normal(0, 1, shape)
        mean = rng.uniform(0, 6, (groups, shape[1]))
        layer = quantized_layer(weight, np.zeros(8), 1e-5, mean)
        stored = layer.weight * layer.scale.astype(float).reshape(-1, *[1] * (weight.ndim - 1))
        inputs = np.broadcast_to(mean.reshape(*mean.shape, *[1] * (weight.ndim - 2)), shape)
        axes = tuple(range(1, weight.ndim))
        found = (stored * inputs).sum(axis=axes) + layer.bias * layer.scale * 1e-5
        off = np.abs((stored * inputs).sum(axis=axes) - (weight * inputs).sum(axis=axes))
        assert found == pytest.approx((weight * inputs).sum(axis=axes), abs=1e-6)
        assert off.max() > 1e-3


def test_dead_channels_keep_their_bias() -> None:
    weight = np.zeros((4, 8))
    weight[1], weight[2], weight[3] = 1e-9, -1e-7, 0.5
    bias = np.array([3.0, -5.0, 0.0, 1.0])
    layer = quantized_layer(weight, bias, 0.02, np.zeros(1))
    assert np.isfinite(layer.scale).all()
    assert (layer.scale > 0).all()
    assert np.abs(layer.bias.astype(np.int64)).max() <= 2**30 + 2**7
    assert layer.bias * layer.scale.astype(float) * 0.02 == pytest.approx(bias, abs=1e-4)
    assert quantized_layer(np.zeros((1, 8)), np.zeros(1), 0.02, np.zeros(1)).bias.tolist() == [0]


@pytest.mark.parametrize(
    ("low", "high"), [(-1, 1), (-3.3, 0.7), (-0.01, 40), (2, 5), (-7, -3), (0, 0)]
)
def test_zero_can_be_stored_exactly(low, high) -> None:
    values = np.random.default_rng(0).uniform(low, high, 10_000).astype(np.float32)
    stored = best_activation(values)
    assert 0 <= stored.zero_point <= 255
    assert stored.zero_point == (0 if low >= 0 else 255 if high <= 0 else stored.zero_point)
    ends = -stored.zero_point * stored.scale, (255 - stored.zero_point) * stored.scale
    assert ends[0] >= min(low, 0) - stored.scale
    assert ends[1] <= max(high, 0) + max(stored.scale, 1e-9) or low == high


def test_uniform_values_are_not_clipped_and_long_tails_are() -> None:
    rng = np.random.default_rng(0)
    flat = best_activation(rng.uniform(-1, 1, 100_000))
    assert flat.scale == pytest.approx(2 / 255, rel=0.01)
    assert flat.zero_point in (127, 128)
    tailed = rng.laplace(0, 1, 200_000)
    assert 255 * best_activation(tailed).scale < 0.85 * np.ptp(tailed)


def test_relu6_is_stored_as_0_to_6(pixels) -> None:
    checkpoint = random_checkpoint(SMALL)
    loud = {
        name: array * 4 if name.endswith((".1.bias", ".1.weight")) else array
        for name, array in checkpoint.arrays.items()
    }
    checkpoint = replace(checkpoint, arrays=loud)
    quantized = quantize(checkpoint, photos(40))
    names = [layer.name for layer in layers(SMALL) if layer.activation == "relu6"]
    assert len(names) == 35
    for name in names:
        assert quantized.activations[name] == Activation(6 / 255, 0)
    wanted = Reference(checkpoint).run(photos(2, seed=9), names[:1])[names[0]]
    found = Int8Reference(quantized).run(photos(2, seed=9), names[:1])[names[0]]
    assert (wanted == 6).mean() > 0.01
    assert (found[wanted == 6] >= 254).all()
    assert found.max() == 255


def test_bottlenecks_keep_negative_values_and_sums_are_right_to_a_step() -> None:
    checkpoint = random_checkpoint(Architecture(head=Classifier(10), resolution=(32, 32)))
    quantized = quantize(checkpoint, photos(40, 32))
    image = photos(1, 32, seed=5)
    steps = {layer.name: layer for layer in layers(quantized.architecture, 32, 32)}
    integers = Int8Reference(quantized)
    stored = stored_tensors(quantized.architecture, "nearest")
    found = integers.run(image, stored)
    linear = [name for name in stored if steps[name].activation == "linear"]
    for name in linear[:-1]:
        assert (found[name] < quantized.activations[name].zero_point).any(), name
    adds = [layer for layer in steps.values() if layer.kind == "add"]
    assert len(adds) == 10
    for add in adds:
        shortcut, projection = add.sources
        made = quantized.layers[projection]
        wide = steps[projection].sources[0]
        weight = made.weight[:, :, 0, 0] * made.scale[:, None].astype(np.float64)
        bias = made.bias * made.scale.astype(np.float64) * quantized.activations[wide].scale
        wanted = integers.real(wide, found[wide]) @ weight.T + bias
        wanted += integers.real(shortcut, found[shortcut])
        out = quantized.activations[add.name]
        ends = -out.zero_point * out.scale, (255 - out.zero_point) * out.scale
        off = integers.real(add.name, found[add.name]) - np.clip(wanted, *ends)
        assert np.abs(off).max() <= out.scale, add.name


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        replace(SMALL, padding="same", resolution=(47, 53)),
        replace(SMALL, head="features"),
        replace(SMALL_IMAGES, width_mult=0.35, head=Classifier(10)),
        replace(V1, width_mult=0.25, head=Classifier(10), resolution=(48, 48)),
        replace(SMALL, shortcut="none", bottleneck="relu6"),
        replace(SMALL, in_channels=1),
    ],
    ids=["symmetric", "same", "features", "small", "v1", "relu6", "grey"],
)
def test_answers_stay_near_on_random_weights(architecture) -> None:
    checkpoint = random_checkpoint(architecture)
    height, width = architecture.resolution
    channels = architecture.in_channels
    seen, other = (
        np.ascontiguousarray(photos(40, 60, seed)[:, :height, :width, :channels]) for seed in (1, 2)
    )
    quantized = quantize(checkpoint, seen)
    assert decibel(Reference(checkpoint)(other), Int8Reference(quantized)(other)) > 15


def test_the_image_of_mean_and_deviation() -> None:
    preprocessing = Preprocessing(size=(48, 48), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    checkpoint = replace(random_checkpoint(SMALL), preprocessing=preprocessing)
    quantized = quantize(checkpoint, photos(40))
    assert quantized.image_zero_points == (124, 116, 104)
    scale, offset = preprocessing.scale_offset()
    weight, bias = fold(checkpoint, layers(SMALL)[0])
    stem = quantized.layers["features.0.0"]
    step = stem.scale.astype(np.float64) * quantized.image_scale
    for pixel in ((0, 0, 0), (255, 255, 255), (10, 200, 90)):  # a plane of one colour
        wanted = bias + weight.sum(axis=(2, 3)) @ (np.array(pixel) * scale + offset)
        centred = np.array(pixel) - quantized.image_zero_points
        found = (stem.weight.astype(int).sum(axis=(2, 3)) @ centred + stem.bias) * step
        assert np.abs(found - wanted).max() < 0.5 * 9 * 390 * step.max()
    other = photos(8, seed=3)
    assert decibel(Reference(checkpoint)(other), Int8Reference(quantized)(other)) > 15


@pytest.mark.parametrize("count", [1, 8])
def test_few_images_work_with_a_warning(count, tmp_path) -> None:
    checkpoint = random_checkpoint(SMALL)
    folder = folder_of(photos(count), tmp_path / "few")
    with pytest.warns(UserWarning, match=f"^{count} images? to calibrate with: take 32 or more"):
        quantized = quantize(checkpoint, sorted(folder.iterdir()))
    assert np.isfinite(Int8Reference(quantized)(photos(1))).all()


def test_files_are_prepared_as_the_model_is_fed(tmp_path) -> None:
    checkpoint = random_checkpoint(SMALL)
    files = sorted(folder_of(photos(40, 64), tmp_path / "photos").iterdir())
    by_file = quantize(checkpoint, files)
    by_pixels = quantize(checkpoint, np.stack([checkpoint.preprocessing(decode(f)) for f in files]))
    assert by_file.activations == by_pixels.activations


def test_noise_and_blank_images_get_a_warning(pixels) -> None:
    checkpoint = random_checkpoint(SMALL)
    with pytest.warns(UserWarning, match="look like noise .* by -?0.0"):
        quantize(checkpoint, pixels(40, 48, 48, 3))
    with pytest.warns(UserWarning, match="are blank"):
        quantize(checkpoint, np.full((40, 48, 48, 3), 7, np.uint8))
    one_pixel = replace(checkpoint, architecture=replace(SMALL, resolution=(1, 1)))
    with pytest.warns(UserWarning, match="are blank"):
        quantize(one_pixel, pixels(40, 1, 1, 3))


def test_a_corrupt_image_is_named_and_skipped(tmp_path) -> None:
    files = sorted(folder_of(photos(40), tmp_path / "photos").iterdir())
    whole = quantize(random_checkpoint(SMALL), files[1:])
    files[0].write_bytes(files[0].read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"000\.png: cannot be decoded: .* \(skipped\)"):
        quantized = quantize(random_checkpoint(SMALL), files)
    assert quantized.activations == whole.activations
    assert quantized.provenance == {"source": "random", "calibration_images": 39}


def test_weights_quantised_before_get_a_note() -> None:
    for kind, told in (("uint8", 1), ("int8", 1), ("float32", 0)):
        checkpoint = replace(
            random_checkpoint(SMALL), provenance={"source": f"TensorFlow Lite ({kind})"}
        )
        found = doubts(checkpoint, photos(40))
        assert len(found) == told
        assert not told or f"quantised before (TensorFlow Lite ({kind}))" in found[0]


def test_what_cannot_be_quantised(pixels, tmp_path) -> None:
    small = random_checkpoint(SMALL)
    quantized = quantize(small, photos(40))
    between = random_checkpoint(SMALL, shortcut="expansion")
    behind = random_checkpoint(SMALL, bottleneck="relu6")
    refused = [
        (quantized, photos(1), "quantised already"),
        (between, photos(1), r"features\.4\.add \(add\) has no int8 kernel"),
        (behind, photos(1), "limited before a sum"),
        (small, pixels(1, 48, 48, 4), r"must be \(N, H, W, 3\)"),
        (small, np.zeros((1, 48, 48, 3), np.float32), "must be uint8 pixels, not float32"),
        (small, [], "no images to calibrate with: there are none"),
        (small, [tmp_path / "no.png"], "no images to calibrate with: .*no.png: no such file"),
    ]
    for checkpoint, images, complaint in refused:
        with pytest.raises(UserError, match=complaint):
            quantize(checkpoint, images)


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "deeplabv3", "output_stride": 16},
        {"head": "deeplabv3_aspp", "output_stride": 8},
        {"head": "ssd"},
        {"head": "ssdlite"},
    ],
    ids=str,
)
def test_segmenters_and_detectors(tmp_path, changes) -> None:
    """Answers near the float ones; resizes keep their scale; a file keeps all of it."""
    checkpoint = random_checkpoint(Architecture(width_mult=0.35, resolution=(65, 65), **changes))
    images = photos(6, 65)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = quantize(checkpoint, images)
    quantized.save(tmp_path / "int8.safetensors")
    loaded = read(tmp_path / "int8.safetensors")
    assert loaded.activations == quantized.activations
    assert not {"head.logits", "head.resize"} & quantized.activations.keys()
    expected, answer = Engine(checkpoint, 1)(images), Engine(loaded, 1)(images)
    if not isinstance(expected, dict):
        expected, answer = {"": expected}, {"": answer}
    for name, values in expected.items():
        assert values.std() > 0
        assert np.corrcoef(values.ravel(), answer[name].ravel())[0, 1] > 0.97, name


def test_activations_that_overflow_are_an_error() -> None:
    checkpoint = random_checkpoint(SMALL)
    huge = {**checkpoint.arrays, "features.1.conv.2.weight": np.full(8, 3e38, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(UserError, match=r"features\.1\.conv\.1 overflows"):
            quantize(replace(checkpoint, arrays=huge), photos(40))


def test_same_images_same_file_and_same_answers_in_another_process(tmp_path) -> None:
    images = photos(40)
    for name in ("a", "b"):
        quantize(random_checkpoint(SMALL), images).save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    here = Int8Reference(quantize(random_checkpoint(SMALL), images))(images[:3])
    np.save(tmp_path / "images.npy", images[:3])
    code = (
        "import sys, numpy as np\n"
        "from mobilenetv2.int8 import Int8Checkpoint\n"
        "from mobilenetv2.runtime import Int8Reference\n"
        "model = Int8Reference(Int8Checkpoint.load('a.safetensors'))\n"
        "np.save('answer.npy', model(np.load('images.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.load(tmp_path / "answer.npy").tobytes() == here.tobytes()


def test_compare_tells_of_every_stored_tensor() -> None:
    checkpoint = random_checkpoint(SMALL)
    quantized = quantize(checkpoint, photos(40))
    found = compare(checkpoint, quantized, photos(20, seed=4))
    assert [row.layer for row in found.tensors] == stored_tensors(SMALL, "nearest")
    assert found.images == 20
    wanted, answer = (
        network(photos(20, seed=4)) for network in (Reference(checkpoint), Int8Reference(quantized))
    )
    assert found.answer_db == pytest.approx(decibel(wanted, answer), abs=1e-3)
    same = (wanted.argmax(1) == answer.argmax(1)).mean()
    assert found.agreement_percent == pytest.approx(100 * same)
    assert (found.tensors[0].low, found.tensors[0].high) == (0, pytest.approx(6))
    first = found.tensors[0]
    assert first.added_percent == pytest.approx(100 * 10 ** (-first.signal_to_noise_db / 10))


@pytest.mark.parametrize("name", ["tf2_mobilenet_v2_1.0_224_ptq", "mobilenet_v2_1.0_224_quant"])
def test_published_models_on_recorded_pixels(name, shared, tmp_path) -> None:
    """The last 100 of 1000 photos calibrate; none of the 32 that are asked is among them."""
    checkpoint = read(shared(f"models/{name}.tflite"), int8=False)
    files = sorted(shared("data/imagenet-sample").glob("*.jpg"))[-100::3]
    with pytest.warns(UserWarning, match="quantised before"):
        quantized = quantize(checkpoint, files)
    images = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"]
    wanted, found = Engine(checkpoint)(images), Engine(quantized)(images)
    assert (wanted.argmax(1) == found.argmax(1)).sum() >= 30
    assert decibel(wanted, found) > 20
    quantized.save(tmp_path / "int8.safetensors")
    parameters = sum(layer.weight.size + layer.bias.size for layer in quantized.layers.values())
    assert (tmp_path / "int8.safetensors").stat().st_size < 1.1 * parameters


@pytest.fixture
def model(tmp_path) -> str:
    random_checkpoint(SMALL).save(tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_the_command(model, tmp_path, capsys) -> None:
    folder = folder_of(photos(50), tmp_path / "photos")
    (folder / "000.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    target, report = tmp_path / "int8.safetensors", tmp_path / "report.json"
    arguments = ["quantize", model, "--calibrate", str(folder), "-o", str(target)]
    assert run([*arguments, "--samples", "40", "--report", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "000.png" in err
    assert "(skipped)" in err
    assert "notes.txt" not in err
    assert "agreement percent" in out
    assert "layers that add most noise" in out
    told = json.loads(report.read_text())
    assert list(told) == [
        "model", "file", "file_bytes", "float_bytes", "calibration_images", "agreement_percent",
        "answer_db", "warnings", "skipped", "layers",
    ]  # fmt: skip
    assert told["calibration_images"] == 39
    assert told["file_bytes"] == target.stat().st_size
    assert told["warnings"] == []
    assert len(told["skipped"]) == 1
    assert [row["layer"] for row in told["layers"]] == stored_tensors(SMALL, "nearest")
    spread = [folder / f"{i * 50 // 40:03}.png" for i in range(1, 40)]
    same = quantize(Checkpoint.load(model), spread)
    assert Int8Checkpoint.load(target).activations == same.activations


def test_the_command_takes_files_and_warns(model, tmp_path, capsys) -> None:
    folder = folder_of(photos(3), tmp_path / "photos")
    target = tmp_path / "int8.safetensors"
    sources = [part for i in (0, 2) for part in ("--calibrate", str(folder / f"00{i}.png"))]
    assert run(["quantize", model, *sources, "--output", str(target)]) == 0
    assert "warning: 2 images to calibrate with: take 32 or more" in capsys.readouterr().err
    assert Int8Checkpoint.load(target).provenance["calibration_images"] == 2
    assert run(["quantize", str(target), *sources, "-o", str(tmp_path / "b.safetensors")]) == 2
    assert "int8.safetensors: quantised already" in capsys.readouterr().err


def test_wrong_usage(model, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    folder = folder_of(photos(1), tmp_path / "photos")
    good = {"--calibrate": str(folder), "-o": str(tmp_path / "out.safetensors")}
    for change, complaint in (
        ({"-o": "out.tflite"}, "must end in .safetensors"),
        ({"-o": str(tmp_path / "absent" / "out.safetensors")}, "absent does not exist"),
        ({"-o": model}, "is MODEL itself"),
        ({"--report": str(tmp_path / "absent" / "r.json")}, "absent does not exist"),
        ({"--calibrate": str(tmp_path / "no")}, "no: no such file or folder"),
        ({"--calibrate": str(tmp_path / "empty")}, "no images to calibrate with"),
        ({"--samples": "0"}, "--samples"),
    ):
        options = [part for pair in {**good, **change}.items() for part in pair]
        assert run(["quantize", model, *options]) == 2, change
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
    assert run(["quantize", "no-such-model", "--calibrate", str(folder), "-o", good["-o"]]) == 2


def test_the_public_names() -> None:
    assert mobilenetv2.quantize is quantize
    assert mobilenetv2.Int8Checkpoint is Int8Checkpoint


def test_900_photos_after_100_to_calibrate(shared, tmp_path) -> None:
    """Of the published weights as floats: within a point, 95 % the same answers, 1.1 bytes a
    parameter.
    """
    floats = read(shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"), int8=False)
    photos = shared("data/imagenet-sample")
    files = sorted(photos.glob("*.jpg"))
    with pytest.warns(UserWarning, match="were quantised before"):
        integers = quantize(floats, files[::10])
    with open(photos / "labels.csv", encoding="utf-8", newline="") as file:
        wanted = {row["file"]: int(row["index"]) + 1 for row in csv.DictReader(file)}
    tested = [file for index, file in enumerate(files) if index % 10]
    answers = {
        kind: [found[0].index for _, found in Model(model).classify_files(tested, top=1)]
        for kind, model in (("floats", floats), ("integers", integers))
    }
    right = {
        kind: sum(wanted[file.name] == index for file, index in zip(tested, found))
        for kind, found in answers.items()
    }
    assert right["integers"] >= right["floats"] - len(tested) / 100
    same = sum(a == b for a, b in zip(answers["floats"], answers["integers"]))
    assert same >= 0.95 * len(tested)
    integers.save(tmp_path / "int8.safetensors")
    parameters = sum(layer.weight.size + layer.bias.size for layer in integers.layers.values())
    assert (tmp_path / "int8.safetensors").stat().st_size <= 1.1 * parameters
