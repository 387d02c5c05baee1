"""The measured numbers of an explanation: formatted for the placeholders of the page's texts, as rows
of a table, and as plain data for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..cost import LayerCost, operator_memory, peak_memory
from ..layer import Layer
from .explain import Explanation, OnPhotos
from .manifold import SAMPLES, shortcut_blocks, source_channels

Placeholders = dict[str, str]
NONE = "–"  # where there is nothing to measure


def network_placeholders(e: Explanation) -> Placeholders:
    """Sizes of the network and totals of its cost."""
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


def example_block(e: Explanation) -> list[LayerCost]:
    """The layers of the block that the page explains: the first that expands and has a shortcut, else
    the first that expands, else the first.
    """
    blocks: dict[int, list[LayerCost]] = {}
    for row in e.cost.layers:
        if row.layer.block is not None:
            blocks.setdefault(row.layer.block, []).append(row)

    def priority(rows: list[LayerCost]) -> int:
        roles = {row.layer.role for row in rows}
        return 2 * ("expand" in roles) + ("add" in roles)

    return max(blocks.values(), key=priority)


def block_placeholders(rows: Sequence[LayerCost]) -> Placeholders:
    """Channels and cost of `example_block`."""
    macs = sum(row.macs for row in rows)
    depthwise = next(row for row in rows if row.layer.kind == "depthwise")
    project = next(row for row in rows if row.layer.role == "project")
    regular_macs = depthwise.macs * depthwise.layer.in_shape[0]
    return {
        "block": str(rows[0].layer.block),
        "block_in": str(rows[0].layer.in_shape[0]),
        "block_wide": str(depthwise.layer.out_shape[0]),
        "block_out": str(project.layer.out_shape[0]),
        "block_macs": millions(macs),
        "block_depthwise_share": percent(depthwise.macs / macs),
        "regular_ratio": three_digits(regular_macs / macs),
    }


def spiral_placeholders(e: Explanation) -> Placeholders:
    """Figure 1: how far the measured area is from the theorem."""
    gaps = [
        abs(row.area - row.theorem) / row.area_error for row in e.survival if row.area_error > 1e-12
    ]
    return {"matrices": f"{e.survival[0].matrices:,}", "worst_sigma": three_digits(max(gaps))}


def linear_placeholders(e: Explanation) -> Placeholders:
    """Linear regions and both lemmas."""
    narrow, last, lemma_two = e.regions[0], e.regions[-1], e.invertibility
    twin_errors = [row.twin_error for row in lemma_two if row.twin_error is not None]
    return {
        "interior": percent(e.disc.interior),
        "moved": three_digits(e.disc.moved),
        "region_inputs": str(narrow.inputs),
        "narrow_outputs": str(narrow.outputs),
        "carried": percent(narrow.carried),
        "bent_uncut": power_of_ten(max(row.bent_uncut for row in e.regions)),
        "bent_cut": percent(last.bent_cut),
        "undone_inputs": str(lemma_two[0].inputs),
        "undone_samples": f"{lemma_two[0].samples:,}",
        "undone_t_first": three_digits(lemma_two[0].expansion),
        "undone_first": percent(lemma_two[0].invertible),
        "undone_t_last": three_digits(lemma_two[-1].expansion),
        "undone_last": percent(lemma_two[-1].invertible),
        "recovery_error": power_of_ten(max(row.recovery_error for row in lemma_two)),
        "twin_error": power_of_ten(max(twin_errors, default=0.0)),
    }


def manifold_placeholders(e: Explanation, on_photos: OnPhotos) -> Placeholders:
    """Effective ranks and positive channels."""
    m = on_photos.manifold
    bottlenecks = {
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
        return bottlenecks
    sources = source_channels(e.layers)
    widest = max(m.expansions, key=lambda span: span.channels - span.effective_rank)
    below = [row for row in m.trained if row.below > 0]
    listed = ", ".join(f"{row.block}: {percent(row.below)} %" for row in below)
    return bottlenecks | {
        "wide_rank_share": mean_percent(
            [span.effective_rank / span.channels for span in m.expansions]
        ),
        "within": str(sum(span.effective_rank <= sources[span.block] for span in m.expansions)),
        "expansions": str(len(m.expansions)),
        "widest_block": str(widest.block),
        "widest_channels": str(widest.channels),
        "widest_rank": three_digits(widest.effective_rank),
        "initial_mean": mean_percent([row.mean for row in m.initial]),
        "initial_deviation": mean_percent([row.deviation for row in m.initial]),
        "trained_mean": mean_percent([row.mean for row in m.trained]),
        "trained_deviation": mean_percent([row.deviation for row in m.trained]),
        "below_count": str(len(below)),
        "below_blocks": listed or NONE,
    }


def intervention_placeholders(e: Explanation, on_photos: OnPhotos) -> Placeholders:
    """What the interventions change; `on_photos.unchanged` must not be None."""
    assert on_photos.unchanged is not None
    texts = {"unchanged": f"{on_photos.unchanged.score:.0f}"}
    blocks = [row for row in on_photos.clippings if row.block is not None]
    if blocks:
        shortcuts = shortcut_blocks(e.layers)
        with_shortcut = [row.effect.score for row in blocks if row.block in shortcuts]
        without = [row.effect.score for row in blocks if row.block not in shortcuts]
        worst = min(blocks, key=lambda row: row.effect.score)
        texts |= {
            "with_mean": f"{fmean(with_shortcut):.0f}" if with_shortcut else NONE,
            "without_mean": f"{fmean(without):.0f}" if without else NONE,
            "all_value": f"{on_photos.clippings[-1].effect.score:.0f}",
            "worst_block": str(worst.block),
            "worst_value": f"{worst.effect.score:.0f}",
        }
    for row in on_photos.narrowings:
        if row.share == 0.99:
            texts |= {
                "kept_99": f"{row.kept:,}",
                "kept_of": f"{row.channels:,}",
                "narrowed_99": f"{row.effect.score:.0f}",
            }
    return texts


def cost_placeholders(e: Explanation) -> Placeholders:
    """Shares of the multiply-adds by operator, and of the parameters behind the last block."""
    macs = dict.fromkeys(("expand", "depthwise", "project", "other"), 0)
    for row in e.cost.layers:
        macs[row.layer.role if row.layer.role in macs else "other"] += row.macs
    end = max(i for i, row in enumerate(e.cost.layers) if row.layer.block is not None)
    tail = sum(row.parameters for row in e.cost.layers[end + 1 :])
    shares = {f"{role}_share": percent(count / e.cost.macs) for role, count in macs.items()}
    return shares | {"tail_share": percent(tail / e.cost.parameters)}


def memory_placeholders(e: Explanation) -> Placeholders:
    """Peaks of the three ways to run a network."""
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
        "memory_ratio": three_digits(operators / m.activation_bytes),
        "resident_bytes": "" if m.resident_bytes is None else kilobytes(m.resident_bytes),
        "table_peak": kilobytes(largest[2]),
        "table_size": largest[0],
    }


def bottleneck_sizes(layers: Sequence[Layer]) -> list[tuple[str, int, int]]:
    """For each size of map that blocks give: the size, its largest number of channels, and the bytes
    of that tensor at 16 bits.
    """
    most: dict[tuple[int, int], int] = {}
    for layer in layers:
        if layer.role == "project":
            channels, height, width = layer.out_shape
            most[height, width] = max(most.get((height, width), 0), channels)
    return [(f"{h} × {w}", channels, 2 * channels * h * w) for (h, w), channels in most.items()]


def mean_percent(shares: Sequence[float]) -> str:
    """The mean of shares 0..1, in percent without the sign."""
    return percent(fmean(shares))


def percent(share: float) -> str:
    """A share 0..1 in percent without the sign, to two digits."""
    value = 100 * share
    if value >= 9.95 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def three_digits(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3g}"


def power_of_ten(value: float) -> str:
    """A small number as one digit and a power of ten: 4 × 10⁻¹³."""
    if value == 0:
        return "0"
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(digits)}"


def standard_error(value: float) -> str:
    """A standard error of a share, to four decimals or as a power of ten."""
    if value < 1e-12:
        return "0"
    return f"{value:.4f}" if value >= 5e-5 else power_of_ten(value)


def millions(count: float) -> str:
    """In millions: to one decimal from 100 up, else to three digits."""
    value = count / 1e6
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def kilobytes(count: int) -> str:
    """In units of 1000 bytes."""
    value = count / 1000
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def totals(e: Explanation) -> dict[str, Any]:
    """The numbers of the whole model, by name; shares in percent, sizes in bytes."""
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
    on_photos = e.on_photos
    if on_photos:
        numbers["photos"] = on_photos.manifold.photos
        numbers["dead_channels"] = sum(dead for _, dead, _ in on_photos.manifold.dead)
    if on_photos and on_photos.unchanged:
        numbers["accuracy"] = on_photos.unchanged.accuracy
        for narrowing in on_photos.narrowings:
            name = f"{100 * narrowing.share:g}_percent_of_variance"
            numbers[f"{name}_directions"] = f"{narrowing.kept} of {narrowing.channels}"
            numbers[f"{name}_agreement"] = narrowing.effect.agreement
            numbers[f"{name}_accuracy"] = narrowing.effect.accuracy
    return numbers


def block_rows(on_photos: OnPhotos) -> list[dict[str, Any]]:
    """What photos show of each block, one row per block; None where a block has no such tensor."""
    expansions = {span.block: span for span in on_photos.manifold.expansions}
    positive = {row.block: row for row in on_photos.manifold.trained}
    effects = {row.block: row.effect for row in on_photos.clippings}
    rows = []
    for span in on_photos.manifold.bottlenecks:
        wide, trained = expansions.get(span.block), positive.get(span.block)
        effect = effects.get(span.block)
        rows.append(
            {
                "block": span.block,
                "channels": span.channels,
                "effective_rank": span.effective_rank,
                "channels_99": span.channels_99,
                "wide_channels": wide and wide.channels,
                "wide_effective_rank": wide and wide.effective_rank,
                "positive_percent": trained and 100 * trained.mean,
                "positive_deviation": trained and 100 * trained.deviation,
                "below_percent": trained and 100 * trained.below,
                "relu6_agreement": effect and effect.agreement,
                "relu6_accuracy": effect and effect.accuracy,
            }
        )
    return rows


def plain_data(e: Explanation) -> dict[str, Any]:
    """All numbers, as JSON takes them; without pixels, points and tensors."""
    data = {**totals(e), "size": list(e.size)}
    for name in ("survival", "regions", "invertibility", "memory"):
        data[name] = _plain(getattr(e, name))
    data["expansion_reads"] = {str(block): n for block, n in source_channels(e.layers).items()}
    on_photos = e.on_photos
    if on_photos:
        data["blocks"] = block_rows(on_photos)
        for name in ("bottlenecks", "expansions", "trained", "initial", "dead"):
            data[name] = _plain(getattr(on_photos.manifold, name))
        for name in ("unchanged", "clippings", "narrowings"):
            data[name] = _plain(getattr(on_photos, name))
        data["labelled"] = on_photos.photos.truth is not None
    return data


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
