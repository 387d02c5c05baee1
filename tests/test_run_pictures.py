"""What a training run leaves to look at: curves, pictures and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobilenetv2.training import report


def test_curves_mark_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(report, "_save", lambda figure, path: figures.append(figure))
    epochs = [{"epoch": 0, "lr": "", "train_loss": "", "val_loss": 0.9, "val_top1": 50.0}]
    epochs += [
        {"epoch": i, "lr": 0.1, "train_loss": 1 / i, "val_loss": 0.5, "val_top1": 60.0 + i}
        for i in (1, 2)
    ]
    report.draw_curves(epochs, ("val_top1",), 2, Path("curves.png"))
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["loss", "validation", "learning rate"]
    for panel in panels:
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert list(lines["best: epoch 2"].get_xdata()) == [2, 2]
    assert list(panels[1].get_lines()[0].get_ydata()) == [50.0, 61.0, 62.0]
