"""The page: words and measurements put into one self-contained HTML file."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

from ..errors import UserError
from ..paper import TABLE_3
from . import facts as f
from .explain import Explanation, OnPhotos
from .figures import (
    block,
    clipped,
    cost_bars,
    disc,
    invertible_share,
    memory,
    network,
    positivity,
    ranks,
    spiral_panels,
)
from .photos import COLUMNS, coloured, jpeg, png, strongest
from .svg import Canvas

UNBROKEN = re.compile(r"(?<=[\d}]) (?=×|%|KB|M\b)|(?<=×) (?=\d)")  # a number keeps its unit


@dataclass(frozen=True)
class Step:
    """One thing shown: `key` names its words, `figure` is HTML or a drawing."""

    key: str
    figure: Canvas | str


class Report:
    """Words and figures of one explanation in one language.

    Args:
        explanation: From `explain`.
        language: "en" or "ko".
        command: What made it, to be shown on the page.
        seed: That it was made with.

    Raises:
        UserError: No such language.
    """

    def __init__(
        self, explanation: Explanation, language: str = "en", command: str = "", seed: int = 0
    ) -> None:
        if language not in LANGUAGES:
            raise UserError(f"lang must be one of {', '.join(LANGUAGES)}, not {language!r:.40}")
        self.e, self.language, self.command, self.seed = explanation, language, command, seed
        self.words = read_words(language)
        self.labels = self.words["labels"]
        self.facts = self._facts()

    def steps(self) -> dict[str, list[Step]]:
        """What each section shows, in order; a section that lacks photos is left out or empty."""
        e, labels = self.e, self.labels
        shown = f.shown_block(e)
        found = {
            "network": [Step("network", network(e.layers, labels))],
            "idea": [Step("block", block(shown, labels))],
            "spiral": [
                Step("figure", spiral_panels(e.panels, labels)),
                Step("play", self._play()),
                Step("numbers", self._survival_table()),
            ],
            "linear": [
                Step("disc", disc(e.disc, labels)),
                Step("regions", self._regions_table()),
                Step("undone", invertible_share(e.invertibility, labels)),
            ],
            "manifold": list(self._manifold(e.on_photos)) if e.on_photos else [],
            "cost": [
                Step(key, cost_bars(e.cost, value, labels[f"{key}_title"], labels[name], labels))
                for key, name, value in (
                    ("macs", "multiply_adds", lambda row: row.macs),
                    ("parameters", "parameters", lambda row: row.parameters),
                )
            ],
            "memory": [Step("curve", memory(e.memory, labels)), Step("table", self._table_3())],
        }
        if e.on_photos:
            found["maps"] = [Step("maps", self._maps(e.on_photos))]
        return found

    def html(self) -> str:
        """The page."""
        style = "".join(
            (FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "figures.css")
        )
        script = (FOLDER / "page.js").read_text(encoding="utf-8")
        sections = self.steps()
        links = "".join(f'<a href="#{name}">{self._say(name, "title")}</a>' for name in sections)
        body = "\n".join(
            self._section(number, name, some)
            for number, (name, some) in enumerate(sections.items(), 1)
        )
        title = self._say("page", "title")
        return (
            f'<!DOCTYPE html>\n<html lang="{self.language}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f'<header><h1>{title}</h1>\n<div class="lead">{self._paragraphs("page", "lead")}</div>\n'
            f'{self._tiles()}\n<nav aria-label="{self._say("page", "contents")}">{links}</nav></header>\n'
            f"<main>\n{body}\n</main>\n<footer>\n{self._made()}\n</footer>\n"
            f"<script>\n{script}</script>\n</body>\n</html>\n"
        )

    def figures(self) -> dict[str, str]:
        """Every drawing as an SVG file of its own, by section and key."""
        style = (FOLDER / "figures.css").read_text(encoding="utf-8")
        return {
            f"{section}-{step.key}": _standalone(str(step.figure), style)
            for section, some in self.steps().items()
            for step in some
            if isinstance(step.figure, Canvas)
        }

    def _section(self, number: int, name: str, some: Sequence[Step]) -> str:
        reference = f"{self._say('page', 'section')} {self._say(name, 'reference')}"
        inner = "\n".join(self._step(name, step) for step in some)
        if not some:
            inner = f'<div class="words">{self._paragraphs(name, "missing")}</div>'
        return (
            f'<section id="{name}">\n<h2><span class="number">{number}</span>{self._say(name, "title")}'
            f'<span class="reference">{reference}</span></h2>\n{inner}\n</section>'
        )

    def _step(self, section: str, step: Step) -> str:
        shows = f"<p>{self._say(section, f'{step.key}_shows')}</p>"
        for kind in ("measured", "paper"):
            if f"{step.key}_{kind}" in self.words[section]:
                words = self._say(section, f"{step.key}_{kind}")
                shows += f'<p class="{kind}"><b>{self._say("page", kind)}</b> {words}</p>'
        return (
            f'<div class="step" id="{section}-{step.key}"><div class="words">'
            f"{self._paragraphs(section, step.key)}</div>\n"
            f"<figure>{step.figure}<figcaption>{shows}</figcaption></figure></div>"
        )

    def _say(self, section: str, key: str, **more: str) -> str:
        return self._typeset(self.words[section][key].format_map({**self.facts, **more}))

    def _typeset(self, text: str) -> str:
        """Percent signs as the language has them, and numbers beside their units."""
        text = text.replace(" %", "%") if self.language == "ko" else text
        return UNBROKEN.sub("\u00a0", text)

    def _paragraphs(self, section: str, key: str) -> str:
        return "".join(f"<p>{part.strip()}</p>" for part in self._say(section, key).split("\n\n"))

    def _facts(self) -> dict[str, str]:
        """Every number that the words name, safe to stand in HTML."""
        e = self.e
        found = f.network_facts(e) | f.block_facts(f.shown_block(e)) | f.spiral_facts(e)
        found |= f.linear_facts(e) | f.cost_facts(e) | f.memory_facts(e)
        found |= {
            "version": version("mobilenetv2"),
            "command": self.command,
            "seed": str(self.seed),
        }
        found["maps_columns"] = str(COLUMNS)
        known = "known" if e.memory.resident_bytes is not None else "unknown"
        if e.on_photos:
            found |= f.manifold_facts(e, e.on_photos)
            if e.on_photos.unchanged:
                found |= f.answer_facts(e, e.on_photos)
            measure = "agreement" if e.on_photos.photos.truth is None else "accuracy"
            manifold = self.words["manifold"]
            found["clipped_meaning"] = manifold[f"meaning_{measure}"]
            found["narrowed_meaning"] = manifold[f"short_{measure}"]
            found["photo"] = e.on_photos.look.name.rsplit("/", 1)[-1]
        found = {name: escape(text) for name, text in found.items()}
        found["resident"] = self.words["memory"][f"resident_{known}"].format_map(found)
        if e.on_photos:
            found["answers"] = self._answers(e.on_photos)
        return found

    def _answers(self, on: OnPhotos) -> str:
        if not on.look.answers:
            return self.words["maps"]["answers_unknown"]
        listed = ", ".join(f"{escape(label)} ({100 * p:.0f} %)" for label, p in on.look.answers)
        return self.words["maps"]["answers_known"].format(listed=listed)

    def _tiles(self) -> str:
        tiles = [
            (f"{self.facts['macs']} M", "tile_macs"),
            (f"{self.facts['parameters']} M", "tile_parameters"),
            (f"{self.facts['runtime_peak']} KB", "tile_memory"),
        ]
        on = self.e.on_photos
        if on and on.unchanged and on.unchanged.accuracy is not None:
            tiles.append((f"{on.unchanged.accuracy:.0f} %", "tile_answers"))
        inner = "".join(
            f"<div><b>{value}</b><span>{self._say('page', key)}</span></div>"
            for value, key in tiles
        )
        return f'<div class="tiles">{inner}</div>'

    def _play(self) -> str:
        say = self.words["spiral"]
        return (
            '<div id="play" hidden><svg viewBox="-1.15 -1.15 2.3 2.3" role="img"><g></g></svg>'
            '<label>n = <output>5</output><input type="range" min="2" max="30" value="5"></label>'
            f'<button type="button">{say["play_button"]}</button>'
            f"<p>{say['play_kept']}: <b></b></p></div>"
        )

    def _survival_table(self) -> str:
        names = ("n", "theorem", "area", "error", "invertible", "distortion")
        rows = [
            (
                row.dimension,
                f"{row.theorem:.4f}",
                f"{row.area:.4f}",
                _error(row.area_error),
                f"{row.invertible:.4f}",
                f"{row.distortion:.2f}",
            )
            for row in self.e.survival
        ]
        return self._table("spiral", names, rows)

    def _regions_table(self) -> str:
        names = ("outputs", "rank", "carried", "bent_uncut", "bent_cut")
        rows = [
            (
                row.outputs,
                row.rank,
                f"{f.percent(row.carried)} %",
                f.tiny(row.bent_uncut),
                f"{f.percent(row.bent_cut)} %",
            )
            for row in self.e.regions
        ]
        return self._table("linear", names, rows)

    def _table_3(self) -> str:
        printed = {row.size.replace("x", " × "): row.mobilenet_v2[1] for row in TABLE_3}
        rows = [
            (size, channels, f.kilobytes(count), printed.get(size, "–"))
            for size, channels, count in f.bottleneck_sizes(self.e.layers)
        ]
        return self._table("memory", ("size", "channels", "kb", "printed"), rows)

    def _narrowing_table(self, on: OnPhotos) -> str:
        rows = [
            (
                f"{100 * row.share:g} %",
                f"{row.kept:,} / {row.channels:,}",
                f"{f.worth(row.effect):.0f} %",
            )
            for row in on.narrowings
        ]
        return self._table("manifold", ("share", "kept", "answers"), rows)

    def _table(self, section: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
        head = "".join(f"<th>{self._say(section, f'column_{name}')}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{self._typeset(escape(str(cell)))}</td>" for cell in row)
            + "</tr>"
            for row in rows
        )
        return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def _manifold(self, on: OnPhotos) -> Iterator[Step]:
        e, m, labels = self.e, on.manifold, self.labels
        yield Step("bottlenecks", ranks(m.bottlenecks, {}, labels, labels["bottlenecks_title"]))
        if m.expansions:
            thin = f.read_channels(e.layers)
            yield Step("expansions", ranks(m.expansions, thin, labels, labels["expansions_title"]))
            yield Step("positive", positivity(m.initial, m.trained, labels))
        if on.clippings and on.unchanged:
            adding = f.adding_blocks(e.layers)
            yield Step("clipped", clipped(on.clippings, adding, f.worth(on.unchanged), labels))
        if on.narrowings:
            yield Step("narrowed", self._narrowing_table(on))

    def _maps(self, on: OnPhotos) -> str:
        rows = [f'<img class="photo" alt="{self.facts["photo"]}" src="{jpeg(on.look.pixels)}">']
        for layer in self.e.layers:
            values = on.look.maps.get(layer.name)
            if values is None:
                continue
            images = "".join(
                f'<img alt="{channel}" src="{png(coloured(values[:, :, channel]))}">'
                for channel in strongest(values)
            )
            size = " × ".join(map(str, (layer.out_shape[0], *layer.out_shape[1:])))
            rows.append(f'<div class="maps"><span>{layer.block} · {size}</span>{images}</div>')
        return "\n".join(rows)

    def _made(self) -> str:
        left = "".join(f"<li>{reason}</li>" for reason in self._left_out())
        title = self._say("made", "left_title")
        return (
            f"<h2>{self._say('made', 'title')}</h2><p>{self._say('made', 'made')}</p>"
            + (f"<h3>{title}</h3><ul>{left}</ul>" if left else "")
            + f'<p class="sources">{self._say("page", "sources")}</p>'
        )

    def _left_out(self) -> Iterator[str]:
        """What the page cannot show, and why."""
        on = self.e.on_photos
        if not any(layer.role == "expand" for layer in self.e.layers):
            yield self._say("made", "left_expansions")
        if on is None:
            yield self._say("made", "left_photos")
            return
        if on.unchanged is None:
            yield self._say("made", "left_classes")
        elif not on.clippings:
            yield self._say("made", "left_linear")
        if on.photos.truth is None:
            yield self._say("made", "left_labels", reason=escape(on.photos.unlabelled))
        if on.photos.skipped:
            yield self._say("made", "left_skipped", count=str(len(on.photos.skipped)))


def _error(value: float) -> str:
    return f"{value:.4f}" if value >= 5e-5 else "0" if value < 1e-12 else f.tiny(value)


def _standalone(drawing: str, style: str) -> str:
    """A drawing with its colours inside."""
    head, rest = drawing.split(">", 1)
    return f"{head}><style>{style}</style>{rest}"


LANGUAGES = ("en", "ko")
FOLDER = Path(__file__).with_name("page")
Words = Mapping[str, str]


def read_words(language: str) -> dict[str, dict[str, str]]:
    """All texts of a language: section, then key."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="\0"
    )
    parser.read(FOLDER / f"{language}.ini", encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}
