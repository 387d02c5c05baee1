"""What a training run leaves to look at: curves, pictures and its page."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2.datasets import IGNORED
from mobilenetv2.evaluation import ClassResult, Evaluation, Scores
from mobilenetv2.evaluation.grid import Grid
from mobilenetv2.training import fit, report
from mobilenetv2.training.epochs import Stopped
from mobilenetv2.training.mixing import mixup
from mobilenetv2.training.page import Finished, write_page
from mobilenetv2.training.pictures import Pictures
from mobilenetv2.training.run_folder import RunFolder
from mobilenetv2.training.sheets import Sheet, sheet_of
from mobilenetv2.training.ssd import anchor_targets
from mobilenetv2.training.tasks import TASKS

from .test_fit import MACHINE, QUICK, TINY, make_images
from .test_fit_tasks import ARCHITECTURES, MAKE, run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.rows = "", [[]]  # type: ignore[var-annotated]
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1][0] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)

    def addresses(self) -> set[str]:
        """All files that it shows or leads to."""
        links = {a[name] for _, a in self.tags for name in ("src", "href") if a.get(name)}
        styles = " ".join(a.get("style") or "" for _, a in self.tags)
        return {*map(str, links), *re.findall(r"url\(([^)]*)\)", styles)}


def captions(page: Page) -> list[str]:
    return [str(a["aria-label"]) for tag, a in page.tags if a.get("role") == "img"]


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


NAMES = ("a<b>&amp;", "고양이")


def test_a_run_and_its_page(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", dict.fromkeys(NAMES, 20))
    trained = fit(data, tmp_path / "run <1>", QUICK, TINY, machine=MACHINE)
    folder = RunFolder(tmp_path / "run <1>")
    page = Page(folder.page)
    addresses = page.addresses()
    assert addresses == {
        *("curves.png", "confusion.png", "model.safetensors", "recipe.json", "log.csv"),
        *(f"{name}.jpg" for name in ("answers", "batch-1", "batch-2", "batch-3")),
    }
    assert all((folder.path / address).is_file() for address in addresses)
    assert ("h1", {}) in page.tags
    assert "run <1>" in page.text
    for name, result in zip(NAMES, trained.evaluation.classes, strict=True):
        assert page.row(name)[:2] == [name, str(result.images)]
    assert {tag for tag, _ in page.tags}.isdisjoint({"b>&amp;", "script", "link"})
    # 36 images in five batches of 7 or 8, and all four of the validation
    shown = [Sheet.load(folder.batch_picture(i)) for i in range(3)]
    assert sum(len(sheet.captions) for sheet in shown) in (22, 23, 24)
    assert {line for sheet in shown for (line,) in sheet.captions} == {*NAMES}
    answers = Sheet.load(folder.answers).captions
    assert len(answers) == 4
    assert captions(page)[:4] == [", ".join(lines) for lines in answers]
    verdicts = [lines[1].split(":")[0] for lines in answers]
    assert verdicts == sorted(verdicts, reverse=True)  # wrong ones first
    assert verdicts.count("right") == round(4 * trained.evaluation.scores.top1 / 100)

    many_classes(folder)


def many_classes(folder: RunFolder) -> None:
    """The page of 1001 classes has a table of the worst thousand."""
    names = tuple(f"{i} \udcff </td>" for i in range(1001))
    confusion = np.diag(np.arange(1001))
    confusion[4, 3] = 6
    results = tuple(
        ClassResult(name, i, int(row.sum()), i)
        for i, (name, row) in enumerate(zip(names, confusion))
    )
    total = int(confusion.sum())
    evaluation = Evaluation(Scores(99, 100, 0, 0), total, (), results, names, confusion, ())
    best = {"epoch": 1, "val_top1": 99.0, "val_balanced": 98.0}
    settings = replace(folder.read_settings(), classes=names)
    write_page(folder, settings, TASKS["classification"], Finished(2, best, [best], evaluation))
    page = Page(folder.page)
    rows = [row for row in page.rows if row and row[0].endswith(r"\xff </td>")]
    assert len(rows) == 1000 + 1  # and one pair of classes
    assert rows[0] == [r"4 \xff </td>", "10", "1", "0.4"]
    assert rows[1] == [r"1 \xff </td>", "1", "1", "1"]
    assert rows[-1] == [r"4 \xff </td>", r"3 \xff </td>", "6", "0.6"]
    assert "the first 1,000 of 1,001 classes" in page.text


def test_precision_and_recall_per_class() -> None:
    confusion = np.array([[6, 2, 0], [3, 1, 0], [0, 0, 0]])
    assert report.share(6, 9) == 6 / 9
    assert report.share(0, 0) is None
    assert report.confused(confusion, ("a", "b", "c"), "images") == [
        {"true": "b", "predicted": "a", "images": 3, "share of the class": 0.75},
        {"true": "a", "predicted": "b", "images": 2, "share of the class": 0.25},
    ]


def test_the_picture_of_a_batch_is_what_the_network_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed with the same random numbers, and these only."""
    sheets: list[Sheet] = []
    monkeypatch.setattr(Sheet, "save", lambda self, path: sheets.append(self))
    steps: list[tuple[Any, ...]] = []

    class Task(type(TASKS["classification"])):  # type: ignore[misc]
        def mixed(self, x: Any, *rest: Any) -> Any:
            steps.append((x, *rest))
            return super().mixed(x, *rest)

    recipe = QUICK.changed({"augmentation.mixup": 1.0})
    settings = _Settings(recipe=recipe, classes=("one", "two"), architecture=None)
    pixels = torch.arange(4 * 3 * 8 * 8, dtype=torch.uint8).reshape(4, 3, 8, 8)
    targets = torch.tensor([0, 1, 1, 0])
    before = torch.get_rng_state()
    Pictures(RunFolder(tmp_path), Task(), settings).batch(0, pixels, targets, 7, 0.0)
    assert torch.equal(before, torch.get_rng_state())
    draw = torch.randint(1 << 62, (), generator=torch.Generator().manual_seed(7))
    shares = torch.nn.functional.one_hot(targets, 2).float()
    mixed, mixed_shares = mixup(pixels.float(), shares, 1.0, np.random.default_rng(int(draw)))
    (sheet,) = sheets
    percents = [100 * float(row.max()) for row in mixed_shares]
    names = ["one" if row[0] > 0.5 else "two" for row in mixed_shares]
    for (caption,), name, percent in zip(sheet.captions, names, percents, strict=True):
        assert caption.startswith(name if percent == 100 else f"{name} {percent:.0f} %")
    x, y = sheet.grid.place(2)
    middle = np.asarray(sheet.image)[y + 122 - 14, x + 120 - 14]  # of the pixel in row 3, column 3
    assert middle.tolist() == mixed[2, :, 3, 3].round().byte().tolist()


class _Settings:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_boxes_of_a_batch_are_those_of_the_anchors() -> None:
    from mobilenetv2.boxes import anchors
    from mobilenetv2.graph import network

    architecture = replace(
        ARCHITECTURES["detection"], head=ARCHITECTURES["detection"].head.with_classes(2)
    )
    own = anchors(architecture.head, network(architecture, 32, 32))  # type: ignore[arg-type]
    boxes = np.array([[0.25, 0.25, 0.75, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.3, 0.3]])
    targets = anchor_targets(boxes, np.array([1, 0, 1]), own)
    pixels = np.full((32, 32, 1), 90, np.uint8)
    image, caption = TASKS["detection"].tile(pixels, targets, ("cat", "dog"), architecture)
    assert caption == "cat, dog (2)"
    drawn = np.asarray(image)
    assert drawn[round(0.5 * 236), round(0.5 * 236)].tolist() != [90, 90, 90]  # a corner
    assert drawn[round(0.4 * 236), round(0.5 * 236)].tolist() == [90, 90, 90]  # inside
    nothing = np.zeros_like(targets)
    assert TASKS["detection"].tile(pixels, nothing, ("cat", "dog"), architecture)[1] == "no object"


def test_masks_of_a_batch_keep_their_classes() -> None:
    mask = np.zeros((20, 10), np.uint8)
    mask[:10, :5], mask[:, 9] = 2, IGNORED
    pixels = np.full((20, 10, 3), 90, np.uint8)
    image, caption = TASKS["segmentation"].tile(pixels, mask, ("none", "cat", "dog"), None)  # type: ignore[arg-type]
    assert (image.size, caption) == ((118, 236), "dog")
    drawn = np.asarray(image)
    assert drawn[230, 20].tolist() == [90, 90, 90]
    assert drawn[100, 20].tolist() != [90, 90, 90]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_page_of_other_tasks(task: str, tmp_path: Path) -> None:
    trained = run(task, MAKE[task](tmp_path / "data"), tmp_path / "run")
    page = Page(tmp_path / "run" / "index.html")
    figure = {"detection": "precision.png", "segmentation": "confusion.png"}[task]
    assert {"curves.png", figure, "answers.jpg"} <= page.addresses()
    assert all((tmp_path / "run" / address).is_file() for address in page.addresses())
    assert "batch-2.jpg" in page.addresses()
    table: Mapping[str, Any]
    for table in trained.task.class_table(trained.evaluation):
        assert table["class"] in page.text
    assert len(Sheet.load(tmp_path / "run" / "answers.jpg").captions) == len(
        trained.evaluation.answers
    )


def test_a_resumed_run_has_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within its first batches, of which it has drawn two."""
    data = make_images(tmp_path / "data", {"dark": 20, "light": 20})
    fit(data, tmp_path / "whole", QUICK, TINY, machine=MACHINE)
    batch, part = Pictures.batch, tmp_path / "part"

    def stopping(self: Pictures, number: int, *rest: Any) -> None:
        batch(self, number, *rest)
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "batch", stopping)
        with pytest.raises(Stopped):
            fit(data, part, QUICK, TINY, machine=MACHINE)
    unfinished = Page(part / "index.html")
    assert "The run goes on, or was stopped" in unfinished.text
    assert unfinished.addresses() == {"batch-1.jpg", "batch-2.jpg", "recipe.json"}
    fit(data, part, machine=MACHINE, resume=True)
    names = {path.name for path in (tmp_path / "whole").glob("*.jpg")}
    assert names == {"batch-1.jpg", "batch-2.jpg", "batch-3.jpg", "answers.jpg"}
    for name in names:
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_nothing_to_draw_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_images(tmp_path / "data", {"dark": 20, "light": 20})
    out = tmp_path / "run"
    out.mkdir()
    (out / "batch-1.jpg").mkdir()  # in the way

    def failing(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("mobilenetv2.training.finish.draw_curves", failing)
    trained = fit(data, out, replace(QUICK, epochs=1), TINY, machine=MACHINE)
    assert trained.epochs == 1
    warnings = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert f"{out / 'curves.png'} is left out: MemoryError" in warnings
    assert any(line.startswith(f"{out / 'batch-1.jpg'} is left out: ") for line in warnings)
    page = Page(out / "index.html")
    assert page.addresses() == {
        *("confusion.png", "model.safetensors", "recipe.json", "log.csv"),
        *("batch-2.jpg", "batch-3.jpg", "answers.jpg"),
    }


def test_another_page_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(Exception, match="index.html: a run would overwrite it"):
        RunFolder(tmp_path).check_new()


def test_a_sheet_comes_back_as_it_was(tmp_path: Path) -> None:
    tiles = [(Image.new("RGB", (236, 100)), (f"{'é' * 300}\n", f"\udcff <{i}>")) for i in range(6)]
    sheet = sheet_of(tiles)
    assert sheet.grid == Grid(4, 240, 104, 38)
    assert sheet.image.size == (960, 2 * 142)
    sheet.save(tmp_path / "sheet.jpg")
    again = Sheet.load(tmp_path / "sheet.jpg")
    assert again.grid == sheet.grid
    assert again.captions == [["é" * 100, f"\udcff <{i}>"] for i in range(6)]
