"""The network as data: widths, strides, padding, shortcuts and names, against the paper and the
reference code.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mobilenetv2.architecture import MOBILENET_V2, SMALL_IMAGES, V1, Architecture, Stage
from mobilenetv2.errors import ArchitectureError
from mobilenetv2.graph import (
    array_shapes,
    blocks,
    last_channels,
    layers,
    make_divisible,
    stem_channels,
)
from mobilenetv2.heads import Classifier, DeepLab, Head
from mobilenetv2.layer import Layer, conv_padding

NETWORK = Architecture()
WIDTHS = {  # shared/facts/pitfalls.md: stem, seven stages, last convolution
    0.35: (16, 8, 8, 16, 24, 32, 56, 112, 1280),
    0.5: (16, 8, 16, 16, 32, 48, 80, 160, 1280),
    0.75: (24, 16, 24, 24, 48, 72, 120, 240, 1280),
    1.0: (32, 16, 24, 32, 64, 96, 160, 320, 1280),
    1.3: (40, 24, 32, 40, 80, 128, 208, 416, 1664),
    1.4: (48, 24, 32, 48, 88, 136, 224, 448, 1792),
}
CHAINS = {  # sides of the maps after each stride
    224: (112, 56, 28, 14, 7),
    225: (113, 57, 29, 15, 8),
    300: (150, 75, 38, 19, 10),
    513: (257, 129, 65, 33, 17),
}
VARIANTS = {
    "plain": NETWORK,
    "same": replace(NETWORK, padding="same"),
    "expansion": replace(NETWORK, shortcut="expansion"),
    "none": replace(NETWORK, shortcut="none"),
    "v1": V1,
    "small": SMALL_IMAGES,
    "features": replace(NETWORK, head="features"),
    "deeplab-16": replace(NETWORK, head=DeepLab(21), output_stride=16, padding="same"),
    "aspp-8": replace(NETWORK, head=DeepLab(21, aspp=True), output_stride=8),
    "v1-aspp-16": replace(V1, head=DeepLab(21, aspp=True), output_stride=16, padding="same"),
}


def stage_channels(architecture: Architecture) -> tuple[int, ...]:
    ends = np.cumsum([stage.repeats for stage in architecture.stages])
    return tuple(blocks(architecture)[end - 1].out_channels for end in ends)


def of_role(architecture: Architecture, role: str, *size: int) -> list[Layer]:
    return [layer for layer in layers(architecture, *size) if layer.role == role]


def widths(architecture: Architecture) -> set[int]:
    return {layer.out_shape[0] for layer in layers(architecture) if layer.weight}


# Widths


@pytest.mark.parametrize("width", WIDTHS)
def test_channels_of_the_published_widths(width: float) -> None:
    a = Architecture(width_mult=width)
    assert (stem_channels(a), *stage_channels(a), last_channels(a)) == WIDTHS[width]
    assert layers(a)[0].out_shape[0] == WIDTHS[width][0]
    assert of_role(a, "last")[0].out_shape[0] == WIDTHS[width][-1]
    assert [b.inner_channels for b in blocks(a)[1:]] == [6 * b.in_channels for b in blocks(a)[1:]]


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (11.2, 16),
        (33.6, 32),
        (124.8, 128),
        (44.8, 48),
        (22.4, 24),
        (0.1, 8),
        (8.4, 8),
        (12.0, 16),
        (20.0, 24),
        (19.9, 24),
    ],
)
def test_rounding_goes_to_the_nearest_multiple_but_never_far_down(
    value: float, rounded: int
) -> None:
    assert make_divisible(value) == rounded


def test_rounding_never_takes_more_than_a_tenth() -> None:
    for value in np.arange(1, 700, 0.7):
        rounded = make_divisible(float(value))
        assert rounded % 8 == 0
        assert rounded >= 0.9 * value


@pytest.mark.parametrize("same", [1, 1.0, "1.0", "1.00", np.float32(1), np.float64(1)])
def test_a_width_of_one_is_one_however_it_is_written(same: object) -> None:
    a = Architecture(width_mult=same)  # type: ignore[arg-type]
    assert a == NETWORK
    assert a.to_json() == NETWORK.to_json()


def test_any_width_builds() -> None:
    for width in (0.001, 0.01, 0.25, 0.6, 1.1, 2, 16):
        assert layers(Architecture(width_mult=width))[-1].out_shape == (1000, 1, 1)


# TF-slim's unit tests, mobilenet_v2_test.py


def test_slim_divisible_by_and_min_depth() -> None:
    expected = {32, 64, 96, 160, 192, 320, 384, 576, 960, 1280, 1001}
    assert widths(Architecture(divisor=16, min_channels=32, head=Classifier(1001))) == expected


def test_slim_depth_multiplier_with_fine_grained_classification() -> None:
    assert widths(Architecture(width_mult=0.01, head=Classifier(1001))) == {8, 48, 1001, 1280}


def test_slim_depth_multiplier_without_it() -> None:
    a = Architecture(width_mult=0.1, min_channels=32, last_channels=128, head=Classifier(1001))
    assert widths(a) == {32, 128, 192, 1001}


@pytest.mark.parametrize(("side", "last"), [(224, 7), (192, 6), (160, 5), (128, 4), (96, 3)])
def test_slim_sizes_of_layer_18(side: int, last: int) -> None:
    assert of_role(NETWORK, "project", side, side)[-1].out_shape == (320, last, last)


@pytest.mark.parametrize(("output_stride", "last"), [(8, 28), (16, 14), (32, 7)])
def test_slim_output_stride(output_stride: int, last: int) -> None:
    a = replace(NETWORK, output_stride=output_stride)
    assert of_role(a, "project")[-1].out_shape == (320, last, last)


def test_deeplab_at_half_width_does_not_round() -> None:
    a = Architecture(width_mult=0.5, divisor=1, min_channels=1, head=DeepLab(21), output_stride=16)
    assert (stem_channels(a), *stage_channels(a)) == (16, 8, 12, 16, 32, 48, 80, 160)
    assert sorted({b.inner_channels for b in blocks(a)[1:]}) == [48, 72, 96, 192, 288, 480]
    assert of_role(a, "aspp0", 513, 513)[0].out_shape == (256, 33, 33)


# Strides, sizes and padding


def test_the_blocks_of_table_2() -> None:
    found = blocks(NETWORK)
    assert len(found) == 17
    assert [b.index for b in found] == list(range(1, 18))
    assert [b.stride for b in found] == [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert [b.expands for b in found] == [False] + [True] * 16
    assert [b.index - 1 for b in found if b.keeps_shape] == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]
    sides = [of_role(NETWORK, "project")[i].out_shape[1] for i in (0, 2, 5, 9, 12, 15, 16)]
    assert sides == [
        112,
        56,
        28,
        14,
        14,
        7,
        7,
    ]  # not those of the paper's first version (pitfalls AR-03)


def test_block_0_has_no_expansion() -> None:
    assert [layer.role for layer in layers(NETWORK) if layer.block == 1] == ["depthwise", "project"]


def test_the_inner_width_follows_the_input() -> None:
    a = Architecture(stages=(Stage(1, 64, 1, 1), Stage(6, 128, 1, 1)))
    assert blocks(a)[1].inner_channels == 384  # Section 3.3: 64 in, 128 out, t = 6


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("side", CHAINS)
def test_sides_after_each_stride(side: int, padding: str) -> None:
    found = layers(replace(NETWORK, padding=padding), side, side)
    assert tuple(layer.out_shape[1] for layer in found if layer.stride == 2) == CHAINS[side]


@pytest.mark.parametrize(
    ("rule", "size", "kernel", "stride", "dilation", "amounts"),
    [
        ("same", 224, 3, 2, 1, (0, 1)),
        ("same", 225, 3, 2, 1, (1, 1)),
        ("same", 1, 3, 2, 1, (1, 1)),
        ("same", 2, 3, 2, 1, (0, 1)),
        ("same", 224, 3, 1, 1, (1, 1)),
        ("same", 33, 3, 1, 18, (18, 18)),
        ("same", 224, 1, 1, 1, (0, 0)),
        ("same", 224, 1, 2, 1, (0, 0)),
        ("symmetric", 224, 3, 2, 1, (1, 1)),
        ("symmetric", 225, 3, 2, 1, (1, 1)),
        ("symmetric", 33, 3, 1, 4, (4, 4)),
        ("symmetric", 33, 1, 1, 1, (0, 0)),
    ],
)
def test_padding_amounts(
    rule: str, size: int, kernel: int, stride: int, dilation: int, amounts: tuple[int, int]
) -> None:
    assert conv_padding(rule, size, kernel, stride, dilation) == amounts


def test_the_two_paddings_differ_where_an_input_is_even() -> None:
    same = replace(NETWORK, padding="same")
    assert [layer.padding for layer in layers(same) if layer.stride == 2] == [(0, 1, 0, 1)] * 5
    assert [layer.padding for layer in layers(NETWORK) if layer.stride == 2] == [(1, 1, 1, 1)] * 5
    mixed = layers(same, 224, 225)[0]
    assert mixed.padding == (0, 1, 1, 1)  # top, bottom, left, right


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("side", [225, 513])
def test_the_two_paddings_agree_where_every_input_is_odd(side: int, output_stride: int) -> None:
    a = replace(NETWORK, output_stride=output_stride)
    inputs = [layer for layer in layers(a, side, side) if layer.stride == 2]
    assert all(layer.in_shape[1] % 2 for layer in inputs)
    assert layers(a, side, side) == layers(replace(a, padding="same"), side, side)


@pytest.mark.parametrize(
    ("output_stride", "strided", "dilations"),  # shared/facts/deeplab.md section 2; blocks from 0
    [
        (32, [1, 3, 6, 13], {}),
        (16, [1, 3, 6], {14: 2, 15: 2, 16: 2}),
        (8, [1, 3], dict.fromkeys(range(7, 14), 2) | {14: 4, 15: 4, 16: 4}),
    ],
)
def test_dilation_replaces_strides(
    output_stride: int, strided: list[int], dilations: dict[int, int]
) -> None:
    a = replace(NETWORK, output_stride=output_stride)
    found = blocks(a)
    assert [b.index - 1 for b in found if b.stride == 2] == strided
    assert {b.index - 1: b.dilation for b in found if b.dilation > 1} == dilations
    assert sum(layer.kind == "add" for layer in layers(a)) == 10
    assert all(layer.dilation == 1 for layer in layers(a) if layer.kind != "depthwise")
    for layer in of_role(a, "depthwise", 513, 513):
        assert layer.padding == (layer.dilation,) * 4
    assert array_shapes(a) == array_shapes(NETWORK)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (33, 17), (97, 225), (2, 300), (224, 448), (200, 200), (97, 130), (33, 31), (32, 32)],
)
def test_every_size_works_and_shapes_follow(size: tuple[int, int], padding: str) -> None:
    found = layers(replace(NETWORK, padding=padding), *size)
    assert found[0].in_shape == (3, *size)
    last = next(layer for layer in found if layer.role == "last")
    assert last.out_shape == (1280, math.ceil(size[0] / 32), math.ceil(size[1] / 32))
    assert found[-1].out_shape == (1000, 1, 1)


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (97, 225), (224, 224)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_list_is_consistent(variant: str, size: tuple[int, int]) -> None:
    shapes = {"image": (3, *size)}
    for layer in layers(VARIANTS[variant], *size):
        assert set(layer.sources) <= shapes.keys(), f"{layer.name} reads what is not there yet"
        assert layer.name not in shapes, f"{layer.name} is there twice"
        if layer.kind == "concat":
            assert layer.out_shape[0] == sum(shapes[source][0] for source in layer.sources)
            assert {shapes[source][1:] for source in layer.sources} == {layer.out_shape[1:]}
        else:
            assert {shapes[source] for source in layer.sources} == {layer.in_shape}
        assert len(layer.sources) == {"add": 2, "concat": len(layer.sources)}.get(layer.kind, 1)
        if layer.kind in ("conv", "depthwise"):
            top, bottom, left, right = layer.padding
            for given, padded, out in zip(
                layer.in_shape[1:], (top + bottom, left + right), layer.out_shape[1:]
            ):
                reach = layer.dilation * (layer.kernel - 1)
                assert (given + padded - reach - 1) // layer.stride + 1 == out
        shapes[layer.name] = layer.out_shape


# Options of the paper


@pytest.mark.parametrize(
    ("shortcut", "count"), [("bottleneck", 10), ("expansion", 10), ("none", 0)]
)
def test_number_of_shortcuts(shortcut: str, count: int) -> None:
    a = replace(NETWORK, shortcut=shortcut)
    assert sum(layer.kind == "add" for layer in layers(a)) == count
    assert array_shapes(a) == array_shapes(NETWORK)


def test_shortcuts_between_bottlenecks_join_the_ends_of_a_block() -> None:
    adds = [layer for layer in layers(NETWORK) if layer.kind == "add"]
    assert adds[0].sources == ("features.2.conv.2", "features.3.conv.2")
    assert adds[1].sources == ("features.4.conv.2", "features.5.conv.2")
    assert adds[2].sources == ("features.5.add", "features.6.conv.2")
    assert all(layer.activation == "linear" for layer in adds)


def test_shortcuts_between_expansions_join_wide_tensors() -> None:
    adds = [
        layer for layer in layers(replace(NETWORK, shortcut="expansion")) if layer.kind == "add"
    ]
    assert adds[0].name == "features.4.add"
    assert adds[0].sources == ("features.4.conv.0.0", "features.3.conv.1.0")
    assert {layer.in_shape[0] for layer in adds} == {144, 192, 384, 576, 960}
    readers = {
        layer.sources[0]: layer.name for layer in layers(replace(NETWORK, shortcut="expansion"))
    }
    assert readers["features.4.add"] == "features.4.conv.1.0"


def test_activations() -> None:
    for bottleneck, projection in (("linear", "linear"), ("relu6", "relu6")):
        found = layers(replace(NETWORK, bottleneck=bottleneck))
        assert {layer.activation for layer in found if layer.role == "project"} == {projection}
        assert {
            layer.activation
            for layer in found
            if layer.role in ("stem", "expand", "depthwise", "last")
        } == {"relu6"}
    assert sum(layer.activation == "relu6" for layer in layers(NETWORK)) == 35


def test_mobilenet_v1() -> None:
    found = layers(V1)
    assert [layer.stride for layer in found if layer.kind == "depthwise"] == [
        1,
        2,
        1,
        2,
        1,
        2,
        1,
        1,
        1,
        1,
        1,
        2,
        1,
    ]
    assert [layer.out_shape[0] for layer in found if layer.role == "project"] == [
        64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024,
    ]  # fmt: skip
    assert not [layer for layer in found if layer.role in ("expand", "last") or layer.kind == "add"]
    assert {layer.activation for layer in found if layer.norm} == {"relu6"}


def test_small_images_keep_a_map() -> None:
    assert SMALL_IMAGES.resolution == (32, 32)
    assert of_role(SMALL_IMAGES, "last")[0].out_shape == (1280, 4, 4)
    assert of_role(NETWORK, "last", 32, 32)[0].out_shape == (1280, 1, 1)
    assert array_shapes(SMALL_IMAGES) == array_shapes(NETWORK)


def test_the_light_segmentation_head() -> None:
    a = VARIANTS["deeplab-16"]
    head = [layer for layer in layers(a, 513, 513) if layer.name.startswith("head.")]
    assert [layer.kind for layer in head] == [
        "pool",
        "conv",
        "resize",
        "conv",
        "concat",
        "conv",
        "conv",
        "resize",
    ]
    assert head[4].sources == ("head.image_pooling.resize", "head.aspp0.0")  # pooling first
    assert [layer.out_shape for layer in head[4:]] == [
        (512, 33, 33),
        (256, 33, 33),
        (21, 33, 33),
        (21, 513, 513),
    ]
    assert {layer.activation for layer in head if layer.norm} == {"relu"}
    assert {layer.bn_epsilon for layer in head if layer.norm} == {1e-5}
    assert head[0].in_shape == (320, 33, 33)  # no 1280-channel convolution before it
    assert not of_role(a, "last")


@pytest.mark.parametrize(
    ("output_stride", "rates", "side"), [(16, [6, 12, 18], 33), (8, [12, 24, 36], 65)]
)
def test_atrous_rates(output_stride: int, rates: list[int], side: int) -> None:
    a = replace(NETWORK, head=DeepLab(21, aspp=True), output_stride=output_stride)
    branches = [layer for layer in layers(a, 513, 513) if layer.role.startswith("aspp")]
    assert [layer.dilation for layer in branches] == [1, *rates]
    assert [layer.kernel for layer in branches] == [1, 3, 3, 3]
    assert {layer.out_shape for layer in branches} == {(256, side, side)}
    assert next(layer for layer in layers(a, 513, 513) if layer.kind == "concat").out_shape == (
        1280,
        side,
        side,
    )


# Names


def test_names_and_shapes_are_torchvisions() -> None:
    shapes = array_shapes(NETWORK)
    assert list(shapes)[:6] == [
        "features.0.0.weight", "features.0.1.weight", "features.0.1.bias", "features.0.1.running_mean",
        "features.0.1.running_var", "features.1.conv.0.0.weight",
    ]  # fmt: skip
    assert shapes["features.0.0.weight"] == (32, 3, 3, 3)
    assert shapes["features.1.conv.0.0.weight"] == (32, 1, 3, 3)
    assert shapes["features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert shapes["features.1.conv.2.running_var"] == (16,)
    assert shapes["features.3.conv.1.0.weight"] == (144, 1, 3, 3)
    assert shapes["features.17.conv.3.bias"] == (320,)
    assert shapes["features.18.0.weight"] == (1280, 320, 1, 1)
    assert list(shapes)[-2:] == ["classifier.1.weight", "classifier.1.bias"]
    assert shapes["classifier.1.weight"] == (1000, 1280)
    assert len(shapes) == 262  # 314 in torchvision's state dict less 52 num_batches_tracked


def test_the_first_kernel_follows_the_image() -> None:
    assert array_shapes(replace(NETWORK, in_channels=1))["features.0.0.weight"] == (32, 1, 3, 3)


# JSON and refusals


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_there_and_back(variant: str) -> None:
    a = replace(VARIANTS[variant], width_mult=0.35, resolution=(96, 128))
    assert Architecture.from_json(a.to_json()) == a
    assert json.loads(a.to_json())["resolution"] == [96, 128]


def test_json_fields_that_are_absent_take_their_defaults() -> None:
    assert Architecture.from_json("{}") == NETWORK
    assert Architecture.from_json('{"classes": 5}') == replace(NETWORK, head=Classifier(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "JSON object, not list"),
        ("3", "JSON object, not int"),
        ('{"width": 1, "alpha": 2}', "unknown fields: alpha, width"),
        ('{"width_mult": null}', "width_mult"),
        ('{"width_mult": []}', "width_mult"),
        ('{"classes": "ten"}', "classes"),
        ('{"classes": 10.0}', "classes"),
        ('{"classes": true}', "classes"),
        ('{"resolution": 224}', "resolution"),
        ('{"resolution": [224]}', "resolution"),
        ('{"resolution": [224, "224"]}', "resolution"),
        ('{"stages": 3}', "stages"),
        ('{"stages": []}', "stages"),
        ('{"stages": [[6, 16, 1, 1]]}', "stages"),
        ('{"stages": [{"expansion": 6}]}', "stages"),
        ('{"stages": [{"expansion": 6, "channels": 16, "repeats": 1, "stride": 3}]}', "stride"),
        ('{"padding": ["same"]}', "padding"),
        ('{"head": 3}', "head"),
        ('{"scale_ends": 1}', "scale_ends"),
    ],
)
def test_json_that_is_wrong_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(text)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("width_mult", [0, -1, 17, "wide", None, math.nan, math.inf, True]),
        ("bn_epsilon", [0, -1e-3, 2, "small", math.nan]),
        ("in_channels", [0, -3, 1.5, "3", True, 1 << 17]),
        ("stem_channels", [0, None]),
        ("last_channels", [0, 1.5]),
        ("divisor", [0]),
        ("min_channels", [0]),
        ("stem_stride", [0, 3]),
        ("output_stride", [4, 64, "16"]),
        ("padding", ["valid", None, "SAME"]),
        ("head", ["yolo", None]),
        ("bottleneck", ["relu"]),
        ("shortcut", [None, True]),
        ("scale_ends", [None, 1]),
        ("resolution", [224, (224,), (0, 224), (224, 1 << 17), (224.0, 224), [224]]),
        ("stages", [(), None, (3,), (Stage(1, 16, 1, 1),) * 65]),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ArchitectureError, match=name):
            Architecture(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [Classifier, DeepLab])
@pytest.mark.parametrize("value", [0, -1, "10", 2.0, True])
def test_classes_out_of_range_are_named(head: type[Head], value: object) -> None:
    with pytest.raises(ArchitectureError, match="classes"):
        head(classes=value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expansion", 0),
        ("expansion", 65),
        ("channels", 0),
        ("repeats", 0),
        ("repeats", 65),
        ("stride", 0),
    ],
)
def test_a_stage_out_of_range_is_named(field: str, value: int) -> None:
    with pytest.raises(ArchitectureError, match=field):
        replace(MOBILENET_V2[1], **{field: value})


def test_a_refusal_says_what_is_allowed() -> None:
    with pytest.raises(
        ArchitectureError, match=r"padding must be one of 'same', 'symmetric', not 'valid'"
    ):
        Architecture(padding="valid")
    with pytest.raises(
        ArchitectureError, match=r"width_mult must be a number from 0\.001 to 16, not 0"
    ):
        Architecture(width_mult=0)


def test_atrous_branches_need_an_output_stride_they_know() -> None:
    with pytest.raises(ArchitectureError, match="output_stride 8 and 16 only, not 32"):
        Architecture(head="deeplabv3_aspp")


@pytest.mark.parametrize(
    "size", [(0, 224), (224, 0), (-1, 1), (224, 1 << 17), (224.0, 224), ("224", 224)]
)
def test_a_image_out_of_range_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArchitectureError, match=r"height|width"):
        layers(NETWORK, *size)


def test_a_description_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        NETWORK.classes = 5  # type: ignore[misc]
    assert hash(NETWORK) == hash(Architecture())
