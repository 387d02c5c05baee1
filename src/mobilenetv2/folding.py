"""Folds batch norms into the kernels before them, and makes an identity of a folded one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .layer import Layer

if TYPE_CHECKING:
    from .checkpoint import FloatArray


def fold(
    checkpoint: Checkpoint, layer: Layer, dtype: type[np.floating[Any]] = np.float64
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The kernel and bias of one layer with its batch norm folded in, computed in float64.

    w' = w * gamma / sqrt(var + epsilon), b' = beta - mean * gamma / sqrt(var + epsilon).

    Args:
        checkpoint: The model.
        layer: One of its layers that has weights.
        dtype: Of the returned kernel.

    Returns:
        The kernel, shaped as in the checkpoint and rounded to `dtype`, and a bias (out,).
    """
    assert layer.weight is not None
    weight = checkpoint.arrays[layer.weight]
    scale, bias = scale_and_bias(checkpoint, layer)
    if scale is None:
        return np.array(weight, dtype), bias
    folded = np.empty(weight.shape, dtype)
    scales = scale.reshape(-1, *[1] * (weight.ndim - 1))
    np.multiply(weight, scales, folded, dtype=np.float64, casting="same_kind")
    return folded, bias


def scale_and_bias(
    checkpoint: Checkpoint, layer: Layer
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """What the kernel's output channels are multiplied by to fold the batch norm in, None without
    one; and the bias (out,).
    """
    if layer.norm is None:
        bias = checkpoint.arrays[layer.bias] if layer.bias else np.zeros(layer.out_shape[0])
        return None, bias.astype(np.float64)
    gamma, beta, mean, variance = (
        checkpoint.arrays[f"{layer.norm}.{name}"].astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + layer.bn_epsilon)
    return scale, beta - mean * scale


def unfolded(layer: Layer, weight: NDArray[Any], bias: NDArray[Any]) -> dict[str, FloatArray]:
    """The checkpoint's arrays of a layer whose batch norm another program has folded in.

    The batch norm becomes an identity that adds the bias.

    Args:
        layer: The layer.
        weight: Its folded kernel, of the shape that the checkpoint has.
        bias: (out,), as folded.
    """
    assert layer.weight is not None
    arrays = {layer.weight: np.ascontiguousarray(weight, np.float32)}
    if layer.norm is None:
        assert layer.bias is not None
        return arrays | {layer.bias: np.ascontiguousarray(bias, np.float32)}
    count = layer.out_shape[0]
    identity = (np.ones(count), bias, np.zeros(count), np.full(count, 1 - layer.bn_epsilon))
    names = ("weight", "bias", "running_mean", "running_var")
    return arrays | {
        f"{layer.norm}.{name}": np.asarray(a, np.float32)
        for name, a in zip(names, identity, strict=True)
    }
