"""TensorFlow Lite: real quantised files, and float ones written here, against LiteRT itself; other
graphs are refused.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2 import boxes
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ModelFileError
from mobilenetv2.folding import fold as folded
from mobilenetv2.folding import unfolded
from mobilenetv2.formats import read, recognise
from mobilenetv2.graph import network
from mobilenetv2.heads import SSD, DeepLab
from mobilenetv2.runtime import Engine, Reference

from .conftest import random_checkpoint
from .writers import RELU6, SAME, VALID, TFLiteWriter, difference, edged, weighted

CLASSIFIERS = (
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "mobilenet_v2_1.0_224_inat_bird_quant",
)


def small(**changes: object) -> Checkpoint:
    settings = {
        "width_mult": 0.35,
        "classes": 5,
        "resolution": (64, 64),
        "padding": "same",
        "bn_epsilon": 1e-3,
    }
    return random_checkpoint(**{**settings, **changes})


def litert(path: Path, image: np.ndarray) -> np.ndarray:
    """The output of the TensorFlow Lite interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def probabilities(checkpoint: Checkpoint, image: np.ndarray) -> np.ndarray:
    powers = np.exp(Reference(checkpoint)(image))
    return powers / powers.sum()


def image(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (1, height, width, 3)).astype(np.float32)


# --- float files ---


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("pool", ["MEAN", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("dense", [True, False], ids=["FULLY_CONNECTED", "CONV_2D"])
def test_float32_against_the_original_and_litert(tmp_path, padding, pool, dense) -> None:
    checkpoint = small(padding=padding)
    path = TFLiteWriter(checkpoint, pool=pool, dense=dense).save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    assert difference(checkpoint, imported) < 1e-5
    np.testing.assert_allclose(probabilities(imported, image()), litert(path, image()), atol=1e-4)
    assert imported.provenance == {"source": "TensorFlow Lite (float32)", "file": "model.tflite"}
    assert (imported.preprocessing.size, imported.preprocessing.mean) == ((64, 64), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"width_mult": 0.5},
        {"width_mult": 1.0},
        {"width_mult": 1.4},
        {"width_mult": 0.5, "last_channels": 640},
        {"head": "features", "classes": 1000},
        {"classes": 2},
        {"resolution": (65, 97)},
        {"resolution": (96, 64), "padding": "symmetric"},
        {"resolution": (32, 32)},
    ],
    ids=str,
)
def test_other_shapes(tmp_path, changes) -> None:
    checkpoint = small(**changes)
    path = TFLiteWriter(checkpoint).save(tmp_path / "model.tflite")
    imported = read(path)
    assert imported.architecture == checkpoint.architecture
    assert imported.preprocessing.size == checkpoint.architecture.resolution
    assert difference(checkpoint, imported) < 1e-5
    if checkpoint.architecture.classes:
        shot = image(*checkpoint.architecture.resolution)
        np.testing.assert_allclose(probabilities(imported, shot), litert(path, shot), atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_float16_behind_dequantize(tmp_path, padding) -> None:
    checkpoint = small(padding=padding)
    path = TFLiteWriter(checkpoint, half=True).save(tmp_path / "model.tflite")
    imported = read(path)
    arrays: dict[str, np.ndarray] = {}
    for layer in weighted(checkpoint):
        arrays |= unfolded(
            layer,
            *(x.astype(np.float32).astype(np.float16) for x in folded(checkpoint, layer)),
        )
    for name, array in arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)
    assert imported.provenance["source"] == "TensorFlow Lite (float16)"
    assert 1e-5 < difference(checkpoint, imported) < 0.05
    np.testing.assert_allclose(probabilities(imported, image()), litert(path, image()), atol=1e-4)


def test_edges_of_batch_norm(tmp_path) -> None:
    checkpoint = edged(small())
    path = TFLiteWriter(checkpoint).save(tmp_path / "model.tflite")
    imported = read(path)
    assert difference(checkpoint, imported) < 1e-5
    np.testing.assert_allclose(probabilities(imported, image()), litert(path, image()), atol=1e-4)


def test_axes_of_kernels(tmp_path) -> None:
    """Kernels with a single 1 at a known position of TensorFlow Lite's documented axes."""
    writer = TFLiteWriter(small())
    for name, position in {
        "features.0.0.weight": (5, 2, 1, 0),  # out, row, column, in
        "features.1.conv.0.0.weight": (0, 0, 2, 5),  # 1, row, column, channel
        "features.1.conv.1.weight": (3, 0, 0, 5),
    }.items():
        tensor = next(tensor for tensor in writer.graph.tensors if tensor.name == name.encode())
        values = np.zeros(tensor.shape, np.float32)
        values[position] = 1
        writer.model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        bias = next(
            tensor
            for tensor in writer.graph.tensors
            if tensor.name == name.replace("weight", "bias").encode()
        )
        writer.model.buffers[bias.buffer].data = np.zeros(4 * bias.shape[0], np.uint8)
    imported = read(writer.save(tmp_path / "model.tflite"))
    shot = np.abs(image(16, 20))
    out = Reference(imported).run(shot, ["features.1.conv.1"])["features.1.conv.1"]
    padded = np.pad(shot[0, :, :, 0], ((0, 2), (0, 2)))
    stem = padded[2::2, 1::2][:8, :10]  # row 2i + 2, column 2j + 1
    expected = np.pad(stem, 1)[0:8, 2:12]  # row i - 1, column j + 1
    np.testing.assert_allclose(out[0, :, :, 3], expected, atol=1e-6)
    assert not out[..., [0, 1, 2, 4, 5, 6, 7]].any()


@pytest.mark.parametrize(
    ("member", "labels"),
    [
        ("rose\ndaisy\ntulip\nfern\nmoss\n", ("rose", "daisy", "tulip", "fern", "moss")),
        ("Löwe\r\n狼\r\nfox\r\ncat\r\ndog", ("Löwe", "狼", "fox", "cat", "dog")),
        ("one\ntwo\n", ()),
    ],
)
def test_attached_labels(tmp_path, member, labels) -> None:
    """They are a zip archive after the model; a list of another length does not count."""
    path = TFLiteWriter(small()).save(tmp_path / "model.tflite")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("image.bin", bytes(range(128, 256)))
        file.writestr("labels.txt", member)
    path.write_bytes(path.read_bytes() + archive.getvalue())
    assert read(path).labels == labels


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_attached_archive_that_is_damaged(tmp_path, cut) -> None:
    """The model does not need it."""
    path = TFLiteWriter(small()).save(tmp_path / "model.tflite")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("labels.txt", "a\nb\nc\nd\ne")
    content = archive.getvalue()
    path.write_bytes(path.read_bytes() + content[:cut] + b"\xff" * 3 + content[cut + 3 :])
    imported = read(path)
    assert imported.architecture.classes == 5


# --- real files ---


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_kernels_of_real_files(shared, name) -> None:
    """Sums, extremes and norms of every dequantised kernel and bias."""
    imported = read(shared(f"models/{name}.tflite"), int8=False)
    rows = list(
        csv.DictReader(io.StringIO(shared(f"reference/weights/{name}.layers.csv").read_text()))
    )
    for row, layer in zip(rows, weighted(imported), strict=True):
        kernel = imported.arrays[layer.weight].astype(np.float64)
        bias = imported.arrays[f"{layer.norm}.bias" if layer.norm else layer.bias].astype(
            np.float64
        )
        for column, value, size in (
            ("kernel_sum", kernel.sum(), np.abs(kernel).sum()),
            ("kernel_min", kernel.min(), abs(kernel.min())),
            ("kernel_max", kernel.max(), abs(kernel.max())),
            ("kernel_l2", np.sqrt((kernel**2).sum()), 1),
            ("bias_sum", bias.sum(), np.abs(bias).sum()),
            ("bias_l2", np.sqrt((bias**2).sum()), 1),
        ):
            assert value == pytest.approx(float(row[column]), rel=1e-6, abs=1e-7 * size), (
                layer.name,
                column,
            )
        assert int(row["stride"]) == layer.stride
        assert row["activation"].replace("none", "linear") == layer.activation


@pytest.mark.parametrize(
    ("name", "classes", "kind", "middle"),
    [
        (CLASSIFIERS[0], 1001, "uint8", 128),
        (CLASSIFIERS[1], 1001, "int8", 127.5),
        (CLASSIFIERS[2], 965, "uint8", 128),
    ],
)
def test_what_real_files_are(shared, name, classes, kind, middle) -> None:
    imported = read(shared(f"models/{name}.tflite"), int8=False)
    assert (imported.architecture.width_mult, imported.architecture.padding) == (1.0, "same")
    assert imported.provenance["source"] == f"TensorFlow Lite ({kind})"
    assert imported.architecture.classes == len(imported.labels) == classes
    assert imported.preprocessing.normalize(np.zeros((1, 3), np.uint8)) == pytest.approx(-1)
    assert np.array(imported.preprocessing.mean) * 255 == pytest.approx(middle)
    ends = imported.labels[0], imported.labels[-1]
    assert ends == (
        ("Haemorhous cassinii (Cassin's Finch)", "background")
        if classes == 965
        else ("background", "toilet tissue, toilet paper, bathroom tissue")
    )


def test_attached_labels_of_the_bird_model(shared) -> None:
    labels = shared("models/inat_bird_labels.txt").read_text(encoding="utf-8").splitlines()
    assert list(read(shared(f"models/{CLASSIFIERS[2]}.tflite"), int8=False).labels) == labels


def test_the_real_detector(shared) -> None:
    imported = read(shared("models/ssd_mobilenet_v2_oidv4_fp16.tflite"))
    a = imported.architecture
    assert a.head == SSD(23)
    assert (a.width_mult, a.padding, a.resolution) == (1.0, "same", (300, 300))
    assert imported.preprocessing.resize == "stretch"
    recorded = np.load(shared("reference/detection/ssd_mobilenet_v2_oidv4_fp16.first8.npz"))
    codes, scores = boxes.raw_outputs(a.head, Engine(imported)(recorded["images"]))
    assert np.abs(codes - recorded["raw_boxes"]).max() < 1e-3
    assert np.abs(scores - recorded["raw_scores"]).max() < 1e-3
    anchors = np.load(shared("reference/detection/anchors.npz"))["anchors_yxhw"]
    assert boxes.anchors(a.head, network(a)) == pytest.approx(anchors, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "width", "divisor"),
    [("deeplabv3_mnv2_pascal_quant", 1.0, 8), ("deeplabv3_mnv2_dm05_pascal_quant", 0.5, 1)],
)
def test_the_real_segmenters(shared, name, width, divisor) -> None:
    imported = read(shared(f"models/{name}.tflite"), int8=False)
    a = imported.architecture
    assert a.head == DeepLab(21)
    assert (a.width_mult, a.divisor, a.output_stride, a.padding) == (width, divisor, 16, "same")
    assert imported.preprocessing.resize == "fit"
    inputs = shared("reference/segmentation/inputs")
    for image in ("bird", "dog"):
        pixels = imported.preprocessing(inputs / f"{image}_segmentation.bmp")
        mask = Engine(imported)(pixels[None])[0].argmax(-1)
        recorded = shared(f"reference/segmentation/{name}/{image}_segmentation.float.513.png")
        assert (mask == np.array(Image.open(recorded))).mean() > 0.995


# --- graphs that are not the network ---


def refused(tmp_path: Path, writer: TFLiteWriter, complaint: str) -> None:
    path = writer.save(tmp_path / "other.tflite")
    assert recognise(path) == "tflite"
    with pytest.raises(ModelFileError, match=rf"other\.tflite: .*{complaint}"):
        read(path)


def test_wrong_stride(tmp_path) -> None:
    """As in the paper's first version, one stage too early; the kernels are the same."""
    writer = TFLiteWriter(small())
    for index, stride in ((3, 1), (4, 2)):
        options = writer.operators("DEPTHWISE_CONV_2D")[index].builtinOptions
        options.strideH = options.strideW = stride
    refused(tmp_path, writer, r"features\.4\.conv\.1\.0 has stride 1, not 2")


@pytest.mark.parametrize("field", ["strideH", "strideW"])
def test_stride_of_one_axis(tmp_path, field) -> None:
    writer = TFLiteWriter(small())
    setattr(writer.operators("CONV_2D")[0].builtinOptions, field, 1)
    refused(tmp_path, writer, r"features\.0\.0 has stride \d, not 2")


@pytest.mark.parametrize(
    ("code", "index", "activation", "complaint"),
    [
        ("CONV_2D", 0, 0, r"features\.0\.0 has the activation linear, not relu6"),
        ("CONV_2D", 1, RELU6, r"features\.1\.conv\.1 has the activation relu6, not linear"),
        ("CONV_2D", 2, 1, r"features\.2\.conv\.0\.0 has the activation relu, not relu6"),
        (
            "DEPTHWISE_CONV_2D",
            5,
            4,
            r"features\.6\.conv\.1\.0 has the activation another activation, not relu6",
        ),
        ("ADD", 3, RELU6, r"features\.8\.add has the activation relu6, not linear"),
        ("FULLY_CONNECTED", 0, RELU6, r"classifier\.1 has the activation relu6, not linear"),
    ],
)
def test_wrong_activation(tmp_path, code, index, activation, complaint) -> None:
    writer = TFLiteWriter(small())
    writer.operators(code)[index].builtinOptions.fusedActivationFunction = activation
    refused(tmp_path, writer, complaint)


@pytest.mark.parametrize(
    ("code", "index", "source", "complaint"),
    [
        ("ADD", 0, ("ADD", 0, "inputs", 1), r"features\.3\.add \(ADD\) does not read"),
        ("ADD", 5, ("ADD", 3, "outputs", 0), r"features\.10\.add \(ADD\) does not read"),
        (
            "CONV_2D",
            4,
            ("CONV_2D", 0, "inputs", 0),
            r"features\.3\.conv\.0\.0 \(CONV_2D\) does not read",
        ),
    ],
)
def test_wrong_wiring(tmp_path, code, index, source, complaint) -> None:
    writer = TFLiteWriter(small())
    other_code, other_index, tensors, place = source
    other = getattr(writer.operators(other_code)[other_index], tensors)[place]
    writer.operators(code)[index].inputs[0] = other
    refused(tmp_path, writer, complaint)


def test_a_missing_sum(tmp_path) -> None:
    writer = TFLiteWriter(small())
    add = writer.operators("ADD")[2]
    writer.graph.operators.remove(add)
    for operator in writer.graph.operators:
        operator.inputs = [add.inputs[1] if i == add.outputs[0] else i for i in operator.inputs]
    refused(tmp_path, writer, r"does not read what it should")


def test_an_extra_sum(tmp_path) -> None:
    writer = TFLiteWriter(small())
    last = writer.operators("CONV_2D")[-1]
    shape = (1, 2, 2, 1280)
    last.outputs, (out,) = [writer.tensor("x", shape)], last.outputs
    writer.op("ADD", [last.outputs[0]] * 2, shape, writer.schema.AddOptionsT())
    add = writer.graph.operators.pop()
    add.outputs = [out]
    writer.graph.operators.insert(writer.graph.operators.index(last) + 1, add)
    refused(tmp_path, writer, "the operator ADD has no place in it")


def test_padded_by_both_rules(tmp_path) -> None:
    writer = TFLiteWriter(small(padding="symmetric"))
    writer.operators("DEPTHWISE_CONV_2D")[1].builtinOptions.padding = SAME
    refused(tmp_path, writer, r"features\.2\.conv\.1\.0 is padded twice")


def test_padded_by_other_amounts(tmp_path) -> None:
    writer = TFLiteWriter(small(padding="symmetric"))
    amounts = writer.operators("PAD")[2].inputs[1]
    overwrite(writer, amounts, [[0, 0], [0, 2], [1, 1], [0, 0]])
    refused(
        tmp_path, writer, r"features\.4\.conv\.1\.0 is padded \(0, 2, 1, 1\) .*, not \(1, 1, 1, 1\)"
    )


def test_not_padded(tmp_path) -> None:
    writer = TFLiteWriter(small())
    writer.operators("DEPTHWISE_CONV_2D")[0].builtinOptions.padding = VALID
    refused(
        tmp_path, writer, r"features\.1\.conv\.0\.0 is padded \(0, 0, 0, 0\) .*, not \(1, 1, 1, 1\)"
    )


def overwrite(writer: TFLiteWriter, tensor: int, values: object) -> None:
    """Gives a constant other values of type int32."""
    content = np.array(values, np.int32).tobytes()
    buffer = writer.graph.tensors[tensor].buffer
    writer.model.buffers[buffer].data = np.frombuffer(content, np.uint8)


def before(writer: TFLiteWriter, code: str, index: int, added: Any) -> None:
    """Moves the last operator to before another one, which then reads it."""
    operator = writer.operators(code)[index]
    inserted = writer.graph.operators.pop()
    writer.graph.operators.insert(writer.graph.operators.index(operator), inserted)
    operator.inputs[0] = added


@pytest.mark.parametrize(
    ("code", "index", "complaint"),
    [
        ("MEAN", 0, "a PAD before MEAN has no place in it"),
        ("CONV_2D", 5, r"features\.3\.conv\.2 is padded twice"),
        ("DEPTHWISE_CONV_2D", 2, r"features\.3\.conv\.1\.0 is padded twice"),
    ],
)
def test_a_pad_too_many(tmp_path, code, index, complaint) -> None:
    writer = TFLiteWriter(small())
    amounts = writer.constant("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    source = writer.operators(code)[index].inputs[0]
    before(
        writer,
        code,
        index,
        writer.op("PAD", [source, amounts], (1, 4, 4, 8), writer.schema.PadOptionsT()),
    )
    refused(tmp_path, writer, complaint)


@pytest.mark.parametrize("code", ["SOFTMAX", "RESHAPE"])
def test_operators_that_change_values_between_layers(tmp_path, code) -> None:
    writer = TFLiteWriter(small())
    options = {"SOFTMAX": writer.schema.SoftmaxOptionsT, "RESHAPE": writer.schema.ReshapeOptionsT}[
        code
    ]()
    source = writer.operators("CONV_2D")[3].inputs[0]
    before(writer, "CONV_2D", 3, writer.op(code, [source], (1, 16, 16, 48), options))
    refused(tmp_path, writer, rf"a {code} after features\.2\.conv\.1\.0 has no place in it")


@pytest.mark.parametrize("beta", [0.5, 1.5, 0.0])
def test_a_softmax_of_multiples(tmp_path, beta) -> None:
    writer = TFLiteWriter(small())
    writer.operators("SOFTMAX")[0].builtinOptions.beta = beta
    refused(tmp_path, writer, f"a SOFTMAX multiplies what it reads by {beta:g}")


def test_a_window_smaller_than_the_map(tmp_path) -> None:
    writer = TFLiteWriter(small(), pool="AVERAGE_POOL_2D")
    writer.operators("AVERAGE_POOL_2D")[0].builtinOptions.filterHeight = 1
    refused(tmp_path, writer, "AVERAGE_POOL_2D does not average the whole map")


def test_a_mean_over_other_axes(tmp_path) -> None:
    writer = TFLiteWriter(small())
    overwrite(writer, writer.operators("MEAN")[0].inputs[1], [1, 3])
    refused(tmp_path, writer, "MEAN does not average the whole map")


def test_output_of_another_layer(tmp_path) -> None:
    writer = TFLiteWriter(small())
    writer.graph.outputs = [writer.operators("MEAN")[0].outputs[0]]
    refused(tmp_path, writer, r"its output is not that of classifier\.1")


def test_two_outputs(tmp_path) -> None:
    writer = TFLiteWriter(small())
    writer.graph.outputs.append(writer.operators("MEAN")[0].outputs[0])
    refused(
        tmp_path, writer, "its outputs are SOFTMAX, pool: it is neither a classifier nor an SSD"
    )


def test_a_missing_operator(tmp_path) -> None:
    writer = TFLiteWriter(small())
    writer.graph.operators.remove(writer.operators("DEPTHWISE_CONV_2D")[4])
    refused(tmp_path, writer, "after block 4 its kernels are not expand, depthwise, project")


def test_an_extra_operator(tmp_path) -> None:
    writer = TFLiteWriter(small())
    inputs = writer.operators("FULLY_CONNECTED")[0].inputs
    writer.op("FULLY_CONNECTED", inputs, (1, 5), writer.schema.FullyConnectedOptionsT())
    refused(tmp_path, writer, "after 17 blocks it has 3 more convolutions or dense layers")


def test_a_kernel_without_values(tmp_path) -> None:
    writer = TFLiteWriter(small())
    kernel = writer.graph.tensors[writer.operators("CONV_2D")[6].inputs[1]]
    kernel.buffer = 0
    refused(tmp_path, writer, rf"the tensor '{kernel.name.decode()}' has no values")


def test_a_bias_that_is_too_short(tmp_path) -> None:
    writer = TFLiteWriter(small())
    bias = writer.graph.tensors[writer.operators("CONV_2D")[6].inputs[2]]
    bias.shape, buffer = [bias.shape[0] - 1], writer.model.buffers[bias.buffer]
    buffer.data = buffer.data[:-4]
    refused(tmp_path, writer, r"the bias of features\.\d+\.conv\.\S+ is \(\d+,\), not \(\d+,\)")


def test_two_subgraphs(tmp_path) -> None:
    writer = TFLiteWriter(small())
    writer.model.subgraphs.append(writer.graph)
    refused(tmp_path, writer, "2 subgraphs; a classifier has one")


def test_options_that_are_absent_are_not_taken_on_trust(tmp_path) -> None:
    writer = TFLiteWriter(small())
    operator = writer.operators("CONV_2D")[2]
    operator.builtinOptions, operator.builtinOptionsType = None, 0
    refused(tmp_path, writer, r"features\.2\.conv\.0\.0 has the activation linear, not relu6")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stem_channels": 56}, r"features\.0\.0\.weight is \(24, 3, 3, 3\), not \(16, "),
        ({"divisor": 1}, "no width multiplier gives these channels: stem 11"),
    ],
)
def test_kernels_that_fit_no_width(tmp_path, changes, complaint) -> None:
    refused(tmp_path, TFLiteWriter(small(**changes)), complaint)


def test_bias_that_is_absent_is_zero(tmp_path) -> None:
    writer = TFLiteWriter(small())
    operator = writer.operators("CONV_2D")[1]
    operator.inputs = operator.inputs[:2]
    imported = read(writer.save(tmp_path / "model.tflite"))
    assert not imported.arrays["features.1.conv.2.bias"].any()


def quantised_input(writer: TFLiteWriter, kind: int, scale: float, zero: int) -> TFLiteWriter:
    """Gives the input another type; the rest of the graph stays float."""
    tensor = writer.graph.tensors[0]
    tensor.type = kind
    tensor.quantization = writer.schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]
    return writer


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "lowest", "highest"),
    [
        (3, 2 / 255, 127, -1, 1),
        (3, 2 / 255, 128, -1, 1),
        (9, 2 / 255, -1, -1, 1),
        (3, 1 / 128, 128, -1, 127 / 128),
        (9, 1 / 255, -128, 0, 1),
        (3, 1 / 255, 0, 0, 1),
        # ImageNet's mean and std, as converters store them
        (3, 0.018658, 114, -114 * 0.018658, 141 * 0.018658),
        (3, 2 / 255, 0, 0, 2),
    ],
)
def test_range_of_quantised_inputs(tmp_path, kind, scale, zero, lowest, highest) -> None:
    path = quantised_input(TFLiteWriter(small()), kind, scale, zero).save(tmp_path / "model.tflite")
    ends = read(path).preprocessing.normalize(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    np.testing.assert_allclose(ends, [[lowest] * 3, [highest] * 3], atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e-30, 1e30])
def test_range_that_cannot_be(tmp_path, scale) -> None:
    refused(
        tmp_path, quantised_input(TFLiteWriter(small()), 3, scale, 0), "the input has the scale"
    )


def test_a_scale_on_a_float_input_means_nothing(tmp_path) -> None:
    path = quantised_input(TFLiteWriter(small()), 0, 0.5, 7).save(tmp_path / "model.tflite")
    assert read(path).preprocessing.mean == (0.5, 0.5, 0.5)


def test_padding_matters() -> None:
    checkpoint = small()
    other = replace(checkpoint, architecture=replace(checkpoint.architecture, padding="symmetric"))
    assert difference(checkpoint, other) > 1e-4
