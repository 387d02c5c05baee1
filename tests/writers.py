"""Writes a checkpoint as a file of another library: its names, axes and container.

PyTorch layouts are dictionaries of arrays, which `save_pth` or `save_safetensors` writes; Keras and
TensorFlow Lite files are written whole. The layouts are those of torchvision 0.29, timm 1.0,
transformers 5.24 and Keras 3.15; those of the published Keras weights are from converters that name
every array in them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilenetv2.architecture import Architecture
from mobilenetv2.boxes import anchors as anchors_of
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.folding import fold
from mobilenetv2.formats.keras import NORM_ARRAYS
from mobilenetv2.graph import layers, network
from mobilenetv2.heads import SSDHead
from mobilenetv2.layer import Layer
from mobilenetv2.runtime import Reference
from mobilenetv2.writers.keras import in_keras_axes, layer_names
from mobilenetv2.writers.state_dicts import state_dict, timm_names, torchvision_names

Arrays = dict[str, np.ndarray]
NORM = ("weight", "bias", "running_mean", "running_var")
CLASSIFIER = "classifier"


def weighted(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that have arrays, in order."""
    return (layer for layer in layers(checkpoint.architecture) if layer.weight)


# --- PyTorch: dictionaries ---


def torchvision(checkpoint: Checkpoint) -> Arrays:
    return state_dict(checkpoint, torchvision_names)


def timm(checkpoint: Checkpoint) -> Arrays:
    return state_dict(checkpoint, timm_names(checkpoint.architecture))


HUGGING_FACE_HEAD = {
    "head.image_pooling.0": "conv_pool",
    "head.aspp0.0": "conv_aspp",
    "head.concat_projection.0": "conv_projection",
    "head.logits": "classifier",
}


def hugging_face(checkpoint: Checkpoint, prefix: str = "mobilenet_v2.") -> Arrays:
    """A segmenter has a last convolution too, which it does not use."""
    parts = {
        "stem": "first_conv",
        "expand": "expand_1x1",
        "depthwise": "conv_3x3",
        "project": "reduce_1x1",
    }

    def names(layer: Layer) -> tuple[str, str]:
        if layer.role == CLASSIFIER:
            return "classifier", ""
        if layer.name in HUGGING_FACE_HEAD:
            path = f"segmentation_head.{HUGGING_FACE_HEAD[layer.name]}"
        elif layer.role == "last":
            path = f"{prefix}conv_1x1"
        elif layer.block is None or layer.block == 1:
            path = f"{prefix}conv_stem.{parts[layer.role]}"
        else:
            path = f"{prefix}layer.{layer.block - 2}.{parts[layer.role]}"
        return f"{path}.convolution", f"{path}.normalization"

    arrays = state_dict(checkpoint, names)
    if checkpoint.architecture.head.task == "segmentation":
        arrays[f"{prefix}conv_1x1.convolution.weight"] = np.zeros((1280, 320, 1, 1), np.float32)
        arrays |= {
            f"{prefix}conv_1x1.normalization.{name}": np.ones(1280, np.float32) for name in NORM
        }
    return arrays


def flat(checkpoint: Checkpoint, last: str = "", classifier: str = "classifier") -> Arrays:
    """Blocks as one Sequential that counts activations: tonylins; with `last="conv"` d-li14."""

    def names(layer: Layer) -> tuple[str, str]:
        if layer.role == CLASSIFIER:
            return classifier, ""
        if layer.block is None:
            path = last if last and layer.role == "last" else layer.name.rpartition(".")[0]
            return f"{path}.0", f"{path}.1"
        at = {"expand": 0, "depthwise": 3, "project": 6}[layer.role] - (
            3 if layer.block == 1 else 0
        )
        return f"features.{layer.block}.conv.{at}", f"features.{layer.block}.conv.{at + 1}"

    return state_dict(checkpoint, names)


def mmdetection(checkpoint: Checkpoint, counted: bool = False) -> Arrays:
    """An SSDLite of mmdetection; with `counted` parts of its blocks, as mmpretrain has them."""
    repeats = [stage.repeats for stage in checkpoint.architecture.stages]
    where = [
        f"backbone.layer{stage + 1}.{index}"
        for stage, count in enumerate(repeats)
        for index in range(count)
    ]
    ends = {"stem": "backbone.conv1", "last": "backbone.conv2"}
    heads = {"boxes": "bbox_head.reg_convs", "scores": "bbox_head.cls_convs"}
    extra = ("0", "1.depthwise_conv", "1.pointwise_conv")

    def names(layer: Layer) -> tuple[str, str]:
        if layer.name.startswith("head."):
            _, part, index, *place = layer.name.split(".")
            if part == "extra":
                path = f"neck.extra_layers.{index}.{extra[int(place[0])]}"
            elif len(place) == 1:
                return f"{heads[part]}.{index}.1", ""
            else:
                path = f"{heads[part]}.{index}.0"
        elif layer.block is None:
            path = ends[layer.role]
        else:
            roles = ["expand", "depthwise", "project"][layer.block == 1 :]
            part = {"expand": "expand_conv", "depthwise": "depthwise_conv"}.get(
                layer.role, "linear_conv"
            )
            part = f"conv.{roles.index(layer.role)}" if counted else part
            path = f"{where[layer.block - 1]}.{part}"
        return f"{path}.conv", f"{path}.bn"

    classes = checkpoint.architecture.head.classes
    orders = {"reg_convs": [1, 0, 3, 2], "cls_convs": [*range(1, classes + 1), 0]}
    return predictors_in_order(state_dict(checkpoint, names), orders)


def torchvision_ssdlite(checkpoint: Checkpoint, renumbered: bool = False) -> Arrays:
    """torchvision's SSDLite on a MobileNetV2, whose last strided block is cut in two: the second part
    keeps its numbers, or is `renumbered` from 0.
    """
    strided = 14
    heads = {"boxes": "head.regression_head", "scores": "head.classification_head"}

    def place(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "head" and parts[1] == "extra":
            return f"backbone.{'.'.join(parts[1:])}"
        if parts[0] == "head":
            return f"{heads[parts[1]]}.module_list.{'.'.join(parts[2:])}"
        index, rest = int(parts[1]), ".".join(parts[2:])
        if index < strided:
            return f"backbone.features.0.{index}.{rest}"
        if index > strided:
            return f"backbone.features.1.{index - strided}.{rest}"
        first = int(parts[3])  # behind "conv"
        if first == 0:
            return f"backbone.features.0.{strided}.{parts[4]}"
        number = first - 1 if renumbered else first
        return ".".join(["backbone.features.1.0", str(number), *parts[4:]])

    arrays = state_dict(
        checkpoint, lambda layer: (place(layer.name), place(layer.norm or layer.name))
    )
    return predictors_in_order(arrays, {"regression_head": [1, 0, 3, 2]})


def predictors_in_order(arrays: Arrays, orders: Mapping[str, list[int]]) -> Arrays:
    """A state dict whose predictors, by a part of their names, have the rows of an anchor in another
    order.
    """
    moved = dict(arrays)
    for name, array in arrays.items():
        for part, order in orders.items():
            if re.search(part + r"\D*\.\d\.1\.(weight|bias)$", name):
                grouped = array.reshape(-1, len(order), *array.shape[1:])
                moved[name] = grouped[:, order].reshape(array.shape)
    return moved


LAYOUTS: dict[str, Callable[[Checkpoint], Arrays]] = {
    "torchvision": torchvision,
    "timm": timm,
    "hugging_face": hugging_face,
    "hugging_face_bare": lambda checkpoint: hugging_face(checkpoint, ""),
    "tonylins": lambda checkpoint: flat(checkpoint, classifier="classifier.1"),
    "d-li14": lambda checkpoint: flat(checkpoint, "conv"),
}


def prefixed(arrays: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """The names as DataParallel, torch.compile and Lightning change them."""
    return {prefix + name: array for name, array in arrays.items()}


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def save_pth(path: Path, content: Any, *, legacy: bool = False) -> Path:
    """`torch.save`, in the container of today (zip) or of PyTorch before 1.6."""
    import torch

    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        path,
        {"format": "pt"},
    )
    return path


def hugging_face_config(architecture: Architecture, **changes: object) -> dict[str, object]:
    """config.json as transformers writes it, with the fields that describe this network."""
    config: dict[str, object] = {
        "architectures": ["MobileNetV2ForImageClassification"], "classifier_dropout_prob": 0.8, "depth_divisible_by": 8,
        "depth_multiplier": architecture.width_mult, "dtype": "float32", "expand_ratio": 6.0,
        "finegrained_output": True, "first_layer_is_expansion": True, "hidden_act": "relu6",
        "image_size": architecture.resolution[0],
        "initializer_range": 0.02, "layer_norm_eps": architecture.bn_epsilon, "min_depth": 8,
        "model_type": "mobilenet_v2", "num_channels": 3, "output_stride": 32, "semantic_loss_ignore_index": 255,
        "tf_padding": architecture.padding == "same", "transformers_version": "5.24.0",
    }  # fmt: skip
    return config | changes


# --- Keras ---


def keras_names(layer: Layer, style: str = "today") -> tuple[str, str]:
    """The names of a layer and of its batch norm: as "today", in the "published" weights, or in
    Keras "2.2.0".
    """
    if layer.role == CLASSIFIER and style != "today":
        return "Logits", ""
    if layer.block is None or style == "today":
        return layer_names(layer)
    number = layer.block - 1
    if style == "published":
        return (
            f"mobl{number}_conv_{number}_{layer.role}",
            f"bn{number}_conv_{number}_bn_{layer.role}",
        )
    norm = layer.role if layer.role == "depthwise" or number == 0 else f"bn_{layer.role}"
    return f"mobl{number}_conv_{layer.role}", f"bn{number}_conv_{norm}"


def keras_layers(
    checkpoint: Checkpoint, style: str, kernel_of_depthwise: str
) -> Iterator[tuple[str, Arrays]]:
    """Every layer that Keras lists, in order, with its arrays; activations and pads have none."""
    yield "input_1", {}
    for layer in weighted(checkpoint):
        name, norm = keras_names(layer, style)
        kernel = kernel_of_depthwise if layer.kind == "depthwise" else "kernel"
        arrays = {kernel: in_keras_axes(layer, checkpoint.arrays[layer.weight])}
        if layer.bias:
            arrays["bias"] = checkpoint.arrays[layer.bias]
        if layer.kind == "depthwise" and layer.stride == 2:
            yield name.replace("depthwise", "pad"), {}
        yield name, arrays
        if layer.norm:
            yield (
                norm,
                {
                    theirs: checkpoint.arrays[f"{layer.norm}.{ours}"]
                    for theirs, ours in NORM_ARRAYS.items()
                },
            )
        if layer.activation != "linear":
            yield f"{name}_relu", {}


def write_keras_legacy(
    path: Path,
    checkpoint: Checkpoint,
    style: str = "today",
    *,
    keras: int = 2,
    whole: bool = False,
    scope: str = "",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a legacy `.h5`: the weights alone, or a `whole` model, as Keras 2 or 3 does.

    Args:
        path: The file.
        checkpoint: The model.
        style: Of the names, as for `keras_names`.
        keras: 2 or 3.
        whole: Whether the model's configuration is in the file.
        scope: The name of the model if it is a layer of another model: all of its layers are then
            in one group.
        config: The configuration; by default the first layer's alone.
    """
    import h5py

    suffix, depthwise = ("", "kernel") if keras == 3 else (":0", "depthwise_kernel")
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        if whole:
            file.attrs["model_config"] = json.dumps(config or keras_config(checkpoint, keras))
            file.create_group("optimizer_weights")["iteration"] = np.int64(3)
        order = []
        for layer, arrays in keras_layers(checkpoint, style, depthwise):
            group = root.create_group(layer) if not scope else root.require_group(scope)
            names = [f"{layer}/{name}{suffix}" for name in arrays]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays.values(), strict=True):
                group[name] = array
            order.append(layer.encode())
        root.attrs["layer_names"] = order
        root.attrs["backend"], root.attrs["keras_version"] = (
            "tensorflow",
            "2.2.4" if keras == 2 else "3.15.1",
        )
        if keras == 3:
            root.create_group("top_level_model_weights").attrs["weight_names"] = np.zeros(0)
    return path


def keras_config(
    checkpoint: Checkpoint, keras: int = 3, *, whole: bool = False, **dense: object
) -> dict[str, Any]:
    """A model's configuration: its first layer alone, or the `whole` of it.

    Args:
        checkpoint: The model.
        keras: 2 or 3.
        whole: Whether the layers after the first are in it.
        dense: Options of the classifier.
    """
    key = "batch_shape" if keras == 3 else "batch_input_shape"
    first = {
        key: [None, *checkpoint.architecture.resolution, 3],
        "dtype": "float32",
        "name": "input_layer",
    }
    listed: list[dict[str, Any]] = [{"class_name": "InputLayer", "config": first}]
    if whole:
        listed += keras_config_layers(checkpoint, dense)
    return {
        "class_name": "Functional" if keras == 3 else "Model",
        "config": {"name": "mobilenetv2", "layers": listed},
    }


def keras_config_layers(
    checkpoint: Checkpoint, dense: Mapping[str, object]
) -> list[dict[str, Any]]:
    """The layers after the first as keras.applications.MobileNetV2 has them."""
    listed: list[dict[str, Any]] = []

    def add(kind: str, name: str, **options: object) -> None:
        config = {"name": name, "trainable": True, "dtype": "float32", **options}
        listed.append({"class_name": kind, "config": config, "inbound_nodes": []})

    for layer in layers(checkpoint.architecture):
        if layer.kind == "add":
            add("Add", layer.name)
        elif layer.kind == "pool":
            add("GlobalAveragePooling2D", layer.name, keepdims=False)
        elif layer.kind == "linear":
            options = {"units": layer.out_shape[0], "activation": "softmax", "use_bias": True}
            add("Dense", "predictions", **options | dict(dense))
        else:
            name, norm = keras_names(layer)
            explicit = layer.stride == 2 and layer.kind == "depthwise"
            explicit |= layer.stride == 2 and checkpoint.architecture.padding == "symmetric"
            if explicit:
                top, bottom, left, right = layer.padding
                add("ZeroPadding2D", f"{name}_pad", padding=[[top, bottom], [left, right]])
            add(
                "DepthwiseConv2D" if layer.kind == "depthwise" else "Conv2D",
                name,
                kernel_size=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                padding="valid" if explicit else "same",
                dilation_rate=[1, 1],
                activation="linear",
                use_bias=False,
            )
            epsilon = checkpoint.architecture.bn_epsilon
            add("BatchNormalization", norm, axis=-1, momentum=0.999, epsilon=epsilon)
            if layer.activation == "relu6":
                add("ReLU", f"{name}_relu", max_value=6.0, negative_slope=0.0, threshold=0.0)
    return listed


def write_keras_weights(
    file: Any, checkpoint: Checkpoint, *, named: bool = True, scope: str = ""
) -> None:
    """Writes a `.weights.h5` of Keras 3, which numbers the layers of each kind."""
    import h5py

    counts: dict[str, int] = {}
    with h5py.File(file, "w") as root:

        def add(kind: str, name: str, *arrays: np.ndarray, inside: str = scope) -> None:
            number = counts[kind] = counts.get(kind, -1) + 1
            group = root.create_group(f"{inside}layers/{kind}{f'_{number}' if number else ''}/vars")
            if named:
                group.attrs["name"] = name
            for index, array in enumerate(arrays):
                group[str(index)] = array

        add("input_layer", "input_layer")
        for layer in weighted(checkpoint):
            kernel, norm = keras_names(layer)
            weight = in_keras_axes(layer, checkpoint.arrays[layer.weight])
            if layer.role == CLASSIFIER:
                add("dense", kernel, weight, checkpoint.arrays[layer.bias], inside="")
                continue
            add("depthwise_conv2d" if layer.kind == "depthwise" else "conv2d", kernel, weight)
            add(
                "batch_normalization",
                norm,
                *(checkpoint.arrays[f"{layer.norm}.{name}"] for name in NORM),
            )
            if layer.activation != "linear":
                add("re_lu", f"{kernel}_relu")
        root["optimizer/vars/0"] = np.int64(3)


def write_keras_archive(
    path: Path, checkpoint: Checkpoint, config: Mapping[str, Any] | None = None
) -> Path:
    """Writes a `.keras` archive; without a `config`, the first layer's alone is in it."""
    weights = io.BytesIO()
    write_keras_weights(weights, checkpoint)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config or keras_config(checkpoint)))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


# --- TensorFlow Lite ---

FLOAT32, FLOAT16, INT32, NO_ACTIVATION, RELU, RELU6, SAME, VALID = 0, 1, 2, 0, 1, 3, 0, 1
ACTIVATION_CODES = {"linear": NO_ACTIVATION, "relu": RELU, "relu6": RELU6}
CUSTOM = "TFLite_Detection_PostProcess"
CODES = {
    "ADD": 0, "AVERAGE_POOL_2D": 1, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "DEQUANTIZE": 6,
    "FULLY_CONNECTED": 9, "LOGISTIC": 14, "RESHAPE": 22, "RESIZE_BILINEAR": 23, "SOFTMAX": 25, CUSTOM: 32,
    "PAD": 34, "MEAN": 40, "ARG_MAX": 56, "QUANTIZE": 114,
}  # fmt: skip
DETECTIONS = {  # options of the detection operator, beside the number of classes
    "max_detections": 10, "max_classes_per_detection": 1, "detections_per_class": 100, "use_regular_nms": True,
    "nms_score_threshold": 1e-8, "nms_iou_threshold": 0.6,
    "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
}  # fmt: skip


class TFLiteWriter:
    """Builds a `.tflite` model as a converter does: batch norms folded, activations fused, NHWC.

    Args:
        checkpoint: The model. Symmetric padding becomes a PAD operator where SAME pads differently.
        half: Store weights as float16, each with a DEQUANTIZE after it.
        pool: "MEAN" or "AVERAGE_POOL_2D".
        dense: The classifier as FULLY_CONNECTED, not as CONV_2D.
        end: What detectors and segmenters end in: "scores", a detector's "probabilities", or the
            "answer" of the detection operator or ARG_MAX.
        detections: Options of the detection operator that differ from `DETECTIONS`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        half: bool = False,
        pool: str = "MEAN",
        dense: bool = True,
        end: str = "answer",
        detections: Mapping[str, float] | None = None,
    ) -> None:
        import ai_edge_litert.schema_py_generated as schema

        self.schema, self.half, self.pool, self.dense = schema, half, pool, dense
        self.end, self.detections = end, DETECTIONS | dict(detections or {})
        self.checkpoint = checkpoint
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "main"
        self.model = schema.ModelT()
        self.model.version, self.model.description, self.model.subgraphs = 3, "test", [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.codes: dict[str, int] = {}
        self._build()

    def _build(self) -> None:
        self.made = made = {
            "image": self.tensor("image", (1, *self.checkpoint.architecture.resolution, 3))
        }
        self.graph.inputs = [made["image"]]
        for layer in layers(self.checkpoint.architecture):
            made[layer.name] = self._layer(layer, [made[source] for source in layer.sources])
        task = self.checkpoint.architecture.head.task
        if task == "detection":
            self.graph.outputs = self._detections()
            return
        out = made[layer.name]
        if task == "segmentation" and self.end == "answer":
            axis = self.constant("axis", np.array([3], np.int32))
            options = self.schema.ArgMaxOptionsT()
            options.outputType = INT32
            out = self.op("ARG_MAX", [out, axis], (1, *layer.out_shape[1:]), options)
            self.graph.tensors[out].type = INT32
        if layer.kind == "linear":
            if not self.dense:
                shape = self.constant("shape", np.array([1, layer.out_shape[0]], np.int32))
                out = self.op(
                    "RESHAPE", [out, shape], (1, layer.out_shape[0]), self.schema.ReshapeOptionsT()
                )
            options = self.schema.SoftmaxOptionsT()
            options.beta = 1.0
            out = self.op("SOFTMAX", [out], (1, layer.out_shape[0]), options)
        self.graph.outputs = [out]

    def _detections(self) -> list[int]:
        """What stands behind a detector's predictors; returns the graph's outputs."""
        net, head = network(self.checkpoint.architecture), self.checkpoint.architecture.head
        assert isinstance(head, SSDHead)
        joined = []
        for names, numbers in ((net.outputs[::2], 4), (net.outputs[1::2], 1 + head.classes)):
            rows = []
            for name in names:
                channels, height, width = net[name].out_shape
                shape = (1, height * width * channels // numbers, numbers)
                sides = self.constant("shape", np.array(shape, np.int32))
                reshaped = [self.made[name], sides]
                rows.append(self.op("RESHAPE", reshaped, shape, self.schema.ReshapeOptionsT()))
            options = self.schema.ConcatenationOptionsT()
            options.axis = 1
            count = sum(self.graph.tensors[index].shape[1] for index in rows)
            joined.append(self.op("CONCATENATION", rows, (1, count, numbers), options))
        boxes, scores = joined
        if self.end == "scores":
            return joined
        code, options = "LOGISTIC", None
        if head.score == "softmax":
            code, options = "SOFTMAX", self.schema.SoftmaxOptionsT()
            options.beta = 1.0
        scores = self.op(code, [scores], (1, count, 1 + head.classes), options)
        if self.end == "probabilities":
            return [boxes, scores]
        anchors = self.weight("anchors", anchors_of(head, net))
        out = self.op(CUSTOM, [boxes, scores, anchors], (1, 10, 4), None)
        operator = self.graph.operators[-1]
        most = int(self.detections["max_detections"])
        operator.outputs = [
            out,
            *(self.tensor("", shape) for shape in ((1, most), (1, most), (1,))),
        ]
        self.graph.tensors[out].shape = [1, most, 4]
        content = flexbuffer({"num_classes": head.classes} | self.detections)
        operator.customOptions = np.frombuffer(content, np.uint8)
        return list(operator.outputs)

    def _layer(self, layer: Layer, sources: list[int]) -> int:
        channels, height, width = layer.out_shape
        shape = (1, height, width, channels)
        if layer.kind == "resize":
            size = self.constant("size", np.array([height, width], np.int32))
            options = self.schema.ResizeBilinearOptionsT()
            options.alignCorners = True
            return self.op("RESIZE_BILINEAR", [*sources, size], shape, options)
        if layer.kind == "concat":
            options = self.schema.ConcatenationOptionsT()
            options.axis = 3
            return self.op("CONCATENATION", self.joined(layer, sources), shape, options)
        if layer.kind == "add":
            return self.op("ADD", sources, shape, self.schema.AddOptionsT())
        if layer.kind == "pool":
            return self._pool(layer, sources[0])
        weight, bias = fold(self.checkpoint, layer)
        if layer.kind == "linear" and self.dense:
            constants = [
                self.weight(f"{layer.name}/w", weight),
                self.weight(f"{layer.name}/b", bias),
            ]
            return self.op(
                "FULLY_CONNECTED",
                sources + constants,
                (1, channels),
                self.schema.FullyConnectedOptionsT(),
            )
        weight = weight.reshape(*weight.shape[:2], layer.kernel, layer.kernel)
        depthwise = layer.kind == "depthwise"
        weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        constants = [self.weight(f"{layer.name}/w", weight), self.weight(f"{layer.name}/b", bias)]
        options = (
            self.schema.DepthwiseConv2DOptionsT() if depthwise else self.schema.Conv2DOptionsT()
        )
        options.strideH = options.strideW = layer.stride
        options.dilationHFactor = options.dilationWFactor = layer.dilation
        options.fusedActivationFunction = ACTIVATION_CODES[layer.activation]
        if depthwise:
            options.depthMultiplier = 1
        explicit = self.checkpoint.architecture.padding == "symmetric" and layer.stride == 2
        options.padding = VALID if explicit else SAME
        if explicit:
            sources = [self.pad(sources[0], layer)]
        return self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", sources + constants, shape, options
        )

    def _pool(self, layer: Layer, source: int) -> int:
        channels, height, width = layer.in_shape
        if self.pool == "MEAN":
            options = self.schema.ReducerOptionsT()
            flat = self.dense and self.checkpoint.architecture.head.task == "classification"
            options.keepDims = not flat
            shape = (1, channels) if flat else (1, 1, 1, channels)
            return self.op(
                "MEAN", [source, self.constant("axes", np.array([1, 2], np.int32))], shape, options
            )
        options = self.schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW = VALID, 1, 1
        options.filterHeight, options.filterWidth = height, width
        return self.op("AVERAGE_POOL_2D", [source], (1, 1, 1, channels), options)

    def joined(self, layer: Layer, sources: list[int]) -> list[int]:
        """What a concatenation reads."""
        return sources

    def pad(self, source: int, layer: Layer) -> int:
        """A PAD operator with the layer's amounts."""
        top, bottom, left, right = layer.padding
        amounts = self.constant(
            "pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        )
        channels, height, width = layer.in_shape
        return self.op(
            "PAD", [source, amounts], (1, height + top + bottom, width + left + right, channels),
            self.schema.PadOptionsT(),
        )  # fmt: skip

    def weight(self, name: str, values: np.ndarray) -> int:
        """A float32 constant, or a float16 one with a DEQUANTIZE after it."""
        if not self.half:
            return self.constant(name, values.astype(np.float32))
        stored = self.constant(f"{name}/half", values.astype(np.float16))
        return self.op("DEQUANTIZE", [stored], values.shape, self.schema.DequantizeOptionsT())

    def constant(self, name: str, values: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        kind = {"float32": FLOAT32, "float16": FLOAT16, "int32": INT32}[values.dtype.name]
        return self.tensor(name, values.shape, kind, len(self.model.buffers) - 1)

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int = FLOAT32, buffer: int = 0
    ) -> int:
        made = self.schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), kind, buffer
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def op(self, code: str, inputs: list[int], shape: tuple[int, ...], options: Any) -> int:
        """Adds an operator and returns its output."""
        if code not in self.codes:
            made = self.schema.OperatorCodeT()
            made.builtinCode = made.deprecatedBuiltinCode = CODES[code]
            made.customCode = CUSTOM.encode() if code == CUSTOM else None
            made.version = 1
            self.codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(made)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs = self.codes[code], list(inputs)
        operator.outputs = [self.tensor(code, shape)]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(
                self.schema.BuiltinOptions, type(options).__name__.removesuffix("T")
            )
        self.graph.operators.append(operator)
        return int(operator.outputs[0])

    def operators(self, code: str) -> list[Any]:
        """The operators of one kind, in order; a test may change them before `save`."""
        return [
            operator
            for operator in self.graph.operators
            if operator.opcodeIndex == self.codes.get(code)
        ]

    def save(self, path: Path) -> Path:
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def flexbuffer(options: Mapping[str, float]) -> bytes:
    """Options of a custom operator."""
    from flatbuffers import flexbuffers

    return bytes(flexbuffers.Dumps(dict(options)))


# --- comparing ---


def difference(checkpoint: Checkpoint, other: Checkpoint, side: int = 64) -> float:
    """The largest difference of the outputs of two models for a random image, relative to the
    largest output.
    """
    image = np.random.default_rng(5).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    expected, output = Reference(checkpoint)(image), Reference(other)(image)
    return float(np.abs(expected - output).max() / np.abs(expected).max())


def edged(checkpoint: Checkpoint) -> Checkpoint:
    """The same model with extreme batch norms in its first channels: a variance or a scale that is
    zero or very small, a negative scale.
    """
    arrays = {name: array.copy() for name, array in checkpoint.arrays.items()}
    for layer in weighted(checkpoint):
        if layer.norm:
            arrays[f"{layer.norm}.running_var"][:2] = 0, 1e-14
            arrays[f"{layer.norm}.weight"][:5] = 1e-3, 1e-3, 0, -1, 1e-30
    return replace(checkpoint, arrays=arrays)
