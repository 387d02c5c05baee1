"""The fused training steps: values and gradients beside float64, for every depthwise shape of the
published widths, and for the inverted residual at the corners of how it is cut up.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenetv2.architecture import SMALL_IMAGES, Architecture, Stage
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier
from mobilenetv2.nn import MobileNetV2, fused
from mobilenetv2.nn._native import Training, instruction_sets
from mobilenetv2.nn.blocks import InvertedResidual

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
SHAPES = sorted(
    {
        (layer.in_shape[0], layer.stride)
        for width in WIDTHS
        for layer in layers(Architecture(width_mult=width))
        if layer.role == "depthwise"
    }
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}  # of the largest value; half a last bit


@pytest.fixture(params=instruction_sets())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kernels = Training(request.param, 2)
    monkeypatch.setattr(fused, "_kernels", lambda: kernels)
    return str(request.param)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    error = (found.double() - wanted).abs().max() / wanted.abs().max()
    assert error <= TOLERANCE[found.dtype], float(error)


def random_maps(n: int, c: int, h: int, w: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    x = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def im2col_depthwise(x: Tensor, weight: Tensor, stride: int, top: int, left: int) -> Tensor:
    """By definition: each output pixel is the dot product of nine inputs with nine weights."""
    n, c, h, w = x.shape
    height, width = -(-h // stride), -(-w // stride)
    below, right = stride * height + 2 - h - top, stride * width + 2 - w - left
    padded = functional.pad(x, (left, max(0, right), top, max(0, below)))
    columns = functional.unfold(padded, 3, stride=stride).view(n, c, 9, -1)
    side = (padded.shape[2] - 3) // stride + 1, (padded.shape[3] - 3) // stride + 1
    out = (columns * weight.view(1, c, 9, 1)).sum(2).view(n, c, *side)
    return out[:, :, :height, :width]


@pytest.mark.parametrize("dtype", fused.DTYPES, ids=str)
def test_depthwise_at_every_shape_of_the_published_widths(isa: str, dtype: torch.dtype) -> None:
    assert len(SHAPES) == 32
    for i, (channels, stride) in enumerate(SHAPES):
        for images, h, w in ((1, 5, 6), (4, 6, 5)):
            top, left = (1, 1) if i % 2 or stride == 1 else (h % 2, w % 2)  # both padding rules
            x = random_maps(images, channels, h, w, dtype).requires_grad_()
            weight = torch.randn(channels, 1, 3, 3, requires_grad=True)
            out = fused._Depthwise.apply(x, weight, stride, top, left)
            gradient = random_maps(*out.shape, dtype, seed=1)
            found = torch.autograd.grad(out, (x, weight), gradient)
            exact = [t.detach().double().requires_grad_() for t in (x, weight)]
            wanted = im2col_depthwise(exact[0], exact[1], stride, top, left)
            assert out.dtype == dtype
            assert found[1].dtype == torch.float32
            assert_close(out, wanted)
            for mine, theirs in zip(found, torch.autograd.grad(wanted, exact, gradient.double())):
                assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", fused.DTYPES, ids=str)
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("channels", [8, 16, 24, 40, 64, 144])
def test_norm(isa: str, dtype: torch.dtype, active: bool, channels: int) -> None:
    torch.manual_seed(0)
    x = (random_maps(3, channels, 15, 17, dtype) * 3 + 100).requires_grad_()  # far from zero
    norm = nn.BatchNorm2d(channels, momentum=0.25)
    nn.init.uniform_(norm.weight, 1, 3)
    nn.init.normal_(norm.bias)
    exact = copy.deepcopy(norm).double()
    net = nn.Sequential(norm, *([nn.ReLU6()] if active else []))
    fused.fuse(net)
    out = net(x)
    same = x.detach().double().requires_grad_()
    wanted = exact(same)
    at_edge = torch.minimum(wanted.abs(), (wanted - 6).abs()) < 1e-3  # rounding decides there
    wanted = functional.relu6(wanted) if active else wanted
    gradient = random_maps(*out.shape, dtype, seed=1).masked_fill(at_edge, 0)
    found = torch.autograd.grad(out, (x, norm.weight, norm.bias), gradient)
    gradients = torch.autograd.grad(wanted, (same, exact.weight, exact.bias), gradient.double())
    assert_close(out, wanted)
    for mine, theirs in zip(found, gradients):
        error = (mine.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= (1e-4 if dtype == torch.float32 else 2**-8)
    assert_close(norm.running_mean, exact.running_mean)
    assert_close(norm.running_var, exact.running_var)
    assert norm.num_batches_tracked == 1


# Channels in, expansion, channels out, stride, padding, images, height and width.
RESIDUALS = [
    (8, 6, 8, 1, "symmetric", 3, 13, 14),
    (8, 5, 16, 2, "symmetric", 3, 13, 14),  # 40 expanded channels: the last group is not full
    (16, 6, 24, 2, "same", 2, 14, 12),  # padded below and on the right
    (24, 4, 24, 1, "same", 40, 3, 5),  # three units of 17, 17 and 6 images
    (8, 2, 8, 1, "symmetric", 18, 17, 16),  # an image a unit, more units than slices
    (40, 6, 56, 2, "symmetric", 40, 1, 2),
]


def random_residual(
    channels: int, expansion: int, out_channels: int, stride: int, padding: str
) -> InvertedResidual:
    """Weights and batch norms as in the middle of training."""
    stages = (Stage(1, channels, 1, 1), Stage(expansion, out_channels, 1, stride))
    architecture = replace(SMALL_IMAGES, stages=stages, padding=padding, shortcut="bottleneck")
    block = MobileNetV2(architecture, bn_decay=0.75).features[2]
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return block


def passed(block: InvertedResidual, x: Tensor, gradient: Tensor, autocast: bool) -> list[Tensor]:
    """What a block gives, the gradients for its input and its parameters, and its statistics."""
    x = x.detach().clone(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = block(x)
    gradients = torch.autograd.grad(out, (x, *block.parameters()), gradient.to(out.dtype))
    statistics = [buffer for buffer in block.buffers() if buffer.is_floating_point()]
    return [out.detach(), *gradients, *statistics]


def at_an_edge(block: InvertedResidual, x: Tensor) -> bool:
    """Whether float32 may take a value for another side of a ReLU6's edges than float64 does."""
    distances = []
    for step in (block.conv[0][1], block.conv[1][1]):
        step.register_forward_hook(
            lambda _, __, y: distances.append(y.sub(3).abs().sub(3).abs().min().item())
        )
    block(x)
    return min(distances) < 1e-5


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Root mean square of each difference beside that of what is wanted."""
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("dtype", fused.DTYPES, ids=str)
@pytest.mark.parametrize("shape", RESIDUALS, ids=str)
def test_inverted_residual(isa: str, shape: tuple[Any, ...], dtype: torch.dtype) -> None:
    *block_shape, images, height, width = shape
    x = random_maps(images, shape[0], height, width, dtype) * 2 + 5  # not about zero
    for seed in range(100):
        torch.manual_seed(seed)
        plain = random_residual(*block_shape)
        if dtype == torch.bfloat16 or not at_an_edge(copy.deepcopy(plain).double(), x.double()):
            break
    exact, block = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    fused.fuse(nn.Sequential(block))
    assert type(block) is fused.FusedResidual
    out_shape = images, shape[2], -(-height // shape[3]), -(-width // shape[3])
    gradient = random_maps(*out_shape, dtype, seed=1)
    autocast = dtype == torch.bfloat16
    wanted = passed(exact, x.double(), gradient.double(), False)
    found = errors(passed(block, x, gradient, autocast), wanted)
    pytorch = errors(passed(plain, x, gradient, autocast), wanted)
    for name, mine, theirs in zip(
        ["out", "x", *(name for name, _ in block.named_parameters()), *"mvmvmv"], found, pytorch
    ):
        assert mine <= max(2 * theirs, 1e-5), (name, mine, theirs)
    assert block.conv[0][1].num_batches_tracked == 1


def test_a_training_step_keeps_less_than_half() -> None:
    net = MobileNetV2(
        Architecture(width_mult=0.35, head=Classifier(10), resolution=(64, 64)), drop_rate=0
    )
    x = random_maps(4, 3, 64, 64, torch.float32)
    sizes = []
    for fuse in (False, True):
        if fuse:
            fused.fuse(net)
        kept: dict[int, int] = {}  # by address: what is kept twice counts once
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
        ):
            logits = net(x)  # holds what is kept
        sizes.append(sum(kept.values()))
        del logits
    assert sizes[1] < sizes[0] / 2


def test_no_inverted_residual_where_the_operator_is_another() -> None:
    def types(architecture: Architecture) -> set[type]:
        net = MobileNetV2(replace(architecture, resolution=(32, 32)))
        fused.fuse(net)
        return {type(block) for block in net.features[2:-1]}

    base = Architecture(width_mult=0.35)
    assert types(base) == {fused.FusedResidual}
    assert fused.FusedResidual not in types(replace(base, shortcut="expansion"))
    assert InvertedResidual in types(replace(base, divisor=4, width_mult=0.3))  # 20 channels
    frozen = random_residual(8, 6, 8, 1, "symmetric")
    fused.fuse(nn.Sequential(frozen))
    for norm in (m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    frozen(torch.randn(2, 8, 5, 5))
    assert not frozen.conv[0][1].running_mean.any()


def test_a_network_steps_as_before_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    plain = MobileNetV2(
        Architecture(width_mult=0.35, head=Classifier(5), resolution=(48, 48)), drop_rate=0
    )
    net = copy.deepcopy(plain)
    fused.fuse(net)
    norms = sum(isinstance(m, fused.NormReLU6) for m in net.modules())
    filters = sum(isinstance(m, fused.DepthwiseConv2d) for m in net.modules())
    blocks = sum(isinstance(m, fused.FusedResidual) for m in net.modules())
    assert (norms, filters, blocks) == (52, 17, 16)
    assert net.state_dict().keys() == plain.state_dict().keys()
    plain.eval(), net.eval()
    net.load_state_dict(plain.state_dict())
    x = torch.randn(8, 3, 48, 48)
    assert torch.equal(net(x), plain(x))


def test_gradients_of_a_network() -> None:
    off = []
    for seed in range(5):
        torch.manual_seed(seed)
        net = MobileNetV2(
            Architecture(width_mult=0.35, head=Classifier(5), resolution=(48, 48)), drop_rate=0
        )
        exact = copy.deepcopy(net).double()
        fused.fuse(net)
        x, labels = torch.randn(8, 3, 48, 48), torch.arange(8) % 5
        for each in (net, exact):
            logits = each(x.to(next(each.parameters()).dtype))
            functional.cross_entropy(logits, labels).backward()
        found, wanted = (
            torch.cat([p.grad.double().flatten() for p in each.parameters()])
            for each in (net, exact)
        )
        off.append(float((found - wanted).norm() / wanted.norm()))
    # Where a value lies at a ReLU6's edge, rounding decides: then, and in PyTorch too, 0.01; else 2e-5.
    assert sorted(off)[2] <= 0.01


def test_autocast_trains_and_other_types_fall_back() -> None:
    torch.manual_seed(0)
    net = MobileNetV2(
        Architecture(width_mult=0.35, head=Classifier(2), resolution=(32, 32)), drop_rate=0
    )
    fused.fuse(net)
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
    functional.cross_entropy(logits.float(), labels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.double()(x.double()).dtype == torch.float64


def test_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = random_residual(24, 6, 24, 1, "symmetric")
    fused.fuse(nn.Sequential(block))
    x = random_maps(5, 48, 33, 31, torch.float32)
    answers = []
    for threads in (1, 2, 3):
        kernels = Training(instruction_sets()[-1], threads)
        mean, variance, out = torch.empty(48), torch.empty(48), torch.empty_like(x)
        ones = torch.ones(48)
        kernels.norm(fused._pixels(x), ones, ones, 1e-5, True, mean, variance, fused._pixels(out))
        taps = torch.linspace(-1, 1, 9 * 48).view(48, 3, 3)
        back, for_taps = torch.empty_like(x), torch.empty_like(taps)
        kernels.depthwise_gradient(
            fused._channels_last_view(out),
            fused._channels_last_view(x),
            taps,
            1,
            1,
            1,
            fused._channels_last_view(back),
            for_taps,
        )
        monkeypatch.setattr(fused, "_kernels", lambda kernels=kernels: kernels)
        many = random_maps(200, 24, 5, 4, torch.float32)
        answers.append(
            (mean, variance, out, back, for_taps, *passed(copy.deepcopy(block), many, many, False))
        )
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other))


def test_one_value_a_channel_is_refused_as_by_pytorch() -> None:
    net = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6())
    fused.fuse(net)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(torch.randn(1, 8, 1, 1))


def test_shapes_that_do_not_fit_are_refused() -> None:
    kernels, x = Training("scalar", 1), torch.zeros(4, 8)
    eight, seven = torch.zeros(8), torch.zeros(7)
    with pytest.raises(ValueError, match="shapes do not match"):
        kernels.norm(x, eight, seven, 1e-5, True, eight, eight, x)
    with pytest.raises(ValueError, match="no instruction set"):
        Training("abacus", 1)
