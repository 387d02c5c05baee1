"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..layer import Layer
from .options import WriterError

OLDEST_OPSET = 11  # of Clip with limits as inputs, Resize to a size, ScatterND
OLDEST_INT8_OPSET = 13  # of DequantizeLinear per channel
DEFAULT_OPSET = 17
LARGEST_BYTES = (1 << 31) - (1 << 20)  # of a protobuf message

Dimension = int | str  # a number, or the name of a tensor (1,) int64 that holds it


class Graph:
    """Nodes, constants and results of a graph.

    Args:
        opset: Version of the operators.
        float16: Whether `weights` stores float16.
        same_padding: The convolutions of stride 2 pad by TensorFlow's rule at sizes that are not
            known beforehand.
        names: Other names of the image and of results.
    """

    def __init__(
        self, opset: int, float16: bool, same_padding: bool, names: Mapping[str, str]
    ) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._float16 = float16
        self._same_padding = same_padding
        self._names = names
        self._bytes = 0

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node of one output and returns the name of that."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        """Adds a constant and returns its name; one of this name stays as it is."""
        from onnx import numpy_helper

        if name not in self.constants:
            array = np.ascontiguousarray(values).reshape(np.shape(values))
            self._bytes += array.nbytes
            if self._bytes > LARGEST_BYTES:
                raise WriterError("onnx: files hold 2 GB at most, and the weights are more")
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def whole(self, *values: int) -> str:
        """A constant list of whole numbers."""
        name = "whole." + "_".join(map(str, values))
        return self.constant(name, np.array(values, np.int64))

    def weights(self, name: str, values: Any) -> str:
        """Adds a kernel, as float16 if that is how weights are stored; its tensor is float32.

        Raises:
            WriterError: float16 does not hold it.
        """
        if not self._float16:
            return self.constant(name, values)
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise WriterError(f"onnx: float16 does not hold the weights {name}: leave it out")
        half = self.constant(f"{name}.float16", values.astype(np.float16))
        return self.node("Cast", [half], name, to=1)

    def convolution(
        self, layer: Layer, inputs: Sequence[str], output: str, is_padded: bool = False
    ) -> str:
        """Adds a Conv node with the options of a layer.

        Args:
            layer: The layer.
            inputs: Tensors of map, kernel and bias.
            output: Name of the result.
            is_padded: Whether the map has its border already.
        """
        top, bottom, left, right = (0, 0, 0, 0) if is_padded else layer.padding
        padding: dict[str, Any] = {"pads": [top, left, bottom, right]}
        if self._same_padding and layer.stride > 1 and not is_padded:
            padding = {"auto_pad": "SAME_UPPER"}
        return self.node(
            "Conv",
            inputs,
            output,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            dilations=[layer.dilation] * 2,
            group=layer.groups,
            **padding,
        )

    def sides(self, tensor: str, begin: int, end: int) -> str:
        """The axes `begin` to `end` of a tensor's shape, as a list."""
        name = f"{tensor}.sides{begin}_{end}"
        if all(name not in node.output for node in self.nodes):
            shape = self.node("Shape", [tensor], f"{name}.shape")
            self.node("Slice", [shape, self.whole(begin), self.whole(end)], name)
        return name

    def shape(self, name: str, *dimensions: Dimension) -> str:
        """A list of dimensions, of which each is known or a list itself."""
        if all(isinstance(dimension, int) for dimension in dimensions):
            return self.whole(*(int(dimension) for dimension in dimensions))
        parts = [self.whole(d) if isinstance(d, int) else d for d in dimensions]
        return self.node("Concat", parts, name, axis=0)

    def input(self, name: str, type_: Any, shape: Sequence[Dimension]) -> str:
        """Declares the image and returns its tensor."""
        from onnx import helper

        name = self._names.get(name, name)
        self.inputs.append(helper.make_tensor_value_info(name, _element(type_), shape))
        return name

    def output(self, tensor: str, name: str, type_: Any, shape: Sequence[Dimension]) -> None:
        """Declares a tensor a result, which gives it a new name."""
        from onnx import helper

        name = self._names.get(name, name)
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if each == tensor else each for each in names]
        self.outputs.append(helper.make_tensor_value_info(name, _element(type_), shape))

    def save(self, path: Path, about: str, metadata: Mapping[str, str]) -> None:
        """Writes the file.

        Args:
            path: The file.
            about: A text for people.
            metadata: Texts for programs.
        """
        from onnx import checker, helper, save

        from .. import __version__

        graph = helper.make_graph(
            self.nodes, "mobilenetv2", self.inputs, self.outputs, list(self.constants.values())
        )
        operators = helper.make_opsetid("", self.opset)
        model = helper.make_model(
            graph,
            opset_imports=[operators],
            ir_version=helper.find_min_ir_version_for([operators]),
            producer_name="mobilenetv2",
            producer_version=__version__,
            doc_string=about,
        )
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model)
        save(model, path)


def chosen_opset(opset: int | None, int8: bool) -> int:
    """The version of the operators that a file has.

    Raises:
        WriterError: One that lacks an operator, or that the installed `onnx` does not know.
    """
    from onnx import defs

    oldest, newest = OLDEST_INT8_OPSET if int8 else OLDEST_OPSET, defs.onnx_opset_version()
    if opset is not None and not oldest <= opset <= newest:
        raise WriterError(
            f"onnx: opset {opset}: the graph is written with {oldest} to {newest}, which is "
            "the newest that the installed onnx knows"
        )
    return DEFAULT_OPSET if opset is None else opset


def _element(type_: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(type_)))
