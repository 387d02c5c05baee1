"""The page: words and measurements put into one self-contained HTML file."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

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

LANGUAGES = ("en", "ko")
FOLDER = Path(__file__).with_name("page")
UNBROKEN = re.compile(r"(?<=[\d}]) (?=×|%|KB|M\b)|(?<=×) (?=\d)")  # a number keeps its unit


@dataclass(frozen=True)
class Step:
    """One thing shown.

    Attributes:
        key: Names its words.
        figure: A drawing, or HTML.
    """

    key: str
    figure: Canvas | Markup

    @property
    def html(self) -> Markup:
        """The figure as HTML."""
        return Markup(str(self.figure))


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
        self._templates = _templates()
        self.facts = self._facts()

    def steps(self) -> dict[str, list[Step]]:
        """What each section shows, in order; a section that lacks photos is left out or empty."""
        e, labels = self.e, self.labels
        shown = f.shown_block(e)
        sections = {
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
            sections["maps"] = [Step("maps", self._maps(e.on_photos))]
        return sections

    def html(self) -> str:
        """The page."""
        page: str = self._templates.get_template("page.html").render(
            language=self.language,
            style=Markup(_text("page.css") + _text("figures.css")),
            script=Markup(_text("page.js")),
            say=self._say,
            paragraphs=self._paragraphs,
            has=lambda section, key: key in self.words[section],
            tiles=self._tiles(),
            sections=self.steps(),
            left_out=list(self._left_out()),
        )
        return page + "\n"

    def figures(self) -> dict[str, str]:
        """Every drawing as an SVG file of its own, by section and key."""
        style = _text("figures.css")
        return {
            f"{section}-{step.key}": _standalone(str(step.figure), style)
            for section, some in self.steps().items()
            for step in some
            if isinstance(step.figure, Canvas)
        }

    def _part(self, macro: str, **values: Any) -> Markup:
        """A macro of parts.html, filled in."""
        module = self._templates.get_template("parts.html").module
        return Markup(getattr(module, macro)(**values))

    def _say(self, section: str, key: str, **more: str) -> Markup:
        """Words of the page, which may have tags, with their facts, which are escaped."""
        return self._typeset(Markup(self.words[section][key]).format_map({**self.facts, **more}))

    def _typeset(self, text: Markup) -> Markup:
        """Percent signs as the language has them, and numbers beside their units."""
        plain = str(text).replace(" %", "%") if self.language == "ko" else str(text)
        return Markup(UNBROKEN.sub("\u00a0", plain))

    def _paragraphs(self, section: str, key: str) -> Markup:
        parts = str(self._say(section, key)).split("\n\n")
        return Markup("").join(Markup(f"<p>{part.strip()}</p>") for part in parts)

    def _facts(self) -> dict[str, str]:
        """Every number and name that the words have places for."""
        e = self.e
        facts = f.network_facts(e) | f.block_facts(f.shown_block(e)) | f.spiral_facts(e)
        facts |= f.linear_facts(e) | f.cost_facts(e) | f.memory_facts(e)
        facts |= {
            "version": version("mobilenetv2"),
            "command": self.command,
            "seed": str(self.seed),
        }
        facts["maps_columns"] = str(COLUMNS)
        known = "known" if e.memory.resident_bytes is not None else "unknown"
        if e.on_photos:
            facts |= f.manifold_facts(e, e.on_photos)
            if e.on_photos.unchanged:
                facts |= f.answer_facts(e, e.on_photos)
            measure = "agreement" if e.on_photos.photos.truth is None else "accuracy"
            manifold = self.words["manifold"]
            facts["clipped_meaning"] = Markup(manifold[f"meaning_{measure}"])
            facts["narrowed_meaning"] = Markup(manifold[f"short_{measure}"])
            facts["photo"] = e.on_photos.look.name.rsplit("/", 1)[-1]
        facts["resident"] = Markup(self.words["memory"][f"resident_{known}"]).format_map(facts)
        if e.on_photos:
            facts["answers"] = self._answers(e.on_photos)
        return facts

    def _answers(self, on: OnPhotos) -> Markup:
        if not on.look.answers:
            return Markup(self.words["maps"]["answers_unknown"])
        listed = ", ".join(f"{label} ({100 * p:.0f} %)" for label, p in on.look.answers)
        return Markup(self.words["maps"]["answers_known"]).format(listed=listed)

    def _tiles(self) -> list[tuple[str, str]]:
        """The large numbers at the top, each with the key of its words."""
        tiles = [
            (f"{self.facts['macs']} M", "tile_macs"),
            (f"{self.facts['parameters']} M", "tile_parameters"),
            (f"{self.facts['runtime_peak']} KB", "tile_memory"),
        ]
        on = self.e.on_photos
        if on and on.unchanged and on.unchanged.accuracy is not None:
            tiles.append((f"{on.unchanged.accuracy:.0f} %", "tile_answers"))
        return tiles

    def _play(self) -> Markup:
        words = self.words["spiral"]
        return self._part(
            "play", button=Markup(words["play_button"]), kept=Markup(words["play_kept"])
        )

    def _survival_table(self) -> Markup:
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

    def _regions_table(self) -> Markup:
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

    def _table_3(self) -> Markup:
        printed = {row.size.replace("x", " × "): row.mobilenet_v2[1] for row in TABLE_3}
        rows = [
            (size, channels, f.kilobytes(count), printed.get(size, "–"))
            for size, channels, count in f.bottleneck_sizes(self.e.layers)
        ]
        return self._table("memory", ("size", "channels", "kb", "printed"), rows)

    def _narrowing_table(self, on: OnPhotos) -> Markup:
        rows = [
            (
                f"{100 * row.share:g} %",
                f"{row.kept:,} / {row.channels:,}",
                f"{f.worth(row.effect):.0f} %",
            )
            for row in on.narrowings
        ]
        return self._table("manifold", ("share", "kept", "answers"), rows)

    def _table(
        self, section: str, names: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> Markup:
        heads = [self._say(section, f"column_{name}") for name in names]
        cells = [[self._typeset(Markup.escape(cell)) for cell in row] for row in rows]
        return self._part("table", heads=heads, rows=cells)

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

    def _maps(self, on: OnPhotos) -> Markup:
        blocks = []
        for layer in self.e.layers:
            values = on.look.maps.get(layer.name)
            if values is None:
                continue
            images = [
                (channel, png(coloured(values[:, :, channel]))) for channel in strongest(values)
            ]
            size = " × ".join(map(str, layer.out_shape))
            blocks.append((f"{layer.block} · {size}", images))
        return self._part(
            "maps", name=self.facts["photo"], photo=jpeg(on.look.pixels), blocks=blocks
        )

    def _left_out(self) -> Iterator[Markup]:
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
            yield self._say("made", "left_labels", reason=on.photos.unlabelled)
        if on.photos.skipped:
            yield self._say("made", "left_skipped", count=str(len(on.photos.skipped)))


def _error(value: float) -> str:
    return f"{value:.4f}" if value >= 5e-5 else "0" if value < 1e-12 else f.tiny(value)


def _standalone(drawing: str, style: str) -> str:
    """A drawing with its colours inside."""
    head, rest = drawing.split(">", 1)
    return f"{head}><style>{style}</style>{rest}"


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _templates() -> Any:
    """The page's templates, which escape every value that is not marked as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_words(language: str) -> dict[str, dict[str, str]]:
    """All texts of a language: section, then key."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="\0"
    )
    parser.read(FOLDER / f"{language}.ini", encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}
