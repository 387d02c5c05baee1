"""Compares a TensorFlow Lite graph with a network, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..boxes import CODE_SCALES, anchors
from ..errors import shortened
from ..graph import Network
from ..heads import SSDHead
from ..layer import Layer, conv_padding
from .tflite_graph import POSTPROCESS, Graph, Op
from .tflite_heads import ACTIVATIONS as SCORE_ACTIVATIONS
from .tflite_heads import KERNELS, TRANSPARENT, NamedKernels

ACTIVATIONS = {0: "linear", 1: "relu", 3: "relu6"}
LAYER_KINDS = {
    "ADD": "add",
    "AVERAGE_POOL_2D": "pool",
    "MEAN": "pool",
    "RESIZE_BILINEAR": "resize",
    "CONCATENATION": "concat",
}
# a detector's outputs, joined, and what is made of them
BOXES, SCORES, PROBABILITIES, DETECTIONS = "boxes", "scores", "probabilities", "detections"
ANCHOR_TOLERANCE = 1e-3  # in parts of the image; half a step more for anchors of 8 bits


@dataclass(frozen=True)
class Match:
    """What a graph has in common with the layers of a network.

    Attributes:
        made: The name of the layer that makes each tensor; "image" for the input.
        ops: The operator of each layer.
    """

    made: dict[int, str]
    ops: dict[str, Op] = field(default_factory=dict)


def compare(graph: Graph, named: NamedKernels, net: Network, match: Match) -> str | None:
    """The first difference between the graph and this network, or None; fills `match`."""
    return _Comparison(graph, named, net, match).difference()


class _Comparison:
    """A graph beside a network.

    Args:
        graph: The file.
        named: The operator of each layer that has a kernel, and the head.
        net: The network.
        match: Filled.
    """

    def __init__(self, graph: Graph, named: NamedKernels, net: Network, match: Match) -> None:
        self.graph, self.head, self.net, self.match = graph, named.head, net, match
        layers = {layer.name: layer for layer in net.layers}
        self.by_kernel = {id(op): layers[name] for name, op in named.ops.items() if name in layers}
        self.by_kind: dict[str, Iterator[Layer]] = {
            kind: iter([layer for layer in net.layers if layer.kind == kind])
            for kind in set(LAYER_KINDS.values())
        }
        self.joined: dict[tuple[str, ...], str] = {}
        if len(net.outputs) > 1:
            self.joined = {net.outputs[::2]: BOXES, net.outputs[1::2]: SCORES}
        self.padded: dict[int, tuple[int, ...]] = {}
        flat = {layer.name for layer in net.layers if layer.kind in ("pool", "linear")}
        self.rows: dict[str, int] = {}
        if isinstance(self.head, SSDHead):
            # numbers in a row of what an output is reshaped to
            self.rows = {BOXES: 4, SCORES: 1 + self.head.classes}
            self.rows |= dict.fromkeys(net.outputs[::2], 4)
            self.rows |= dict.fromkeys(net.outputs[1::2], 1 + self.head.classes)
            flat |= self.rows.keys()
        # after which layers an operator that changes no value may stand
        masks = {name for name in net.outputs if net[name].kind == "resize"}
        self.may_follow = {
            "SOFTMAX": set(net.outputs),
            "RESHAPE": flat,
            "SQUEEZE": flat,
            "ARG_MAX": masks,
            "CAST": masks,
        }

    def difference(self) -> str | None:
        """The first difference, or None."""
        for op in self.graph.ops:
            sources = [self.match.made[i] for i in op.inputs if i in self.match.made]
            difference = self._compare(op, tuple(sources))
            if difference:
                return difference
        ends = {self.match.made.get(index) for index in self.graph.outputs}
        complete = [set(self.net.outputs)]
        if self.joined:
            complete = [{BOXES, SCORES}, {BOXES, PROBABILITIES}, {DETECTIONS}]
        if ends in complete:
            return None
        return f"its output is not that of {', '.join(self.net.outputs)}"

    def _compare(self, op: Op, sources: tuple[str, ...]) -> str | None:
        made = self.match.made
        if any(i in self.padded for i in op.inputs) and op.code not in (
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
        ):
            return f"a PAD before {op.code} has no place in it"
        if isinstance(self.head, SSDHead) and sources:
            if op.code == "CONCATENATION":
                return self._join(op, sources)
            if op.code in SCORE_ACTIVATIONS:
                return self._activate(op, sources, self.head.score)
            if op.code == POSTPROCESS:
                if sources != (BOXES, PROBABILITIES):
                    return f"{POSTPROCESS} reads {shortened(sources)}, not {BOXES}, {PROBABILITIES}"
                made.update(dict.fromkeys(op.outputs, DETECTIONS))
                return _compare_anchors(self.graph, op, self.head, self.net)
        if op.code in (*TRANSPARENT, "ARG_MAX", "CAST") or self._keeps_size(op, sources):
            return self._pass_on(op, sources)
        if op.code in KERNELS:
            layer = self.by_kernel.get(id(op))
        else:
            layer = next(self.by_kind.get(LAYER_KINDS.get(op.code, ""), iter(())), None)
        if layer is None:
            return f"the operator {op.code} has no place in it"
        ordered = layer.kind == "concat"
        if sources != layer.sources if ordered else set(sources) != set(layer.sources):
            return f"{layer.name} ({op.code}) does not read what it should"
        difference = _compare_options(self.graph, op, layer, self.padded)
        if difference is None:
            made[op.outputs[0]] = layer.name
            self.match.ops[layer.name] = op
        return difference

    def _join(self, op: Op, sources: tuple[str, ...]) -> str | None:
        """A CONCATENATION of what a detector's predictors give, map after map."""
        axes = len(self.graph.tensors[op.outputs[0]].shape)
        if sources not in self.joined:
            return f"a CONCATENATION of {shortened(sources)} is not that of all maps in order"
        if op.options["Axis"] not in (1, 1 - axes):
            return f"a CONCATENATION of {sources[0]} and others joins other axes than the anchors"
        self.match.made[op.outputs[0]] = self.joined[sources]
        return None

    def _activate(self, op: Op, sources: tuple[str, ...], score: str) -> str | None:
        """The operator that makes probabilities of a detector's scores."""
        if sources != (SCORES,) or SCORE_ACTIVATIONS[op.code] != score:
            return f"a {op.code} after {sources[0]} has no place in it"
        self.match.made[op.outputs[0]] = PROBABILITIES
        return _compare_beta(op)

    def _keeps_size(self, op: Op, sources: tuple[str, ...]) -> bool:
        """Whether it is a resize to the size that the map has, and none of the network's, which may
        do the same to a map of one place.
        """
        before, after = (self.graph.tensors[i].shape for i in (op.inputs[0], op.outputs[0]))
        same = [
            layer.sources
            for layer in self.net.layers
            if layer.kind == "resize" and layer.in_shape == layer.out_shape
        ]
        return op.code == "RESIZE_BILINEAR" and before == after and sources not in same

    def _pass_on(self, op: Op, sources: tuple[str, ...]) -> str | None:
        """An operator that changes no value: its output counts as what it reads."""
        if not sources:
            return None  # of a constant
        (source,) = set(sources)
        self.match.made[op.outputs[0]] = source
        if op.code == "PAD":
            self.padded[op.outputs[0]] = self.graph.whole_numbers(op.inputs[1])
        elif op.code in self.may_follow and source not in self.may_follow[op.code]:
            return f"a {op.code} after {source} has no place in it"
        shape = self.graph.tensors[op.outputs[0]].shape
        if op.code == "RESHAPE" and source in self.rows and self.rows[source] not in shape[-1:]:
            return f"a RESHAPE after {source} to {shape}, not to rows of {self.rows[source]}"
        if op.code == "ARG_MAX" and self.graph.whole_numbers(op.inputs[1]) not in ((3,), (-1,)):
            return f"an ARG_MAX after {source} over other axes than the classes"
        return _compare_beta(op)


def _compare_options(
    graph: Graph, op: Op, layer: Layer, padded: dict[int, tuple[int, ...]]
) -> str | None:
    """The first difference between an operator's options and its layer, or None."""
    options = op.options
    if "FusedActivationFunction" in options:
        activation = ACTIVATIONS.get(options["FusedActivationFunction"], "another activation")
        if activation != layer.activation:
            return f"{layer.name} has the activation {activation}, not {layer.activation}"
    if layer.kind == "pool":
        return _compare_pool(graph, op, layer)
    if layer.kind == "resize":
        return _compare_resize(graph, op, layer)
    if layer.kind == "concat" and options["Axis"] not in (3, -1):
        return f"{layer.name} joins other axes than the channels"
    if "StrideH" not in options or layer.kind == "linear":
        return None
    if {options["StrideH"], options["StrideW"]} != {layer.stride}:
        return f"{layer.name} has stride {options['StrideH']}, not {layer.stride}"
    if layer.kernel > 1 and {options["DilationHFactor"], options["DilationWFactor"]} != {
        layer.dilation
    }:
        return f"{layer.name} has dilation {options['DilationHFactor']}, not {layer.dilation}"
    amounts = padded.get(op.inputs[0], (0,) * 8)  # before and after, of each axis of (N, H, W, C)
    if options["Padding"] == 0:  # SAME
        if any(amounts):
            return f"{layer.name} is padded twice"
        sides = (
            conv_padding("same", n, layer.kernel, layer.stride, layer.dilation)
            for n in layer.in_shape[1:]
        )
        amounts = (0, 0, *(amount for side in sides for amount in side), 0, 0)
    if amounts != (0, 0, *layer.padding, 0, 0):
        return (
            f"{layer.name} is padded {amounts[2:6]} (top, bottom, left, right), not {layer.padding}"
        )
    return None


def _compare_beta(op: Op) -> str | None:
    """The difference between a SOFTMAX and one of the scores themselves, or None."""
    beta = op.options.get("Beta", 1)
    return None if beta == 1 else f"a {op.code} multiplies what it reads by {beta:g}"


def _compare_pool(graph: Graph, op: Op, layer: Layer) -> str | None:
    """The difference between an operator and global average pooling, or None."""
    if op.code == "MEAN":
        whole = sorted(axis % 4 for axis in graph.whole_numbers(op.inputs[1])) == [1, 2]
    else:
        whole = (op.options["FilterHeight"], op.options["FilterWidth"]) == layer.in_shape[1:]
    return None if whole else f"{op.code} does not average the whole map"


def _compare_resize(graph: Graph, op: Op, layer: Layer) -> str | None:
    """The difference between an operator and a bilinear resize with its corners aligned, or None."""
    if graph.tensors[op.outputs[0]].shape[1:3] != layer.out_shape[1:]:
        return f"{layer.name} resizes to {graph.tensors[op.outputs[0]].shape[1:3]}, not {layer.out_shape[1:]}"
    aligned = op.options["AlignCorners"] and not op.options["HalfPixelCenters"]
    if aligned or layer.in_shape[1:] == (1, 1):
        return None
    return f"{layer.name} does not align the corners"


def _compare_anchors(graph: Graph, op: Op, head: SSDHead, net: Network) -> str | None:
    """The difference between the anchors and codes in the file and the network's, or None."""
    scales = tuple(op.options.get(f"{side}_scale") for side in "yxhw")
    if scales != CODE_SCALES:
        return f"{POSTPROCESS} has the scales {scales}, not {CODE_SCALES}"
    classes = op.options.get("num_classes")
    if classes != head.classes:
        return f"{POSTPROCESS} has {classes} classes, not {head.classes}"
    stored, own = graph.constant(op.inputs[2]), anchors(head, net)
    if stored.shape != own.shape:
        return f"it has anchors of the shape {stored.shape}, not {own.shape}"
    step = graph.stored(op.inputs[2]).scale
    if np.abs(stored - own).max() > ANCHOR_TOLERANCE + (step.max() / 2 if step.size else 0):
        return "its anchors are not those of TensorFlow's ssd_anchor_generator"
    return None
