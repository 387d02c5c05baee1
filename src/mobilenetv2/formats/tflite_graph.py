"""A TensorFlow Lite file as a graph of operators and tensors, with the options that readers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError

TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
POSTPROCESS = "TFLite_Detection_PostProcess"  # a custom operator
KERNEL_AXES = {
    "CONV_2D": (0, 3, 1, 2),
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),
    "FULLY_CONNECTED": (0, 1),
}
# Many entries of a small file may share their content, so that all of them together have no limit.
MAX_ENTRIES = 4096  # tensors, operators; the largest known network has 400
MAX_INDICES = 16  # axes of a tensor, inputs of an operator
MAX_NAME = 200
MAX_CUSTOM_BYTES = 4096


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file. Its arrays are views of the file.

    Attributes:
        name: As in the file.
        shape: Its axes.
        dtype: Its NumPy type; `numpy.void` for a type that is not read.
        data: The stored bytes of a constant; empty for any other tensor.
        scale: real = scale * (stored - zero_point): one scale, or one per index of `axis`; of size
            0 for a tensor that is not quantised.
        zero_point: Likewise, or one for all.
        axis: Along which the scales lie.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int

    def values(self) -> NDArray[Any]:
        """The values of a constant as stored."""
        if not self.data.size:
            raise ModelFileError(
                f"the tensor {self.name!r} has no values: weights computed at run time are not read"
            )
        if self.dtype is np.void:
            raise ModelFileError(f"the tensor {self.name!r} is of a type that is not read")
        values: NDArray[Any] = self.data.view(self.dtype)
        return values.reshape(self.shape)

    def real(self) -> NDArray[np.float64]:
        """The values of a constant as real numbers: scale * (stored - zero point)."""
        values = self.values().astype(np.float64)
        if self.scale.size == 0:
            return values
        shape = [1] * values.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        zero = np.broadcast_to(self.zero_point.astype(np.float64), self.scale.shape)
        return (values - zero.reshape(shape)) * self.scale.astype(np.float64).reshape(shape)


@dataclass(frozen=True)
class Op:
    """An operator.

    Attributes:
        code: Its TensorFlow Lite name, or that of a custom operator.
        inputs: Indices into `Graph.tensors`; -1 for an optional input that is not given.
        outputs: Likewise.
        options: By their TensorFlow Lite names.
    """

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]

    def in_torch_axes(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """This operator's kernel in PyTorch's axes: OHWI -> OIHW, depthwise 1HWC -> C1HW."""
        return kernel.transpose(KERNEL_AXES[self.code])


@dataclass(frozen=True)
class Graph:
    """The one subgraph of a file; its operators are in the order in which they run."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def stored(self, index: int) -> Tensor:
        """The tensor with the values of a constant; a DEQUANTIZE may follow it, as for float16."""
        for op in self.ops:
            if op.code == "DEQUANTIZE" and index in op.outputs:
                index = op.inputs[0]
        return self.tensors[index]

    def constant(self, index: int) -> NDArray[np.float64]:
        """The values of a weight or bias as real numbers."""
        return self.stored(index).real()

    def whole_numbers(self, index: int) -> tuple[int, ...]:
        """The values of a constant that is a short list: axes, or amounts of padding."""
        values = self.stored(index).values().ravel()
        return _whole_numbers(values.size, lambda: values)


def parse(content: bytes) -> Graph:
    """The graph of a file.

    Raises:
        ModelFileError: Several subgraphs, or more tensors or operators than a network has.
        Exception: Nearly anything, if the file is damaged.
    """
    import tflite  # late: it is large, and most runs read our own files

    model = tflite.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() != 1:
        raise ModelFileError(f"{model.SubgraphsLength()} subgraphs; a classifier has one")
    names = {
        value: name
        for name, value in vars(tflite.BuiltinOperator).items()
        if isinstance(value, int)
    }
    subgraph = model.Subgraphs(0)
    for count in (
        model.OperatorCodesLength(),
        subgraph.TensorsLength(),
        subgraph.OperatorsLength(),
    ):
        if count > MAX_ENTRIES:
            raise ModelFileError(f"{count} operators or tensors: far more than a MobileNetV2 has")
    codes = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        name = names.get(max(code.DeprecatedBuiltinCode(), code.BuiltinCode()), "unknown operator")
        if name == "CUSTOM":
            name = (code.CustomCode() or b"")[:MAX_NAME].decode("utf-8", "replace")
        codes.append(name)
    return Graph(
        tuple(_tensor(model, subgraph.Tensors(i)) for i in range(subgraph.TensorsLength())),
        tuple(_op(tflite, subgraph.Operators(i), codes) for i in range(subgraph.OperatorsLength())),
        _whole_numbers(subgraph.InputsLength(), subgraph.InputsAsNumpy),
        _whole_numbers(subgraph.OutputsLength(), subgraph.OutputsAsNumpy),
    )


def _whole_numbers(count: int, read: Callable[[], Any]) -> tuple[int, ...]:
    """A short list of the file: a shape, or indices of tensors."""
    if count > MAX_INDICES:
        raise ModelFileError(f"a list of {count} axes or tensors: far more than a MobileNetV2 has")
    return tuple(int(number) for number in read()) if count else ()


def _tensor(model: Any, tensor: Any) -> Tensor:
    buffer = model.Buffers(tensor.Buffer())
    data = buffer.DataAsNumpy() if buffer.DataLength() else np.zeros(0, np.uint8)
    quantization = tensor.Quantization()
    scale, zero = np.zeros(0, np.float32), np.zeros(1, np.int64)
    if quantization is not None and quantization.ScaleLength():
        scale = quantization.ScaleAsNumpy()
        zero = quantization.ZeroPointAsNumpy() if quantization.ZeroPointLength() else zero
    shape = _whole_numbers(tensor.ShapeLength(), tensor.ShapeAsNumpy)
    name = (tensor.Name() or b"")[:MAX_NAME].decode("utf-8", "replace")
    axis = quantization.QuantizedDimension() if quantization is not None else 0
    return Tensor(name, shape, TYPES.get(tensor.Type(), np.void), data, scale, zero, axis)


def _op(tflite: Any, op: Any, codes: list[str]) -> Op:
    """One operator with those of its options that are read."""
    code = codes[op.OpcodeIndex()]
    convolution = (
        "StrideW",
        "StrideH",
        "DilationWFactor",
        "DilationHFactor",
        "Padding",
        "FusedActivationFunction",
    )
    kinds = {
        "CONV_2D": (tflite.Conv2DOptions, convolution),
        "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, convolution),
        "FULLY_CONNECTED": (tflite.FullyConnectedOptions, ("FusedActivationFunction",)),
        "AVERAGE_POOL_2D": (
            tflite.Pool2DOptions,
            ("FilterHeight", "FilterWidth", "FusedActivationFunction"),
        ),
        "SOFTMAX": (tflite.SoftmaxOptions, ("Beta",)),
        "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
        "CONCATENATION": (tflite.ConcatenationOptions, ("Axis", "FusedActivationFunction")),
        "RESIZE_BILINEAR": (
            tflite.ResizeBilinearOptions,
            ("AlignCorners", "HalfPixelCenters"),
        ),
    }
    options: dict[str, Any] = {}
    if code in kinds:
        kind, fields = kinds[code]
        table, union = kind(), op.BuiltinOptions()
        if union is not None:
            table.Init(union.Bytes, union.Pos)
        options = {name: getattr(table, name)() if union is not None else 0 for name in fields}
        options = {name: v if isinstance(v, float) else int(v) for name, v in options.items()}
    elif code == POSTPROCESS:
        options = _flexible_options(op.CustomOptionsAsNumpy().tobytes())
    return Op(
        code,
        _whole_numbers(op.InputsLength(), op.InputsAsNumpy),
        _whole_numbers(op.OutputsLength(), op.OutputsAsNumpy),
        options,
    )


def _flexible_options(content: bytes) -> dict[str, Any]:
    """The numbers among a custom operator's options, which are a map in FlexBuffers' format."""
    from flatbuffers import flexbuffers

    if len(content) > MAX_CUSTOM_BYTES:
        raise ModelFileError(f"{len(content)} bytes of options: far more than an operator has")
    options = flexbuffers.Loads(content)
    return {key: value for key, value in options.items() if isinstance(value, int | float)}
