"""How much of the caches an inverted residual may take, and whether it runs over its whole plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..layer import Layer
from ._native import BLOCK
from .packing import Weights


@dataclass(frozen=True)
class Budget:
    """Cache budget of one inverted residual. Measured; smaller strips save memory and cost time.

    Attributes:
        strip_bytes: For a strip's wide rows and their depthwise output; half of it for each of
            several threads.
        plane_bytes: For a depthwise output that is kept whole; the second where that costs less than
            strips, which read all weights anew: it is smaller than the weights, or several threads
            would work on the rows around each other's, too.
        chunk_channels: Wide channels at once, where the output is kept whole.
        stripe_rows: Output rows at once of every stage of a chain in stripes; 0 for no stripes. In
            bfloat16 two rows are less work than one and one; in int8 stripes cost a tenth of the time.
    """

    strip_bytes: int
    plane_bytes: tuple[int, int]
    chunk_channels: int
    stripe_rows: int


BUDGETS = {  # by item bytes
    4: Budget(160 << 10, (256 << 10, 512 << 10), 64, 1),
    2: Budget(128 << 10, (128 << 10, 256 << 10), 128, 2),
    1: Budget(88 << 10, (64 << 10, 64 << 10), 256, 0),
}


def fits_plane(depthwise: Layer, thin: int, weights: Weights, threads: int) -> bool:
    """Whether a block runs over its whole plane: the map is small, and there are chunks for all
    threads.

    Args:
        depthwise: The block's depthwise layer.
        thin: Channels of the block's input and output together.
        weights: Of the network.
        threads: That will run it.
    """
    channels, height, width = depthwise.out_shape
    budget = BUDGETS[weights.item_bytes]
    at_once = max(budget.chunk_channels, weights.panel_channels) * math.prod(depthwise.in_shape[1:])
    kept = channels * height * width
    whole = threads > 1 or height * width <= thin
    if weights.item_bytes * kept > budget.plane_bytes[whole]:
        return False
    if weights.item_bytes * at_once > budget.strip_bytes:
        return False
    chunks = -(-channels // weights.panel_channels)
    return threads == 1 or chunks >= 2 * threads or height < 8 * threads


def chunk_panels(depthwise: Layer, weights: Weights, threads: int) -> int:
    """Panels of the expansion at once on a plane: whole blocks, and some for every thread."""
    panels = max(1, BLOCK // weights.panel_channels)  # of a whole block
    unit = panels * weights.panel_channels
    units = -(-depthwise.out_shape[0] // unit)
    return panels * max(
        1, min(BUDGETS[weights.item_bytes].chunk_channels // unit, units // threads)
    )
