"""The PyTorch module: torchvision's keys, the options, and what happens to weights that only partly
fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mobilenetv2.architecture import SMALL_IMAGES, Architecture
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import ArchitectureError, ModelFileError
from mobilenetv2.folding import fold
from mobilenetv2.graph import array_shapes, layers
from mobilenetv2.heads import Classifier
from mobilenetv2.layer import BATCH_NORM_ARRAYS
from mobilenetv2.nn import FeatureTap, MobileNetV2, mobilenet_v2
from mobilenetv2.runtime import Engine

from .conftest import random_checkpoint


def torchvision_keys() -> dict[str, tuple[int, ...]]:
    """torchvision 0.29's state dict of mobilenet_v2, written down from its documented layout, not
    from our code.
    """
    keys: dict[str, tuple[int, ...]] = {}

    def conv_norm(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        keys[f"{conv}.weight"] = shape
        keys.update({f"{norm}.{name}": shape[:1] for name in BATCH_NORM_ARRAYS})
        keys[f"{norm}.num_batches_tracked"] = ()

    conv_norm("features.0.0", "features.0.1", (32, 3, 3, 3))
    conv_norm("features.1.conv.0.0", "features.1.conv.0.1", (32, 1, 3, 3))
    conv_norm("features.1.conv.1", "features.1.conv.2", (16, 32, 1, 1))
    channels, index = 16, 1
    for width, count in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)):
        for _ in range(count):
            index += 1
            path = f"features.{index}.conv"
            conv_norm(f"{path}.0.0", f"{path}.0.1", (6 * channels, channels, 1, 1))
            conv_norm(f"{path}.1.0", f"{path}.1.1", (6 * channels, 1, 3, 3))
            conv_norm(f"{path}.2", f"{path}.3", (width, 6 * channels, 1, 1))
            channels = width
    conv_norm("features.18.0", "features.18.1", (1280, 320, 1, 1))
    return keys | {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}


def test_state_dict_is_torchvisions() -> None:
    state = mobilenet_v2().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == torchvision_keys()
    assert len(state) == 314


def test_a_torchvision_state_dict_loads_strictly() -> None:
    state = {
        name: torch.zeros(shape, dtype=torch.long if shape == () else None)
        for name, shape in torchvision_keys().items()
    }
    assert (
        str(mobilenet_v2().load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    )


def test_our_files_arrays_load_strictly_without_batch_counters() -> None:
    checkpoint = random_checkpoint()
    net = mobilenet_v2()
    net.load_state_dict(
        {name: torch.from_numpy(array) for name, array in checkpoint.arrays.items()}, strict=True
    )


def test_constants_are_the_papers_release() -> None:
    net = mobilenet_v2()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 52
    assert {round(norm.momentum, 6) for norm in norms} == {0.003}  # 1 - bn_decay 0.997
    assert {norm.eps for norm in norms} == {1e-5}
    assert {
        n.eps
        for n in mobilenet_v2(architecture=Architecture(bn_epsilon=1e-3)).modules()
        if hasattr(n, "eps")
    } == {1e-3}
    kernel = net.features[18][0].weight
    assert kernel.std().item() == pytest.approx(
        0.09 * 0.88, rel=0.02
    )  # cutting at two deviations shrinks the spread
    assert kernel.abs().max().item() <= 0.18
    assert net.classifier[0].p == 0.2


@pytest.mark.parametrize("shortcut", ["bottleneck", "expansion", "none"])
def test_every_parameter_gets_a_gradient(shortcut) -> None:
    net = MobileNetV2(
        Architecture(width_mult=0.35, head=Classifier(3), shortcut=shortcut), drop_path_rate=0.1
    )
    torch.manual_seed(0)
    net(torch.randn(8, 3, 64, 64)).square().sum().backward()
    assert [
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_the_shortcut_options_differ_and_count_ten() -> None:
    outputs = []
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for shortcut in ("bottleneck", "expansion", "none"):
        checkpoint = random_checkpoint(width_mult=0.35, shortcut=shortcut)
        net = MobileNetV2(checkpoint.architecture).eval()
        net.load_checkpoint(checkpoint)
        blocks = list(net.features)[1:-1]
        assert sum(b.adds_input for b in blocks) == (10 if shortcut == "bottleneck" else 0)
        assert sum(b.adds_expansion for b in blocks) == (10 if shortcut == "expansion" else 0)
        outputs.append(net(x))
    assert not any(torch.allclose(a, b) for a, b in zip(outputs, outputs[1:]))


def test_pyramid_taps_say_what_comes_out() -> None:
    net = mobilenet_v2(weights=random_checkpoint()).eval()
    x = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    maps = net.forward_pyramid(x)
    assert [(tap.channels, tap.stride) for tap in net.taps] == [
        (16, 2),
        (24, 4),
        (32, 8),
        (96, 16),
        (320, 32),
    ]
    assert [tuple(m.shape) for m in maps] == [
        (1, t.channels, 96 // t.stride, 160 // t.stride) for t in net.taps
    ]
    last = net.forward_features(x)
    assert last.std() > 0.01
    assert torch.equal(net.features[18](maps[-1]), last)
    assert mobilenet_v2(output_stride=8).taps[-1] == FeatureTap(17, 320, 8)


@pytest.mark.parametrize(("stride", "side"), [(32, 7), (16, 14), (8, 28)])
def test_output_stride_and_the_weights_still_fit(stride, side) -> None:
    checkpoint = random_checkpoint(width_mult=0.35)
    net = mobilenet_v2(weights=checkpoint, output_stride=stride).eval()
    assert net.forward_features(torch.zeros(1, 3, 224, 224)).shape == (1, 1280, side, side)


def test_small_images_keep_a_map() -> None:
    assert MobileNetV2(SMALL_IMAGES).eval().forward_features(torch.zeros(1, 3, 32, 32)).shape == (
        1,
        1280,
        4,
        4,
    )


def test_drop_path_leaves_evaluation_alone_and_training_unbiased() -> None:
    torch.manual_seed(0)
    net = mobilenet_v2(width_mult=0.35, drop_path_rate=0.5)
    rates = [block.drop_path_rate for block in list(net.features)[1:-1]]
    assert rates[0] == 0
    assert rates[-1] == 0.5
    assert rates == sorted(rates)
    block = net.features[15].train()
    x = torch.ones(4000, 1, 1, 1)
    kept = block._drop_path(x)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - block.drop_path_rate)])
    assert kept.mean().item() == pytest.approx(1, abs=0.1)
    assert block.eval()._drop_path(x) is x


@pytest.mark.parametrize("classes", [4, 1])
def test_another_number_of_classes_gets_a_new_head_and_says_so(classes: int) -> None:
    checkpoint = random_checkpoint(width_mult=0.35)
    with pytest.warns(UserWarning, match=f"new head: {classes} classes"):
        net = mobilenet_v2(weights=checkpoint, num_classes=classes)
    assert net.classifier[1].weight.shape == (classes, 1280)
    assert np.array_equal(
        net.features[0][0].weight.detach(), checkpoint.arrays["features.0.0.weight"]
    )
    with pytest.warns(UserWarning, match="new head: 1000"):
        fresh = mobilenet_v2(weights=checkpoint, num_classes=1000, fresh_head=True)
    assert not np.array_equal(
        fresh.classifier[1].weight.detach(), checkpoint.arrays["classifier.1.weight"]
    )
    same = mobilenet_v2(weights=checkpoint, num_classes=1000)
    assert np.array_equal(
        same.classifier[1].weight.detach(), checkpoint.arrays["classifier.1.weight"]
    )


def test_grey_images_from_colour_weights() -> None:
    checkpoint = random_checkpoint(width_mult=0.35)
    grey = mobilenet_v2(weights=checkpoint, in_chans=1).eval()
    colour = mobilenet_v2(weights=checkpoint).eval()
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-4)
    with pytest.raises(ArchitectureError, match="weights for 1 channels do not fit in_chans=3"):
        mobilenet_v2(weights=random_checkpoint(width_mult=0.35, in_channels=1), in_chans=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_and_images_may_lie_in_memory_in_any_order(channels) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, in_channels=channels)
    net = MobileNetV2(checkpoint.architecture).eval()
    net.load_checkpoint(checkpoint)
    x = torch.randn(2, channels, 64, 48, generator=torch.Generator().manual_seed(0))
    wanted = net(x)
    net.to(memory_format=torch.channels_last)
    layouts = x, x.to(memory_format=torch.channels_last), x.mT.contiguous().mT
    for same in layouts:
        assert torch.allclose(net(same), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"weights": random_checkpoint(width_mult=0.35), "width_mult": 0.5},
            ArchitectureError,
            "width_mult=0.5, but weights of width 0.35",
        ),
        (
            {"weights": random_checkpoint(width_mult=0.35), "architecture": Architecture()},
            ArchitectureError,
            "either weights or architecture",
        ),
        ({"num_clases": 4}, TypeError, "num_clases"),
        ({"dropout": 1.0}, ArchitectureError, "drop_rate"),
        ({"architecture": Architecture(head="deeplabv3")}, ArchitectureError, "DeepLab"),
        ({"weights": "nothing-of-that-name"}, ModelFileError, "no such file"),
    ],
)
def test_arguments_that_contradict_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mobilenet_v2(**arguments)


def test_width_may_be_written_in_any_way() -> None:
    widths = [
        mobilenet_v2(width_mult=w).architecture for w in (1, 1.0, "1.0", "1.00", np.float32(1))
    ]
    assert all(width == Architecture() for width in widths)


def test_weights_from_a_file_and_back(tmp_path) -> None:
    checkpoint = random_checkpoint(width_mult=0.35, padding="same", bn_epsilon=1e-3)
    checkpoint.save(tmp_path / "a.safetensors")
    net = mobilenet_v2(weights=tmp_path / "a.safetensors")
    assert net.architecture == checkpoint.architecture  # padding and epsilon came along
    net.to_checkpoint(preprocessing=checkpoint.preprocessing).save(tmp_path / "b.safetensors")
    again = Checkpoint.load(tmp_path / "b.safetensors")
    assert again.architecture == checkpoint.architecture
    assert all(
        np.array_equal(again.arrays[name], checkpoint.arrays[name])
        for name in array_shapes(checkpoint.architecture)
    )


def test_a_module_in_training_gives_the_checkpoint_of_evaluation(pixels) -> None:
    net = mobilenet_v2(weights=random_checkpoint(width_mult=0.35), dropout=0.5).train()
    checkpoint = net.to_checkpoint()
    assert net.training
    x = pixels(2, 64, 48, 3)
    normal = torch.from_numpy(checkpoint.preprocessing.normalize(x)).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = net.eval()(normal).numpy()
    assert np.abs(Engine(checkpoint, 1)(x) - wanted).max() < 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
def test_arrays_of_a_checkpoint_do_not_change_with_a_module(channels_last: bool) -> None:
    source = random_checkpoint(width_mult=0.35, resolution=(32, 32))
    net = mobilenet_v2(weights=source).train()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    taken = net.to_checkpoint()
    before = {name: array.copy() for name, array in source.arrays.items()}
    net(torch.randn(4, 3, 32, 32)).sum().backward()  # changes the running statistics
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    changed = net.to_checkpoint()
    for name, array in before.items():
        assert np.array_equal(taken.arrays[name], array), name
        assert np.array_equal(source.arrays[name], array), name
        assert not np.array_equal(changed.arrays[name], array), name


def test_arrays_made_from_those_of_a_checkpoint_are_copies() -> None:
    labels = ("background", "ant", "bee")
    checkpoint = replace(random_checkpoint(width_mult=0.35, classes=3), labels=labels)
    kernel = checkpoint.arrays["classifier.1.weight"]
    fewer = checkpoint.without_background().arrays["classifier.1.weight"]
    linear = next(x for x in layers(checkpoint.architecture) if x.kind == "linear")
    assert not np.shares_memory(fewer, kernel)
    assert not np.shares_memory(fold(checkpoint, linear, np.float32)[0], kernel)


def test_arrays_that_do_not_fit_are_named() -> None:
    net = mobilenet_v2(width_mult=0.35)
    with pytest.raises(
        ModelFileError,
        match=r"classifier.1.bias: the network needs \(1000,\), the checkpoint has \(5,\)",
    ):
        net.load_checkpoint(random_checkpoint(width_mult=0.35, classes=5))


def test_published_weights_in_the_module(shared) -> None:
    from mobilenetv2.formats import read

    checkpoint = read(shared("models/tf2_mobilenet_v2_1.0_224_ptq.tflite"), int8=False)
    pixels = np.load(shared("reference/imagenet/inputs.first32.npz"))["images"][:8]
    wanted = np.load(shared("reference/imagenet/tf2_mobilenet_v2_1.0_224_ptq.first32.npz"))[
        "float_logits"
    ][:8]
    net = mobilenet_v2(weights=checkpoint).eval()
    with torch.no_grad():
        found = net(
            torch.from_numpy(checkpoint.preprocessing.normalize(pixels)).permute(0, 3, 1, 2)
        ).numpy()
    assert np.abs(found - wanted).max() < 1e-4
