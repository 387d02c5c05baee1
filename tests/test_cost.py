"""Costs against every published figure: TF-slim's 22 networks, the paper's tables, and its memory
arithmetic.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from mobilenetv2 import paper
from mobilenetv2.architecture import MOBILENET_V2, SMALL_IMAGES, V1, Architecture, Padding, Stage
from mobilenetv2.cost import (
    MemoryStep,
    bottleneck_memory,
    layer_macs,
    network_cost,
    operator_memory,
    peak_memory,
    receptive_fields,
    regular_convolution_macs,
    separable_saving,
)
from mobilenetv2.errors import ArchitectureError, UserError
from mobilenetv2.graph import layers
from mobilenetv2.heads import NAMED_HEADS, Classifier, named_head
from mobilenetv2.layer import Layer

NETWORK = Architecture()
TOTALS = {  # shared/facts/pitfalls.md: multiply-adds (exact with 1000 classes) and parameters at 224
    0.35: (59_285_808, 1_677_128),
    0.5: (97_131_840, 1_968_680),
    0.75: (209_069_792, 2_636_424),
    1.0: (300_774_272, 3_504_872),
    1.3: (509_374_560, 5_386_792),
    1.4: (582_195_824, 6_108_776),
}
MILLIONS = {0.35: 59.29, 0.5: 97.13, 0.75: 209.07, 1.0: 300.774272, 1.3: 509.37, 1.4: 582.20}
WRONG_MACS = (
    416.27,
    416.3,
    313.6,
    562.2,
)  # first arXiv version, spurious expand in block 0, widths not rounded
SLIM_MACS = {  # computed_macs of shared/facts/slim_checkpoints.csv, 1001 classes
    (1.4, 224): 582_197_616, (1.3, 224): 509_376_224,
    (1.0, 224): 300_775_552, (1.0, 192): 221_317_888, (1.0, 160): 154_084_480, (1.0, 128): 99_075_328,
    (1.0, 96): 56_290_432,
    (0.75, 224): 209_071_072, (0.75, 192): 153_943_168, (0.75, 160): 107_296_480, (0.75, 128): 69_131_008,
    (0.75, 96): 39_446_752,
    (0.5, 224): 97_133_120, (0.5, 192): 71_703_040, (0.5, 160): 50_185_280, (0.5, 128): 32_579_840,
    (0.5, 96): 18_886_720,
    (0.35, 224): 59_287_088, (0.35, 192): 43_897_792, (0.35, 160): 30_876_080, (0.35, 128): 20_221_952,
    (0.35, 96): 11_935_408,
}  # fmt: skip
BLOCK_MACS = [
    10_035_200, 29_202_432, 25_740_288, 15_466_752, 10_988_544, 10_988_544, 7_564_032, 10_311_168, 10_311_168,
    10_311_168, 12_719_616, 22_692_096, 22_692_096, 15_607_872, 15_476_160, 15_476_160, 23_002_560,
]  # fmt: skip
MEMORY = {  # shared/facts/paper.md section 4: in + out, unfused, with the shortcut alive, t = 2, 3, 5, one channel
    0: (1_204_224, 1_605_632, 1_605_632, 2_007_040, 1_756_160, 1_555_456, 1_254_400),
    1: (551_936, 3_010_560, 3_010_560, 2_057_216, 1_555_456, 1_179_136, 583_296),
    2: (301_056, 1_806_336, 1_956_864, 1_204_224, 903_168, 664_832, 313_600),
    3: (200_704, 1_128_960, 1_128_960, 765_184, 577_024, 428_064, 208_544),
    6: (75_264, 376_320, 376_320, 263_424, 200_704, 151_704, 77_224),
    11: (75_264, 451_584, 489_216, 301_056, 225_792, 166_208, 76_048),
    13: (53_312, 282_240, 282_240, 194_432, 147_392, 110_152, 53_802),
    16: (47_040, 188_160, 188_160, 141_120, 109_760, 84_672, 47_236),
}
IRREPRODUCIBLE = {
    ("Table 3", "MobileNetV1", "7x7"),
    ("Table 3", "MobileNetV2", "56x56"),
    ("Table 3", "MobileNetV2", "28x28"),
    ("Table 3", "MobileNetV2", "14x14"),
    ("Table 3", "MobileNetV2", "7x7"),
    ("Table 4", "MobileNetV2 (1.4)", "params"),
    ("Table 5", "SSDLite", "MAdds"),
    ("Table 7", "MNet V1, OS 16, ASPP", "MAdds"),
    ("Table 7", "MNet V1, OS 8, ASPP, MF", "MAdds"),
    ("Table 7", "MNet V2*, OS 16, ASPP", "MAdds"),
    ("Table 7", "MNet V2*, OS 8, ASPP, MF", "MAdds"),
}


def segmenter(base: Architecture, head: str, output_stride: int) -> Architecture:
    return replace(
        base,
        head=named_head(head, 21),
        output_stride=output_stride,
        padding="same",
        resolution=(513, 513),
    )


# Multiply-adds and parameters


@pytest.mark.parametrize("width", TOTALS)
def test_totals_of_the_published_widths(width: float) -> None:
    cost = network_cost(Architecture(width_mult=width))
    assert (cost.macs, cost.parameters) == TOTALS[width]
    assert cost.macs / 1e6 == pytest.approx(MILLIONS[width], abs=0.005)


@pytest.mark.parametrize(
    ("side", "millions"), [(96, 56.29), (128, 99.07), (160, 154.08), (192, 221.32), (256, 392.46)]
)
def test_totals_at_other_sizes(side: int, millions: float) -> None:
    cost = network_cost(NETWORK, side, side)
    assert cost.macs / 1e6 == pytest.approx(millions, abs=0.005)
    assert cost.parameters == 3_504_872


def test_known_wrong_totals_do_not_appear() -> None:
    ours = [network_cost(Architecture(width_mult=width)) for width in TOTALS]
    for wrong in WRONG_MACS:
        assert all(abs(cost.macs / 1e6 - wrong) > 1 for cost in ours)
    assert 1_225_000 not in [cost.parameters for cost in ours]


def test_where_the_known_wrong_totals_come_from() -> None:
    first_version = tuple(
        replace(stage, stride={64: 1, 96: 2}.get(stage.channels, stage.stride))
        for stage in MOBILENET_V2
    )
    assert network_cost(replace(NETWORK, stages=first_version)).macs / 1e6 == pytest.approx(
        416.27, abs=0.01
    )
    assert network_cost(Architecture(width_mult=0.5, last_channels=640)).parameters == 1_225_000
    spurious_expansion = 32 * 32 * 112 * 112
    assert (network_cost(NETWORK).macs + spurious_expansion) / 1e6 == pytest.approx(313.6, abs=0.05)


def test_cost_of_each_block() -> None:
    cost = network_cost(NETWORK)
    sums = dict.fromkeys(range(1, 18), 0)
    for row in cost.layers:
        if row.layer.block is not None:
            sums[row.layer.block] += row.macs
    assert list(sums.values()) == BLOCK_MACS
    others = {row.layer.role: row.macs for row in cost.layers if row.layer.block is None}
    assert others == {"stem": 10_838_016, "last": 20_070_400, "pool": 0, "classifier": 1_280_000}
    assert cost.macs == sum(BLOCK_MACS) + 10_838_016 + 20_070_400 + 1_280_000


def test_the_papers_closed_form_of_a_block() -> None:
    h = w = 14
    d, t, k = 96, 6, 3
    assert BLOCK_MACS[11] == h * w * d * t * (d + k**2 + d)  # Section 3: h w d' t (d' + k^2 + d'')


def test_parameters_by_kind() -> None:
    cost = network_cost(NETWORK)
    assert (
        cost.parameters == 2_189_760 + 34_112 + 1_281_000
    )  # convolutions, gamma and beta, classifier
    assert cost.parameters_without_batch_norm == 2_189_760 + 1_281_000
    for row in cost.layers:
        trained = {
            name: shape for name, shape in row.layer.arrays().items() if "running" not in name
        }
        assert row.parameters == sum(map(math.prod, trained.values()))
        assert row.parameters - row.parameters_without_batch_norm == (
            2 * row.layer.out_shape[0] if row.layer.norm else 0
        )


def test_adds_and_pools_cost_no_multiply_adds() -> None:
    rows = network_cost(segmenter(NETWORK, "deeplabv3_aspp", 16)).layers
    for row in rows:
        if row.layer.kind in ("add", "pool", "resize", "concat"):
            assert (row.macs, row.parameters, row.parameters_without_batch_norm) == (0, 0, 0)
        else:
            assert row.macs > 0
            assert row.parameters > 0


def test_cost_does_not_depend_on_what_only_moves_values() -> None:
    wanted = network_cost(NETWORK)
    for changes in (
        {"padding": "same"},
        {"bottleneck": "relu6"},
        {"shortcut": "none"},
        {"shortcut": "expansion"},
    ):
        changed = network_cost(replace(NETWORK, **changes))  # type: ignore[arg-type]
        assert (changed.macs, changed.parameters) == (wanted.macs, wanted.parameters)


@pytest.mark.parametrize("row", paper.SLIM, ids=lambda row: f"{row.width_mult}-{row.resolution}")
def test_slims_published_networks(row: paper.SlimRow) -> None:
    cost = paper.slim_cost(row)
    assert cost.macs == SLIM_MACS[row.width_mult, row.resolution]
    assert f"{cost.macs // 10**6}M" == row.macs
    hundredths = cost.parameters_without_batch_norm / 10**4
    assert round(float(row.parameters[:-1]) * 100) in (int(hundredths), round(hundredths))


def test_slims_published_networks_against_the_fact_sheet(shared: Callable[[str], Path]) -> None:
    with open(shared("facts/slim_checkpoints.csv"), newline="", encoding="utf-8") as file:
        facts = list(csv.DictReader(file))
    assert len(facts) == len(paper.SLIM) == 22
    for fact, row in zip(facts, paper.SLIM):
        printed = (
            row.width_mult,
            row.resolution,
            row.macs,
            row.parameters,
            row.top1,
            row.top5,
            row.pixel1_ms,
        )
        assert printed == (
            float(fact["width"]), int(fact["resolution"]), fact["macs_m"] + "M", fact["params_m"] + "M",
            float(fact["top1"]), float(fact["top5"]), float(fact["pixel1_ms"]),
        )  # fmt: skip
        cost = paper.slim_cost(row)
        assert cost.macs == int(fact["computed_macs"])
        assert cost.parameters == int(fact["computed_params_1001_total"])
        assert cost.parameters_without_batch_norm == int(fact["computed_params_1001_no_bn"])


@pytest.mark.parametrize(
    ("width", "repeats", "parameters"),
    [(1.1, (1, 3, 4, 5, 4, 4, 1), 4_516_520), (1.2, (1, 3, 5, 6, 5, 5, 1), 5_831_144)],
    ids=["110d", "120d"],
)
def test_timms_deeper_networks(width: float, repeats: tuple[int, ...], parameters: int) -> None:
    stages = tuple(replace(stage, repeats=n) for stage, n in zip(MOBILENET_V2, repeats))
    a = Architecture(width_mult=width, stages=stages, scale_ends=False)
    assert network_cost(a).parameters == parameters  # timm's tables: 4.52 M and 5.83 M
    assert (layers(a)[0].out_shape[0], layers(a)[-3].out_shape[0]) == (32, 1280)


def test_mobilenet_v1() -> None:
    cost = network_cost(V1)
    assert (cost.macs, cost.parameters) == (568_740_352, 4_231_976)


def test_small_images_cost() -> None:
    assert network_cost(SMALL_IMAGES).parameters == 3_504_872
    assert network_cost(SMALL_IMAGES).macs > 10 * network_cost(NETWORK, 32, 32).macs


@pytest.mark.parametrize(("output_stride", "billions"), [(16, 0.867), (8, 2.819)])
def test_deeplab_at_half_width(output_stride: int, billions: float) -> None:
    half = Architecture(width_mult=0.5, divisor=1, min_channels=1)
    cost = network_cost(segmenter(half, "deeplabv3", output_stride))
    assert cost.macs / 1e9 == pytest.approx(billions, abs=0.0005)
    assert cost.parameters_without_batch_norm / 1e6 == pytest.approx(0.680, abs=0.0005)


# Regular against separable convolutions


def test_saving_of_one_separable_convolution() -> None:
    assert separable_saving(3, 64) == pytest.approx(9 * 64 / 73)
    assert 8 < separable_saving(3, 128) < separable_saving(3, 1024) < 9
    depthwise, project = layers(Architecture(stages=(Stage(1, 32, 1, 1),)))[1:3]
    separable = layer_macs(depthwise) + layer_macs(project)
    assert 9 * layer_macs(project) / separable == pytest.approx(separable_saving(3, 32))


def test_saving_of_the_whole_of_mobilenet_v1() -> None:
    regular = regular_convolution_macs(V1)
    assert regular // 10**6 in (4866, 4867)  # Howard et al. 2017, Table 4: "Conv MobileNet" 4866 M
    assert regular / network_cost(V1).macs == pytest.approx(8.558, abs=0.001)


def test_regular_convolutions_keep_the_expansions() -> None:
    a = Architecture(
        stages=(Stage(6, 16, 1, 1),),
        last_channels=None,
        head="features",
        resolution=(2, 2),
        stem_stride=1,
    )
    stem, expand, _, project = layers(a)
    assert regular_convolution_macs(a) == layer_macs(stem) + layer_macs(expand) + 9 * layer_macs(
        project
    )


# Activations and receptive fields


@pytest.mark.parametrize("bytes_per_element", [1, 2, 4])
def test_activation_bytes(bytes_per_element: int) -> None:
    cost = network_cost(NETWORK, bytes_per_element=bytes_per_element)
    assert cost.layers[0].activation_bytes == 32 * 112 * 112 * bytes_per_element
    assert cost.layers[-1].activation_bytes == 1000 * bytes_per_element
    assert (
        cost.activation_bytes
        == sum(math.prod(layer.out_shape) for layer in layers(NETWORK)) * bytes_per_element
    )


def test_receptive_fields_by_hand() -> None:
    a = Architecture(
        stages=(Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 2, 2)), output_stride=8
    )
    fields = receptive_fields(layers(a, 224, 224))
    assert fields["features.0.0"] == 3
    assert fields["features.1.conv.0.0"] == 3 + 2 * 2  # a step of 2 pixels after the stem
    assert fields["features.1.conv.1"] == 7
    assert fields["features.2.conv.1.0"] == 7 + 2 * 2
    assert fields["features.3.add"] == 11 + 2 * 4
    assert fields["features.4.conv.2"] == 19 + 2 * 4
    assert fields["features.5.add"] == 27 + 2 * 8
    assert fields["features.6.0"] == 43
    assert fields["pool"] == fields["classifier.1"] == 43 + 27 * 8  # a map of 28 x 28


def test_receptive_field_of_a_dilated_convolution() -> None:
    a = Architecture(
        stages=(Stage(1, 16, 1, 2), Stage(1, 16, 2, 2), Stage(1, 16, 1, 2)), output_stride=8
    )
    fields = receptive_fields(layers(a))
    assert [fields[f"features.{i}.conv.0.0"] for i in (1, 2, 3, 4)] == [
        7,
        15,
        31,
        47,
    ]  # the last one is not yet dilated
    fields = receptive_fields(layers(replace(a, stages=(*a.stages, Stage(1, 16, 1, 1)))))
    assert fields["features.5.conv.0.0"] == 47 + 2 * 2 * 8


def test_receptive_field_of_the_network() -> None:
    assert (
        receptive_fields(layers(NETWORK))["features.18.0"] == 491
    )  # as Araujo et al. 2019 (distill.pub) compute it
    assert receptive_fields(layers(V1))["features.13.conv.1"] == 315
    assert receptive_fields(layers(NETWORK))["pool"] == 491 + 6 * 32
    assert receptive_fields(layers(NETWORK, 224, 448))["pool"] == 491 + 13 * 32


@pytest.mark.parametrize(
    "a", [NETWORK, V1, segmenter(NETWORK, "deeplabv3", 8)], ids=["v2", "v1", "deeplab-8"]
)
def test_receptive_fields_by_walking_back(a: Architecture) -> None:
    found = [layer for layer in layers(a, 4097, 4097) if layer.block or layer.role == "stem"]
    fields = receptive_fields(found)
    for end in range(1, len(found) + 1):
        first = last = found[end - 1].out_shape[1] // 2
        for layer in reversed([layer for layer in found[:end] if layer.kind != "add"]):
            first = first * layer.stride - layer.padding[0]
            last = last * layer.stride - layer.padding[0] + (layer.kernel - 1) * layer.dilation
        assert last - first + 1 == fields[found[end - 1].name]


def test_receptive_fields_of_the_segmentation_head() -> None:
    fields = receptive_fields(layers(segmenter(NETWORK, "deeplabv3", 16)))
    backbone = fields["features.17.conv.2"]
    assert fields["head.aspp0.0"] == backbone
    assert fields["head.image_pooling.resize"] == backbone + 32 * 16
    assert fields["head.concat"] == fields["head.image_pooling.pool"]
    assert (
        fields["head.resize"] == fields["head.logits"] + 16
    )  # bilinear: two neighbours of the grid of 16 pixels


# Memory


def of_block(steps: tuple[MemoryStep, ...], block: int) -> list[MemoryStep]:
    return [
        step
        for step in steps
        if step.name == f"features.{block}" or step.name.startswith(f"features.{block}.conv")
    ]


@pytest.mark.parametrize("block", MEMORY)
def test_the_papers_memory_arithmetic(block: int) -> None:
    unfused = of_block(operator_memory(NETWORK, bytes_per_element=2), block + 1)
    found = [
        max(step.input_bytes + step.output_bytes for step in unfused),
        max(step.total_bytes for step in unfused),
    ]
    for splits in (None, 2, 3, 5, 960):
        (step,) = of_block(
            bottleneck_memory(NETWORK, bytes_per_element=2, splits=splits), block + 1
        )
        found.append(step.total_bytes)
        assert step.inner_bytes or splits is None
    unfused_bytes, with_shortcut, whole, *split = found
    assert (whole, unfused_bytes, with_shortcut, *split) == MEMORY[block]


@pytest.mark.parametrize(
    ("bytes_per_element", "peak"), [(1, 1_505_280), (2, 3_010_560), (4, 6_021_120)]
)
def test_peak_of_one_layer_after_another(bytes_per_element: int, peak: int) -> None:
    step = peak_memory(operator_memory(NETWORK, bytes_per_element=bytes_per_element))
    assert step.total_bytes == peak
    assert step.name == "features.2.conv.1.0"
    assert step.input_bytes == 112 * 112 * 96 * bytes_per_element
    assert step.output_bytes == 56 * 56 * 96 * bytes_per_element


def test_a_shortcut_is_held_while_the_block_runs() -> None:
    steps = {step.name: step for step in operator_memory(NETWORK, bytes_per_element=2)}
    assert steps["features.3.conv.0.0"].held_bytes == 0  # the shortcut is what it reads
    assert steps["features.3.conv.1.0"].held_bytes == 24 * 56 * 56 * 2
    assert steps["features.3.add"].input_bytes == 2 * 24 * 56 * 56 * 2
    without = operator_memory(replace(NETWORK, shortcut="none"))
    assert all(step.held_bytes == 0 for step in without)


def test_shortcuts_between_expansions_hold_wide_tensors() -> None:
    """The paper's argument for shortcuts between bottlenecks: the wide tensor of a block has to
    wait for the next.
    """
    a = replace(NETWORK, shortcut="expansion")
    assert (
        peak_memory(operator_memory(a)).total_bytes
        == peak_memory(operator_memory(NETWORK)).total_bytes
    )
    unfused = {step.name: step for step in operator_memory(a, bytes_per_element=2)}
    assert unfused["features.3.conv.2"].held_bytes == 0
    assert unfused["features.4.conv.0.0"].held_bytes == 144 * 56 * 56 * 2
    fused = {step.name: step for step in bottleneck_memory(a, bytes_per_element=2)}
    assert fused["features.3"].output_bytes == (24 + 144) * 56 * 56 * 2
    assert fused["features.4"].input_bytes == (24 + 144) * 56 * 56 * 2


def test_peak_with_whole_blocks() -> None:
    whole = peak_memory(bottleneck_memory(NETWORK, bytes_per_element=2))
    assert (whole.name, whole.total_bytes) == ("features.1", 1_204_224)
    fused = bottleneck_memory(NETWORK, bytes_per_element=2, fuse_stem=True)
    assert fused[0].name == "features.1"
    assert fused[0].input_bytes == 3 * 224 * 224 * 2
    assert fused[0].output_bytes == 401_408  # Table 3: 16 channels, 400 Kb
    assert peak_memory(fused).total_bytes == 702_464
    assert len(fused) == len(bottleneck_memory(NETWORK)) - 1
    split = bottleneck_memory(NETWORK, bytes_per_element=2, fuse_stem=True, splits=4)
    assert split[0].inner_bytes == 2 * 112 * 112 * 8 * 2


def test_more_splits_never_need_more() -> None:
    peaks = [peak_memory(bottleneck_memory(NETWORK, splits=t)).total_bytes for t in range(1, 40)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] > peak_memory(bottleneck_memory(NETWORK)).total_bytes


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (97, 225)])
@pytest.mark.parametrize(
    "a",
    [
        NETWORK,
        V1,
        SMALL_IMAGES,
        segmenter(NETWORK, "deeplabv3_aspp", 8),
        replace(NETWORK, shortcut="expansion"),
    ],
)
def test_nothing_is_left_over_at_the_end(a: Architecture, size: tuple[int, int]) -> None:
    found = layers(a, *size)
    for steps in (operator_memory(a, *size, 1), bottleneck_memory(a, *size, 1, fuse_stem=True)):
        assert steps[0].input_bytes == 3 * size[0] * size[1]
        assert steps[-1].output_bytes == math.prod(found[-1].out_shape)
        assert steps[-1].held_bytes == 0
        for before, after in pairwise(steps):
            available = before.input_bytes + before.output_bytes + before.held_bytes
            assert after.input_bytes + after.held_bytes <= available


def test_wrong_arguments_are_named() -> None:
    for value in (0, -1, 1.5, True, None):
        with pytest.raises(UserError, match="bytes_per_element"):
            network_cost(NETWORK, bytes_per_element=value)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="bytes_per_element"):
            operator_memory(NETWORK, bytes_per_element=value)  # type: ignore[arg-type]
    for value in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="splits"):
            bottleneck_memory(NETWORK, splits=value)  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="fuse_stem"):
        bottleneck_memory(Architecture(stages=(Stage(6, 16, 1, 1),)), fuse_stem=True)
    with pytest.raises(ArchitectureError, match="height"):
        network_cost(NETWORK, 0, 224)


# The paper's tables


def test_every_printed_figure_is_accounted_for() -> None:
    found = paper.compare()
    assert [row for row in found if row.verdict == "off"] == []
    assert {
        (row.table, row.row, row.column) for row in found if row.verdict == "irreproducible"
    } == IRREPRODUCIBLE
    assert paper.IRREPRODUCIBLE.keys() == IRREPRODUCIBLE
    assert {row.row.split(", OS")[0] for row in found if row.verdict == "quoted"} == {
        "ShuffleNet (2x, g=3)", "ShuffleNet (1.5)", "ShuffleNet (x2)", "NasNet-A", "ResNet-101",
        "SSD300", "SSD512", "YOLOv2",
    }  # fmt: skip
    assert len(found) == 1 + 3 * 7 + 2 * 6 + 2 * 2 + 2 * 5 + 2 * 8 + 2 * 22
    assert len({(row.table, row.row, row.column) for row in found}) == len(found)
    for row in found:
        assert bool(row.reason) == (row.verdict == "irreproducible")
        assert (row.ours is None) == (row.verdict == "quoted")


@pytest.mark.parametrize(
    ("table", "row", "column", "ours"),
    [
        ("Table 3", "MobileNetV1", "max", 1_605_632),
        ("Table 3", "MobileNetV2", "112x112", 401_408),
        ("Table 3", "MobileNetV2", "1x1", 2_560),
        ("Table 4", "MobileNetV1", "MAdds", 568_740_352),
        ("Table 4", "MobileNetV2", "params", 3_470_760),
        ("Table 4", "MobileNetV2", "MAdds", 300_774_272),
        ("Table 4", "MobileNetV2 (1.4)", "MAdds", 582_195_824),
        ("Table 5", "SSD", "params", 14_773_173),
        ("Table 5", "SSD", "MAdds", 1_259_068_672),
        ("Table 5", "SSDLite", "params", 2_096_501),
        ("Table 6", "MNet V1 + SSDLite", "params", 5_063_413),
        ("Table 6", "MNet V1 + SSDLite", "MAdds", 1_309_162_944),
        ("Table 6", "MNet V2 + SSDLite", "params", 4_286_261),
        ("Table 6", "MNet V2 + SSDLite", "MAdds", 788_830_144),
        ("Table 7", "MNet V1, OS 16, ASPP", "params", 11_145_301),
        ("Table 7", "MNet V2*, OS 16, ASPP", "params", 4_523_541),
        ("Table 7", "MNet V2*, OS 16", "params", 2_113_557),
        ("Table 7", "MNet V2*, OS 16", "MAdds", 2_740_709_056),
        ("Table 7", "MNet V2*, OS 8, MF", "MAdds", 152_334_636_288),
        ("TF-slim", "mobilenet_v2_1.4_224", "MAdds", 582_197_616),
        ("TF-slim", "mobilenet_v2_0.35_96", "params", 1_664_329),
    ],
)
def test_figures_that_match(table: str, row: str, column: str, ours: int) -> None:
    (found,) = [r for r in paper.compare() if (r.table, r.row, r.column) == (table, row, column)]
    assert (found.ours, found.verdict) == (ours, "match")


def test_the_multi_scale_test_has_twelve_passes() -> None:
    sides = [257, 385, 513, 641, 769, 897]
    a = segmenter(NETWORK, "deeplabv3", 8)
    assert paper.multi_scale_macs(a) == 2 * sum(network_cost(a, side, side).macs for side in sides)


def test_channels_of_table_3_give_its_kilobytes() -> None:
    for row in paper.TABLE_3[:-1]:
        side = int(row.size.split("x")[0])
        for channels, printed in (row.mobilenet_v1, row.mobilenet_v2):
            assert channels is not None
            if (channels, side) != (1024, 7):  # 199 (sic)
                assert float(paper.printed_value(printed)) == pytest.approx(
                    2 * channels * side**2, rel=0.025, abs=600
                )


def padded_macs(layer: Layer) -> int:
    """Multiply-adds as TensorFlow runs an atrous convolution: SpaceToBatch pads the map to a
    multiple of the rate.
    """
    if layer.dilation == 1:
        return layer_macs(layer)
    rate = layer.dilation
    rows, columns = (
        math.ceil((side + 2 * rate) / rate) * rate - 2 * rate for side in layer.out_shape[1:]
    )
    return math.prod(layer.weight_shape) * rows * columns


@pytest.mark.parametrize(
    ("base", "output_stride", "sides", "printed"),
    [
        (NETWORK, 16, [513], "5.8B"),
        (NETWORK, 8, [257, 385, 513, 641, 769, 897] * 2, "387B"),
        (V1, 16, [513], "14.25B"),
    ],
    ids=["v2-16", "v2-8-multi-scale", "v1-16"],
)
def test_padding_explains_three_of_the_atrous_figures(
    base: Architecture, output_stride: int, sides: list[int], printed: str
) -> None:
    a = segmenter(base, "deeplabv3_aspp", output_stride)
    macs = sum(
        padded_macs(layer) for side in sides for layer in layers(a, side, side) if layer.weight
    )
    assert macs == pytest.approx(float(paper.printed_value(printed)), rel=0.005)


@pytest.mark.parametrize(
    ("printed", "value"),
    [("14.25B", 14_250_000_000), ("3.47M", 3_470_000), ("1600K", 1_600_000), ("8", 8)],
)
def test_printed_figures_are_read(printed: str, value: int) -> None:
    assert paper.printed_value(printed) == value


def verdicts(table: str) -> set[str]:
    return {row.verdict for row in paper.compare() if row.table == table}


@pytest.mark.parametrize(
    ("name", "index", "field", "value", "table"),
    [
        ("TABLE_3", 0, "mobilenet_v2", (16, "410K"), "Table 3"),
        ("TABLE_4", 0, "macs", "585M", "Table 4"),
        ("TABLE_4", 4, "parameters", "3.6M", "Table 4"),
        ("TABLE_5", 0, "macs", "1.35B", "Table 5"),
        ("TABLE_6", 4, "parameters", "4.1M", "Table 6"),
        ("TABLE_7", 4, "macs", "2.65B", "Table 7"),
        ("SLIM", 2, "macs", "301M", "TF-slim"),  # ours rounds to 301, but slim truncates
        ("SLIM", 2, "parameters", "3.48M", "TF-slim"),
    ],
)
def test_an_altered_figure_is_off(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int, field: str, value: object, table: str
) -> None:
    rows = list(getattr(paper, name))
    rows[index] = replace(rows[index], **{field: value})
    monkeypatch.setattr(paper, name, tuple(rows))
    assert sum(row.verdict == "off" for row in paper.compare()) == 1
    assert "off" in verdicts(table)


# The command


def invoke(*arguments: str) -> Result:
    from mobilenetv2.cli.cost import cost

    result = CliRunner().invoke(cost, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


def rows_of(*arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(invoke(*arguments, "--format", "json").stdout)
    return found


def test_command_lists_layers_and_the_total() -> None:
    rows = rows_of()
    assert [row["name"] for row in rows[:-1]] == [layer.name for layer in layers(NETWORK)]
    assert rows[0] == {
        "name": "features.0.0", "kind": "conv", "output": "32x112x112", "macs": 10_838_016, "parameters": 928,
        "parameters_without_batch_norm": 864, "activation_bytes": 1_605_632, "receptive_field": 3,
    }  # fmt: skip
    assert rows[-1]["macs"] == 300_774_272
    assert rows[-1]["parameters"] == 3_504_872
    assert rows[-1]["parameters_without_batch_norm"] == 3_470_760


@pytest.mark.parametrize(
    ("arguments", "architecture"),
    [
        (["--width", "0.35", "--classes", "5"], Architecture(width_mult=0.35, head=Classifier(5))),
        (["--resolution", "192x256"], Architecture(resolution=(192, 256))),
        (["--resolution", "96", "--network", "v1"], replace(V1, resolution=(96, 96))),
        (["--network", "v2-32px"], SMALL_IMAGES),
        (["--head", "features"], replace(NETWORK, head="features")),
        (
            [
                "--head",
                "deeplabv3_aspp",
                "--output-stride",
                "8",
                "--padding",
                "same",
                "--classes",
                "21",
                "--resolution",
                "513",
            ],
            segmenter(NETWORK, "deeplabv3_aspp", 8),
        ),
    ],
)
def test_command_describes_a_network(arguments: list[str], architecture: Architecture) -> None:
    (total,) = rows_of("--no-layers", *arguments)
    cost = network_cost(architecture)
    assert (total["macs"], total["parameters"]) == (cost.macs, cost.parameters)
    assert total["activation_bytes"] == cost.activation_bytes


def test_command_counts_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Architecture(width_mult=0.5, resolution=(96, 96))
    opened = []

    def open_checkpoint(name: str) -> SimpleNamespace:
        opened.append(name)
        return SimpleNamespace(architecture=half)

    monkeypatch.setattr("mobilenetv2.formats.open_checkpoint", open_checkpoint)
    assert rows_of("half.safetensors")[-1]["macs"] == network_cost(half).macs
    assert rows_of("half.safetensors", "--resolution", "224")[-1]["macs"] == 97_131_840
    assert opened == ["half.safetensors"] * 2


def test_command_prints_both_peaks_and_both_parameter_counts() -> None:
    text = invoke("--bytes", "2").stdout
    for number in ("3,504,872", "3,470,760", "300,774,272", "3,010,560", "1,204,224", "702,464"):
        assert number in text
    assert "features.17.conv.2" in text
    assert "features.17.conv.2" not in invoke("--no-layers").stdout


def test_command_prints_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(invoke("--format", "csv").stdout)))
    assert rows[-1]["macs"] == "300774272"
    assert len(rows) == len(layers(NETWORK)) + 1


def test_command_help_explains_multiply_adds() -> None:
    from mobilenetv2.cli.cost import cost

    text = " ".join(CliRunner().invoke(cost, ["--help"]).output.split())
    assert "MAdds" in text
    assert "FLOPs is twice as large" in text


def test_command_offers_what_the_architecture_knows() -> None:
    from mobilenetv2.cli.cost import cost

    offered = {option.name: tuple(getattr(option.type, "choices", ())) for option in cost.params}
    assert offered["padding"] == get_args(Padding)
    assert offered["head"] == tuple(NAMED_HEADS)


def test_command_compares_with_the_paper() -> None:
    result = invoke("--paper", "--format", "json")
    assert result.return_value == 0
    assert result.stderr == "74 match, 11 irreproducible, 23 quoted, 0 off\n"
    rows = json.loads(result.stdout)
    assert len(rows) == 108
    assert rows[0]["printed"] == "8 to 9"


def test_command_fails_when_a_printed_figure_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        paper, "TABLE_4", (replace(paper.TABLE_4[0], macs="600M"), *paper.TABLE_4[1:])
    )
    result = invoke("--paper")
    assert result.return_value == 1
    assert result.stderr.endswith("1 off\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resolution", "big"], "neither a side such as 224"),
        (["--resolution", "224x"], "neither a side such as 224"),
        (["--resolution", "0"], "resolution must be"),
        (["--width", "0"], "width_mult must be"),
        (["--width", "nan"], "width_mult must be"),
        (["--classes", "0"], "classes must be"),
        (["--output-stride", "4"], "output_stride must be"),
        (["--bytes", "0"], "--bytes"),
        (["--network", "v3"], "--network"),
        (["--head", "deeplabv3_aspp"], "output_stride 8 and 16 only"),
        (
            ["model.safetensors", "--width", "1.4", "--output-stride", "8"],
            "leave out --width, --output-stride",
        ),
        (["model.safetensors", "--paper"], "leave out MODEL"),
        (["--paper", "--bytes", "2", "--no-layers"], "leave out --bytes, --layers"),
        (["no-such-model.safetensors"], "no-such-model.safetensors"),
    ],
)
def test_command_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mobilenetv2.cli import run

    assert run(["cost", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_exit_codes_through_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mobilenetv2.cli import run

    assert run(["cost", "--no-layers"]) == 0
    assert run(["cost", "--paper", "--format", "csv"]) == 0
    monkeypatch.setattr(paper, "SLIM", (replace(paper.SLIM[0], macs="583M"), *paper.SLIM[1:]))
    assert run(["cost", "--paper", "--format", "csv"]) == 1
    assert "1 off" in capsys.readouterr().err
