"""Draws the results of `latency.py`: milliseconds per call of each runtime, one panel per network, one
bar per number of threads.

    python benchmarks/plot.py benchmarks/results/latency-DATE-CPU.json docs/images/latency.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from latency import OURS
from matplotlib import pyplot
from peers import PEERS

# for one thread, and for more
OUR_COLOURS = ("#0b6e4f", "#6bbf9c")
PEER_COLOURS = ("#5f6b7a", "#b9c1cb")
BAR = 0.38


def main() -> None:
    """Reads the results and writes the drawing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="a .json of latency.py")
    parser.add_argument("image", type=Path, help="the file to write: .png or .svg")
    parser.add_argument("--networks", nargs="+", default=["1.0/224", "0.35/96"])
    options = parser.parse_args()
    content = json.loads(options.results.read_text(encoding="utf-8"))
    count = len(options.networks)
    figure, panels = pyplot.subplots(
        1, count, squeeze=False, figsize=(5.2 * count, 3.9), layout="constrained"
    )
    for panel, network in zip(panels[0], options.networks):
        width, resolution = network.split("/")
        shown = [
            result
            for result in content["results"]
            if (result["width"], result["resolution"]) == (float(width), int(resolution))
            and result["batch"] == 1
            and result["rounds_ms"]
        ]
        draw(panel, shown)
        title = f"MobileNetV2 {width}, {resolution} x {resolution}"
        panel.set_title(title, loc="left", fontsize=11)
    origin = f"{content['machine']['cpu']}, {content['date']}"
    caption = f"milliseconds per image (less is better); {origin}"
    figure.supxlabel(caption, fontsize=9, color="#444444")
    options.image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.image, dpi=160)


def draw(panel: Any, results: list[dict[str, Any]]) -> None:
    """Draws horizontal bars: ours on top, then the peers from fast to slow on the fewest threads."""
    times = {(r["runtime"], r["threads"]): float(np.median(r["rounds_ms"])) for r in results}
    threads = sorted({count for _, count in times})
    order = sorted({name for name, _ in times}, key=lambda n: (n != OURS, times[n, threads[0]]))
    for row, name in enumerate(order):
        colours = OUR_COLOURS if name == OURS else PEER_COLOURS
        for index, count in enumerate(threads):
            ms, y = times[name, count], row + (index - (len(threads) - 1) / 2) * BAR
            panel.barh(y, ms, BAR * 0.92, color=colours[min(index, 1)])
            # the bars of the first row also explain their colours
            legend = f"  {threads_text(count)}" if row == 0 and len(threads) > 1 else ""
            panel.text(ms, y, f" {ms:.2f}{legend}", va="center", fontsize=8, color="#333333")
    titles = {OURS: "mobilenetv2 (ours)"} | {name: peer.title for name, peer in PEERS.items()}
    names = [titles.get(name, name) for name in order]
    panel.set_yticks(range(len(order)), names)
    panel.get_yticklabels()[0].set_fontweight("bold")
    panel.invert_yaxis()
    panel.set_xlim(0, 1.15 * max(times.values()))
    panel.tick_params(length=0, labelsize=9)
    panel.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def threads_text(threads: int) -> str:
    """The number with its noun, such as "2 threads"."""
    return f"{threads} thread{'s' * (threads > 1)}"


if __name__ == "__main__":
    main()
