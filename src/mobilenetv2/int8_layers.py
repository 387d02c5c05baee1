"""The weights of an int8 model's layers, in memory or still in their file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .stored import StoredArrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARRAYS = ("weight", "scale", "bias")  # of each layer, as the file names them
FORMATS = {"int8": "b", "uint8": "B", "int32": "i", "float32": "f"}  # of memory


@dataclass(frozen=True)
class Int8Layer:
    """A convolution or linear layer with its batch norm folded in.

    Attributes:
        weight: int8 or uint8, shaped as the checkpoint's kernel: (out, in / groups, k, k), a
            classifier's (out, in).
        scale: float32 (out,), of the weights.
        zero_point: Of the weights; not 0 only where they are uint8.
        bias: int32 (out,), in units of the input's scale times `scale`.
    """

    weight: NDArray[Any]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    zero_point: int = 0


class StoredLayers(Mapping[str, Int8Layer]):
    """The layers of a file that is kept open: the arrays of each are read when it is asked for.

    Args:
        arrays: Of the file.
        zero_points: Of the weights, by layer; 0 where there is none.
    """

    def __init__(self, arrays: StoredArrays, zero_points: Mapping[str, int]) -> None:
        self.arrays, self._zero_points = arrays, zero_points
        self._names = dict.fromkeys(sorted({name.rpartition(".")[0] for name in arrays}))

    def __getitem__(self, name: str) -> Int8Layer:
        if name not in self:
            raise KeyError(name)
        weight, scale, bias = (self.arrays[f"{name}.{kind}"] for kind in ARRAYS)
        return Int8Layer(weight, scale, bias, self.zero_point(name))

    def zero_point(self, name: str) -> int:
        """Of the weights of a layer."""
        return int(self._zero_points.get(name, 0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __reduce__(self) -> tuple[type[dict[str, Int8Layer]], tuple[dict[str, Int8Layer]]]:
        return dict, (dict(self),)


def weight_zero_point(layers: Mapping[str, Int8Layer], name: str) -> int:
    """The zero point of a layer's weights, which are not read."""
    if isinstance(layers, StoredLayers):
        return layers.zero_point(name)
    return layers[name].zero_point


def int8_values(layers: Mapping[str, Int8Layer], name: str, kind: str) -> memoryview[Any]:
    """An array of a layer as flat memory, without NumPy where it is in a file.

    Args:
        layers: Of a checkpoint.
        name: Of the layer.
        kind: "weight", "scale" or "bias".
    """
    if not isinstance(layers, StoredLayers):
        import numpy as np

        flat: memoryview[Any] = np.ascontiguousarray(getattr(layers[name], kind)).reshape(-1).data
        return flat
    place = layers.arrays.places[f"{name}.{kind}"]
    content: Any = memoryview(layers.arrays.content(f"{name}.{kind}"))
    return content.cast(FORMATS[place.dtype])  # type: ignore[no-any-return]
