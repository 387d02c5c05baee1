"""Detectors and segmenters as PyTorch modules: the same answers as the engine, and weights into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture
from mobilenetv2.boxes import raw_outputs
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ArchitectureError, UserError
from mobilenetv2.graph import array_shapes, network
from mobilenetv2.heads import SSD, Classifier, DeepLab, SSDLite
from mobilenetv2.nn import (
    DetectionNetwork,
    SegmentationNetwork,
    deeplabv3_mobilenet_v2,
    mobilenet_v2,
    ssdlite_mobilenet_v2,
)
from mobilenetv2.nn.fused import fuse
from mobilenetv2.runtime import Engine

NARROW = Architecture(
    width_mult=0.1, padding="same", bn_epsilon=1e-3, resolution=(96, 96), last_channels=64
)
SMALL_HEAD = {"classes": 3, "extra_channels": (16, 16, 8, 8)}
HEADS = {
    "ssd": SSD(**SMALL_HEAD),
    "ssd 3x3": SSD(**SMALL_HEAD, predictor_kernel=3, score="softmax"),
    "ssdlite": SSDLite(**SMALL_HEAD),
    "deeplab": DeepLab(5),
    "aspp": DeepLab(5, aspp=True),
}
SIZES = [(224, 224), (300, 300), (320, 320), (513, 513), (97, 131), (33, 20)]


def net_for(architecture: Architecture) -> DetectionNetwork | SegmentationNetwork:
    """A network with statistics that are not those of a new one."""
    torch.manual_seed(0)
    if architecture.head.task == "detection":
        net = DetectionNetwork(architecture)
    else:
        net = SegmentationNetwork(architecture)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.5)
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    for layer in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight)
    return net.eval()


def with_head(name: str, base: Architecture = NARROW) -> Architecture:
    head = HEADS[name]
    return replace(base, head=head, output_stride=32 if head.task == "detection" else 16)


def assert_as_engine(net: DetectionNetwork | SegmentationNetwork, size: tuple[int, int]) -> None:
    checkpoint = net.to_checkpoint()
    pixels = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    x = torch.from_numpy(checkpoint.preprocessing.normalize(pixels)).permute(0, 3, 1, 2)
    with torch.no_grad():
        given = net(x)
    expected = Engine(checkpoint)(pixels)
    if isinstance(net, DetectionNetwork):
        head = checkpoint.architecture.head
        pairs = list(zip(given, raw_outputs(head, expected), strict=True))
    else:
        pairs = [(given.permute(0, 2, 3, 1), expected)]
    for ours, engine in pairs:
        assert ours.shape == engine.shape
        scale = max(1.0, float(np.abs(engine).max()))
        assert np.abs(ours.numpy() - engine).max() <= 1e-4 * scale


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("head", ["ssd", "ssdlite", "deeplab", "aspp"])
def test_it_answers_as_the_engine_at_any_size(head: str, size: tuple[int, int]) -> None:
    assert_as_engine(net_for(with_head(head)), size)


@pytest.mark.parametrize(
    "base",
    [
        replace(NARROW, padding="symmetric"),
        replace(NARROW, shortcut="expansion"),
        replace(V1, width_mult=0.1),
        replace(SMALL_IMAGES, width_mult=0.1),
        replace(NARROW, last_channels=None),
    ],
    ids=["symmetric", "expansion", "v1", "small images", "no last convolution"],
)
@pytest.mark.parametrize("head", ["ssd 3x3", "deeplab"])
def test_it_answers_as_the_engine_on_any_backbone(head: str, base: Architecture) -> None:
    assert_as_engine(net_for(with_head(head, base)), (64, 75))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_names_are_those_of_the_layers_and_every_parameter_gets_a_gradient(
    head: str, fused: bool
) -> None:
    architecture = with_head(head, replace(NARROW, width_mult=0.25))
    net = net_for(architecture).train()
    names = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    assert set(names) == set(array_shapes(architecture))
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net.drop_rate = 0.0  # what is dropped depends on the order in memory
    if fused:
        plain = outputs_of(net, x)
        fuse(net)
        net.to(memory_format=torch.channels_last)
    outputs = outputs_of(net, x)
    if fused:
        for one, other in zip(plain, outputs, strict=True):
            assert torch.allclose(one, other, atol=1e-2)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    lacking = [name for name, x in net.named_parameters() if x.grad is None or not x.grad.any()]
    assert not lacking


def outputs_of(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    answer = net(x)
    return answer if isinstance(answer, tuple) else (answer,)


def test_initial_weights_are_those_of_the_published_code() -> None:
    torch.manual_seed(0)
    detector = ssdlite_mobilenet_v2(width_mult=0.5, head=SSDLite(8))
    segmenter = deeplabv3_mobilenet_v2(width_mult=0.5)
    for weight, std in (
        (detector.get_parameter("features.18.0.weight"), 0.09),
        (detector.get_parameter("head.extra.0.0.0.weight"), 0.03),
        (detector.get_parameter("head.scores.1.1.weight"), 0.03),
        (segmenter.get_parameter("head.aspp0.0.weight"), 0.09),
        (segmenter.get_parameter("head.logits.weight"), 0.01),
    ):
        # a normal distribution truncated at two standard deviations
        assert float(weight.detach().std()) == pytest.approx(0.88 * std, rel=0.05)
        assert float(weight.detach().abs().max()) <= 2 * std
    assert not detector.get_parameter("head.boxes.0.1.bias").any()
    decays = {
        name: 1 - m.momentum for name, m in segmenter.named_modules() if hasattr(m, "momentum")
    }
    assert decays["features.0.1"] == pytest.approx(0.997)
    assert decays["head.aspp0.1"] == pytest.approx(0.9997)


def checkpoint_of(head: str | Classifier) -> Checkpoint:
    if isinstance(head, str):
        net = net_for(with_head(head))
        for name, bias in net.named_parameters():
            if ".scores." in name and name.endswith("bias"):
                nn.init.zeros_(bias)
        return net.to_checkpoint()
    return mobilenet_v2(architecture=replace(NARROW, head=head)).to_checkpoint()


@pytest.mark.parametrize("source", ["ssdlite", "deeplab", "classifier"])
@pytest.mark.parametrize("target", ["detector", "segmenter", "classifier"])
def test_the_backbone_of_any_weights_is_taken(source: str, target: str) -> None:
    checkpoint = checkpoint_of(Classifier(4) if source == "classifier" else source)
    build = {
        "detector": lambda **k: ssdlite_mobilenet_v2(head=SSDLite(**SMALL_HEAD), **k),
        "segmenter": lambda **k: deeplabv3_mobilenet_v2(num_classes=5, **k),
        "classifier": lambda **k: mobilenet_v2(num_classes=4, **k),
    }[target]
    same = (source, target) in (
        ("ssdlite", "detector"),
        ("deeplab", "segmenter"),
        ("classifier", "classifier"),
    )
    if same:
        arrays = build(weights=checkpoint).to_checkpoint().arrays
        assert all(np.array_equal(arrays[name], x) for name, x in checkpoint.arrays.items())
        return
    with pytest.warns(UserWarning, match="^new head: [0-9] classes, not trained"):
        net = build(weights=checkpoint)
    arrays = net.to_checkpoint().arrays
    shared = [x for x in arrays if x in checkpoint.arrays]
    assert all(np.array_equal(arrays[x], checkpoint.arrays[x]) for x in shared)
    assert [x for x in shared if x.startswith("features.17")]


def test_other_classes_leave_the_rest_of_the_head() -> None:
    checkpoint = checkpoint_of("ssdlite")
    with pytest.warns(UserWarning, match="new head: 7 classes.*head.scores.0.1.bias.* and 10 more"):
        other = ssdlite_mobilenet_v2(weights=checkpoint, num_classes=7).to_checkpoint()
    new = {
        name for name, x in other.arrays.items() if not np.array_equal(x, checkpoint.arrays[name])
    }
    assert new == {f"head.scores.{i}.1.{kind}" for i in range(6) for kind in ("weight", "bias")}
    with pytest.warns(UserWarning, match="new head"):
        fresh = ssdlite_mobilenet_v2(weights=checkpoint, fresh_head=True).to_checkpoint()
    changed = {
        name for name, x in fresh.arrays.items() if not np.array_equal(x, checkpoint.arrays[name])
    }
    assert changed == {name for name in new if name.endswith("weight")}  # biases begin at 0


def test_sizes_and_strides_that_a_task_needs() -> None:
    classifier = checkpoint_of(Classifier(4))
    with pytest.warns(UserWarning, match="new head"):
        segmenter = deeplabv3_mobilenet_v2(weights=classifier).architecture
    assert (segmenter.resolution, segmenter.output_stride) == ((513, 513), 16)
    with pytest.warns(UserWarning, match="new head"):
        detector = ssdlite_mobilenet_v2(weights=segmenter_checkpoint()).architecture
    assert (detector.resolution, detector.output_stride) == ((300, 300), 32)
    assert deeplabv3_mobilenet_v2(weights=segmenter_checkpoint()).architecture.resolution == (
        96,
        96,
    )
    assert len(network(ssdlite_mobilenet_v2(width_mult=0.1).architecture).outputs) == 12


def segmenter_checkpoint() -> Checkpoint:
    return checkpoint_of("deeplab")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="^DetectionNetwork is for heads of detection, not"):
        DetectionNetwork(NARROW)
    with pytest.raises(ArchitectureError, match="drop_rate must be"):
        deeplabv3_mobilenet_v2(width_mult=0.1, drop_rate=1.0)
    with pytest.raises(ArchitectureError, match="either weights or architecture"):
        ssdlite_mobilenet_v2(weights=segmenter_checkpoint(), architecture=NARROW)
    with pytest.raises(ArchitectureError, match=r"width_mult=0\.5, but weights of width 0\.1"):
        ssdlite_mobilenet_v2(weights=segmenter_checkpoint(), width_mult=0.5)


@pytest.mark.parametrize(
    ("head", "path", "name", "value", "message"),
    [
        (
            "ssdlite",
            "head.boxes.0.0",
            "1",
            nn.BatchNorm2d(8),
            r"head\.boxes\.0\.0\.1 has eps 1e-05",
        ),
        ("ssdlite", "head.extra.0.1.0", "stride", (1, 1), r"head\.extra\.0\.1\.0 has stride"),
        ("deeplab", "head.aspp0", "2", nn.ReLU6(), r"head\.aspp0\.2 is a ReLU6, not a ReLU$"),
        ("deeplab", "head", "more", nn.ReLU(), r"head\.more is a ReLU that the architecture lacks"),
    ],
)
def test_a_changed_head_is_refused_by_to_checkpoint(
    head: str, path: str, name: str, value: object, message: str
) -> None:
    net = net_for(with_head(head))
    setattr(net.get_submodule(path), name, value)
    with pytest.raises(UserError, match=message):
        net.to_checkpoint()


def test_a_fused_head_is_not_a_changed_one() -> None:
    net = net_for(with_head("ssdlite"))
    before = net.to_checkpoint().arrays
    fuse(net)
    after = net.to_checkpoint().arrays
    assert all(np.array_equal(before[name], after[name]) for name in before)
