"""A checkpoint as an ML Program, by coremltools' builder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..graph import network
from ..heads import SSDHead
from ..layer import IMAGE, Layer
from .arrays import check_float16, folded
from .options import WriteOptions, result_names


def build(checkpoint: Checkpoint, options: WriteOptions) -> Any:
    """The program; its input is "image", its outputs are those of `result_names`."""
    import coremltools
    from coremltools.converters.mil import Builder

    architecture = checkpoint.architecture
    shape = (options.batch, architecture.in_channels, *architecture.resolution)

    @Builder.program(  # type: ignore[untyped-decorator]
        input_specs=[Builder.TensorSpec(shape=shape)], opset_version=coremltools.target.iOS15
    )
    def program(image: Any) -> Any:
        if options.input == "uint8":
            scale, offset = (
                np.asarray(values, np.float32).reshape(1, -1, 1, 1)
                for values in checkpoint.preprocessing.scale_offset()
            )
            scaled = Builder.mul(x=image, y=scale, name="image_scaled")
            image = Builder.add(x=scaled, y=offset, name="image_normalised")
        net = network(architecture)
        values = {IMAGE: image}
        for layer in net.layers:
            sources = [values[name] for name in layer.sources]
            weights = folded(checkpoint, layer) if layer.weight else ()
            if options.float16:
                check_float16("coreml", layer.name, *weights)
            values[layer.name] = add_layer(Builder, layer, sources, *weights)
        results = _results(Builder, checkpoint, options, [values[name] for name in net.outputs])
        for value, name in zip(results, result_names(checkpoint, options), strict=True):
            value.name = name
        return tuple(results)

    return program


def add_layer(builder: Any, layer: Layer, sources: list[Any], *weights: NDArray[np.float32]) -> Any:
    """Adds a layer of the network; returns its result, (N, channels, height, width), of a linear
    layer (N, classes).
    """
    x, name = sources[0], layer.name.replace(".", "_")
    if layer.kind == "add":
        return builder.add(x=x, y=sources[1], name=name)
    if layer.kind == "concat":
        return builder.concat(values=sources, axis=1, name=name)
    if layer.kind == "pool":
        return builder.reduce_mean(x=x, axes=[2, 3], keep_dims=True, name=name)
    if layer.kind == "resize":
        return builder.resize_bilinear(
            x=x,
            target_size_height=layer.out_shape[1],
            target_size_width=layer.out_shape[2],
            sampling_mode="STRICT_ALIGN_CORNERS",
            name=name,
        )
    kernel, bias = weights
    last = layer.activation == "linear"
    if layer.kind == "linear":
        flat = builder.squeeze(x=x, axes=[2, 3], name=f"{name}_input")
        y = builder.linear(x=flat, weight=kernel, bias=bias, name=name if last else f"{name}_sum")
    else:
        y = builder.conv(
            x=x,
            weight=kernel,
            bias=bias,
            strides=[layer.stride] * 2,
            dilations=[layer.dilation] * 2,
            groups=layer.groups,
            pad_type="custom",
            pad=list(layer.padding),
            name=name if last else f"{name}_sum",
        )
    return y if last else getattr(builder, layer.activation)(x=y, name=name)


def _results(
    builder: Any, checkpoint: Checkpoint, options: WriteOptions, outputs: list[Any]
) -> list[Any]:
    """What makes the file's results of the network's outputs."""
    head = checkpoint.architecture.head
    if isinstance(head, SSDHead):
        return _detections(builder, head, outputs)
    if options.results == "final" and head.task == "classification":
        return [builder.softmax(x=outputs[0], axis=1)]
    if options.results == "final" and head.task == "segmentation":
        return [builder.reduce_argmax(x=outputs[0], axis=1, keep_dims=False)]
    return outputs


def _detections(builder: Any, head: SSDHead, outputs: list[Any]) -> list[Any]:
    """Codes (N, anchors, 4) and probabilities (N, anchors, classes) of a detector's maps."""
    joined = []
    for begin, numbers in ((0, 4), (1, 1 + head.classes)):
        rows = []
        for output in outputs[begin::2]:
            last = builder.transpose(x=output, perm=[0, 2, 3, 1])
            shape: NDArray[np.int32] = np.array([output.shape[0], -1, numbers], np.int32)
            rows.append(builder.reshape(x=last, shape=shape))
        joined.append(builder.concat(values=rows, axis=1))
    codes, scores = joined
    if head.score == "sigmoid":
        scores = builder.sigmoid(x=scores)
    else:
        scores = builder.softmax(x=scores, axis=2)
    # without the background, the first column
    rest = builder.slice_by_index(
        x=scores,
        begin=[0, 0, 1],
        end=[0, 0, 0],
        begin_mask=[True, True, False],
        end_mask=[True] * 3,
    )
    return [codes, rest]
