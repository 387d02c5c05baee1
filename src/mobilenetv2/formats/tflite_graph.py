"""A TensorFlow Lite file as a graph of operators and tensors, with the options that readers need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError

TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: As in the file.
        shape: Its axes.
        dtype: Its NumPy type; `numpy.void` for a type that is not read.
        data: The stored values of a constant; empty for any other tensor.
        scale: real = scale * (stored - zero_point): one scale, or one per index of `axis`; of size
            0 for a tensor that is not quantised.
        zero_point: Likewise, or one for all.
        axis: Along which the scales lie.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    data: bytes
    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    axis: int

    def values(self) -> NDArray[Any]:
        """The values of a constant as stored."""
        if not self.data:
            raise ModelFileError(
                f"the tensor {self.name!r} has no values: weights computed at run time are not read"
            )
        if self.dtype is np.void:
            raise ModelFileError(f"the tensor {self.name!r} is of a type that is not read")
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    def real(self) -> NDArray[np.float64]:
        """The values of a constant as real numbers: scale * (stored - zero point)."""
        values = self.values().astype(np.float64)
        if self.scale.size == 0:
            return values
        shape = [1] * values.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        zero = np.broadcast_to(self.zero_point, self.scale.shape)
        return (values - zero.reshape(shape)) * self.scale.reshape(shape)


@dataclass(frozen=True)
class Op:
    """An operator.

    Attributes:
        code: Its TensorFlow Lite name.
        inputs: Indices into `Graph.tensors`; -1 for an optional input that is not given.
        outputs: Likewise.
        options: By their TensorFlow Lite names.
    """

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]

    def in_torch_axes(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """This operator's kernel in PyTorch's axes: OHWI -> OIHW, depthwise 1HWC -> C1HW."""
        axes = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
        return kernel.transpose(axes.get(self.code, (0, 1)))


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


def parse(content: bytes) -> Graph:
    """The graph of a file.

    Raises:
        ModelFileError: Several subgraphs.
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
    codes = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        codes.append(
            names.get(max(code.DeprecatedBuiltinCode(), code.BuiltinCode()), "unknown operator")
        )
    subgraph = model.Subgraphs(0)
    return Graph(
        tuple(_tensor(model, subgraph.Tensors(i)) for i in range(subgraph.TensorsLength())),
        tuple(_op(tflite, subgraph.Operators(i), codes) for i in range(subgraph.OperatorsLength())),
        tuple(int(i) for i in subgraph.InputsAsNumpy()),
        tuple(int(i) for i in subgraph.OutputsAsNumpy()),
    )


def _tensor(model: Any, tensor: Any) -> Tensor:
    buffer = model.Buffers(tensor.Buffer())
    data = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
    quantization = tensor.Quantization()
    scale = zero = np.zeros(0)
    if quantization is not None and quantization.ScaleLength():
        scale = quantization.ScaleAsNumpy().astype(float)
        zero = (
            quantization.ZeroPointAsNumpy().astype(float)
            if quantization.ZeroPointLength()
            else np.zeros(1)
        )
    shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    name = (tensor.Name() or b"").decode("utf-8", "replace")
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
        "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
    }
    options: dict[str, int] = {}
    if code in kinds:
        kind, fields = kinds[code]
        table, union = kind(), op.BuiltinOptions()
        if union is not None:
            table.Init(union.Bytes, union.Pos)
        options = {name: int(getattr(table, name)()) if union is not None else 0 for name in fields}
    inputs = tuple(int(i) for i in op.InputsAsNumpy()) if op.InputsLength() else ()
    return Op(code, inputs, tuple(int(i) for i in op.OutputsAsNumpy()), options)
