"""The two ends of an ONNX graph: from the image that a file takes to the network's, and from the
network's outputs to the file's results.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import boxes
from ..graph import network
from ..heads import SSDHead
from ..int8 import AnyCheckpoint
from .onnx_graph import Dimension, Graph
from .options import WriteOptions

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
LAST = 1 << 30  # end of a slice, beyond any


def image_input(graph: Graph, checkpoint: AnyCheckpoint, options: WriteOptions) -> str:
    """Declares the image and returns its tensor as (N, C, H, W)."""
    architecture = checkpoint.architecture
    sides: list[Dimension] = list(architecture.resolution)
    if options.dynamic_size:
        sides = ["height", "width"]
    batch: Dimension = "N" if options.batch is None else options.batch
    if options.layout == "nhwc":
        shape = [batch, *sides, architecture.in_channels]
        name = graph.input("image", options.input, shape)
        return graph.node("Transpose", [name], f"{name}.nchw", perm=TO_NCHW)
    return graph.input("image", options.input, [batch, architecture.in_channels, *sides])


def normalised(graph: Graph, checkpoint: AnyCheckpoint, pixels: str) -> str:
    """Adds the normalisation of pixels (N, C, H, W) uint8."""
    scale, offset = (per_channel(values) for values in checkpoint.preprocessing.scale_offset())
    real = graph.node("Cast", [pixels], "pixels.float32", to=1)
    scaled = graph.node("Mul", [real, graph.constant("pixels.scale", scale)], "pixels.scaled")
    return graph.node("Add", [scaled, graph.constant("pixels.offset", offset)], "pixels.normalised")


def pixels_again(graph: Graph, checkpoint: AnyCheckpoint, image: str) -> str:
    """Adds the way back from normalised images (N, C, H, W) to the nearest pixels, uint8."""
    scale, offset = checkpoint.preprocessing.scale_offset()
    factor = graph.constant("pixels.factor", per_channel(1 / scale))
    shift = graph.constant("pixels.shift", per_channel(-offset / scale))
    scaled = graph.node("Mul", [image, factor], "pixels.scaled")
    shifted = graph.node("Add", [scaled, shift], "pixels.shifted")
    one = graph.constant("pixels.one", np.float32(1))
    zero = graph.constant("pixels.zero", np.uint8(0))
    return graph.node("QuantizeLinear", [shifted, one, zero], "pixels")


def per_channel(values: Any) -> Any:
    """One number per channel as float32 (1, C, 1, 1)."""
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)


def add_results(
    graph: Graph, checkpoint: AnyCheckpoint, options: WriteOptions, outputs: list[str]
) -> None:
    """Adds what makes the file's results of the network's outputs, and declares them."""
    task = checkpoint.architecture.head.task
    batch: Dimension = "N" if options.batch is None else options.batch
    if task == "detection":
        _detections(graph, checkpoint, options, outputs, batch)
    elif task == "classification":
        (result,), name = outputs, "logits"
        if options.results == "final":
            result = graph.node("Softmax", [result], "softmax", axis=1)
            name = "probabilities"
        graph.output(result, name, np.float32, [batch, checkpoint.architecture.classes])
    elif task == "segmentation" and options.results == "final":
        best = graph.node("ArgMax", outputs, "best", axis=1, keepdims=0)
        type_ = np.uint8 if checkpoint.architecture.classes <= 256 else np.uint16
        mask = graph.node("Cast", [best], "best.small", to=2 if type_ == np.uint8 else 4)
        graph.output(mask, "mask", type_, [batch, *_sides(checkpoint, options)])
    else:
        (result,) = outputs
        net = network(checkpoint.architecture)
        channels = net[net.outputs[0]].out_shape[0]
        shape = [batch, channels, *_sides(checkpoint, options)]
        if options.layout == "nhwc":
            result = graph.node("Transpose", [result], f"{result}.nhwc", perm=TO_NHWC)
            shape = [batch, *shape[2:], channels]
        name = "scores" if task == "segmentation" else "features"
        graph.output(result, name, np.float32, shape)


def _sides(checkpoint: AnyCheckpoint, options: WriteOptions) -> list[Dimension]:
    """Height and width of the network's output."""
    net = network(checkpoint.architecture)
    if not options.dynamic_size:
        return list(net[net.outputs[0]].out_shape[1:])
    is_feature_map = checkpoint.architecture.head.task == "features"
    return ["map_height", "map_width"] if is_feature_map else ["height", "width"]


def _detections(
    graph: Graph,
    checkpoint: AnyCheckpoint,
    options: WriteOptions,
    outputs: list[str],
    batch: Dimension,
) -> None:
    """Adds a detector's results."""
    head = checkpoint.architecture.head
    assert isinstance(head, SSDHead)
    anchors = boxes.anchors(head, network(checkpoint.architecture))
    codes = _per_anchor(graph, outputs[::2], 4, "codes")
    scores = _per_anchor(graph, outputs[1::2], 1 + head.classes, "scores")
    if head.score == "softmax":
        scores = graph.node("Softmax", [scores], "scores.softmax", axis=2)
    scores = _slice(graph, scores, 1, LAST, "scores.objects")
    if head.score == "sigmoid":
        scores = graph.node("Sigmoid", [scores], "scores.sigmoid")
    if options.results == "raw":
        graph.output(codes, "codes", np.float32, [batch, len(anchors), 4])
        graph.output(scores, "scores", np.float32, [batch, len(anchors), head.classes])
        return
    corners = _decoded(graph, codes, anchors.astype(np.float32))
    _best(graph, corners, _with_area(graph, corners, scores), (len(anchors), head.classes), options)


def _per_anchor(graph: Graph, maps: list[str], numbers: int, name: str) -> str:
    """Maps (N, anchors * numbers, H, W) as one tensor (N, n, numbers), a row per anchor."""
    shape = graph.whole(0, -1, numbers)
    rows = []
    for index, values in enumerate(maps):
        last = graph.node("Transpose", [values], f"{name}.nhwc.{index}", perm=TO_NHWC)
        rows.append(graph.node("Reshape", [last, shape], f"{name}.rows.{index}"))
    return graph.node("Concat", rows, f"{name}.all", axis=1)


def _slice(graph: Graph, tensor: str, begin: int, end: int, output: str) -> str:
    """Part of the last of three axes."""
    limits = [graph.whole(begin), graph.whole(end), graph.whole(2)]
    return graph.node("Slice", [tensor, *limits], output)


def _decoded(graph: Graph, codes: str, anchors: Any) -> str:
    """Boxes (N, n, 4) x0, y0, x1, y1 in parts of the pixels, clipped to these."""
    y_x, sizes = anchors[:, :2], anchors[:, 2:]
    scales = 1 / np.array(boxes.CODE_SCALES, np.float64)
    # x before y, as the corners have them
    turned = graph.node("Gather", [codes, graph.whole(1, 0, 3, 2)], "codes.xywh", axis=2)
    turned = graph.node(
        "Mul",
        [turned, graph.constant("codes.scales", scales[[1, 0, 3, 2]].astype(np.float32))],
        "codes.shifts",
    )
    own_size = graph.constant("anchors.size", np.ascontiguousarray(sizes[None, :, ::-1]))
    own_centre = graph.constant("anchors.centre", np.ascontiguousarray(y_x[None, :, ::-1]))
    half_size = graph.constant("anchors.half", np.ascontiguousarray(sizes[None, :, ::-1] / 2))
    shift = graph.node("Mul", [_slice(graph, turned, 0, 2, "shifts"), own_size], "shifts.scaled")
    centre = graph.node("Add", [shift, own_centre], "centres")
    largest = graph.constant("sizes.largest", np.float32(boxes.MAX_LOG_SIZE))
    logarithms = graph.node("Min", [_slice(graph, turned, 2, 4, "sizes.log"), largest], "sizes.min")
    half = graph.node("Mul", [graph.node("Exp", [logarithms], "sizes"), half_size], "sizes.half")
    low = graph.node("Sub", [centre, half], "corners.low")
    high = graph.node("Add", [centre, half], "corners.high")
    both = graph.node("Concat", [low, high], "corners.all", axis=2)
    limits = [graph.constant(f"limit.{x}", np.float32(x)) for x in (0, 1)]
    return graph.node("Clip", [both, *limits], "corners")


def _with_area(graph: Graph, corners: str, scores: str) -> str:
    """The scores (N, n, classes), 0 of boxes without area, which suppression would keep."""
    low, high = (_slice(graph, corners, at, at + 2, f"area.{at}") for at in (0, 2))
    wider = graph.node(
        "Cast", [graph.node("Greater", [high, low], "area.sides")], "area.0or1", to=1
    )
    columns, rows = (_slice(graph, wider, at, at + 1, f"area.side.{at}") for at in (0, 1))
    has_area = graph.node("Mul", [columns, rows], "area.both")
    return graph.node("Mul", [scores, has_area], "scores.with_area")


def _best(
    graph: Graph, corners: str, scores: str, size: tuple[int, int], options: WriteOptions
) -> None:
    """Suppression per class, then the best of all classes of each image; of equal scores the smaller
    class and row come first, as in `boxes.best_boxes`.

    Args:
        graph: The graph.
        corners: Boxes (N, n, 4).
        scores: (N, n, classes).
        size: n and classes.
        options: Which detections.
    """
    from onnx import helper

    by_class = graph.node("Transpose", [scores], "scores.by_class", perm=[0, 2, 1])
    threshold = graph.constant("threshold", np.float32(options.score_threshold))
    kept = graph.node(
        "NonMaxSuppression",
        [
            corners,
            by_class,
            graph.whole(options.max_detections),
            graph.constant("threshold.iou", np.array([options.iou_threshold], np.float32)),
            graph.constant("threshold.score", np.array([options.score_threshold], np.float32)),
        ],
        "kept",
    )
    # what is left, among zeros: the best of an image are the best of its row
    zeros = graph.node("Mul", [by_class, graph.constant("limit.0", np.float32(0))], "kept.zeros")
    values = graph.node("GatherND", [by_class, kept], "kept.scores")
    table = graph.node("ScatterND", [zeros, kept, values], "kept.table")
    flat = graph.node("Flatten", [table], "kept.flat", axis=1)
    count = graph.whole(min(options.max_detections, size[0] * size[1]))
    top = helper.make_node("TopK", [flat, count], ["top.scores", "top.places"], axis=1)
    graph.nodes.append(top)
    above = graph.node("Greater", ["top.scores", threshold], "top.above")
    places = graph.node("NonZero", [above], "top.nonzero")
    rows = graph.node("Transpose", [places], "top.rows", perm=[1, 0])  # (D, 2) image and place
    row_and_class = graph.node("GatherND", ["top.places", rows], "top.indices")
    anchors = graph.whole(size[0])
    of_class = graph.node("Div", [row_and_class, anchors], "top.classes")
    row = graph.node("Mod", [row_and_class, anchors], "top.anchors")
    image = graph.node(
        "Slice", [rows, graph.whole(0), graph.whole(1), graph.whole(1)], "top.images"
    )
    column = graph.node("Reshape", [row, graph.whole(-1, 1)], "top.anchor_column")
    index = graph.node("Concat", [image, column], "top.boxes", axis=1)
    best = graph.node("GatherND", [corners, index], "top.corners")
    score = graph.node("GatherND", ["top.scores", rows], "top.values")
    graph.output(best, "boxes", np.float32, ["detections", 4])
    graph.output(score, "scores", np.float32, ["detections"])
    graph.output(of_class, "classes", np.int64, ["detections"])
    if options.batch != 1:
        images = graph.node("Reshape", [image, graph.whole(-1)], "top.image_list")
        graph.output(images, "images", np.int64, ["detections"])
