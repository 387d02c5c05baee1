"""A Core ML package, computed from its saved program in NumPy: only macOS has Core ML itself.

What is read back is the written specification and its weights; every operator that the writer uses
is evaluated as coremltools documents it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..int8 import AnyCheckpoint
from ..layer import Layer
from ..runtime.reference import convolution, depthwise, resize_corners
from ..writers.coreml import quiet
from ..writers.options import WriteOptions, WriterError, result_names

Array = NDArray[Any]


def run(
    path: Path, pixels: NDArray[np.uint8], checkpoint: AnyCheckpoint, options: WriteOptions
) -> dict[str, Any]:
    """The package's results on pixels (N, H, W, C), as this package's docstring lists them.

    Values are float32 between operators, also where the package computes in float16.

    Raises:
        WriterError: The program has an operator that the writer does not use.
    """
    program = read_program(path)
    images = pixels.astype(np.float32)
    if options.input == "float32":
        images = checkpoint.preprocessing.normalize(pixels).astype(np.float32)
    images = images.transpose(0, 3, 1, 2)
    batch, names = options.batch or 1, result_names(checkpoint, options)
    # a batch that the images do not fill is filled with the last one
    missing = -len(images) % batch
    filled = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
    parts = [
        evaluate(program, filled[begin : begin + batch], names)
        for begin in range(0, len(filled), batch)
    ]
    results = {}
    for name in names:
        values = np.concatenate([part[name] for part in parts])[: len(images)]
        results[name] = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
    if "mask" in results:
        results["mask"] = results["mask"].astype(np.uint8)
    return results


def read_program(path: Path) -> Any:
    """The program of a saved package, with its weights."""
    with quiet():
        import coremltools
        from coremltools.converters.mil.frontend.milproto.load import load

        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        return load(spec, spec.specificationVersion, model.weights_dir)


def evaluate(program: Any, image: Array, names: tuple[str, ...]) -> dict[str, Array]:
    """The named tensors of a program for an image (N, C, H, W)."""
    values: dict[str, Array] = {"image": image}

    def value(variable: Any) -> Any:
        if isinstance(variable, list | tuple):
            return [value(each) for each in variable]
        known = values.get(variable.name)
        return variable.val if known is None else known

    for operation in program.functions["main"].operations:
        if operation.op_type in ("const", "classify"):
            continue
        inputs = {
            name: value(variable)
            for name, variable in operation.inputs.items()
            if variable is not None
        }
        if operation.op_type not in OPERATORS:
            raise WriterError(f"coreml: {operation.op_type} is not checked")
        (output,) = operation.outputs
        result = OPERATORS[operation.op_type](**inputs)
        if tuple(result.shape) != tuple(output.shape):
            raise WriterError(f"coreml: {output.name} is {output.shape}, not {result.shape}")
        values[output.name] = result
    return {name: values[name] for name in names}


def _conv(x: Array, weight: Array, bias: Array, **settings: Any) -> Array:
    channels, rows, columns = x.shape[1:]
    top, bottom, left, right = (int(side) for side in settings["pad"])
    kernel, stride, dilation = (
        weight.shape[2],
        *(int(settings[name][0]) for name in ("strides", "dilations")),
    )
    reach = dilation * (kernel - 1)
    out = (
        weight.shape[0],
        *(
            (size + before + after - reach - 1) // stride + 1
            for size, before, after in ((rows, top, bottom), (columns, left, right))
        ),
    )
    kind = "conv" if settings["groups"] == 1 else "depthwise"
    layer = Layer(
        kind, "", "", None, (), (channels, rows, columns), out, kernel, stride, dilation,
        (top, bottom, left, right),
    )  # fmt: skip
    compute = convolution if kind == "conv" else depthwise
    y = compute(x.transpose(0, 2, 3, 1), np.asarray(weight, np.float32), layer)
    return (y + bias.astype(np.float32)).transpose(0, 3, 1, 2)


def _resize(x: Array, target_size_height: int, target_size_width: int, sampling_mode: str) -> Array:
    if sampling_mode != "STRICT_ALIGN_CORNERS":
        raise WriterError(f"coreml: resize with {sampling_mode} is not checked")
    height, width = int(target_size_height), int(target_size_width)
    return resize_corners(x.transpose(0, 2, 3, 1), height, width).transpose(0, 3, 1, 2)


def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    shares: Array = powers / powers.sum(axis, keepdims=True)
    return shares


def _slice(x: Array, begin: Array, end: Array, begin_mask: Array, end_mask: Array) -> Array:
    return x[
        tuple(
            slice(None if any_begin else b, None if any_end else e)
            for b, e, any_begin, any_end in zip(begin, end, begin_mask, end_mask, strict=True)
        )
    ]


OPERATORS: dict[str, Callable[..., Array]] = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "concat": lambda values, axis, interleave: np.concatenate(values, axis),
    "conv": lambda pad_type, **inputs: _conv(**inputs),
    "linear": lambda x, weight, bias: x @ weight.T.astype(np.float32) + bias.astype(np.float32),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(axes), keepdims=bool(keep_dims)),
    "reduce_argmax": lambda x, axis, keep_dims: x.argmax(axis),
    "reshape": lambda x, shape: x.reshape(shape),
    "resize_bilinear": _resize,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "slice_by_index": _slice,
    "softmax": _softmax,
    "squeeze": lambda x, axes: x.squeeze(tuple(axes)),
    "transpose": lambda x, perm: x.transpose(perm),
    "cast": lambda x, dtype: x,
}
