"""`compare()`: every figure that the paper and TF-slim print about cost against ours.

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

from .architecture import V1, Architecture
from .cost import Cost, network_cost, regular_convolution_macs
from .graph import layers
from .heads import SSD, Classifier, DeepLab, Features, Head, SSDLite
from .paper_tables import (
    SLIM,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    SlimRow,
    Table7Row,
)

VERDICTS = ("match", "irreproducible", "quoted", "off")
TOLERANCE = 0.015
UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


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
