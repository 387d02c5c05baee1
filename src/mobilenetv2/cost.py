"""What a network costs: multiply-adds, parameters, activation memory and receptive fields, all
loops over `layers()`.

Conventions, as in the paper and TF-slim. One multiply-add is one multiplication and one addition,
so a figure in FLOPs is twice as large. Convolutions and the linear layer are counted; batch norm
(which folds into the convolution before it), biases, additions, pooling and resizing are not.
Parameters are what is trained: kernels, biases, and batch norm's gamma and beta, but not its
running statistics.

Sources: Sandler et al. 2018 (arXiv 1801.04381 v4), Sections 3.1 and 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .architecture import Architecture
from .arguments import check_kind, check_list, check_whole
from .errors import ArchitectureError, UserError
from .graph import layers, network
from .layer import Layer


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs on one image.

    Attributes:
        layer: The layer, with its shapes.
        macs: Multiply-adds.
        parameters: Trained numbers, batch norm's gamma and beta among them.
        parameters_without_batch_norm: Kernel and bias alone.
        activation_bytes: Size of the output tensor.
        receptive_field: Side of the square of the image that one output value depends on, in
            pixels. It may reach beyond the image. After a global pool: the longer side.
    """

    layer: Layer
    macs: int
    parameters: int
    parameters_without_batch_norm: int
    activation_bytes: int
    receptive_field: int


@dataclass(frozen=True)
class Cost:
    """What a network costs on one image, layer by layer and in total; units as in `LayerCost`."""

    layers: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole network."""
        return sum(row.macs for row in self.layers)

    @property
    def parameters(self) -> int:
        """Trained numbers, batch norm's gamma and beta among them."""
        return sum(row.parameters for row in self.layers)

    @property
    def parameters_without_batch_norm(self) -> int:
        """Kernels and biases alone, as TF-slim counts."""
        return sum(row.parameters_without_batch_norm for row in self.layers)

    @property
    def activation_bytes(self) -> int:
        """All output tensors together; for what has to be held at one time, see `peak_memory`."""
        return sum(row.activation_bytes for row in self.layers)


@dataclass(frozen=True)
class MemoryStep:
    """The activations held while one operator runs, in bytes.

    Attributes:
        name: The layer, or `features.<block>` for a block that runs as one operator.
        input_bytes: Tensors it reads.
        output_bytes: Tensors it writes.
        inner_bytes: Slices of the inner tensor alive inside the operator.
        held_bytes: Other tensors that wait for a later reader, such as a shortcut's.
    """

    name: str
    input_bytes: int
    output_bytes: int
    inner_bytes: int
    held_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything that is held while the operator runs."""
        return self.input_bytes + self.output_bytes + self.inner_bytes + self.held_bytes


def network_cost(
    architecture: Architecture,
    height: int | None = None,
    width: int | None = None,
    bytes_per_element: int = 4,
) -> Cost:
    """Counts a network on an image of height x width (default: the architecture's own resolution).

    Args:
        architecture: Which network.
        height: Rows of the image.
        width: Columns of the image.
        bytes_per_element: Of an activation: 4 for float32, 2 for the paper's 16 bit, 1 for int8.

    Raises:
        UserError: An argument is out of range; the message names it.
    """
    check_whole("bytes_per_element", bytes_per_element)
    described = layers(architecture, height, width)
    fields = receptive_fields(described)
    return Cost(
        tuple(
            LayerCost(
                layer,
                layer_macs(layer),
                _parameters(layer) + _norm_parameters(layer),
                _parameters(layer),
                math.prod(layer.out_shape) * bytes_per_element,
                fields[layer.name],
            )
            for layer in described
        )
    )


def layer_macs(layer: Layer) -> int:
    """Multiply-adds of one layer: one kernel for every output position; 0 where there is no kernel."""
    return math.prod(layer.weight_shape) * math.prod(layer.out_shape[1:]) if layer.weight else 0


def separable_saving(kernel: int, out_channels: int) -> float:
    """How many times cheaper depthwise + pointwise is than one regular convolution: k^2 d / (k^2 +
    d), Section 3.1.
    """
    return kernel**2 * out_channels / (kernel**2 + out_channels)


def regular_convolution_macs(
    architecture: Architecture, height: int | None = None, width: int | None = None
) -> int:
    """Multiply-adds of the same network with one regular k x k convolution for each depthwise +
    projection pair.
    """
    macs, kernel = 0, 1
    for layer in layers(architecture, height, width):
        if layer.kind == "depthwise":
            kernel = layer.kernel
        else:
            macs += layer_macs(layer) * (kernel**2 if layer.role == "project" else 1)
    return macs


def receptive_fields(described: Sequence[Layer]) -> dict[str, int]:
    """Side of the square of the image that one output value of each layer depends on, in pixels,
    by layer name.

    A field grows by (kernel - 1) * dilation steps of the grid it looks at; a step is the product of
    the strides so far."""
    seen: dict[str, tuple[int, float]] = {
        "image": (1, 1.0)
    }  # field and step of each tensor, in pixels
    for layer in described:
        field = max(seen[source][0] for source in layer.sources)
        step = max(seen[source][1] for source in layer.sources)
        rows, columns = layer.in_shape[1:]
        if layer.kind == "pool":
            seen[layer.name] = (
                field + round((max(rows, columns) - 1) * step),
                0.0,
            )  # a single place: no step
        elif layer.kind == "resize" and layer.in_shape != layer.out_shape:
            finer = step * (rows - 1) / max(layer.out_shape[1] - 1, 1)
            seen[layer.name] = (field + round(step), finer)  # bilinear: two neighbours
        else:
            seen[layer.name] = (
                field + round((layer.kernel - 1) * layer.dilation * step),
                step * layer.stride,
            )
    return {layer.name: seen[layer.name][0] for layer in described}


def operator_memory(
    architecture: Architecture,
    height: int | None = None,
    width: int | None = None,
    bytes_per_element: int = 4,
) -> tuple[MemoryStep, ...]:
    """Activation memory when one layer runs after another and a tensor is freed after its last
    reader (Section 5.1).

    Args:
        architecture: Which network.
        height: Rows of the image; the architecture's own resolution if None.
        width: Columns of the image.
        bytes_per_element: Of an activation; the image counts as one.

    Raises:
        UserError: An argument is out of range; the message names it.
    """
    check_whole("bytes_per_element", bytes_per_element)
    net = network(architecture, height, width)
    return tuple(_steps([[layer] for layer in net.layers], net.outputs, None, bytes_per_element))


def bottleneck_memory(
    architecture: Architecture,
    height: int | None = None,
    width: int | None = None,
    bytes_per_element: int = 4,
    *,
    splits: int | None = None,
    fuse_stem: bool = False,
) -> tuple[MemoryStep, ...]:
    """Activation memory when a whole block runs as one operator and its inner tensor is never there
    as a whole.

    Args:
        architecture: Which network.
        height: Rows of the image; the architecture's own resolution if None.
        width: Columns of the image.
        bytes_per_element: Of an activation; the image counts as one.
        splits: The paper's t-way split: the n inner channels pass in `splits` slices, each of which
            holds (s^2 + s'^2) * ceil(n / splits) elements before and after the depthwise
            convolution. A number of n or more leaves one channel. None leaves the slices out: the
            limit, |s^2 k| + |s'^2 k'|.
        fuse_stem: The first block and the stem run as one operator too, the paper's trick for the
            first layer.

    Raises:
        UserError: An argument is out of range, or the stem cannot be fused; the message names it.
    """
    check_whole("bytes_per_element", bytes_per_element)
    if splits is not None:
        check_whole("splits", splits)
    check_kind("architecture", architecture, Architecture)
    if fuse_stem and architecture.stages[0].expansion != 1:
        raise ArchitectureError(
            "fuse_stem needs a first stage of expansion 1: only then is the stem the inner tensor"
        )
    net = network(architecture, height, width)
    groups = _bottlenecks(net.layers, fuse_stem)
    return tuple(_steps(groups, net.outputs, splits, bytes_per_element))


def peak_memory(steps: Sequence[MemoryStep]) -> MemoryStep:
    """The step of `operator_memory` or `bottleneck_memory` that holds most; of equals, the first."""
    check_list("steps", steps)
    for step in steps:
        check_kind("a step", step, MemoryStep)
    if not steps:
        raise UserError("steps must be those of a network, not none")
    return max(steps, key=lambda step: step.total_bytes)


def _parameters(layer: Layer) -> int:
    if not layer.weight:
        return 0
    return math.prod(layer.weight_shape) + (layer.out_shape[0] if layer.bias else 0)


def _norm_parameters(layer: Layer) -> int:
    return 2 * layer.out_shape[0] if layer.norm else 0


def _bottlenecks(described: Sequence[Layer], fuse_stem: bool) -> list[list[Layer]]:
    """The layers, those of one block together."""
    groups: list[list[Layer]] = []
    for layer in described:
        before = groups[-1][-1] if groups else None
        same_block = before is not None and layer.block is not None and before.block == layer.block
        after_stem = before is not None and before.role == "stem"
        if same_block or (after_stem and fuse_stem):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def _steps(
    groups: Sequence[Sequence[Layer]],
    outputs: Sequence[str],
    splits: int | None,
    bytes_per_element: int,
) -> Iterator[MemoryStep]:
    """Runs the groups in order and looks at which tensors are alive."""
    elements = {"image": math.prod(groups[0][0].in_shape)}
    elements |= {layer.name: math.prod(layer.out_shape) for group in groups for layer in group}
    last_reader = {
        source: at for at, group in enumerate(groups) for layer in group for source in layer.sources
    }
    last_reader |= dict.fromkeys(outputs, len(groups))  # they go to the caller

    def size(names: set[str]) -> int:
        return sum(elements[name] for name in names) * bytes_per_element

    alive = {"image"}
    for at, group in enumerate(groups):
        own = {layer.name for layer in group}
        inputs = {source for layer in group for source in layer.sources} - own
        written = {name for name in own if last_reader.get(name, at) > at}
        inner = _slice_elements(group, splits) * bytes_per_element
        yield MemoryStep(
            _group_name(group), size(inputs), size(written), inner, size(alive - inputs)
        )
        alive = {name for name in alive | written if last_reader.get(name, at) > at}


def _slice_elements(group: Sequence[Layer], splits: int | None) -> int:
    if splits is None:
        return 0
    return sum(
        (math.prod(layer.in_shape[1:]) + math.prod(layer.out_shape[1:]))
        * math.ceil(layer.in_shape[0] / splits)
        for layer in group
        if layer.kind == "depthwise"
    )


def _group_name(group: Sequence[Layer]) -> str:
    return group[0].name if len(group) == 1 else f"features.{group[-1].block}"
