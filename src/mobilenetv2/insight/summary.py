"""An explanation as plain numbers, for a table and for programs."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from .explain import Explanation
from .facts import read_channels


def totals(e: Explanation) -> dict[str, Any]:
    """The figures that stand for the whole model; shares in percent, sizes in bytes."""
    found: dict[str, Any] = {
        "model": e.name,
        "macs": e.cost.macs,
        "parameters": e.cost.parameters,
        "one_layer_after_another_bytes": max(step.held_bytes for step in e.memory.operators),
        "block_as_one_operator_bytes": max(step.held_bytes for step in e.memory.bottlenecks),
        "runtime_bytes": e.memory.activation_bytes,
        "resident_bytes": e.memory.resident_bytes,
    }
    for row in e.survival:
        found[f"theorem_1_n_{row.dimension}"] = row.theorem
        found[f"measured_n_{row.dimension}"] = row.area
    on = e.on_photos
    if on:
        found["photos"] = on.manifold.photos
        found["dead_channels"] = sum(dead for _, dead, _ in on.manifold.dead)
    if on and on.unchanged:
        found["accuracy"] = on.unchanged.accuracy
        for narrowing in on.narrowings:
            name = f"{100 * narrowing.share:g}_percent_of_variance"
            found[f"{name}_directions"] = f"{narrowing.kept} of {narrowing.channels}"
            found[f"{name}_agreement"] = narrowing.effect.agreement
            found[f"{name}_accuracy"] = narrowing.effect.accuracy
    return found


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
    found = {**totals(e), "size": list(e.size)}
    for name in ("survival", "regions", "invertibility", "memory"):
        found[name] = _plain(getattr(e, name))
    found["expansion_reads"] = {
        str(block): count for block, count in read_channels(e.layers).items()
    }
    if e.on_photos:
        on = e.on_photos
        found["blocks"] = block_rows(e)
        for name in ("bottlenecks", "expansions", "trained", "initial", "dead"):
            found[name] = _plain(getattr(on.manifold, name))
        found |= {
            name: _plain(getattr(on, name)) for name in ("unchanged", "clippings", "narrowings")
        }
        found["labelled"] = on.photos.truth is not None
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
