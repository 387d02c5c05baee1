"""What the paper and TF-slim print about cost, as data, and `compare()`: every printed figure
against ours.

Verdicts:
    match: Ours rounds or truncates to the printed digits, or is within 1.5 % of them. The paper's
        own figures need the latitude: it prints 3.4M for 3.47M, 575M for 568.7M, 585M for 582.2M.
        TF-slim's figures get none: its multiply-adds must be ours truncated to millions, its
        parameters ours truncated or rounded at two decimals.
    irreproducible: The printed figure does not follow from the network it stands beside; the reason
        is given.
    quoted: A network of other people, which this package does not describe.
    off: None of these. There should be no such cell.

Accuracies and times stand in the tables but are not compared: no arithmetic gives them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from .architecture import V1, Architecture, OutputStride
from .cost import Cost, network_cost, regular_convolution_macs
from .graph import layers
from .heads import SSD, Classifier, DeepLab, Features, Head, SSDLite

VERDICTS = ("match", "irreproducible", "quoted", "off")
TOLERANCE = 0.015
UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Table3Row:
    """One resolution of Table 3: largest (channels, Kb at 16 bit) to be materialised; the last row
    is the maximum.
    """

    size: str
    mobilenet_v1: tuple[int | None, str]
    mobilenet_v2: tuple[int | None, str]
    shufflenet: tuple[int | None, str]


@dataclass(frozen=True)
class Table4Row:
    """One network on ImageNet: top-1 in percent, parameters, multiply-adds, milliseconds on one
    core of a Pixel 1.
    """

    network: str
    top1: float
    parameters: str
    macs: str
    cpu_ms: int | None


@dataclass(frozen=True)
class Table5Row:
    """One detection head on MobileNetV2 alone, the backbone left out: parameters, multiply-adds."""

    head: str
    parameters: str
    macs: str


@dataclass(frozen=True)
class Table6Row:
    """One detector on COCO: mAP on test-dev, parameters, multiply-adds, milliseconds on one core of a
    Pixel 1.
    """

    network: str
    map: float
    parameters: str
    macs: str
    cpu_ms: int | None


@dataclass(frozen=True)
class Table7Row:
    """One network with DeepLabv3 on PASCAL VOC 2012: mIOU in percent, parameters, multiply-adds."""

    network: str
    output_stride: OutputStride
    aspp: bool
    multi_scale: bool
    miou: float
    parameters: str
    macs: str


@dataclass(frozen=True)
class SlimRow:
    """One published checkpoint: multiply-adds, parameters, top-1 and top-5 in percent, milliseconds
    on a Pixel 1.
    """

    width_mult: float
    resolution: int
    macs: str
    parameters: str
    top1: float
    top5: float
    pixel1_ms: float


# fmt: off
TABLE_3 = (  # Sandler et al. 2018, v4
    #         size       MobileNetV1     MobileNetV2    ShuffleNet (2x, g=3)
    Table3Row("112x112", (64, "1600K"),  (16, "400K"),  (32, "800K")),
    Table3Row("56x56",   (128, "800K"),  (32, "200K"),  (48, "300K")),
    Table3Row("28x28",   (256, "400K"),  (64, "100K"),  (400, "600K")),
    Table3Row("14x14",   (512, "200K"),  (160, "62K"),  (800, "310K")),
    Table3Row("7x7",     (1024, "199K"), (320, "32K"),  (1600, "156K")),
    Table3Row("1x1",     (1024, "2K"),   (1280, "2K"),  (1600, "3K")),
    Table3Row("max",     (None, "1600K"), (None, "400K"), (None, "600K")),
)
TABLE_4 = (  # Sandler et al. 2018, v4
    #         network              top-1 params  MAdds   CPU ms
    Table4Row("MobileNetV1",       70.6, "4.2M", "575M", 113),
    Table4Row("ShuffleNet (1.5)",  71.5, "3.4M", "292M", None),
    Table4Row("ShuffleNet (x2)",   73.7, "5.4M", "524M", None),
    Table4Row("NasNet-A",          74.0, "5.3M", "564M", 183),
    Table4Row("MobileNetV2",       72.0, "3.4M", "300M", 75),
    Table4Row("MobileNetV2 (1.4)", 74.7, "6.9M", "585M", 143),
)
TABLE_5 = (  # Sandler et al. 2018, v4
    #         head       params   MAdds
    Table5Row("SSD",     "14.8M", "1.25B"),
    Table5Row("SSDLite", "2.1M",  "0.35B"),
)
TABLE_6 = (  # Sandler et al. 2018, v4; the first three are quoted from the paper of YOLO9000
    #         network              mAP   params   MAdd     CPU ms
    Table6Row("SSD300",            23.2, "36.1M", "35.2B", None),
    Table6Row("SSD512",            26.8, "36.1M", "99.5B", None),
    Table6Row("YOLOv2",            21.6, "50.7M", "17.5B", None),
    Table6Row("MNet V1 + SSDLite", 22.2, "5.1M",  "1.3B",  270),
    Table6Row("MNet V2 + SSDLite", 22.1, "4.3M",  "0.8B",  200),
)
TABLE_7 = (  # Sandler et al. 2018, v4; V2's heads stand on the 320-channel map
    #         network       OS  ASPP   MF     mIOU   params    MAdds
    Table7Row("MNet V1",    16, True,  False, 75.29, "11.15M", "14.25B"),
    Table7Row("MNet V1",     8, True,  True,  78.56, "11.15M", "941.9B"),
    Table7Row("MNet V2*",   16, True,  False, 75.70, "4.52M",  "5.8B"),
    Table7Row("MNet V2*",    8, True,  True,  78.42, "4.52M",  "387B"),
    Table7Row("MNet V2*",   16, False, False, 75.32, "2.11M",  "2.75B"),
    Table7Row("MNet V2*",    8, False, True,  77.33, "2.11M",  "152.6B"),
    Table7Row("ResNet-101", 16, True,  False, 80.49, "58.16M", "81.0B"),
    Table7Row("ResNet-101",  8, True,  True,  82.70, "58.16M", "4870.6B"),
)
SLIM = (  # tensorflow/models, research/slim/nets/mobilenet/README.md; 1001 classes, parameters without batch norm
    #       width  size  MAdds   params  top-1 top-5  ms
    SlimRow(1.4,   224, "582M", "6.06M", 75.0, 92.5, 138.0),
    SlimRow(1.3,   224, "509M", "5.34M", 74.4, 92.1, 123.0),
    SlimRow(1.0,   224, "300M", "3.47M", 71.8, 91.0, 73.8),
    SlimRow(1.0,   192, "221M", "3.47M", 70.7, 90.1, 55.1),
    SlimRow(1.0,   160, "154M", "3.47M", 68.8, 89.0, 40.2),
    SlimRow(1.0,   128, "99M",  "3.47M", 65.3, 86.9, 27.6),
    SlimRow(1.0,    96, "56M",  "3.47M", 60.3, 83.2, 17.6),
    SlimRow(0.75,  224, "209M", "2.61M", 69.8, 89.6, 55.8),
    SlimRow(0.75,  192, "153M", "2.61M", 68.7, 88.9, 41.6),
    SlimRow(0.75,  160, "107M", "2.61M", 66.4, 87.3, 30.4),
    SlimRow(0.75,  128, "69M",  "2.61M", 63.2, 85.3, 21.9),
    SlimRow(0.75,   96, "39M",  "2.61M", 58.8, 81.6, 14.2),
    SlimRow(0.5,   224, "97M",  "1.95M", 65.4, 86.4, 28.7),
    SlimRow(0.5,   192, "71M",  "1.95M", 63.9, 85.4, 21.1),
    SlimRow(0.5,   160, "50M",  "1.95M", 61.0, 83.2, 14.9),
    SlimRow(0.5,   128, "32M",  "1.95M", 57.7, 80.8, 9.9),
    SlimRow(0.5,    96, "18M",  "1.95M", 51.2, 75.8, 6.4),
    SlimRow(0.35,  224, "59M",  "1.66M", 60.3, 82.9, 19.7),
    SlimRow(0.35,  192, "43M",  "1.66M", 58.2, 81.2, 14.6),
    SlimRow(0.35,  160, "30M",  "1.66M", 55.7, 79.1, 10.5),
    SlimRow(0.35,  128, "20M",  "1.66M", 50.8, 75.0, 6.9),
    SlimRow(0.35,   96, "11M",  "1.66M", 45.5, 70.4, 4.5),
)
# fmt: on
SAVING = (
    "8",
    "9",
)  # Section 3.1: with k = 3, times less than regular convolutions; here for the whole of MobileNetV1

NO_SINGLE_RULE = "no single rule gives this column; ours is the widest block output of that size"
BRANCHES = (
    "the atrous branches' multiply-adds"  # the parameters and the rows without these branches match
)
PADDED = "with the padding of TensorFlow's SpaceToBatch"
IRREPRODUCIBLE = {  # (table, row, column): why
    ("Table 3", "MobileNetV1", "7x7"): "(sic) 1024 channels of 7x7 at 16 bit are 100K",
    ("Table 3", "MobileNetV2", "56x56"): NO_SINGLE_RULE,
    ("Table 3", "MobileNetV2", "28x28"): NO_SINGLE_RULE,
    ("Table 3", "MobileNetV2", "14x14"): NO_SINGLE_RULE,
    ("Table 3", "MobileNetV2", "7x7"): NO_SINGLE_RULE,
    ("Table 4", "MobileNetV2 (1.4)", "params"): "TF-slim publishes 6.06M for this network",
    ("Table 5", "SSDLite", "MAdds"): "exactly twice ours: multiplications and additions apart",
    ("Table 7", "MNet V2*, OS 16, ASPP", "MAdds"): f"{BRANCHES}: 5.82B {PADDED}",
    ("Table 7", "MNet V2*, OS 8, ASPP, MF", "MAdds"): f"{BRANCHES}: 387.5B {PADDED}",
    (
        "Table 7",
        "MNet V1, OS 16, ASPP",
        "MAdds",
    ): f"{BRANCHES}, as in V2's two cells: 14.23B {PADDED}",
    ("Table 7", "MNet V1, OS 8, ASPP, MF", "MAdds"): f"{BRANCHES}, as in V2's two cells",
}

NETWORKS = {  # those of the tables that this package describes
    "MobileNetV1": V1,
    "MobileNetV2": Architecture(),
    "MobileNetV2 (1.4)": Architecture(width_mult=1.4),
    "MNet V1": V1,
    "MNet V1 + SSDLite": V1,
    "MNet V2 + SSDLite": Architecture(),
    "MNet V2*": Architecture(),
}
DETECTOR_SIDE = 320
DETECTION_HEADS: dict[str, Head] = {"SSD": SSD(80, predictor_kernel=3), "SSDLite": SSDLite(80)}
TABLE_7_SIDE = 513
MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # Appendix B; each image also mirrored


@dataclass(frozen=True)
class Comparison:
    """One printed figure beside ours.

    Attributes:
        table: "Table 3" to "Table 7", "Section 3.1" or "TF-slim".
        row: The network.
        column: "params", "MAdds", or in Table 3 a resolution (bytes).
        printed: The figure as it is printed.
        ours: The same, counted: parameters, multiply-adds or bytes. None if the network is other
            people's.
        difference_percent: Ours against the printed figure; None where there is no single figure.
        verdict: One of `VERDICTS`.
        reason: Why, for a figure that is irreproducible.
    """

    table: str
    row: str
    column: str
    printed: str
    ours: float | None
    difference_percent: float | None
    verdict: str
    reason: str = ""


def compare() -> tuple[Comparison, ...]:
    """Counts every network of the paper's Tables 3 to 7 and of TF-slim's list, and compares
    figure by figure.
    """
    return (
        *_saving(),
        *_table_3(),
        *_table_4(),
        *_table_5(),
        *_table_6(),
        *_table_7(),
        *_slim(),
    )


def printed_value(printed: str) -> Decimal:
    """The number a printed figure stands for: "14.25B" is 14 250 000 000."""
    return Decimal(printed.rstrip("KMB")) * UNITS.get(printed[-1], 1)


def multi_scale_macs(architecture: Architecture) -> int:
    """Multiply-adds of the 12 passes of the paper's multi-scale test: six scales of 513 x 513, each
    also mirrored.
    """
    sides = [int((TABLE_7_SIDE - 1) * scale + 1) for scale in MULTI_SCALES]
    return 2 * sum(network_cost(architecture, side, side).macs for side in sides)


def _saving() -> Iterator[Comparison]:
    low, high = SAVING
    times = regular_convolution_macs(V1) / network_cost(V1).macs
    verdict = "match" if int(low) <= times <= int(high) else "off"
    yield Comparison(
        "Section 3.1",
        "MobileNetV1",
        "regular / separable",
        f"{low} to {high}",
        times,
        None,
        verdict,
    )


def _table_3() -> Iterator[Comparison]:
    v1, v2 = (_widest_bytes(NETWORKS[name]) for name in ("MobileNetV1", "MobileNetV2"))
    for row in TABLE_3:
        yield _cell("Table 3", "MobileNetV1", row.size, row.mobilenet_v1[1], v1[row.size])
        yield _cell("Table 3", "MobileNetV2", row.size, row.mobilenet_v2[1], v2[row.size])
        yield _cell("Table 3", "ShuffleNet (2x, g=3)", row.size, row.shufflenet[1], None)


def _widest_bytes(architecture: Architecture) -> dict[str, int]:
    """The largest block output (and pooled vector) of each resolution at 16 bit; the stem is fused
    with its block.
    """
    largest: dict[str, int] = {}
    for layer in layers(architecture):
        if layer.role in ("project", "pool"):
            size = f"{layer.out_shape[1]}x{layer.out_shape[2]}"
            largest[size] = max(largest.get(size, 0), 2 * math.prod(layer.out_shape))
    return largest | {"max": max(largest.values())}


def _table_4() -> Iterator[Comparison]:
    for row in TABLE_4:
        parameters = macs = None
        if row.network in NETWORKS:
            cost = network_cost(NETWORKS[row.network])
            parameters, macs = cost.parameters_without_batch_norm, cost.macs
        yield _cell("Table 4", row.network, "params", row.parameters, parameters)
        yield _cell("Table 4", row.network, "MAdds", row.macs, macs)


def _table_5() -> Iterator[Comparison]:
    backbone = _detector_cost(NETWORKS["MobileNetV2"], Features())
    for row in TABLE_5:
        cost = _detector_cost(NETWORKS["MobileNetV2"], DETECTION_HEADS[row.head])
        parameters = cost.parameters_without_batch_norm - backbone.parameters_without_batch_norm
        yield _cell("Table 5", row.head, "params", row.parameters, parameters)
        yield _cell("Table 5", row.head, "MAdds", row.macs, cost.macs - backbone.macs)


def _table_6() -> Iterator[Comparison]:
    for row in TABLE_6:
        parameters = macs = None
        if row.network in NETWORKS:
            cost = _detector_cost(NETWORKS[row.network], DETECTION_HEADS["SSDLite"])
            parameters, macs = cost.parameters_without_batch_norm, cost.macs
        yield _cell("Table 6", row.network, "params", row.parameters, parameters)
        yield _cell("Table 6", row.network, "MAdds", row.macs, macs)


def _detector_cost(backbone: Architecture, head: Head) -> Cost:
    size = (DETECTOR_SIDE, DETECTOR_SIDE)
    return network_cost(replace(backbone, head=head, padding="same", resolution=size))


def _table_7() -> Iterator[Comparison]:
    for row in TABLE_7:
        name = (
            f"{row.network}, OS {row.output_stride}{', ASPP' * row.aspp}{', MF' * row.multi_scale}"
        )
        architecture = _segmenter(row)
        parameters = macs = None
        if architecture:
            cost = network_cost(architecture)
            parameters = cost.parameters
            macs = multi_scale_macs(architecture) if row.multi_scale else cost.macs
        yield _cell("Table 7", name, "params", row.parameters, parameters)
        yield _cell("Table 7", name, "MAdds", row.macs, macs)


def _segmenter(row: Table7Row) -> Architecture | None:
    if row.network not in NETWORKS:
        return None
    return replace(
        NETWORKS[row.network],
        head=DeepLab(21, aspp=row.aspp),
        output_stride=row.output_stride,
        padding="same",
        resolution=(TABLE_7_SIDE, TABLE_7_SIDE),
    )


def _slim() -> Iterator[Comparison]:
    for row in SLIM:
        cost = slim_cost(row)
        name = f"mobilenet_v2_{row.width_mult}_{row.resolution}"
        yield _cell(
            "TF-slim",
            name,
            "params",
            row.parameters,
            cost.parameters_without_batch_norm,
            tolerance=0,
        )
        yield _cell("TF-slim", name, "MAdds", row.macs, cost.macs, (ROUND_DOWN,), 0)


def slim_cost(row: SlimRow) -> Cost:
    """Counts one of TF-slim's networks: 1001 classes, of which the first is the background."""
    side = row.resolution
    return network_cost(
        Architecture(
            width_mult=row.width_mult,
            head=Classifier(1001),
            padding="same",
            resolution=(side, side),
        )
    )


def _cell(
    table: str,
    row: str,
    column: str,
    printed: str,
    ours: int | None,
    roundings: tuple[str, ...] = (ROUND_DOWN, ROUND_HALF_UP),
    tolerance: float = TOLERANCE,
) -> Comparison:
    if ours is None:
        return Comparison(table, row, column, printed, None, None, "quoted")
    value = printed_value(printed)
    difference = float(ours / value - 1)
    reason = IRREPRODUCIBLE.get((table, row, column), "")
    if (
        any(_shortened(ours, printed, rounding) == value for rounding in roundings)
        or abs(difference) <= tolerance
    ):
        verdict, reason = "match", ""
    else:
        verdict = "irreproducible" if reason else "off"
    return Comparison(
        table, row, column, printed, ours, round(100 * difference, 2), verdict, reason
    )


def _shortened(ours: int, printed: str, rounding: str) -> Decimal:
    """Ours with as many digits as are printed."""
    unit = UNITS.get(printed[-1], 1)
    return (Decimal(ours) / unit).quantize(Decimal(printed.rstrip("KMB")), rounding) * unit
