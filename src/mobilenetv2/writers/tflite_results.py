"""The end of a LiteRT graph: from the network's outputs to the file's results."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import boxes
from ..graph import network
from ..heads import SSDHead
from ..int8 import AnyCheckpoint
from .options import WriteOptions, result_names
from .tflite_graph import Graph, type_number

POSTPROCESS = "TFLite_Detection_PostProcess"
SMALLEST_SIDE = 1e-5  # of a box that the operator is given; those without area have score 0
UINT8_CLASSES = 256


def add_results(
    graph: Graph, checkpoint: AnyCheckpoint, options: WriteOptions, outputs: list[int]
) -> None:
    """Adds what makes the file's results of the network's outputs, and declares them."""
    head = checkpoint.architecture.head
    if isinstance(head, SSDHead):
        _Detections(graph, checkpoint, options).add(outputs)
        return
    (name,), (result,) = result_names(checkpoint, options), outputs
    result = _mask(graph, result, head.classes) if name == "mask" else real(graph, result)
    if name == "probabilities":
        out = graph.tensor(name, graph.shape(result))
        result = graph.operator("SOFTMAX", [result], out, Beta=1.0)
    graph.output(name, result)


def real(graph: Graph, tensor: int) -> int:
    """The float32 values of a tensor."""
    if graph.type(tensor) == np.float32:
        return tensor
    out = graph.tensor(f"{graph.name(tensor)}.real", graph.shape(tensor))
    return graph.operator("DEQUANTIZE", [tensor], out)


def _mask(graph: Graph, scores: int, classes: int) -> int:
    """The best class of each place: uint8, or int32 of more classes than that holds."""
    shape = graph.shape(scores)[:3]
    best = graph.tensor("best", shape, np.int32)
    graph.operator("ARG_MAX", [scores, graph.whole(3)], best, OutputType=type_number(np.int32))
    if classes > UINT8_CLASSES:
        return best
    return graph.cast(best, "mask", np.uint8)


class _Detections:
    """A detector's results.

    Args:
        graph: Where they are added.
        checkpoint: The model.
        options: Those of the file.
    """

    def __init__(self, graph: Graph, checkpoint: AnyCheckpoint, options: WriteOptions) -> None:
        head = checkpoint.architecture.head
        assert isinstance(head, SSDHead)
        self._graph, self._head, self._options = graph, head, options
        self._anchors = boxes.anchors(head, network(checkpoint.architecture)).astype(np.float32)
        self._batch = options.batch or 1
        self._count = 0  # operators that were added

    def add(self, outputs: list[int]) -> None:
        """Adds what makes the results of the network's outputs, and declares them."""
        graph, head = self._graph, self._head
        codes = self._per_anchor(outputs[::2], 4, "codes")
        scores = self._per_anchor(outputs[1::2], 1 + head.classes, "scores")
        if head.score == "softmax":
            scores = self._new("SOFTMAX", [scores], graph.shape(scores), Beta=1.0)
        scores = self._part(scores, 1, head.classes)
        if head.score == "sigmoid":
            scores = self._new("LOGISTIC", [scores], graph.shape(scores))
        if self._options.results == "raw":
            graph.output("codes", codes)
            graph.output("scores", scores)
            return
        self._best(*self._clipped(codes, scores))

    def _new(self, code: str, inputs: list[int], shape: tuple[int, ...], **options: Any) -> int:
        """Adds an operator and its output."""
        self._count += 1
        name = f"detections.{self._count}.{code.lower()}"
        return self._graph.operator(code, inputs, self._graph.tensor(name, shape), **options)

    def _per_anchor(self, maps: list[int], numbers: int, name: str) -> int:
        """Maps (N, H, W, anchors * numbers) as one tensor (N, n, numbers), a row per anchor."""
        graph, rows = self._graph, []
        for values in maps:
            values = real(graph, values)
            _, height, width, channels = graph.shape(values)
            count = height * width * channels // numbers
            sides = graph.whole(self._options.batch or -1, count, numbers)
            rows.append(self._new("RESHAPE", [values, sides], (self._batch, count, numbers)))
        out = graph.tensor(name, (self._batch, len(self._anchors), numbers))
        return graph.operator("CONCATENATION", rows, out, Axis=1)

    def _part(self, tensor: int, begin: int, count: int) -> int:
        """Part of the last of three axes."""
        whole = self._graph.whole
        shape = (*self._graph.shape(tensor)[:2], count)
        return self._new("SLICE", [tensor, whole(0, 0, begin), whole(-1, -1, count)], shape)

    def _with(self, code: str, tensor: int, values: Any) -> int:
        """An operator of a tensor and a constant, per anchor or one for all."""
        values = np.asarray(values, np.float32)
        name = f"detections.{self._count + 1}.constant"
        return self._new(
            code, [tensor, self._graph.constant(name, values)], self._graph.shape(tensor)
        )

    def _clipped(self, codes: int, scores: int) -> tuple[int, int]:
        """Boxes as centre y, x and logarithms of height and width, which the operator reads with
        anchors of the whole image, and their scores, 0 of those without area.

        The operator would compare boxes that reach beyond the image; ours are clipped to it first.
        """
        anchors, scales = self._anchors, np.array(boxes.CODE_SCALES)
        pair = (self._batch, len(anchors), 2)
        shift = self._with("MUL", self._part(codes, 0, 2), anchors[None, :, 2:] / scales[:2])
        centre = self._with("ADD", shift, anchors[None, :, :2])
        logarithm = self._with("MUL", self._part(codes, 2, 2), 1 / scales[2:])
        size = self._new("EXP", [self._with("MINIMUM", logarithm, boxes.MAX_LOG_SIZE)], pair)
        half = self._with("MUL", size, anchors[None, :, 2:] / 2)
        low, high = (
            self._with("MINIMUM", self._with("MAXIMUM", corner, 0), 1)
            for corner in (
                self._new("SUB", [centre, half], pair),
                self._new("ADD", [centre, half], pair),
            )
        )
        side = self._new("SUB", [high, low], pair)
        middle = self._with("MUL", self._new("ADD", [low, high], pair), 0.5)
        logarithm = self._new("LOG", [self._with("MAXIMUM", side, SMALLEST_SIDE)], pair)
        both = self._graph.tensor("clipped", (*pair[:2], 4))
        self._graph.operator("CONCATENATION", [middle, logarithm], both, Axis=2)
        return both, self._with_area(side, scores)

    def _with_area(self, side: int, scores: int) -> int:
        """The scores, 0 of boxes without area."""
        graph, (rows, columns) = self._graph, (self._part(side, at, 1) for at in (0, 1))
        smaller = self._new("MINIMUM", [rows, columns], graph.shape(rows))
        # 1 where it is above 0: the least float32 times the greatest is still above 1
        steps = [self._with("MUL", smaller, 3e38)]
        steps.append(self._with("MUL", steps[-1], 3e38))
        has_area = self._with("MINIMUM", steps[-1], 1)
        return self._new("MUL", [scores, has_area], graph.shape(scores))

    def _best(self, codes: int, scores: int) -> None:
        """Adds the operator that suppresses what overlaps, and its four results."""
        from flatbuffers import flexbuffers

        graph, options = self._graph, self._options
        whole_image = np.tile(np.array([0, 0, 1, 1], np.float32), (len(self._anchors), 1))
        most = options.max_detections
        above = np.nextafter(np.float32(options.score_threshold), np.float32(np.inf))
        settings = {
            "max_detections": most,
            "max_classes_per_detection": 1,
            "detections_per_class": most,
            "use_regular_nms": True,
            "nms_score_threshold": float(above),
            "nms_iou_threshold": options.iou_threshold,
            "num_classes": self._head.classes,
            **dict.fromkeys(("y_scale", "x_scale", "h_scale", "w_scale"), 1.0),
        }
        shapes = {"boxes": (1, most, 4), "classes": (1, most), "scores": (1, most), "count": (1,)}
        results = [graph.tensor(name, shape) for name, shape in shapes.items()]
        anchors = graph.constant("anchors", whole_image)
        content = bytes(flexbuffers.Dumps(settings))
        graph.operator(POSTPROCESS, [codes, scores, anchors], results, content)
        for name, tensor in zip(shapes, results, strict=True):
            graph.output(name, tensor)
