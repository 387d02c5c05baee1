"""Quantised TensorFlow Lite files as integers: the same bytes as LiteRT's reference kernels, and the
file's own scales, zero points and axes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run as cli
from mobilenetv2.errors import ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.graph import layers
from mobilenetv2.images import decode
from mobilenetv2.int8 import Int8Checkpoint
from mobilenetv2.int8_layers import Int8Layer
from mobilenetv2.runtime import Engine, Int8Reference

from .int8 import Int8TFLiteWriter, random_int8

QUANT, PTQ, BIRD = (
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "mobilenet_v2_1.0_224_inat_bird_quant",
)


def small(unsigned: bool = False, **changes: object) -> Int8Checkpoint:
    settings = {
        "width_mult": 0.35,
        "classes": 5,
        "resolution": (64, 64),
        "padding": "same",
        "bn_epsilon": 1e-3,
    }
    return random_int8("twice", unsigned, **{**settings, **changes})


def litert(path: Path, image: np.ndarray) -> Callable[[int], np.ndarray]:
    """Any tensor of the interpreter's reference kernels, as uint8."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    signed = given["dtype"] == np.int8
    fed = (image.astype(np.int16) - 128).astype(np.int8) if signed else image
    interpreter.set_tensor(given["index"], fed)
    interpreter.invoke()

    def tensor(index: int) -> np.ndarray:
        values = interpreter.get_tensor(index)
        return (values.astype(np.int16) + 128).astype(np.uint8) if signed else values

    tensor.interpreter = interpreter  # type: ignore[attr-defined]  # else it is gone
    return tensor


# --- files written here ---


@pytest.mark.parametrize(
    ("unsigned", "options"),
    [
        (True, {"pool": "AVERAGE_POOL_2D"}),
        (True, {"pool": "AVERAGE_POOL_2D", "dense": False}),
        (False, {}),
        (False, {"dense": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"padding": "symmetric"},
        {"width_mult": 0.5, "resolution": (97, 65)},
        {"head": "features", "classes": 1000},
        {"head": "deeplabv3", "output_stride": 16, "resolution": (49, 33), "last_channels": None},
        {"head": "deeplabv3_aspp", "output_stride": 8, "last_channels": None},
    ],
    ids=str,
)
def test_every_byte_of_litert(tmp_path, unsigned, options, changes) -> None:
    """Of every layer. FULLY_CONNECTED alone rounds once there: a step away in a logit of 1000."""
    model = small(unsigned, **changes)
    writer = Int8TFLiteWriter(model, **options)
    path = writer.save(tmp_path / "model.tflite")
    imported = read(path)
    same_model(imported, model)
    image = pixels(model)
    tensor = litert(path, image)
    names = [layer.name for layer in layers(model.architecture)]
    for name, values in Int8Reference(imported).run(image, names).items():
        expected = tensor(writer.made[name]).reshape(values.shape)
        off = np.abs(values.astype(int) - expected).max()
        assert off <= (name == "classifier.1" and writer.dense), name
        assert len(np.unique(values)) > 2, name


def pixels(model: Int8Checkpoint) -> np.ndarray:
    size = (1, *model.architecture.resolution, 3)
    return np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)


def same_model(imported: object, expected: Int8Checkpoint) -> None:
    assert isinstance(imported, Int8Checkpoint)
    assert imported.architecture == expected.architecture
    assert imported.activations.keys() == expected.activations.keys()
    for name, out in imported.activations.items():
        assert out.scale == pytest.approx(expected.activations[name].scale, rel=1e-15)
        assert out.zero_point == expected.activations[name].zero_point
    assert (imported.image_scale, imported.image_zero_points) == (
        expected.image_scale,
        expected.image_zero_points,
    )
    assert imported.rounding == expected.rounding
    resize = "fit" if expected.architecture.head.task == "segmentation" else "short_side"
    assert imported.preprocessing == replace(expected.preprocessing, resize=resize)
    for name, layer in expected.layers.items():
        same = imported.layers[name]
        for kind in ("weight", "scale", "bias"):
            np.testing.assert_array_equal(getattr(same, kind), getattr(layer, kind), err_msg=name)
            assert getattr(same, kind).dtype == getattr(layer, kind).dtype
        assert same.zero_point == layer.zero_point


def test_an_average_over_its_own_scale(tmp_path) -> None:
    """MEAN rescales even then: other bytes than AVERAGE_POOL_2D's."""
    model = small()
    last = model.activations["features.18.0"]
    model = replace(model, activations={**model.activations, "pool": last})
    writer = Int8TFLiteWriter(model)
    path = writer.save(tmp_path / "model.tflite")
    pooled = Int8Reference(read(path)).run(pixels(model), ["pool"])["pool"]
    expected = litert(path, pixels(model))(writer.made["pool"]).reshape(pooled.shape)
    np.testing.assert_array_equal(pooled, expected)
    average = replace(model, pooling="average")
    other = Int8Reference(average).run(pixels(model), ["pool"])["pool"]
    assert (pooled != other).any()


def test_halves_of_an_int8_average(tmp_path) -> None:
    """Of 2 x 2 places: away from the middle of the codes, not up."""
    model = small()
    stored = {**model.activations, "pool": model.activations["features.18.0"]}
    model = replace(model, pooling="average", activations=stored)
    writer = Int8TFLiteWriter(model, pool="AVERAGE_POOL_2D")
    path = writer.save(tmp_path / "model.tflite")
    imported = read(path)
    pooled = Int8Reference(imported).run(pixels(model), ["pool"])["pool"]
    expected = litert(path, pixels(model))(writer.made["pool"]).reshape(pooled.shape)
    np.testing.assert_array_equal(pooled, expected)
    up = Int8Reference(replace(imported, signed=False)).run(pixels(model), ["pool"])["pool"]
    assert (pooled != up).any()
    np.testing.assert_array_equal(
        Engine(imported, 1)(pixels(model)), Int8Reference(imported)(pixels(model))
    )


def float_input(writer: Int8TFLiteWriter) -> Int8TFLiteWriter:
    """The input becomes float, and a QUANTIZE turns it into int8 or uint8."""
    image = writer.made["image"]
    given = writer.tensor("given", writer.graph.tensors[image].shape)
    writer.op("QUANTIZE", [given], (1,), writer.schema.QuantizeOptionsT())
    first = writer.graph.operators.pop()
    first.outputs = [image]
    writer.graph.operators.insert(0, first)
    writer.graph.inputs = [given]
    return writer


def test_float_images(tmp_path) -> None:
    model = small()
    same_model(read(float_input(Int8TFLiteWriter(model)).save(tmp_path / "a.tflite")), model)
    other = float_input(Int8TFLiteWriter(replace(model, image_scale=0.0157)))
    refused(tmp_path, other, "float images are stored with scale 0.0157 and zero point 127")


def test_int8_weights_between_float_activations_become_float32(tmp_path) -> None:
    writer = Int8TFLiteWriter(small())
    for index in writer.made.values():
        writer.graph.tensors[index].type = 0
    imported = read(writer.save(tmp_path / "model.tflite"))
    assert isinstance(imported, Checkpoint)
    assert imported.provenance["source"] == "TensorFlow Lite (int8)"


def constant(writer: Int8TFLiteWriter, name: str) -> Any:
    return next(t for t in writer.graph.tensors if t.name == name.encode())


def test_int8_weights_of_one_scale_and_a_zero_point(tmp_path) -> None:
    """They become uint8: what they stand for is the same."""
    writer = Int8TFLiteWriter(small())
    name = "features.2.conv.1.0"
    made = constant(writer, f"{name}.weight").quantization
    made.scale, made.zeroPoint = [0.01], [3]
    bias = constant(writer, f"{name}.bias").quantization
    bias.scale = [0.01 * small().activations["features.2.conv.0.0"].scale]
    bias.zeroPoint = [0]
    path = writer.save(tmp_path / "model.tflite")
    layer = read(path).layers[name]
    assert (layer.weight.dtype, layer.zero_point) == (np.uint8, 131)
    expected = read(path, int8=False).arrays[f"{name}.weight"]
    np.testing.assert_allclose(real(layer), expected, rtol=1e-6)


def refused(tmp_path: Path, writer: Int8TFLiteWriter, complaint: str) -> None:
    path = writer.save(tmp_path / "other.tflite")
    with pytest.raises(ModelFileError, match=rf"other\.tflite: .*{complaint}"):
        read(path)


def fewer_scales(writer: Int8TFLiteWriter) -> None:
    constant(writer, "features.3.conv.2.weight").quantization.scale.pop()


def another_bias_scale(writer: Int8TFLiteWriter) -> None:
    constant(writer, "features.0.0.bias").quantization.scale[5] *= 1.01


def another_zero_point(writer: Int8TFLiteWriter) -> None:
    constant(writer, "features.0.0.weight").quantization.zeroPoint[3] = 1


def another_axis(writer: Int8TFLiteWriter) -> None:
    kernel = constant(writer, "features.3.conv.2.weight").quantization  # (8, 1, 1, 48)
    kernel.quantizedDimension = 3
    kernel.scale, kernel.zeroPoint = kernel.scale * 6, kernel.zeroPoint * 6


def requantised(writer: Int8TFLiteWriter) -> None:
    pad = writer.operators("PAD")[1].outputs[0]
    writer.graph.tensors[pad].quantization.scale = [0.5]


def two_scales(writer: Int8TFLiteWriter) -> None:
    writer.graph.tensors[writer.made["features.3.add"]].quantization.scale = [0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (fewer_scales, "one scale, or one per output channel"),
        (another_bias_scale, r"the bias of features\.0\.0 is not int32 in units of its sums"),
        (another_zero_point, r"the weights of features\.0\.0 have several zero points"),
        (another_axis, r"the weights of features\.3\.conv\.2 are not int8 or uint8 with one"),
        (requantised, r"the output of features\.2\.conv\.0\.0 is requantised"),
        (two_scales, "the tensor 'features.3.add' is not int8 or uint8 with one scale"),
    ],
)
def test_other_quantisations_are_refused(tmp_path, change, complaint) -> None:
    writer = Int8TFLiteWriter(small(padding="symmetric"))
    change(writer)
    refused(tmp_path, writer, complaint)


def test_a_pool_that_changes_the_scale_is_refused(tmp_path) -> None:
    writer = Int8TFLiteWriter(small(resolution=(97, 65)), pool="AVERAGE_POOL_2D")
    refused(tmp_path, writer, "its AVERAGE_POOL_2D changes the scale")


# --- real files ---


@pytest.mark.parametrize("name", [QUANT, PTQ])
def test_recorded_logits_of_the_reference_kernels(shared, name) -> None:
    """All of them, to the last bit; the first eight of the recorded images."""
    run = Int8Reference(read(shared(f"models/{name}.tflite")))
    images = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:8]
    expected = np.load(shared(f"reference/imagenet/{name}.first32.npz"))["ref_logits"][:8]
    for image, logits in zip(images, expected, strict=True):
        np.testing.assert_allclose(run(image[None])[0], logits, rtol=1e-6, atol=1e-6)


def test_recorded_answers_of_the_bird_model(shared) -> None:
    model = read(shared(f"models/{BIRD}.tflite"))
    run = Int8Reference(model)
    with open(
        shared("reference/imagenet/inat_bird_on_imagenet_birds.ref.csv"), encoding="utf-8"
    ) as file:
        rows = list(csv.DictReader(file))[:8]
    for row in rows:
        image = model.preprocessing(decode(shared(f"data/imagenet-sample/{row['file']}")))
        best = run(image[None])[0].argmax()
        assert row["top1"] == str(best)


@pytest.mark.parametrize("name", [QUANT, PTQ, BIRD])
def test_integers_stand_for_the_floats(shared, name) -> None:
    """Axes and zero points; `test_kernels_of_real_files` has the float values."""
    path = shared(f"models/{name}.tflite")
    imported, floats = read(path), read(path, int8=False)
    assert isinstance(imported, Int8Checkpoint)
    assert imported.architecture == floats.architecture
    assert imported.labels == floats.labels
    assert imported.provenance == floats.provenance
    assert imported.image_scale == pytest.approx(2 / 255 if name == PTQ else 1 / 128)
    assert imported.image_zero_points == ((127,) * 3 if name == PTQ else (128,) * 3)
    for step in layers(imported.architecture):
        if step.weight:
            layer = imported.layers[step.name]
            np.testing.assert_allclose(real(layer), floats.arrays[step.weight], rtol=1e-6)
            assert layer.weight.dtype == (np.int8 if name == PTQ else np.uint8)
            assert (layer.zero_point == 0) == (name == PTQ)
            assert (len(set(layer.scale.tolist())) == 1) == (name != PTQ)
    zeros = {
        out.zero_point for step, out in imported.activations.items() if step.endswith("conv.2")
    }
    assert min(zeros) > 90  # projections are signed
    assert imported.activations["features.18.0"].zero_point == 0


def real(layer: Int8Layer) -> np.ndarray:
    scale = layer.scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return (layer.weight.astype(np.float64) - layer.zero_point) * scale


def test_sums_of_scales_that_differ(shared) -> None:
    """All ten, within one step of the sum of the real values."""
    model = read(shared(f"models/{QUANT}.tflite"))
    run = Int8Reference(model)
    image = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:1]
    adds = [step for step in layers(model.architecture) if step.kind == "add"]
    values = run.run(image, {name for add in adds for name in (add.name, *add.sources)})
    for add in adds:
        total = sum(run.real(name, values[name]) for name in add.sources)
        step = model.activations[add.name].scale
        assert np.abs(run.real(add.name, values[add.name]) - total).max() < 0.51 * step
        assert (run.real(add.sources[1], values[add.sources[1]]) < 0).mean() > 0.2
    assert len(adds) == 10


def test_convert_keeps_int8(shared, tmp_path, capsys) -> None:
    source, out = shared(f"models/{QUANT}.tflite"), tmp_path / "out.safetensors"
    assert cli(["convert", str(source), str(out)]) == 0
    assert "1001 classes with labels, same padding, int8" in capsys.readouterr().err
    same_model(read(out), read(source))
    assert out.stat().st_size < source.stat().st_size * 1.01 + 50_000
    assert cli(["inspect", str(out), "--format", "json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["precision"] == "uint8 weights, uint8 activations"
    assert facts["quantization"]["rounding"] == "twice"
    assert facts["quantization"]["image_zero_points"] == [128, 128, 128]
    assert cli(["inspect", str(out), "--arrays", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows][-2:] == ["pool", "classifier.1"]
    assert rows[0]["type"] == "uint8"
    assert rows[0]["output_zero_point"] == "0"
    assert len(rows) == 64
    short = tmp_path / "short.safetensors"
    assert cli(["convert", str(out), str(short), "--drop-background"]) == 0
    image = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:1, :64, :64]
    np.testing.assert_array_equal(
        Int8Reference(read(short))(image), Int8Reference(read(out))(image)[:, 1:]
    )
    assert cli(["convert", str(source), str(short), "--float"]) == 0
    assert "float32" in capsys.readouterr().err
    assert isinstance(read(short), Checkpoint)
    assert cli(["convert", str(out), str(short), "--float"]) == 2
    assert "an int8 model" in capsys.readouterr().err
