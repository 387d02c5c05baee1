"""`explain`: the page is whole by itself, says the same in both languages, and looks right in a
browser.
"""

from __future__ import annotations

import json
import os
import re
import string
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.architecture import SMALL_IMAGES, V1, Architecture
from mobilenetv2.cli import run
from mobilenetv2.cost import network_cost
from mobilenetv2.errors import UserError
from mobilenetv2.heads import SSD, Classifier, DeepLab, SSDLite
from mobilenetv2.insight import head as head_section
from mobilenetv2.insight.explain import Explanation, explain
from mobilenetv2.insight.photos import read_photos
from mobilenetv2.insight.report import LANGUAGES, PAGE, Report, read_texts
from mobilenetv2.insight.theory import invertibility, linear_regions, survival
from mobilenetv2.runtime.quantize import quantize

from .browser import Page, find_browser, opened
from .conftest import random_checkpoint

SECTIONS = ["network", "idea", "spiral", "linear", "manifold", "cost", "memory", "maps"]
TINY = replace(SMALL_IMAGES, width_mult=0.35, head=Classifier(3))
LABELS = ("cat", "dog", "<b>emu</b>")


@pytest.fixture(scope="module", autouse=True)
def small_toys() -> Iterator[None]:
    """Fewer random matrices: the numbers themselves are test_insight's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenetv2.insight.explain.survival", partial(survival, matrices=60))
        patch.setattr(
            "mobilenetv2.insight.explain.linear_regions", partial(linear_regions, samples=100)
        )
        patch.setattr(
            "mobilenetv2.insight.explain.invertibility", partial(invertibility, samples=20)
        )
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and six photos in two class folders."""
    root = tmp_path_factory.mktemp("explain")
    replace(random_checkpoint(TINY), labels=LABELS).save(root / "tiny.safetensors")
    rng = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "cat/3", "dog/1", "dog/2", "dog/3"):
        path = root / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def explanation(folder: Path) -> Explanation:
    checkpoint = replace(random_checkpoint(TINY), labels=LABELS)
    return explain(checkpoint, "tiny", read_photos(checkpoint, folder / "photos"))


@pytest.fixture(scope="module")
def pages(explanation: Explanation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page in each language."""
    root = tmp_path_factory.mktemp("pages")
    for language in LANGUAGES:
        html = Report(explanation, language, "mobilenetv2 explain <tiny>").html()
        (root / f"{language}.html").write_text(html, encoding="utf-8")
    return {language: root / f"{language}.html" for language in LANGUAGES}


class Outline(HTMLParser):
    """What a page is made of: tags left open, names, addresses, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        found = dict(attributes)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.addresses += [found[name] or "" for name in ("src", "href") if name in found]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass  # of a drawing

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_whole_by_itself(pages, language) -> None:
    html = pages[language].read_text(encoding="utf-8")
    outline = Outline(html)
    assert outline.open == []
    assert len(outline.addresses) > 100  # maps and links
    assert all(address.startswith(("data:image/", "#")) for address in outline.addresses)
    rest = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(
        r"https?:|//\w|@import|url\(", re.sub(r"data:image/[^\"]*", "", rest).replace("// ", "")
    )
    assert f'<html lang="{language}">' in html
    anchors = {address[1:] for address in outline.addresses if address.startswith("#")}
    assert anchors == set(SECTIONS) <= set(outline.ids)


def test_both_languages_show_the_same(pages) -> None:
    outlines = [Outline(page.read_text(encoding="utf-8")) for page in pages.values()]
    assert outlines[0].ids == outlines[1].ids
    assert [one for one in outlines[0].ids if one in SECTIONS] == SECTIONS
    assert outlines[0].addresses == outlines[1].addresses
    assert len(re.findall("[가-힣]", outlines[0].text)) == 0
    assert len(re.findall("[가-힣]", outlines[1].text)) > 3000


def names(text: str) -> list[str]:
    return sorted(field for _, field, _, _ in string.Formatter().parse(text) if field)


def test_the_words_of_both_languages_match() -> None:
    english, korean = (read_texts(language) for language in LANGUAGES)
    assert {part: list(keys) for part, keys in english.items()} == {
        part: list(keys) for part, keys in korean.items()
    }
    for part, texts in english.items():
        for key, text in texts.items():
            assert set(names(text)) == set(names(korean[part][key])), (part, key)
            for tag in ("b", "em", "i", "cite", "code", "sup"):
                for words in (text, korean[part][key]):
                    assert words.count(f"<{tag}>") == words.count(f"</{tag}>"), (part, key)
            assert korean[part][key]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_figure_says_what_it_shows(explanation: Explanation, language: str) -> None:
    report = Report(explanation, language)
    for section, steps in report.sections().items():
        for step in steps:
            wanted = {"shows"} if step.key == "play" else {"shows", "measured", "paper"}
            keys = {key for key in report.texts[section] if key.startswith(f"{step.key}_")}
            assert {f"{step.key}_{kind}" for kind in wanted} <= keys, (section, step.key)


def test_right_answers_are_counted_only_where_they_are_known(explanation: Explanation) -> None:
    on_photos = explanation.on_photos
    assert on_photos
    photos = replace(on_photos.photos, truth=None, unlabelled="no classes")
    unlabelled = replace(explanation, on_photos=replace(on_photos, photos=photos))
    for one, counted in ((explanation, "정답"), (unlabelled, "원래와 같은 답")):
        assert f"<th>{counted}</th>" in Report(one, "ko").html()


def test_names_are_text(pages) -> None:
    html = pages["en"].read_text(encoding="utf-8")
    assert "<b>emu" not in html
    assert "&lt;b&gt;emu" in html
    assert "explain &lt;tiny&gt;" in html


def test_numbers_on_the_page_are_those_measured(explanation: Explanation, pages) -> None:
    text = Outline(pages["en"].read_text(encoding="utf-8")).text.replace("\u00a0", " ")
    on = explanation.on_photos
    assert on
    assert on.unchanged
    accuracy = on.unchanged.accuracy
    assert f"Unchanged: {accuracy:.0f} %." in text
    assert f"{explanation.cost.macs / 1e6:.3g} M multiply-adds" in text
    wide = sum(channels for _, _, channels in on.manifold.dead)
    dead = sum(dead for _, dead, _ in on.manifold.dead)
    assert f"Of {wide:,} channels behind a ReLU6, {dead} are nowhere positive" in text
    assert f"{explanation.survival[2].area:.4f}" in text


def test_an_unknown_language_is_refused(explanation: Explanation) -> None:
    with pytest.raises(UserError, match="lang must be one of en, ko, not 'tlh'"):
        Report(explanation, "tlh")


def test_figures_are_files_of_their_own(explanation: Explanation) -> None:
    import xml.etree.ElementTree as ElementTree

    found = Report(explanation, "ko").figures()
    assert {"network-network", "spiral-figure", "manifold-positive", "memory-curve"} <= set(found)
    for drawing in found.values():
        root = ElementTree.fromstring(drawing)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--thin" in (root[0].text or "")


# the command


def test_with_photos(folder: Path, tmp_path: Path, capsys) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    arguments = ["explain", str(folder / "tiny.safetensors"), "--images", str(folder / "photos")]
    more = [
        "-o",
        str(page),
        "--lang",
        "ko",
        "--figures",
        str(figures),
        "--samples",
        "4",
        "--format",
        "json",
    ]
    assert run([*arguments, *more]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["photos"] == 4
    assert found["labelled"] is True
    assert found["measured_n_3"] == pytest.approx(0.5)
    assert [row["block"] for row in found["blocks"]] == list(range(1, 18))
    assert found["blocks"][0]["wide_channels"] is None
    assert found["clippings"][-1]["block"] is None
    assert found["runtime_bytes"] == max(step["held_bytes"] for step in found["memory"]["runtime"])
    html = page.read_text(encoding="utf-8")
    assert '<html lang="ko">' in html
    assert f"--samples 4 -o {page} --lang ko --seed 0</code>" in html
    assert (figures / "manifold-positive.svg").read_text(encoding="utf-8").startswith("<svg")
    assert not list(tmp_path.glob(".*"))


def test_without_photos(folder: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.html"
    assert run(["explain", str(folder / "tiny.safetensors"), "-o", str(page)]) == 0
    assert "measured n 5" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert "<title>Why MobileNetV2 works, tried on “tiny.safetensors”</title>" in html
    outline = Outline(html)
    assert "--images FOLDER" in outline.text
    assert [one for one in outline.ids if one in SECTIONS] == SECTIONS[:-1]
    assert "manifold-clipped" not in outline.ids


def test_csv_without_photos_has_the_totals(explanation: Explanation, capsys) -> None:
    from mobilenetv2.cli.explain import _print

    _print(replace(explanation, on_photos=None), "csv")
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "property,value"
    assert f"macs,{explanation.cost.macs}" in rows


def test_photos_without_labels_and_broken_ones(folder: Path, tmp_path: Path, capsys) -> None:
    for name in ("1", "2"):
        (tmp_path / f"{name}.png").write_bytes(
            (folder / "photos" / "cat" / f"{name}.png").read_bytes()
        )
    (tmp_path / "broken.png").write_bytes(b"no image")
    page = tmp_path / "page.html"
    arguments = ["explain", str(folder / "tiny.safetensors"), "--images", str(tmp_path)]
    assert run([*arguments, "-o", str(page), "--format", "csv"]) == 1
    out, err = capsys.readouterr()
    assert "broken.png" in err
    assert "the photos count as unlabelled" in err
    assert out.splitlines()[0].startswith("block,channels,effective_rank,channels_99,wide_channels")
    assert len(out.splitlines()) == 18
    text = Outline(page.read_text(encoding="utf-8")).text
    assert "agreement with itself, not accuracy" in text
    assert "unchanged answers" in text
    assert "right answers" not in text
    assert "1 photos could not be read" in text


def test_other_networks(tmp_path: Path) -> None:
    """MobileNetV1 has no expansions and no linear bottlenecks; features have no classes."""
    x = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path / "a.png")
    for architecture, reasons in (
        (
            replace(V1, width_mult=0.25, head=Classifier(3), resolution=(32, 32)),
            ("no expansions", "ReLU6 already"),
        ),
        (replace(TINY, head="features"), ("names no classes",)),
        (replace(TINY, head="deeplabv3", output_stride=16), ("count as unlabelled",)),
    ):
        checkpoint = random_checkpoint(architecture)
        found = explain(checkpoint, "other", read_photos(checkpoint, tmp_path))
        text = Outline(Report(found, "en").html()).text
        for reason in reasons:
            assert reason in text
        Report(found, "ko").html()


@pytest.mark.parametrize(
    ("head", "output_stride", "columns", "rows"),
    [
        (SSDLite(3), 32, "<th>anchors</th>", 6),
        (SSD(3), 32, "<th>anchors</th>", 6),
        (DeepLab(3), 16, "<th>layer</th>", 8),
    ],
)
def test_the_head_of_other_tasks_has_a_section(
    tmp_path: Path, head, output_stride, columns, rows
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path / "a.png")
    checkpoint = random_checkpoint(replace(TINY, head=head, output_stride=output_stride))
    found = explain(checkpoint, "other", read_photos(checkpoint, tmp_path))
    assert found.on_photos
    drawn = found.on_photos.first_photo.drawn
    assert drawn is not None
    assert drawn.shape == (*TINY.resolution, 3)
    for language in LANGUAGES:
        report = Report(found, language)
        assert len(report.sections()["head"][0].content.rows) == rows
        html = report.html()
        assert columns in html or language == "ko"
        assert '<img class="answer"' in html
        assert Outline(html).open == []
    without = explain(checkpoint, "other")
    assert [step.kind for step in Report(without).sections()["head"]] == ["table"]


def test_the_numbers_of_a_head() -> None:
    architecture = Architecture(head=SSDLite(80), resolution=(320, 320), padding="same")
    checkpoint = random_checkpoint(architecture)
    cost = network_cost(architecture)
    values = head_section.placeholders(checkpoint, cost)
    assert (values["anchor_count"], values["head_classes"]) == ("2,034", "80")
    # 2.097 M of 4.286 M parameters without batch norm, 0.178 B of 0.789 B multiply-adds
    assert (values["head_parameters"], values["head_macs"]) == ("49", "23")
    rows = head_section.rows(checkpoint, cost)
    assert [row[0] for row in rows] == ["20 × 20", "10 × 10", "5 × 5", "3 × 3", "2 × 2", "1 × 1"]
    assert [row[1:4] for row in rows[:2]] == [(576, "1,200", "10–20 %"), (1280, "600", "35–42 %")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "page.txt"], "page.txt: must end in .html"),
        (["-o", "nowhere/page.html"], "the folder nowhere does not exist"),
        (["-o", "page.html", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["-o", "page.html", "--lang", "tlh"], "'tlh' is not one of"),
        (["-o", "page.html", "--seed", "-1"], "'--seed': -1 is not in the range"),
        ([], "Missing option"),
    ],
)
def test_mistakes(folder: Path, capsys, monkeypatch, tmp_path, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["explain", str(folder / "tiny.safetensors"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_integers_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    checkpoint = random_checkpoint(TINY)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match="calibrate"):
        quantize(checkpoint, pixels).save(tmp_path / "integers.safetensors")
    arguments = ["explain", str(tmp_path / "integers.safetensors"), "-o", str(tmp_path / "p.html")]
    assert run(arguments) == 2
    assert "a float32 model is needed here" in capsys.readouterr().err


# in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with opened(path, tmp_path_factory.mktemp("profile")) as page:
        yield page


OUTSIDE = """[...document.querySelectorAll('.card > svg text')].filter(t => {
  const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
  return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
}).map(t => t.textContent)"""
OVERLAPPING = """[...document.querySelectorAll('.card > svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([x, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([y]) => `${x} | ${y}`));
})"""

CUT_TABLES = """[...document.querySelectorAll('.table')].filter(t => t.scrollWidth > t.clientWidth)
  .map(t => t.textContent)"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('.card > svg text')].map(t =>
  parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.clientWidth / 360))"""
# pixels of empty space below the words of a step beside a taller drawing
LONGER_THAN_THE_WORDS = """Math.max(...[...document.querySelectorAll('.step')].map(s => {
  const words = s.querySelector('.notes').getBoundingClientRect(), card = s.querySelector('.card').getBoundingClientRect();
  return card.left >= words.right ? card.bottom - words.bottom : 0;
}))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1440])
@pytest.mark.parametrize("language", LANGUAGES)
def test_in_a_browser(browser: Page, pages, language: str, width: int, scheme: str) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(pages[language], width, scheme=scheme)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OUTSIDE) == []
    assert browser.value(OVERLAPPING) == []
    assert browser.value(CUT_TABLES) == []
    assert browser.value(SMALLEST_TEXT) >= (7.5 if width >= 360 else 6.5)
    assert browser.value(LONGER_THAN_THE_WORDS) <= 600
    assert browser.value("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert browser.problems == []
    asked = {address for address in browser.requests if not address.startswith("data:")}
    assert asked == {pages[language].absolute().as_uri()}


def test_hangul_is_never_slanted(browser: Page, pages) -> None:
    browser.open(pages["ko"], 1440)
    slanted = """[...document.querySelectorAll('body *')].filter(e => getComputedStyle(e).fontStyle != 'normal')
      .map(e => e.textContent)"""
    texts = browser.value(slanted)
    assert texts
    assert not re.search("[가-힣]", "".join(texts))


def test_the_toy_moves(browser: Page, pages) -> None:
    browser.open(pages["en"], 390)
    assert browser.value("document.getElementById('play').offsetHeight") > 100
    move = "const s = document.querySelector('#play input'); s.value = {}; s.dispatchEvent(new Event('input'));"
    seen = "document.querySelector('#play g').innerHTML"
    kept = "document.querySelector('#play p b').textContent"
    browser.value("{" + move.format(3) + "}")
    assert browser.value(kept) == "50.0 %"
    before = browser.value(seen)
    browser.value("{" + move.format(30) + "}")
    assert browser.value(kept) == "100.0 %"
    assert browser.value(seen) != before
    before = browser.value(seen)
    browser.value("document.querySelector('#play button').click()")
    assert browser.value(seen) != before
    assert browser.problems == []


def test_the_script_and_styles_are_there() -> None:
    assert {path.name for path in PAGE.iterdir()} == {
        "en.ini", "ko.ini", "figures.css", "page.css", "page.html", "page.js",
    }  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_labels_and_file_names_are_shown_and_not_run(language: str, tmp_path: Path) -> None:
    evil = '<script>alert(1)</script> & "co"\x1b[31m'
    shown = evil.replace("\x1b", r"\x1b")
    checkpoint = replace(random_checkpoint(TINY), labels=(evil, "cat", "dog"))
    name = "a<b>&.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    page = Report(
        explain(checkpoint, evil, read_photos(checkpoint, tmp_path)), language, f"explain {evil}"
    ).html()
    assert page.count("<script>") == 1  # the page's own
    outline = Outline(page)
    assert outline.open == []
    assert shown in outline.text
    assert "\x1b" not in page
    assert 'alt="a&lt;b&gt;&amp;' in page
    assert name in page.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_file_names_that_are_not_utf8(folder: Path, explanation: Explanation, tmp_path) -> None:
    photos = tmp_path / os.fsdecode(b"caf\xe9")
    for name in (b"cat/b\xe9d.png", b"dog/2.png"):
        path = photos / os.fsdecode(name)
        path.parent.mkdir(parents=True)
        path.write_bytes((folder / "photos" / "cat" / "1.png").read_bytes())
    model, page = str(folder / "tiny.safetensors"), tmp_path / "page.html"
    assert run(["explain", model, "--images", str(photos), "-o", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert r"b\xe9d.png. The model says" in html
    assert r"/caf\xe9" in html
    named = replace(explanation, name=os.fsdecode(b"m\xfc.safetensors"))
    assert r"<b>m\xfc.safetensors</b>" in Report(named).html()
