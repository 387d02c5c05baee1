"""From steps to what the extension runs on images of one size: sizes, strips of rows, and a place in
memory for every tensor.

On small maps an inverted residual runs a chunk of wide channels at a time over the whole plane
("plane"), elsewhere in strips of rows ("rows")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import calcsize
from typing import TYPE_CHECKING, Any

from ..graph import Network
from ..layer import IMAGE, Layer, Shape
from . import _native
from .bands import Band, banded
from .budgets import BUDGETS, chunk_panels, fits_plane
from .chains import cut_stripes, cut_strips, longer_chain
from .packing import Weights, up_to_block
from .placing import UnplacedStep, place
from .steps import Stage, Step, Steps

if TYPE_CHECKING:
    from ..int8 import Int8Checkpoint


BLOCK = _native.BLOCK  # channels that blocked tensors keep together
FLOAT_BYTES = 4
LABELS_IN_A_BYTE = 256
MASK = "mask"  # name of the output with the best class of each pixel
WORTH_STRIPES = 0.9  # of the memory, at most: stripes cost a hundredth of the time
LIMITS = {"linear": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
KINDS = {
    "matmul": _native.StepKind.MATMUL,
    "mean": _native.StepKind.MEAN,
    "add": _native.StepKind.ADD,
    "concat": _native.StepKind.CONCAT,
    "resize": _native.StepKind.RESIZE,
}


@dataclass(frozen=True)
class Plan:
    """A network for images of one size.

    Attributes:
        native: The extension's plan.
        outputs: (channels, height, width) of each output, by name, in the order in which the
            extension writes them.
        mask: Name of the output that is the best class of each pixel, the last one; None without.
        steps: Of each step the first layer, the last layer and the kind.
        native_steps: The steps that the plan was made of.
    """

    native: _native.Plan
    outputs: dict[str, Shape]
    mask: str | None
    steps: tuple[tuple[str, str, str], ...]
    native_steps: tuple[_native.Step, ...]

    def empty_answers(self, images: int) -> dict[str, memoryview]:
        """Memory for the outputs of so many images: float32 (N, H, W, C), a mask uint8 (N, H, W), or
        uint16 of more than 256 classes.
        """
        answers: dict[str, memoryview[Any]] = {}
        for name, (channels, height, width) in self.outputs.items():
            if name != self.mask:
                answers[name] = _memory("f", images, height, width, channels)
            elif channels <= LABELS_IN_A_BYTE:
                answers[name] = _memory("B", images, height, width)
            else:
                answers[name] = _memory("H", images, height, width)
        return answers


def _memory(kind: str, *shape: int) -> memoryview[Any]:
    memory: Any = memoryview(bytearray(calcsize(kind) * math.prod(shape)))
    return memory.cast(kind, shape)  # type: ignore[no-any-return]


def plan(
    network: _native.ByteNetwork,
    described: Network,
    steps: Steps,
    weights: Weights,
    threads: int,
    int8: Int8Checkpoint | None = None,
    mask_of: str | None = None,
) -> Plan:
    """Plans a run.

    Args:
        network: Holds the weights.
        described: The network for images of one size.
        steps: The same network as steps.
        weights: Where the weights are.
        threads: That will run it.
        int8: The checkpoint, of an int8 network.
        mask_of: Name of the map of scores, of which the best class of each pixel is an output too.
            It is a resize of the steps' only output, or that itself.
    """
    draft = _draft(described, steps, weights, threads, int8, mask_of)
    stripes = threads == 1 and BUDGETS[weights.item_bytes].stripe_rows > 0
    longer = longer_chain(steps, draft.layers) if stripes else None
    if longer is not None:
        joined = 1 + len(steps.steps) - len(longer.steps)
        if max(draft.needs[:joined]) >= WORTH_STRIPES * max(draft.needs):
            other = _draft(described, longer, weights, threads, int8, mask_of)
            if max(other.needs) <= WORTH_STRIPES * max(draft.needs):
                draft = other
    shown = tuple((*todo.names, todo.step.kind.name.lower()) for todo in draft.unplaced)
    native = tuple(todo.step for todo in draft.unplaced)
    mask = None if mask_of is None else MASK
    return Plan(network.plan(list(native), threads), draft.outputs, mask, shown, native)


@dataclass(frozen=True)
class _Draft:
    """The steps in their places.

    Attributes:
        layers: Of the network, by name.
        unplaced: The steps.
        outputs: As in `Plan`.
        needs: Elements of memory that each step needs.
    """

    layers: dict[str, Layer]
    unplaced: list[UnplacedStep]
    outputs: dict[str, Shape]
    needs: list[int]


def _draft(
    described: Network,
    steps: Steps,
    weights: Weights,
    threads: int,
    int8: Int8Checkpoint | None,
    mask_of: str | None,
) -> _Draft:
    layers = {layer.name: layer for layer in described.layers}
    unplaced = [
        _unplaced(step, layers, weights, threads, band)
        for step, band in banded(steps, layers, threads)
    ]
    results = frozenset(layers)
    if int8:
        results = _finish_int8(layers, unplaced, described, int8)
    elif weights.item_bytes < FLOAT_BYTES:
        results = _finish_bf16(layers, unplaced, described)
    names = steps.outputs
    if mask_of is not None:
        names = tuple(name for name in names if name in results)
        stored = weights.item_bytes < FLOAT_BYTES
        unplaced.append(
            _labels(layers[mask_of], steps.outputs[0], int8, results if stored else None)
        )
    written = _add_float_outputs(layers, unplaced, names, int8, results)
    outputs = {name: layers[name].out_shape for name in names}
    if mask_of is not None:
        written[MASK] = len(names)
        outputs[MASK] = layers[mask_of].out_shape
    return _Draft(layers, unplaced, outputs, place(unplaced, written, weights.item_bytes))


def _add_float_outputs(
    layers: Mapping[str, Layer],
    unplaced: list[UnplacedStep],
    outputs: Sequence[str],
    int8: Int8Checkpoint | None,
    results: frozenset[str],
) -> dict[str, int]:
    """Adds the steps that turn stored int8 and bfloat16 outputs into float32; a resize that nobody reads turns
    them itself.

    Args:
        layers: By name.
        unplaced: The steps, which are added to.
        outputs: Names of the network's outputs.
        int8: The checkpoint, of an int8 network.
        results: The layers whose results are float32.

    Returns:
        The index of the caller's array that each tensor is written to, by the tensor's name.
    """
    written: dict[str, int] = {}
    read = {name for todo in unplaced for name in todo.inputs}
    for index, name in enumerate(outputs):
        resized = layers[name].kind == "resize" and name not in read
        if name in results or resized:
            written[name] = index
        else:
            todo = _to_float(layers[name], int8)
            written[todo.output] = index
            unplaced.append(todo)
    return written


def _finish_int8(
    layers: Mapping[str, Layer],
    unplaced: Sequence[UnplacedStep],
    described: Network,
    int8: Int8Checkpoint,
) -> frozenset[str]:
    """Puts into the steps what they need to know of an int8 network; returns the layers whose
    results are float32.
    """
    from ..int8 import float_results
    from .int8_packing import finish_step

    results = float_results(described, int8.rounding)
    for todo in unplaced:
        finish_step(todo.step, layers[todo.output], int8, results)
        todo.item_scale = FLOAT_BYTES if todo.output in results else 1
    return results


def _finish_bf16(
    layers: Mapping[str, Layer], unplaced: Sequence[UnplacedStep], described: Network
) -> frozenset[str]:
    """The same of a network in bfloat16."""
    from ..int8 import float_results
    from .bf16_packing import finish_bf16

    results = float_results(described, "nearest")
    finish_bf16(layers, unplaced, results)
    return results


def _to_float(layer: Layer, int8: Int8Checkpoint | None) -> UnplacedStep:
    """The step that makes float32 of what a layer stores."""
    step = _native.Step()
    step.kind = _native.StepKind.TO_FLOAT
    channels, height, width = layer.out_shape
    step.in_channels, step.in_height, step.in_width = channels, height, width
    step.out_channels, step.out_height, step.out_width = channels, height, width
    if int8:
        from .int8_packing import float_rounding

        step.rounding = float_rounding(int8, layer)
    names = layer.name, layer.name
    return UnplacedStep(step, names, (layer.name,), f"{layer.name} in float32", layer.out_shape)


def _labels(
    scores: Layer, source: str, int8: Int8Checkpoint | None, results: frozenset[str] | None
) -> UnplacedStep:
    """The step that says which class of a map is the best at each place.

    Args:
        scores: The map, which the step does not make if it is a resize.
        source: What is resized, or the map itself.
        int8: The checkpoint, of an int8 network.
        results: The layers whose results are float32, where others are stored in fewer bits.
    """
    step = _native.Step()
    step.kind = _native.StepKind.LABELS
    step.in_channels, step.in_height, step.in_width = scores.in_shape
    if scores.name == source:
        step.in_channels, step.in_height, step.in_width = scores.out_shape
    step.out_channels, step.out_height, step.out_width = scores.out_shape
    step.label_bytes = 1 if step.out_channels <= LABELS_IN_A_BYTE else 2
    step.reads_floats = results is not None and source in results
    step.signed_codes = int8 is not None and int8.signed
    return UnplacedStep(step, (scores.name, scores.name), (source,), MASK, scores.out_shape)


def _unplaced(
    outline: Step,
    layers: Mapping[str, Layer],
    weights: Weights,
    threads: int,
    band: Band | None,
) -> UnplacedStep:
    first, last = layers[outline.layers[0]], layers[outline.output]
    step = _native.Step()
    step.in_channels, step.in_height, step.in_width = first.in_shape
    step.out_channels, step.out_height, step.out_width = last.out_shape
    names = first.name, last.name
    if band is not None:
        step.in_height = step.out_height = band.height
        step.in_width = step.out_width = band.width
    todo = UnplacedStep(step, names, outline.sources, last.name, last.out_shape, band=band)
    if outline.stages:
        _fill_stages(todo, outline, layers, weights, threads)
    else:
        step.kind = KINDS[outline.kind]
        step.input_channels = [_channels(name, first, layers) for name in outline.sources]
    if outline.kind == "matmul":
        step.matrix = weights.handles[first.name]
        step.low, step.high = LIMITS[first.activation]
    return todo


def _channels(name: str, reader: Layer, layers: Mapping[str, Layer]) -> int:
    return reader.in_shape[0] if name == IMAGE else layers[name].out_shape[0]


def _fill_stages(
    todo: UnplacedStep,
    outline: Step,
    layers: Mapping[str, Layer],
    weights: Weights,
    threads: int,
) -> None:
    """Chooses how an inverted residual or a chain runs, and how much of it at a time."""
    step, stages = todo.step, [_native_stage(stage, layers, weights) for stage in outline.stages]
    todo.in_place = len(stages) == 1 and outline.stages[0].add is not None
    depthwise = layers[outline.stages[0].depthwise or outline.layers[0]]
    if outline.kind == "block" and fits_plane(
        depthwise, step.in_channels + step.out_channels, weights, threads
    ):
        step.kind = _native.StepKind.PLANE
        step.chunk = chunk_panels(depthwise, weights, threads)
        wide = up_to_block(depthwise.out_shape[0])
        todo.scratch_items = wide * math.prod(depthwise.out_shape[1:])
        at_once = min(step.chunk * weights.panel_channels, wide)
        todo.thread_items = threads * at_once * math.prod(depthwise.in_shape[1:])
    else:
        step.kind = _native.StepKind.ROWS
        if outline.kind == "stripes":
            cut_stripes(step, stages, BUDGETS[weights.item_bytes].stripe_rows)
        else:
            budget = BUDGETS[weights.item_bytes].strip_bytes // min(threads, 2)
            cut_strips(stages, weights.item_bytes, budget)
        step.stages = stages
        todo.thread_items = threads * _native.rows_scratch(step, weights.item_bytes)
        if todo.in_place:
            # bands of rows keep copies of the rows around their edges for one another
            halo_rows = 2 * depthwise.dilation * (threads - 1)
            todo.scratch_items = halo_rows * depthwise.in_shape[2] * step.in_channels
    step.stages = stages


def _native_stage(outline: Stage, layers: Mapping[str, Layer], weights: Weights) -> _native.Stage:
    """The numbers of an inverted residual, a lone depthwise layer or a k x k convolution."""
    stage = _native.Stage()
    spatial = layers[outline.conv or outline.depthwise or ""]
    stage.in_channels, stage.in_height, stage.in_width = layers[outline.layers[0]].in_shape
    stage.out_channels, stage.out_height, stage.out_width = layers[outline.layers[-1]].out_shape
    stage.wide_channels = up_to_block(spatial.in_shape[0])
    stage.kernel, stage.stride, stage.dilation = spatial.kernel, spatial.stride, spatial.dilation
    stage.top, _, stage.left, _ = spatial.padding
    stage.shortcut = outline.add is not None
    if outline.conv:
        stage.conv = weights.handles[outline.conv]
        stage.conv_pixels = weights.pixels if IMAGE in spatial.sources else -1
        stage.low, stage.high = LIMITS[spatial.activation]
    if outline.expand:
        stage.expand = weights.handles[outline.expand]
    if outline.depthwise:
        stage.depthwise = weights.handles[outline.depthwise]
        stage.wide_low, stage.wide_high = LIMITS[spatial.activation]
    if outline.project:
        stage.project = weights.handles[outline.project]
        stage.low, stage.high = LIMITS[layers[outline.project].activation]
    return stage
