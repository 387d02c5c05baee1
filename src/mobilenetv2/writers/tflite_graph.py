"""A LiteRT (TensorFlow Lite) graph under construction, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .options import WriterError

LARGEST_BYTES = (1 << 31) - (1 << 24)  # of a flatbuffer, with room for all but the constants
ALIGNMENT = 16  # of constants, so that runtimes read them where they lie
SCHEMA_VERSION = 3
SAME, VALID = 0, 1
ACTIVATIONS = {"linear": 0, "relu": 1, "relu6": 3}
OPTIONS = {
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SUB": "SubOptions",
}
# the first version of each operator that computes in int8, where that is not 1
INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4} | dict.fromkeys(
    (
        "ADD",
        "ARG_MAX",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "DEQUANTIZE",
        "MEAN",
        "PAD",
        "RESIZE_BILINEAR",
    ),
    2,
)


@dataclass(frozen=True)
class Quantization:
    """What the values of a tensor stand for: real = scale * (stored - zero point).

    Attributes:
        scale: One, or one per place along the axis.
        zero_point: As many.
        axis: Along which the scales lie.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: Any
    quantization: Quantization | None
    buffer: int
    any_batch: bool


@dataclass(frozen=True)
class _Operator:
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    custom: bytes


class Graph:
    """Operators, tensors and constants. Tensors are known by their index.

    Args:
        any_batch: Whether the number of images is open; shapes then have 1.
    """

    def __init__(self, any_batch: bool = False) -> None:
        self._any_batch = any_batch
        self._tensors: list[_Tensor] = []
        self._operators: list[_Operator] = []
        # the first is that of all tensors without constant values
        self._buffers: list[bytes] = [b""]
        self._versions: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.inputs: list[int] = []
        self.outputs: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        type_: Any = np.float32,
        quantization: Quantization | None = None,
    ) -> int:
        """Adds a tensor that the graph is given or computes; the first axis is that of images."""
        self._tensors.append(
            _Tensor(name, tuple(shape), np.dtype(type_), quantization, 0, self._any_batch)
        )
        return len(self._tensors) - 1

    def constant(
        self, name: str, values: NDArray[Any], quantization: Quantization | None = None
    ) -> int:
        """Adds a tensor with values; the same ones of the same name are there once."""
        content = np.ascontiguousarray(values).tobytes()
        key = name, values.shape, content
        if key not in self._constants:
            if sum(map(len, self._buffers)) + len(content) > LARGEST_BYTES:
                raise WriterError("tflite: files hold 2 GB at most, and the weights are more")
            self._buffers.append(content)
            at = len(self._buffers) - 1
            entry = _Tensor(name, values.shape, values.dtype, quantization, at, False)
            self._tensors.append(entry)
            self._constants[key] = len(self._tensors) - 1
        return self._constants[key]

    def constant_result(self, name: str, shape: Sequence[int]) -> int:
        """Adds a tensor that the graph computes of constants alone."""
        self._tensors.append(_Tensor(name, tuple(shape), np.dtype(np.float32), None, 0, False))
        return len(self._tensors) - 1

    def whole(self, *values: int) -> int:
        """A constant list of whole numbers."""
        return self.constant("whole." + "_".join(map(str, values)), np.array(values, np.int32))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Axes of a tensor."""
        return self._tensors[tensor].shape

    def type(self, tensor: int) -> Any:
        """Type of a tensor's values."""
        return self._tensors[tensor].type

    def name(self, tensor: int) -> str:
        """Name of a tensor."""
        return self._tensors[tensor].name

    def operator(
        self,
        code: str,
        inputs: Sequence[int],
        outputs: int | Sequence[int],
        custom: bytes = b"",
        **options: Any,
    ) -> int:
        """Adds an operator.

        Args:
            code: Its name, or that of a custom operator.
            inputs: The tensors that it reads.
            outputs: Those that it makes.
            custom: Options of a custom operator.
            options: Fields of its options' table.

        Returns:
            The first output.
        """
        made = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        self._operators.append(_Operator(code, tuple(inputs), made, options, custom))
        version = self._version(code, self._tensors[inputs[0]].type, options)
        self._versions[code] = max(version, self._versions.get(code, 1))
        return made[0]

    @staticmethod
    def _version(code: str, type_: Any, options: Mapping[str, Any]) -> int:
        """The version of an operator's code that reads such tensors."""
        if type_ == np.int8:
            return INT8_VERSIONS.get(code, 1)
        if code == "DEQUANTIZE" and type_ == np.float16:
            return 3
        if code == "QUANTIZE" and type_ != np.float32:
            return 2
        return 2 if code == "DEPTHWISE_CONV_2D" and options["DilationHFactor"] > 1 else 1

    def cast(self, source: int, name: str, type_: Any) -> int:
        """Adds the values of a tensor as another type."""
        out = self.tensor(name, self.shape(source), type_)
        given, made = type_number(self.type(source)), type_number(type_)
        return self.operator("CAST", [source], out, InDataType=given, OutDataType=made)

    def output(self, name: str, tensor: int) -> None:
        """Declares a tensor a result, which gives it the result's name."""
        self._tensors[tensor].name = name
        self.outputs[name] = tensor

    def save(self, path: Path, about: str, metadata: Mapping[str, bytes]) -> None:
        """Writes the file.

        Args:
            path: The file.
            about: A text for people.
            metadata: Content for programs, by name.
        """
        path.write_bytes(_Writer(self).written(about, metadata))


class _Writer:
    """A graph as a flatbuffer: children are written before their parents."""

    def __init__(self, graph: Graph) -> None:
        import flatbuffers
        import tflite

        self._graph, self._tflite = graph, tflite
        self._buffers = list(graph._buffers)
        self._builder = flatbuffers.Builder(sum(map(len, self._buffers)) + (1 << 20))

    def written(self, about: str, metadata: Mapping[str, bytes]) -> bytes:
        graph = self._graph
        entries = []
        for name, content in metadata.items():
            self._buffers.append(content)
            text = self._builder.CreateString(name)
            entries.append(self._table("Metadata", Name=text, Buffer=len(self._buffers) - 1))
        buffers = [self._buffer(content) for content in self._buffers]
        codes = {code: index for index, code in enumerate(graph._versions)}
        model = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=self._offsets([self._code(code) for code in codes]),
            Subgraphs=self._offsets([self._subgraph(codes)]),
            Description=self._text(about),
            Buffers=self._offsets(buffers),
            Metadata=self._offsets(entries),
            SignatureDefs=self._offsets([self._signature()]),
        )
        self._builder.Finish(model, b"TFL3")
        return bytes(self._builder.Output())

    def _table(self, kind: str, **fields: Any) -> int:
        """Writes a table and returns its offset."""
        add = {n: getattr(self._tflite, f"{kind}Add{n}") for n in fields}
        getattr(self._tflite, f"{kind}Start")(self._builder)
        for name, value in fields.items():
            add[name](self._builder, value)
        return int(getattr(self._tflite, f"{kind}End")(self._builder))

    def _text(self, text: str) -> int:
        return int(self._builder.CreateString(text))

    def _offsets(self, offsets: Sequence[int]) -> int:
        return self._vector(offsets, self._builder.PrependUOffsetTRelative, 4)

    def _vector(self, values: Sequence[int], prepend: Callable[[int], None], size: int) -> int:
        self._builder.StartVector(size, len(values), size)
        for value in reversed(values):
            prepend(value)
        return int(self._builder.EndVector())

    def _whole(self, values: Sequence[int]) -> int:
        return self._vector(values, self._builder.PrependInt32, 4)

    def _buffer(self, content: bytes) -> int:
        if not content:
            return self._table("Buffer")
        return self._table("Buffer", Data=self._bytes(content))

    def _bytes(self, content: bytes) -> int:
        builder = self._builder
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head = builder.head - len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        return int(builder.EndVector())

    def _code(self, code: str) -> int:
        builtin = getattr(self._tflite.BuiltinOperator, code, None)
        custom = {} if builtin is not None else {"CustomCode": self._text(code)}
        number = self._tflite.BuiltinOperator.CUSTOM if builtin is None else builtin
        return self._table(
            "OperatorCode",
            # what readers from before 2020 know; those of today take the greater one
            DeprecatedBuiltinCode=min(number, 127),
            BuiltinCode=number,
            Version=self._graph._versions[code],
            **custom,
        )

    def _subgraph(self, codes: Mapping[str, int]) -> int:
        graph = self._graph
        return self._table(
            "SubGraph",
            Tensors=self._offsets([self._tensor(tensor) for tensor in graph._tensors]),
            Inputs=self._whole(graph.inputs),
            Outputs=self._whole(list(graph.outputs.values())),
            Operators=self._offsets([self._operator(op, codes) for op in graph._operators]),
            Name=self._text("main"),
        )

    def _tensor(self, tensor: _Tensor) -> int:
        fields: dict[str, Any] = {}
        if tensor.quantization is not None:
            fields["Quantization"] = self._quantization(tensor.quantization)
        if tensor.any_batch:
            fields["ShapeSignature"] = self._whole((-1, *tensor.shape[1:]))
        return self._table(
            "Tensor",
            Shape=self._whole(tensor.shape),
            Type=type_number(tensor.type),
            Buffer=tensor.buffer,
            Name=self._text(tensor.name),
            **fields,
        )

    def _quantization(self, quantization: Quantization) -> int:
        return self._table(
            "QuantizationParameters",
            Scale=self._builder.CreateNumpyVector(quantization.scale),
            ZeroPoint=self._builder.CreateNumpyVector(quantization.zero_point),
            QuantizedDimension=quantization.axis,
        )

    def _operator(self, operator: _Operator, codes: Mapping[str, int]) -> int:
        fields: dict[str, Any] = {}
        if kind := OPTIONS.get(operator.code):
            fields["BuiltinOptionsType"] = getattr(self._tflite.BuiltinOptions, kind)
            fields["BuiltinOptions"] = self._table(kind, **operator.options)
        if operator.custom:
            fields["CustomOptions"] = self._bytes(operator.custom)
        return self._table(
            "Operator",
            OpcodeIndex=codes[operator.code],
            Inputs=self._whole(operator.inputs),
            Outputs=self._whole(operator.outputs),
            **fields,
        )

    def _signature(self) -> int:
        graph = self._graph
        images = {graph.name(index): index for index in graph.inputs}
        return self._table(
            "SignatureDef",
            Inputs=self._tensor_maps(images),
            Outputs=self._tensor_maps(graph.outputs),
            SignatureKey=self._text("serving_default"),
            SubgraphIndex=0,
        )

    def _tensor_maps(self, tensors: Mapping[str, int]) -> int:
        maps = [
            self._table("TensorMap", Name=self._text(name), TensorIndex=index)
            for name, index in tensors.items()
        ]
        return self._offsets(maps)


def type_number(type_: Any) -> int:
    """The format's number of a NumPy type."""
    import tflite

    return int(getattr(tflite.TensorType, np.dtype(type_).name.upper()))
