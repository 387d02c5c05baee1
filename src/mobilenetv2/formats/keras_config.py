"""What the configuration in a Keras file says: compared with what runs here, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..architecture import Architecture
from ..errors import ModelFileError
from ..graph import layers
from ..images import Preprocessing
from ..layer import Layer, conv_padding

START = re.compile(r'\{"(?:module": ?"[^"]{0,100}", ?"class_name|class_name)": ?"')
MAX_STARTS = 100
MAX_NESTING = 16
# Layers that change no value when a model predicts.
INACTIVE = re.compile(
    "InputLayer|(Spatial|Alpha|Gaussian)?Dropout(2D)?|GaussianNoise|ActivityRegularization|Flatten|Random.*"
)
ACTIVATION_LAYERS = {"Softmax": "softmax", "Activation": "", "ReLU": ""}
# Operators with a number, as Keras 3 and Keras 2 name them.
OPERATORS = {
    "TrueDivide": "/", "Divide": "/", "Subtract": "-", "Multiply": "*", "Add": "+",
    "math.truediv": "/", "math.divide": "/", "math.subtract": "-", "math.multiply": "*",
    "__operators__.add": "+", "math.add": "+",
}  # fmt: skip


@dataclass(frozen=True)
class KerasLayer:
    """A layer of the configuration.

    Attributes:
        kind: Its class.
        name: Its name.
        options: Its configuration.
        numbers: Those that it takes beside tensors: an operator's.
    """

    kind: str
    name: str
    options: Mapping[str, Any]
    numbers: tuple[float, ...]


def configuration_in(content: bytes) -> list[KerasLayer]:
    """The layers of the configuration in the bytes of an HDF5 file; [] if there is none.

    It is searched, since reading an attribute of a damaged file with HDF5 may never return.
    """
    text, decoder, at = content.decode("latin-1"), json.JSONDecoder(), 0
    for _ in range(MAX_STARTS):
        start = START.search(text, at)
        if start is None:
            break
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            at = start.end()
            continue
        if isinstance(value.get("config"), dict) and "layers" in value["config"]:
            return list(_flat(value))
    return []


def configuration_of(text: bytes) -> list[KerasLayer]:
    """The layers of the configuration in a `.keras` archive.

    Raises:
        ModelFileError: Not JSON, or without layers.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its config.json cannot be read: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        raise ModelFileError("its config.json describes no model")
    return list(_flat(value))


def _flat(model: Mapping[str, Any], depth: int = 0) -> Iterator[KerasLayer]:
    """The layers of a model, those of models inside of it in their place."""
    if depth > MAX_NESTING:
        raise ModelFileError("its configuration is nested too deeply")
    outputs = model["config"].get("output_layers", ())
    if len(outputs) > 1 and not isinstance(outputs[0], str):
        raise ModelFileError(f"it has {len(outputs)} outputs; a classifier has one")
    for layer in model["config"].get("layers", ()):
        options = layer["config"]
        if "layers" in options:
            yield from _flat(layer, depth + 1)
            continue
        kind, name = str(layer["class_name"]), str(options.get("name"))
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            kind = str(options.get("function"))
        yield KerasLayer(kind, name, options, tuple(_numbers(layer.get("inbound_nodes") or ())))


def _numbers(nodes: Any) -> Iterator[float]:
    """The numbers that an operator takes beside tensors, where it has the form tensor, number."""
    for node in nodes:
        if isinstance(node, Mapping):  # Keras 3
            given = [*node.get("args", ()), *node.get("kwargs", {}).values()]
        else:  # Keras 2: [name, index, index, {"y": number}], or a list of these
            references = node if node and isinstance(node[0], list) else [node]
            given = [value for ref in references if len(ref) > 3 for value in ref[3].values()]
        if given and _is_number(given[0]) and isinstance(node, Mapping):
            return  # number, tensor
        yield from filter(_is_number, given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Facts:
    """What a configuration says of a network.

    Attributes:
        kernels: Its convolutions in order, each with the padding layer before it.
        epsilon: Of its batch norms.
        scale: The network is given pixels (0..255) times this,
        offset: plus this.
        relu6: How many layers end in it.
        additions: How many shortcuts it has.
        pools: How many global averages.
        sigmoid: Whether it ends in one sigmoid.
        rescales: Whether it has layers that prepare its input.
    """

    kernels: tuple[tuple[KerasLayer, Any], ...] = ()
    epsilon: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    relu6: int = 0
    additions: int = 0
    pools: int = 0
    sigmoid: bool = False
    rescales: bool = False


def facts_of(configuration: list[KerasLayer]) -> Facts:
    """What the layers of a configuration say.

    Raises:
        ModelFileError: A layer, or one of its options, that does not run here.
    """
    facts, padding = Facts(), None
    for layer in configuration:
        kind, options = layer.kind, layer.options
        if kind == "ZeroPadding2D":
            padding = options["padding"]
            continue
        if kind in ("Conv2D", "DepthwiseConv2D"):
            relu6 = _activation(layer, ("linear", "relu6")) == "relu6"
            kernels = (*facts.kernels, (layer, padding))
            facts, padding = replace(facts, kernels=kernels, relu6=facts.relu6 + relu6), None
        elif kind == "BatchNormalization":
            epsilon = float(options.get("epsilon", 1e-3))
            if facts.epsilon not in (None, epsilon):
                raise ModelFileError(f"its layer {layer.name} has the epsilon {epsilon:g}")
            facts = replace(facts, epsilon=epsilon)
        elif kind in ACTIVATION_LAYERS:
            relu6 = _activation(layer, ("relu6", "linear", "softmax")) == "relu6"
            facts = replace(facts, relu6=facts.relu6 + relu6)
        elif kind == "Dense":
            allowed = ("linear", "softmax", *(["sigmoid"] if options.get("units") == 1 else []))
            facts = replace(facts, sigmoid=_activation(layer, allowed) == "sigmoid")
        elif kind == "GlobalAveragePooling2D":
            facts = replace(facts, pools=facts.pools + 1)
        elif kind == "Add" and not layer.numbers:
            facts = replace(facts, additions=facts.additions + 1)
        elif kind == "Rescaling" or (kind in OPERATORS and len(layer.numbers) == 1):
            facts = _rescaled(facts, layer)
        elif not INACTIVE.fullmatch(kind):
            raise ModelFileError(
                f"its layer {layer.name} is of the kind {kind}, which is not run here"
            )
    return facts


def _activation(layer: KerasLayer, allowed: tuple[str, ...]) -> str:
    """The activation of a layer, which must be one of these."""
    options = layer.options
    activation = ACTIVATION_LAYERS.get(layer.kind) or options.get("activation") or "linear"
    if isinstance(activation, Mapping):  # a function of another library
        activation = activation.get("config")
    if isinstance(activation, Mapping):
        activation = activation.get("name")
    if layer.kind == "ReLU":
        limits = (options.get("max_value"), options.get("negative_slope"), options.get("threshold"))
        plain = float(limits[0] or 0) == 6 and not _first(limits[1]) and not _first(limits[2])
        activation = "relu6" if plain else f"ReLU with {limits}"
    if activation not in allowed:
        raise ModelFileError(
            f"its layer {layer.name} has the activation {activation!r:.80}, not {' or '.join(allowed)}"
        )
    return str(activation)


def _first(value: Any) -> Any:
    """A number that Keras 2 may store as a list, or as an array with its type."""
    if isinstance(value, Mapping):
        value = value.get("value")
    return value[0] if isinstance(value, list) and value else value


def _rescaled(facts: Facts, layer: KerasLayer) -> Facts:
    if facts.kernels:
        raise ModelFileError(f"its layer {layer.name} rescales what a convolution gives")
    scale, offset = facts.scale, facts.offset
    if layer.kind == "Rescaling":
        factor, added = layer.options["scale"], layer.options.get("offset", 0.0)
        if not (_is_number(factor) and _is_number(added)):
            raise ModelFileError(f"its layer {layer.name} rescales each channel in another way")
        scale, offset = scale * factor, offset * factor + added
    else:
        sign, number = OPERATORS[layer.kind], layer.numbers[0]
        if sign in "*/":
            factor = number if sign == "*" else 1 / number
            scale, offset = scale * factor, offset * factor
        else:
            offset += number if sign == "+" else -number
    return replace(facts, scale=scale, offset=offset, rescales=True)


def preprocessing_of(facts: Facts, size: tuple[int, int]) -> Preprocessing:
    """The preprocessing with which pixels are what the first convolution takes.

    Raises:
        UserError: No image can be that.
    """
    if not facts.rescales:
        return Preprocessing(size=size)
    std = 1 / (255 * facts.scale)
    return Preprocessing(size=size, mean=(-facts.offset * std,) * 3, std=(std,) * 3)


def matched(facts: Facts, architecture: Architecture) -> Architecture:
    """The architecture, with the padding rule and the epsilon of the configuration.

    Args:
        facts: The configuration.
        architecture: As the arrays show it, with the size of the configuration.

    Raises:
        ModelFileError: The configuration is not that of the network; the message names the layer.
    """
    if facts.epsilon is not None:
        architecture = replace(architecture, bn_epsilon=facts.epsilon)
    if not facts.kernels:  # a configuration of nothing but the input
        return architecture
    difference = ""
    for padding in ("same", "symmetric"):
        architecture = replace(architecture, padding=padding)
        difference = _difference(facts, layers(architecture))
        if not difference:
            return architecture
    raise ModelFileError(f"its configuration is of another network: {difference}")


def _difference(facts: Facts, steps: tuple[Layer, ...] | list[Layer]) -> str:
    """The first difference between a configuration and a network, or ""."""
    expected = [step for step in steps if step.kind in ("conv", "depthwise")]
    counts = {
        "convolutions": (len(facts.kernels), len(expected)),
        "ReLU6": (facts.relu6, sum(step.activation == "relu6" for step in steps)),
        "additions": (facts.additions, sum(step.kind == "add" for step in steps)),
        "global averages": (facts.pools, sum(step.kind == "pool" for step in steps)),
    }
    for noun, (theirs, ours) in counts.items():
        if theirs != ours and not (noun == "global averages" and ours == 0 and theirs == 1):
            return f"it has {theirs} {noun}, not {ours}"
    for (layer, _), step in zip(facts.kernels, expected, strict=True):
        options = layer.options
        sides = {
            "kernel_size": (step.kernel, step.kernel),
            "strides": (step.stride, step.stride),
            "dilation_rate": (step.dilation, step.dilation),
        }
        for key, expected_sides in sides.items():
            if tuple(options.get(key, (1, 1))) != expected_sides:
                return f"{layer.name} has {key} {options[key]}, not {expected_sides}"
    for (layer, zeros), step in zip(facts.kernels, expected, strict=True):
        amounts = _pad_amounts(layer.options.get("padding"), zeros, step)
        if amounts != step.padding:
            return (
                f"{layer.name} is padded {amounts} (top, bottom, left, right), not {step.padding}"
            )
    return ""


def _pad_amounts(rule: Any, zeros: Any, step: Layer) -> tuple[int, ...]:
    """How much a convolution is padded by itself and by the layer before it."""
    added = tuple(n for side in zeros for n in side) if zeros else (0, 0, 0, 0)
    if rule != "same":
        return added
    own = tuple(
        amount
        for n in step.in_shape[1:]
        for amount in conv_padding("same", n, step.kernel, step.stride, step.dilation)
    )
    return tuple(a + b for a, b in zip(own, added, strict=True))
