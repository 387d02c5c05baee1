"""Measurements of an explanation: formatted for the placeholders of the page, and as plain numbers for
tables and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..cost import LayerCost, operator_memory, peak_memory
from ..layer import Layer
from .explain import Explanation, OnPhotos
from .interventions import Effect
from .manifold import SAMPLES

Facts = dict[str, str]


def network_facts(e: Explanation) -> Facts:
    """Sizes of the network, and of the block that is shown."""
    thin = [layer.out_shape[0] for layer in e.layers if layer.role == "project"]
    wide = [layer.out_shape[0] for layer in e.layers if layer.role == "depthwise"]
    return {
        "model": e.name,
        "height": str(e.size[0]),
        "width": str(e.size[1]),
        "classes": str(e.checkpoint.architecture.classes),
        "blocks": str(len(thin)),
        "thin_low": str(min(thin)),
        "thin_high": str(max(thin)),
        "wide_low": str(min(wide)),
        "wide_high": str(max(wide)),
        "shortcuts": str(sum(layer.kind == "add" for layer in e.layers)),
        "macs": millions(e.cost.macs),
        "parameters": millions(e.cost.parameters),
    }


def shown_block(e: Explanation) -> list[LayerCost]:
    """The layers of the block that is explained: the first that expands and has a shortcut, else
    the first that expands, else the first.
    """
    blocks: dict[int, list[LayerCost]] = {}
    for row in e.cost.layers:
        if row.layer.block is not None:
            blocks.setdefault(row.layer.block, []).append(row)

    def merit(rows: list[LayerCost]) -> int:
        roles = {row.layer.role for row in rows}
        return 2 * ("expand" in roles) + ("add" in roles)

    return max(blocks.values(), key=merit)


def block_facts(rows: Sequence[LayerCost]) -> Facts:
    """Of the block that is explained."""
    macs = sum(row.macs for row in rows)
    depthwise = next(row for row in rows if row.layer.kind == "depthwise")
    project = next(row for row in rows if row.layer.role == "project")
    regular = depthwise.macs * depthwise.layer.in_shape[0]  # every channel looks at every other
    return {
        "block": str(rows[0].layer.block),
        "block_in": str(rows[0].layer.in_shape[0]),
        "block_wide": str(depthwise.layer.out_shape[0]),
        "block_out": str(project.layer.out_shape[0]),
        "block_macs": millions(macs),
        "block_depthwise_share": percent(depthwise.macs / macs),
        "regular_ratio": short(regular / macs),
    }


def spiral_facts(e: Explanation) -> Facts:
    """Of Figure 1."""
    gaps = [
        abs(row.area - row.theorem) / row.area_error for row in e.survival if row.area_error > 1e-12
    ]
    return {"matrices": f"{e.survival[0].matrices:,}", "worst_sigma": short(max(gaps))}


def linear_facts(e: Explanation) -> Facts:
    """Of the lemmas."""
    narrow, last, undone = e.regions[0], e.regions[-1], e.invertibility
    twins = [row.twin_error for row in undone if row.twin_error is not None]
    return {
        "interior": percent(e.disc.interior),
        "moved": short(e.disc.moved),
        "region_inputs": str(narrow.inputs),
        "narrow_outputs": str(narrow.outputs),
        "carried": percent(narrow.carried),
        "bent_uncut": tiny(max(row.bent_uncut for row in e.regions)),
        "bent_cut": percent(last.bent_cut),
        "undone_inputs": str(undone[0].inputs),
        "undone_samples": f"{undone[0].samples:,}",
        "undone_t_first": short(undone[0].expansion),
        "undone_first": percent(undone[0].invertible),
        "undone_t_last": short(undone[-1].expansion),
        "undone_last": percent(undone[-1].invertible),
        "recovery_error": tiny(max(row.recovery_error for row in undone)),
        "twin_error": tiny(max(twins, default=0.0)),
    }


def manifold_facts(e: Explanation, on: OnPhotos) -> Facts:
    """Of ranks and positive channels."""
    m = on.manifold
    facts = {
        "photos": str(m.photos),
        "pixels": f"{SAMPLES} × {m.photos}" if m.photos > 1 else str(SAMPLES),
        "thin_rank_share": mean_percent(
            [span.effective_rank / span.channels for span in m.bottlenecks]
        ),
        "thin_99_share": mean_percent([span.channels_99 / span.channels for span in m.bottlenecks]),
        "relu_channels": f"{sum(channels for _, _, channels in m.dead):,}",
        "dead": str(sum(dead for _, dead, _ in m.dead)),
    }
    if not m.expansions:
        return facts
    read = read_channels(e.layers)
    widest = max(m.expansions, key=lambda span: span.channels - span.effective_rank)
    below = [row for row in m.trained if row.below > 0]
    listed = ", ".join(f"{row.block}: {percent(row.below)} %" for row in below)
    return facts | {
        "wide_rank_share": mean_percent(
            [span.effective_rank / span.channels for span in m.expansions]
        ),
        "within": str(sum(span.effective_rank <= read[span.block] for span in m.expansions)),
        "expansions": str(len(m.expansions)),
        "widest_block": str(widest.block),
        "widest_channels": str(widest.channels),
        "widest_rank": short(widest.effective_rank),
        "initial_mean": mean_percent([row.mean for row in m.initial]),
        "initial_deviation": mean_percent([row.deviation for row in m.initial]),
        "trained_mean": mean_percent([row.mean for row in m.trained]),
        "trained_deviation": mean_percent([row.deviation for row in m.trained]),
        "below_count": str(len(below)),
        "below_blocks": listed or "–",
    }


def answer_facts(e: Explanation, on: OnPhotos) -> Facts:
    """Of the interventions; needs clippings and narrowings."""
    assert on.unchanged is not None
    blocks = [row for row in on.clippings if row.block is not None]
    adding = adding_blocks(e.layers)
    groups = [
        [worth(row.effect) for row in blocks if (row.block in adding) == adds]
        for adds in (True, False)
    ]
    facts = {"unchanged": f"{worth(on.unchanged):.0f}"}
    if blocks:
        worst = min(blocks, key=lambda row: worth(row.effect))
        facts |= {
            "with_mean": f"{fmean(groups[0]):.0f}" if groups[0] else "–",
            "without_mean": f"{fmean(groups[1]):.0f}" if groups[1] else "–",
            "all_value": f"{worth(on.clippings[-1].effect):.0f}",
            "worst_block": str(worst.block),
            "worst_value": f"{worth(worst.effect):.0f}",
        }
    for row in on.narrowings:
        if row.share == 0.99:
            facts |= {
                "kept_99": f"{row.kept:,}",
                "kept_of": f"{row.channels:,}",
                "narrowed_99": f"{worth(row.effect):.0f}",
            }
    return facts


def cost_facts(e: Explanation) -> Facts:
    """Where multiply-adds and parameters go."""
    macs = dict.fromkeys(("expand", "depthwise", "project", "other"), 0)
    for row in e.cost.layers:
        macs[row.layer.role if row.layer.role in macs else "other"] += row.macs
    end = max(i for i, row in enumerate(e.cost.layers) if row.layer.block is not None)
    tail = sum(row.parameters for row in e.cost.layers[end + 1 :])
    shares = {f"{role}_share": percent(count / e.cost.macs) for role, count in macs.items()}
    return shares | {"tail_share": percent(tail / e.cost.parameters)}


def memory_facts(e: Explanation) -> Facts:
    """Peaks of the three ways to run."""
    m = e.memory
    operators = max(step.held_bytes for step in m.operators)
    peak = peak_memory(operator_memory(e.checkpoint.architecture, *e.size))
    largest = max(bottleneck_sizes(e.layers), key=lambda row: row[2])
    return {
        "operators_peak": kilobytes(operators),
        "operators_layer": peak.name,
        "bottlenecks_peak": kilobytes(max(step.held_bytes for step in m.bottlenecks)),
        "runtime_peak": kilobytes(m.activation_bytes),
        "threads": str(m.threads),
        "memory_ratio": short(operators / m.activation_bytes),
        "resident_bytes": "" if m.resident_bytes is None else kilobytes(m.resident_bytes),
        "table_peak": kilobytes(largest[2]),
        "table_size": largest[0],
    }


def bottleneck_sizes(described: Sequence[Layer]) -> list[tuple[str, int, int]]:
    """Each size of map that a block hands on, its most channels, and their bytes at 16 bits."""
    most: dict[tuple[int, int], int] = {}
    for layer in described:
        if layer.role == "project":
            channels, height, width = layer.out_shape
            most[height, width] = max(most.get((height, width), 0), channels)
    return [(f"{h} × {w}", channels, 2 * channels * h * w) for (h, w), channels in most.items()]


def adding_blocks(described: Sequence[Layer]) -> set[int]:
    """The blocks that have a shortcut around them."""
    return {layer.block for layer in described if layer.kind == "add" and layer.block is not None}


def read_channels(described: Sequence[Layer]) -> dict[int, int]:
    """The channels that each expansion is made from, by block."""
    return {
        layer.block: layer.in_shape[0]
        for layer in described
        if layer.role == "expand" and layer.block is not None
    }


def worth(effect: Effect) -> float:
    """Accuracy where it is known, else agreement; percent."""
    return effect.agreement if effect.accuracy is None else effect.accuracy


def mean_percent(shares: Sequence[float]) -> str:
    """The mean of shares 0..1, as percent without the sign."""
    return percent(fmean(shares))


def percent(share: float) -> str:
    """A share 0..1 as percent without the sign, two digits."""
    value = 100 * share
    return (
        f"{value:.0f}"
        if value >= 9.95 or value == 0
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.2g}"
    )


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def tiny(value: float) -> str:
    """A power of ten above a small number: 10⁻¹³."""
    if value == 0:
        return "0"
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(digits)}"


def millions(count: float) -> str:
    """In millions, three digits or all of those before the point."""
    value = count / 1e6
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def kilobytes(count: int) -> str:
    """In units of 1000 bytes."""
    value = count / 1000
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def totals(e: Explanation) -> dict[str, Any]:
    """The figures that stand for the whole model; shares in percent, sizes in bytes."""
    numbers: dict[str, Any] = {
        "model": e.name,
        "macs": e.cost.macs,
        "parameters": e.cost.parameters,
        "one_layer_after_another_bytes": max(step.held_bytes for step in e.memory.operators),
        "block_as_one_operator_bytes": max(step.held_bytes for step in e.memory.bottlenecks),
        "runtime_bytes": e.memory.activation_bytes,
        "resident_bytes": e.memory.resident_bytes,
    }
    for row in e.survival:
        numbers[f"theorem_1_n_{row.dimension}"] = row.theorem
        numbers[f"measured_n_{row.dimension}"] = row.area
    on = e.on_photos
    if on:
        numbers["photos"] = on.manifold.photos
        numbers["dead_channels"] = sum(dead for _, dead, _ in on.manifold.dead)
    if on and on.unchanged:
        numbers["accuracy"] = on.unchanged.accuracy
        for narrowing in on.narrowings:
            name = f"{100 * narrowing.share:g}_percent_of_variance"
            numbers[f"{name}_directions"] = f"{narrowing.kept} of {narrowing.channels}"
            numbers[f"{name}_agreement"] = narrowing.effect.agreement
            numbers[f"{name}_accuracy"] = narrowing.effect.accuracy
    return numbers


def block_rows(e: Explanation) -> list[dict[str, Any]]:
    """What photos showed of each block; None where a block has no such tensor."""
    on = e.on_photos
    assert on
    wide = {span.block: span for span in on.manifold.expansions}
    positive = {row.block: row for row in on.manifold.trained}
    effects = {row.block: row.effect for row in on.clippings}
    rows = []
    for span in on.manifold.bottlenecks:
        w, p = wide.get(span.block), positive.get(span.block)
        effect = effects.get(span.block)
        rows.append(
            {
                "block": span.block,
                "channels": span.channels,
                "effective_rank": span.effective_rank,
                "channels_99": span.channels_99,
                "wide_channels": w and w.channels,
                "wide_effective_rank": w and w.effective_rank,
                "positive_percent": p and 100 * p.mean,
                "positive_deviation": p and 100 * p.deviation,
                "below_percent": p and 100 * p.below,
                "relu6_agreement": effect and effect.agreement,
                "relu6_accuracy": effect and effect.accuracy,
            }
        )
    return rows


def everything(e: Explanation) -> dict[str, Any]:
    """All numbers as JSON takes them; images, points and tensors left out."""
    numbers = {**totals(e), "size": list(e.size)}
    for name in ("survival", "regions", "invertibility", "memory"):
        numbers[name] = _plain(getattr(e, name))
    numbers["expansion_reads"] = {
        str(block): count for block, count in read_channels(e.layers).items()
    }
    if e.on_photos:
        on = e.on_photos
        numbers["blocks"] = block_rows(e)
        for name in ("bottlenecks", "expansions", "trained", "initial", "dead"):
            numbers[name] = _plain(getattr(on.manifold, name))
        numbers |= {
            name: _plain(getattr(on, name)) for name in ("unchanged", "clippings", "narrowings")
        }
        numbers["labelled"] = on.photos.truth is not None
    return numbers


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
