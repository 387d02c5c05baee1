"""The fused training steps: values and gradients beside float64, for every depthwise shape of the
published widths.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenetv2.architecture import Architecture, layers
from mobilenetv2.nn import MobileNetV2, fused
from mobilenetv2.nn._native import Training, instruction_sets

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
        for pictures, h, w in ((1, 5, 6), (4, 6, 5)):
            top, left = (1, 1) if i % 2 or stride == 1 else (h % 2, w % 2)  # both padding rules
            x = random_maps(pictures, channels, h, w, dtype).requires_grad_()
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
    x = (random_maps(3, channels, 15, 17, dtype) * 3 + 100).requires_grad_()  # far from zero
    norm = nn.BatchNorm2d(channels, momentum=0.25)
    nn.init.uniform_(norm.weight, 1, 3)
    nn.init.normal_(norm.bias)
    exact = copy.deepcopy(norm).double()
    net = nn.Sequential(norm, *([nn.ReLU6()] if active else []))
    fused.fuse(net)
    out = net(x)
    gradient = random_maps(*out.shape, dtype, seed=1)
    found = torch.autograd.grad(out, (x, norm.weight, norm.bias), gradient)
    same = x.detach().double().requires_grad_()
    wanted = exact(same)
    wanted = functional.relu6(wanted) if active else wanted
    gradients = torch.autograd.grad(wanted, (same, exact.weight, exact.bias), gradient.double())
    assert_close(out, wanted)
    for mine, theirs in zip(found, gradients):
        error = (mine.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= (1e-4 if dtype == torch.float32 else 2**-8)
    assert_close(norm.running_mean, exact.running_mean)
    assert_close(norm.running_var, exact.running_var)
    assert norm.num_batches_tracked == 1


def test_a_network_steps_as_before_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    plain = MobileNetV2(Architecture(width_mult=0.35, classes=5, resolution=(48, 48)), drop_rate=0)
    net = copy.deepcopy(plain)
    fused.fuse(net)
    norms = sum(isinstance(m, fused.NormReLU6) for m in net.modules())
    filters = sum(isinstance(m, fused.DepthwiseConv2d) for m in net.modules())
    assert (norms, filters) == (52, 17)
    assert net.state_dict().keys() == plain.state_dict().keys()
    double = copy.deepcopy(plain).double()
    x, labels = torch.randn(8, 3, 48, 48), torch.arange(8) % 5
    for each in (plain, net, double):
        functional.cross_entropy(each(x.to(next(each.parameters()).dtype)), labels).backward()
    off = {"plain": 0.0, "fused": 0.0}
    for a, b, exact in zip(plain.parameters(), net.parameters(), double.parameters()):
        for name, mine in (("plain", a), ("fused", b)):
            off[name] += float((mine.grad.double() - exact.grad).square().sum())
    assert off["fused"] <= 2 * off["plain"]  # no worse than PyTorch in float32
    plain.eval(), net.eval()
    net.load_state_dict(plain.state_dict())
    assert torch.equal(net(x), plain(x))


def test_autocast_trains_and_other_types_fall_back() -> None:
    torch.manual_seed(0)
    net = MobileNetV2(Architecture(width_mult=0.35, classes=2, resolution=(32, 32)), drop_rate=0)
    fused.fuse(net)
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
    functional.cross_entropy(logits.float(), labels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.double()(x.double()).dtype == torch.float64


def test_same_bits_for_any_number_of_threads() -> None:
    torch.manual_seed(0)
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
            fused._pictures(out), fused._pictures(x), taps, 1, 1, 1, fused._pictures(back), for_taps
        )
        answers.append((mean, variance, out, back, for_taps))
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
    with pytest.raises(ValueError, match="shapes do not fit"):
        kernels.norm(x, eight, seven, 1e-5, True, eight, eight, x)
    with pytest.raises(ValueError, match="no instruction set"):
        Training("abacus", 1)
