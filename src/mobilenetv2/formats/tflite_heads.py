"""Recognises the heads of detectors and segmenters in a TensorFlow Lite graph, by wiring.

Only which kernel belongs to which layer is decided here; `tflite` compares the whole graph with the
network that these kernels make.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import ModelFileError
from ..heads import SSD, DeepLab, Head, SSDLite, ssd_anchor_sizes
from .tflite_graph import POSTPROCESS, Graph, Op

KERNELS = {"CONV_2D": "C", "DEPTHWISE_CONV_2D": "D", "FULLY_CONNECTED": "F"}
# Operators that change no value: their output counts as that of the layer before them.
TRANSPARENT = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "SOFTMAX", "PAD")
ACTIVATIONS = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}  # of a detector's scores
BACKBONE = re.compile(r"C(?:DC|CDC)+")


@dataclass(frozen=True)
class NamedKernels:
    """The kernels of a graph.

    Attributes:
        ops: The operator of each layer that has a kernel, by the layer's name.
        head: What stands on the backbone; None: as the shapes of the kernels say.
        notes: What was assumed, one sentence each.
    """

    ops: dict[str, Op]
    head: Head | None
    notes: tuple[str, ...] = ()


def named_kernels(graph: Graph) -> NamedKernels:
    """Finds the layer of every kernel of a graph.

    Raises:
        ModelFileError: They are not those of a MobileNetV2 with a known head.
    """
    codes = {op.code for op in graph.ops}
    wiring = _Wiring(graph)
    if len(graph.outputs) > 1 or POSTPROCESS in codes:
        return _detector(wiring)
    if "RESIZE_BILINEAR" in codes:
        return _segmenter(wiring)
    return _classifier(wiring)


class _Wiring:
    """Who makes and who reads each tensor of a graph.

    Raises:
        ModelFileError: A tensor is read before it is made, or made twice.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.kernels = [op for op in graph.ops if op.code in KERNELS]
        self.maker: dict[int, Op] = {}
        self.readers: dict[int, list[Op]] = {}
        for op in graph.ops:
            for index in op.inputs:
                self.readers.setdefault(index, []).append(op)
            for index in op.outputs:
                if index in self.readers or index in self.maker:
                    name = graph.tensors[index].name
                    raise ModelFileError(f"its operators are not in order: {name!r} is made late")
                self.maker[index] = op

    def kernel_name(self, op: Op) -> str:
        """The file's name of an operator's kernel."""
        return self.graph.stored(op.inputs[1]).name

    def source(self, op: Op) -> Op | None:
        """The operator whose values a kernel reads; None: the image."""
        maker = self.maker.get(op.inputs[0])
        while maker is not None and maker.code in TRANSPARENT:
            maker = self.maker.get(maker.inputs[0])
        return maker

    def next(self, op: Op) -> Iterator[Op]:
        """The operators that read what an operator makes."""
        for output in op.outputs:
            for reader in self.readers.get(output, []):
                if reader.code in TRANSPARENT:
                    yield from self.next(reader)
                else:
                    yield reader

    def chain(self, op: Op) -> list[Op]:
        """A predictor and the operators behind it, up to the one that makes an output of the graph, or
        an input of the detection operator.
        """
        chain = [op]
        while True:
            (output,) = chain[-1].outputs
            readers = self.readers.get(output, [])
            codes = {reader.code for reader in readers}
            if output in self.graph.outputs or not readers or codes == {POSTPROCESS}:
                return chain
            if len(readers) > 1 or not codes <= {
                *TRANSPARENT,
                *ACTIVATIONS,
                "CONCATENATION",
                "SLICE",
            }:
                raise ModelFileError(f"not an SSD: a {readers[0].code} behind its predictors")
            chain.append(readers[0])


def _backbone(wiring: _Wiring, kernels: Sequence[Op]) -> tuple[dict[str, Op], Sequence[Op], int]:
    """The backbone's kernels by name, those behind it, and the number of its blocks.

    Blocks are recognised by the order of their operators: expand, depthwise, project.
    """
    kinds = "".join(KERNELS[op.code] for op in kernels)
    match = BACKBONE.match(kinds)
    if match is None:
        first = ", ".join(wiring.kernel_name(op) for op in kernels[:4]) or "none"
        raise ModelFileError(
            f"not a MobileNetV2: its kernels are not a stem, then expand, depthwise, project: {first}"
        )
    names, at, block = ["features.0.0"], 1, 0
    while at < match.end():
        block += 1
        path = f"features.{block}.conv"
        if kinds.startswith("DC", at):
            names += [f"{path}.0.0", f"{path}.1"]
        else:
            names += [f"{path}.0.0", f"{path}.1.0", f"{path}.2"]
        at = len(names)
    return dict(zip(names, kernels, strict=False)), kernels[at:], block


def _classifier(wiring: _Wiring) -> NamedKernels:
    ops, tail, block = _backbone(wiring, wiring.kernels)
    kinds = "".join(KERNELS[op.code] for op in tail)
    if "D" in kinds:
        raise ModelFileError(
            f"not a MobileNetV2: after block {block} its kernels are not expand, depthwise, project"
        )
    if kinds not in ("CC", "CF", "C"):
        raise ModelFileError(
            f"not a MobileNetV2: after {block} blocks it has {len(tail)} more convolutions or dense "
            "layers, not a last convolution and a classifier"
        )
    names = [f"features.{block + 1}.0", "classifier.1"]
    return NamedKernels(ops | dict(zip(names, tail, strict=False)), None)


def _segmenter(wiring: _Wiring) -> NamedKernels:
    """Mobile DeepLabv3: what a kernel reads says which it is."""
    ops, tail, _ = _backbone(wiring, wiring.kernels)
    last = list(ops.values())[-1]
    branches = {0: "head.aspp0.0"}
    for op in tail:
        source = wiring.source(op)
        code = "" if source is None else source.code
        if source is last:
            dilation = op.options.get("DilationHFactor", 1) if _side(wiring, op) > 1 else 0
            name = branches.setdefault(dilation, f"head.aspp{len(branches)}.0")
        elif code in ("AVERAGE_POOL_2D", "MEAN"):
            name = "head.image_pooling.0"
        elif code == "CONCATENATION":
            name = "head.concat_projection.0"
        elif source is ops.get("head.concat_projection.0"):
            name = "head.logits"
        else:
            name = ""
        if not name or name in ops:
            raise ModelFileError(
                f"not a Mobile DeepLabv3 without a decoder: {wiring.kernel_name(op)} has no place in it"
            )
        ops[name] = op
    if "head.logits" not in ops:
        raise ModelFileError("not a Mobile DeepLabv3: no convolution behind its head")
    classes = wiring.graph.stored(ops["head.logits"].inputs[1]).shape[0]
    return NamedKernels(ops, DeepLab(classes, aspp=len(branches) > 1))


def _detector(wiring: _Wiring) -> NamedKernels:
    """SSD or SSDLite: predictors are the convolutions that no other kernel reads."""
    predictors = [op for op in wiring.kernels if not _read_by_kernels(wiring, op)]
    if len(predictors) < 4:
        outputs = ", ".join(wiring.graph.tensors[i].name for i in wiring.graph.outputs[:3])
        raise ModelFileError(f"its outputs are {outputs}: it is neither a classifier nor an SSD")
    before = {id(op): wiring.source(op) for op in predictors}
    filters = {
        id(source): source
        for source in before.values()
        if source is not None and source.code == "DEPTHWISE_CONV_2D"
    }
    place = {id(op): index for index, op in enumerate(wiring.kernels)}

    def map_of(op: Op) -> int:
        source = before[id(op)]
        source = wiring.source(source) if source is not None and id(source) in filters else source
        return place.get(id(source), -1)

    predictors.sort(key=map_of)
    apart = {id(op) for op in predictors} | filters.keys()
    ops, tail, block = _backbone(wiring, [op for op in wiring.kernels if id(op) not in apart])
    if not tail:
        raise ModelFileError(f"not an SSD: after {block} blocks it has no last convolution")
    ops[f"features.{block + 1}.0"] = tail[0]
    lite = bool(filters)
    each = 3 if lite else 2
    for index, op in enumerate(tail[1:]):
        ops[f"head.extra.{index // each}.{index % each}.0"] = op
    parts = _parts(wiring, predictors)
    numbers: dict[str, list[int]] = {"boxes": [], "scores": []}
    for op, what in zip(predictors, parts, strict=True):
        name = f"head.{what}.{len(numbers[what])}"
        numbers[what].append(wiring.graph.stored(op.inputs[1]).shape[0])
        source = before[id(op)]
        if lite and source is not None:
            ops[f"{name}.0.0"] = source
        ops[f"{name}.1" if lite else name] = op
    codes = {op.code for op in wiring.graph.ops}
    score = next((name for code, name in ACTIVATIONS.items() if code in codes), None)
    head = _ssd(wiring, ops, tail[each::each], numbers, score or "sigmoid", lite)
    note = "the file's scores end without LOGISTIC or SOFTMAX; LOGISTIC (sigmoid) is assumed"
    return NamedKernels(ops, head, () if score else (note,))


def _parts(wiring: _Wiring, predictors: Sequence[Op]) -> list[str]:
    """What each predictor gives, "boxes" or "scores".

    The detection operator reads boxes first. Without it boxes are what has no activation and four
    numbers in a row.
    """
    inputs = [op.inputs[:2] for op in wiring.graph.ops if op.code == POSTPROCESS]
    ends, kinds = [], {}
    for op in predictors:
        chain = wiring.chain(op)
        index = chain[-1].outputs[0]
        ends.append(index)
        if inputs:
            is_boxes = index == inputs[0][0]
        else:
            activated = ACTIVATIONS.keys() & {step.code for step in chain}
            is_boxes = not activated and wiring.graph.tensors[index].shape[-1] == 4
        kinds[index] = "boxes" if is_boxes else "scores"
    if sorted(kinds.values()) != ["boxes", "scores"]:
        names = ", ".join(wiring.graph.tensors[index].name for index in list(kinds)[:3])
        raise ModelFileError(f"not an SSD: its predictors end in {names}, not in boxes and scores")
    return [kinds[index] for index in ends]


def _ssd(
    wiring: _Wiring,
    ops: dict[str, Op],
    extra: Sequence[Op],
    numbers: dict[str, list[int]],
    score: str,
    lite: bool,
) -> SSD | SSDLite:
    """The head of these predictors, which must have the anchors of TF's generator."""
    maps = len(extra) + 2
    sizes = ssd_anchor_sizes(maps)
    anchors = [channels // 4 for channels in numbers["boxes"]]
    if anchors != [len(own) for own in sizes] or len(numbers["scores"]) != maps:
        raise ModelFileError(
            f"not an SSD that is known: its maps have {anchors} anchors a cell, not "
            f"{[len(own) for own in sizes]}"
        )
    options = {
        "classes": numbers["scores"][0] // anchors[0] - 1,
        "extra_channels": [wiring.graph.stored(op.inputs[1]).shape[0] for op in extra],
        "anchor_sizes": sizes,
        "score": score,
    }
    if lite:
        return SSDLite.from_dict(options)
    return SSD.from_dict({**options, "predictor_kernel": _side(wiring, ops["head.boxes.0"])})


def _read_by_kernels(wiring: _Wiring, op: Op) -> bool:
    return any(reader.code in KERNELS or reader.code == "ADD" for reader in wiring.next(op))


def _side(wiring: _Wiring, op: Op) -> int:
    """Side of a convolution's kernel."""
    return wiring.graph.stored(op.inputs[1]).shape[1]
