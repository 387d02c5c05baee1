"""A network that rounds in training as it will in int8 (quantisation-aware training; Jacob et al.
2018, arXiv 1712.05877).

The forward pass computes with whole numbers what the int8 runtime computes: weights and activations
in steps of their scales, sums rounded once. The backward pass takes every rounding for the identity,
and lets nothing through where a value was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UserError
from ..graph import layers
from ..images import Preprocessing
from ..int8 import Int8Checkpoint
from ..int8_layers import Int8Layer
from ..layer import IMAGE, Layer
from ..runtime.int8_scales import code_limits
from ..runtime.quantize import BIAS_LIMIT, SMALLEST_SCALE, image_scales
from .backbone import Backbone
from .classifier import MobileNetV2
from .heads import DetectionNetwork, HeadNetwork, SegmentationNetwork, described_network


class _Round(torch.autograd.Function):
    """Halves to even; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _RoundUp(_Round):
    """Halves up, as a resize rounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)


class _RoundWithin(torch.autograd.Function):
    """The nearest whole number within limits; no gradient where it is beyond them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return torch.round(x).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (within,) = ctx.saved_tensors
        return gradients[0] * within, None, None


class Int8Rounding(nn.Module):
    """The forward pass of a network in int8, with the scales of a quantised checkpoint.

    The network keeps its parameters; batch norms count by their running statistics. Scales of
    activations stay as they are, those of weights follow the weights. There is no dropout.

    Args:
        calibrated: What `quantize` made of the network's weights.
    """

    def __init__(self, calibrated: Int8Checkpoint) -> None:
        super().__init__()
        self.calibrated = calibrated
        self.per_layer = _is_per_layer(calibrated)
        self.activations = calibrated.activations
        scale, zeros, gains, offsets = image_scales(calibrated.preprocessing)
        self.steps = {name: of.scale for name, of in self.activations.items()} | {IMAGE: scale}
        pixel_scale, pixel_offset = calibrated.preprocessing.scale_offset()
        for name, values in {
            "pixel_scale": pixel_scale,
            "pixel_offset": pixel_offset,
            "pixel_zero": zeros,
            "gains": gains,
            "offsets": offsets,
        }.items():
            column = torch.tensor(np.array(values), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.sum_of = {
            layer.sources[1]: layer.name
            for layer in layers(calibrated.architecture)
            if layer.kind == "add"
        }

    def start(self, net: Backbone) -> None:
        """Gives the network the biases of the calibrated one, which make up for what rounding its
        weights adds on average.
        """
        arrays = _arrays(net)
        with torch.no_grad():
            for layer in layers(self.calibrated.architecture):
                if layer.weight is None:
                    continue
                _, bias = self._folded(arrays, layer)
                stored = self.calibrated.layers[layer.name]
                unit = self.steps[layer.sources[0]] * stored.scale.astype(np.float64)
                wanted = torch.from_numpy(stored.bias * unit).to(bias)
                target = arrays[layer.bias or f"{layer.norm}.bias"]
                target += wanted - bias

    def forward(self, net: Backbone, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, C, H, W) -> the outputs of the network by name, (N, C, H, W) each.

        Args:
            net: Whose parameters are used.
            x: Values that are no pixels, as of mixed images, are rounded to pixels.
        """
        described = described_network(net.architecture, x.shape[2], x.shape[3])
        arrays = _arrays(net)
        with torch.autocast(x.device.type, enabled=False):
            pixels = ((x.float() - self.pixel_offset) / self.pixel_scale).round().clamp(0, 255)
            values = {IMAGE: pixels - self.pixel_zero}
            for layer in described.layers:
                sources = [values[name] for name in layer.sources]
                values[layer.name] = self._run(arrays, layer, sources)
            return {name: self._real(name, values[name]) for name in described.outputs}

    def layers_of(self, net: Backbone) -> dict[str, Int8Layer]:
        """The whole numbers that `forward` computes with, by the name of the layer."""
        arrays = _arrays(net)
        stored = {}
        with torch.no_grad():
            for layer in layers(net.architecture):
                if layer.weight is not None:
                    weight, scale, bias = self._quantized(arrays, layer)
                    stored[layer.name] = Int8Layer(
                        weight.to(torch.int8).cpu().numpy().reshape(layer.weight_shape),
                        scale.cpu().numpy(),
                        bias.to(torch.int32).cpu().numpy(),
                    )
        return stored

    def _real(self, name: str, values: Tensor) -> Tensor:
        return values * self.steps[name] if name in self.steps else values

    def _run(self, arrays: Mapping[str, Tensor], layer: Layer, sources: list[Tensor]) -> Tensor:
        """What a layer stores, in steps of its scale and less its zero point. Logits are float, and a
        projection before a sum is in steps of that sum.
        """
        x = sources[0]
        if layer.weight is not None:
            return self._convolved(arrays, layer, x)
        if layer.kind == "add":
            ratio = self._ratio(layer.sources[0], layer.name)
            return self._stored(sources[1] + x * ratio, layer)
        if layer.kind == "pool":
            count = x.shape[2] * x.shape[3]
            factor = np.float32(self.steps[layer.sources[0]] / (count * self.steps[layer.name]))
            return self._stored(x.sum(dim=(2, 3), keepdim=True) * float(factor), layer)
        if layer.kind == "concat":
            ratios = [self._ratio(name, layer.name) for name in layer.sources]
            parts = [self._stored(y * r, layer) for y, r in zip(sources, ratios, strict=True)]
            return torch.cat(parts, 1)
        resized = _resized(x, layer.out_shape[1:])
        return _RoundUp.apply(resized) if layer.name in self.steps else resized

    def _ratio(self, source: str, name: str) -> float:
        return float(np.float32(self.steps[source] / self.steps[name]))

    def _convolved(self, arrays: Mapping[str, Tensor], layer: Layer, x: Tensor) -> Tensor:
        weight, scale, bias = self._quantized(arrays, layer)
        top, bottom, left, right = layer.padding
        if any(layer.padding):
            x = functional.pad(x, (left, right, top, bottom))
        kernel = weight.view(layer.out_shape[0], -1, layer.kernel, layer.kernel)
        x = x.contiguous(memory_format=torch.channels_last)
        sums = functional.conv2d(
            x,
            kernel,
            bias.float(),
            stride=layer.stride,
            dilation=layer.dilation,
            groups=layer.groups,
        )
        unit = scale.double() * self.steps[layer.sources[0]]
        out = self.steps.get(layer.name) or self.steps.get(self.sum_of.get(layer.name, ""), 1.0)
        result = sums * (unit / out).float().view(-1, 1, 1)
        return self._stored(result, layer) if layer.name in self.steps else result

    def _stored(self, values: Tensor, layer: Layer) -> Tensor:
        lowest, highest = code_limits(self.activations[layer.name], layer.activation)
        return cast(Tensor, _RoundWithin.apply(values, lowest, highest))

    def _quantized(
        self, arrays: Mapping[str, Tensor], layer: Layer
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and biases as whole numbers, and the scale of each channel's weights."""
        weight, bias = self._folded(arrays, layer)
        step = self.steps[layer.sources[0]]
        with torch.no_grad():
            largest = weight.abs().flatten(1).amax(1)
            floor = (bias.abs() / (step * BIAS_LIMIT)).clamp(min=SMALLEST_SCALE)
            scale = torch.maximum(largest / 127, floor).float()
            if self.per_layer:
                scale = scale.max().expand_as(scale).contiguous()
        exact = scale.double()
        codes = _Round.apply(weight / exact.view(-1, *[1] * (weight.ndim - 1)))
        return codes.clamp(-127, 127).float(), scale, _Round.apply(bias / (step * exact))

    def _folded(self, arrays: Mapping[str, Tensor], layer: Layer) -> tuple[Tensor, Tensor]:
        """Kernel and bias, float64, with batch norm and the preprocessing of images folded in."""
        assert layer.weight is not None
        weight = arrays[layer.weight].double()
        if layer.norm is None:
            bias = weight.new_zeros(len(weight))
            bias = bias if layer.bias is None else arrays[layer.bias].double()
        else:
            gamma, beta, mean, variance = (
                arrays[f"{layer.norm}.{name}"].double()
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            factor = gamma / (variance + layer.bn_epsilon).sqrt()
            weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            bias = beta - mean * factor
        if layer.sources[0] == IMAGE:
            bias = bias + (weight * self.offsets.double()).sum(dim=(1, 2, 3))
            weight = weight * self.gains.double()
        return weight, bias


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


def _arrays(net: Backbone) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _is_per_layer(calibrated: Int8Checkpoint) -> bool:
    return all(np.ptp(layer.scale) == 0 for layer in calibrated.layers.values())


class Int8Backbone(Backbone):
    """A network that computes with whole numbers, from `round_as_int8`."""

    int8: Int8Rounding

    def to_checkpoint(  # type: ignore[override]
        self,
        *,
        labels: Sequence[str] | None = (),
        preprocessing: Preprocessing | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Int8Checkpoint:
        """The int8 model whose whole numbers are those that the network computes with.

        Args:
            labels: Names of the classes, in their order; None or () for none.
            preprocessing: As `Backbone.to_checkpoint`; None: that of the calibrated model.
            provenance: Where the weights come from.
        """
        calibrated = self.int8.calibrated
        return replace(
            calibrated,
            layers=self.int8.layers_of(self),
            labels=tuple(labels or ()),
            preprocessing=preprocessing or calibrated.preprocessing,
            provenance=dict(provenance or {}),
        )


class Int8Classifier(Int8Backbone, MobileNetV2):
    """A classifier that computes with whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """As `MobileNetV2.forward`."""
        (logits,) = self.int8(self, x).values()
        return cast(Tensor, logits.flatten(1))


class Int8HeadNetwork(Int8Backbone, HeadNetwork):
    """Base of detectors and segmenters that compute with whole numbers."""

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """As `HeadNetwork.outputs`."""
        return cast(dict[str, Tensor], self.int8(self, x))


class Int8Detector(Int8HeadNetwork, DetectionNetwork):
    """A detector that computes with whole numbers."""


class Int8Segmenter(Int8HeadNetwork, SegmentationNetwork):
    """A segmenter that computes with whole numbers."""


KINDS: dict[type[Backbone], type[Int8Backbone]] = {
    MobileNetV2: Int8Classifier,
    DetectionNetwork: Int8Detector,
    SegmentationNetwork: Int8Segmenter,
}


def round_as_int8(net: Backbone, calibrated: Int8Checkpoint) -> None:
    """Changes a network in place so that it computes with whole numbers, as its int8 model will.

    Parameters and their names stay. Batch norms count by their running statistics, which no longer
    change; there is no dropout.

    Args:
        net: A classifier, detector or segmenter.
        calibrated: What `quantize` made of a network of this architecture; its scales of activations
            are kept.

    Raises:
        UserError: The network is of another kind, or the model of another architecture or file.
    """
    if type(net) not in KINDS:
        raise UserError(f"no network to round as int8: {type(net).__name__}")
    if calibrated.architecture != net.architecture or calibrated.rounding != "nearest":
        raise UserError("the int8 model is not what `quantize` made of this network")
    net.__class__ = KINDS[type(net)]
    net.int8 = Int8Rounding(calibrated)  # type: ignore[assignment]
