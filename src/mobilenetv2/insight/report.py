"""The report: one HTML page that loads nothing else, from the template `page/page.html`.

The template's texts are in `page/en.ini` and `page/ko.ini`, with `{placeholders}` for numbers. The
texts are markup; every value that is put into them or into the template is escaped, and names from
outside are made printable.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import UserError
from ..paper_tables import TABLE_3
from ..printable import printable
from . import figures, head, measurements
from .drawing import Canvas, colour_map, jpeg_url, png_url
from .explain import Explanation, FirstPhoto, OnPhotos
from .manifold import shortcut_blocks, source_channels

LANGUAGES = ("en", "ko")
PAGE = Path(__file__).with_name("page")
MAPS_PER_BLOCK = 6
# Spaces between a number and its unit, around a multiplication sign, and in "n = 3": no line may break
# there.
UNBREAKABLE = re.compile(
    r"(?<=[\d}]) (?=×|%|KB|M(?![A-Za-z]))|(?<=×) (?=\d)|(?<=\b[knt]) (?==)|(?<=\b[knt] =) "
)
Text = TypeVar("Text", str, Markup)


@dataclass(frozen=True)
class Table:
    """A table: keys of its column titles, `column_<key>` in the texts, and its cells."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


@dataclass(frozen=True)
class BlockMaps:
    """Feature maps of one block: its number, the output's size, and images by channel as data URLs."""

    block: int | None
    size: str
    images: dict[int, str]


@dataclass(frozen=True)
class PhotoMaps:
    """A photo as a data URL, its file name, and the feature maps of each block on it."""

    name: str
    url: str
    blocks: list[BlockMaps]


@dataclass(frozen=True)
class Step:
    """One thing that a section shows.

    Attributes:
        key: Of its texts within the section.
        kind: How the template shows it.
        content: What is shown, an image as a data URL; None for the toy, which the page's script
            draws.
    """

    key: str
    kind: Literal["drawing", "table", "maps", "image", "toy"]
    content: Canvas | Table | PhotoMaps | str | None = None


def read_texts(language: str) -> dict[str, dict[str, str]]:
    """All texts of a language, by section and key."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="\0"
    )
    parser.read(PAGE / f"{language}.ini", encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}


class Report:
    """Texts and figures of one explanation in one language.

    Args:
        explanation: From `explain`.
        language: "en" or "ko".
        command: The command that makes the page, which the page shows.
        seed: Of the explanation's random numbers.

    Raises:
        UserError: No such language.
    """

    def __init__(
        self, explanation: Explanation, language: str = "en", command: str = "", seed: int = 0
    ) -> None:
        if language not in LANGUAGES:
            raise UserError(f"lang must be one of {', '.join(LANGUAGES)}, not {language!r:.40}")
        self.explanation, self.language = explanation, language
        self.texts = read_texts(language)
        self._labels = self.texts["labels"]
        self._values = self._placeholders(command, seed)

    def html(self) -> str:
        """The page."""
        environment = Environment(
            loader=FileSystemLoader(PAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["typeset"] = self._typeset
        return environment.get_template("page.html").render(
            language=self.language,
            style=Markup(_read("page.css") + _read("figures.css")),
            script=Markup(_read("page.js")),
            sections=self.sections(),
            tiles=self._tiles(),
            omissions=list(self._omissions()),
            texts=self.texts,
            text=self._text,
        )

    def figures(self) -> dict[str, str]:
        """Every drawing as an SVG file of its own, by `<section>-<key>`."""
        style = _read("figures.css")
        return {
            f"{section}-{step.key}": _standalone(str(step.content), style)
            for section, steps in self.sections().items()
            for step in steps
            if step.kind == "drawing"
        }

    def sections(self) -> dict[str, list[Step]]:
        """What each section shows, in order. Without photos, "manifold" is empty and "maps" missing."""
        e, labels = self.explanation, self._labels
        sections = {
            "network": [Step("network", "drawing", figures.network(e.layers, labels))],
            "idea": [
                Step("block", "drawing", figures.block(measurements.example_block(e), labels))
            ],
            "spiral": [
                Step("figure", "drawing", figures.spiral_panels(e.panels, labels)),
                Step("play", "toy"),
                Step("numbers", "table", self._survival_table()),
            ],
            "linear": [
                Step("disc", "drawing", figures.disc(e.disc, labels)),
                Step("regions", "table", self._regions_table()),
                Step("undone", "drawing", figures.invertible_share(e.invertibility, labels)),
            ],
            "manifold": list(self._manifold_steps(e.on_photos)) if e.on_photos else [],
            "cost": list(self._cost_steps()),
            "memory": [
                Step("curve", "drawing", figures.memory(e.memory, labels)),
                Step("table", "table", self._sizes_table()),
            ],
        }
        if e.checkpoint.architecture.head.task in head.COLUMNS:
            sections["head"] = list(self._head_steps(e.checkpoint.architecture.head.task))
        if e.on_photos:
            sections["maps"] = [Step("maps", "maps", self._photo_maps(e.on_photos.first_photo))]
        return sections

    def _text(self, section: str, key: str, **values: str) -> Markup:
        """A text with its placeholders filled in, their values escaped."""
        return self._typeset(_fill(self.texts[section][key], self._values | values))

    def _typeset(self, text: Text) -> Text:
        """Percent signs as the language writes them, and no line break inside a quantity."""
        if self.language == "ko":
            text = type(text)(text.replace(" %", "%"))
        return type(text)(UNBREAKABLE.sub("\u00a0", text))

    def _placeholders(self, command: str, seed: int) -> dict[str, str]:
        """The value of every placeholder in the texts. Plain strings are not yet escaped."""
        e, m = self.explanation, measurements
        values = m.network_placeholders(e) | m.block_placeholders(m.example_block(e))
        values |= m.spiral_placeholders(e) | m.linear_placeholders(e)
        values |= m.cost_placeholders(e) | m.memory_placeholders(e)
        values |= head.placeholders(e.checkpoint, e.cost)
        values |= {
            "version": version("mobilenetv2"),
            "command": command,
            "seed": str(seed),
            "maps_columns": str(MAPS_PER_BLOCK),
        }
        known = "unknown" if e.memory.resident_bytes is None else "known"
        values["resident"] = _fill(self.texts["memory"][f"resident_{known}"], values)
        if e.on_photos:
            values |= m.manifold_placeholders(e, e.on_photos)
            if e.on_photos.unchanged:
                values |= m.intervention_placeholders(e, e.on_photos)
            measure = "agreement" if e.on_photos.photos.truth is None else "accuracy"
            values["clipped_meaning"] = self.texts["manifold"][f"meaning_{measure}"]
            values["narrowed_meaning"] = self.texts["manifold"][f"short_{measure}"]
            values["counted"] = self.texts["manifold"][f"counted_{measure}"]
            values["photo"] = _file_name(e.on_photos.first_photo)
            values["answers"] = self._predictions(e.on_photos.first_photo)
        return values

    def _predictions(self, photo: FirstPhoto) -> Markup:
        if not photo.predicted:
            return Markup(self.texts["maps"]["answers_unknown"])
        listed = ", ".join(f"{label} ({100 * p:.0f} %)" for label, p in photo.predicted)
        return _fill(self.texts["maps"]["answers_known"], {"listed": listed})

    def _tiles(self) -> dict[str, str]:
        """The most important numbers, by the key of their text."""
        tiles = {
            "tile_macs": f"{self._values['macs']} M",
            "tile_parameters": f"{self._values['parameters']} M",
            "tile_memory": f"{self._values['runtime_peak']} KB",
        }
        on_photos = self.explanation.on_photos
        if on_photos and on_photos.unchanged and on_photos.unchanged.accuracy is not None:
            tiles["tile_answers"] = f"{on_photos.unchanged.accuracy:.0f} %"
        return tiles

    def _survival_table(self) -> Table:
        rows: list[tuple[object, ...]] = [
            (
                row.dimension,
                f"{row.theorem:.4f}",
                f"{row.area:.4f}",
                measurements.standard_error(row.area_error),
                f"{row.invertible:.4f}",
                f"{row.distortion:.2f}",
            )
            for row in self.explanation.survival
        ]
        return Table(("n", "theorem", "area", "error", "invertible", "distortion"), rows)

    def _regions_table(self) -> Table:
        rows: list[tuple[object, ...]] = [
            (
                row.outputs,
                row.rank,
                f"{measurements.percent(row.carried)} %",
                measurements.power_of_ten(row.bent_uncut),
                f"{measurements.percent(row.bent_cut)} %",
            )
            for row in self.explanation.regions
        ]
        return Table(("outputs", "rank", "carried", "bent_uncut", "bent_cut"), rows)

    def _sizes_table(self) -> Table:
        printed = {row.size.replace("x", " × "): row.mobilenet_v2[1] for row in TABLE_3}
        rows: list[tuple[object, ...]] = [
            (
                size,
                channels,
                measurements.kilobytes(size_bytes),
                printed.get(size, measurements.NONE),
            )
            for size, channels, size_bytes in measurements.bottleneck_sizes(self.explanation.layers)
        ]
        return Table(("size", "channels", "kb", "printed"), rows)

    def _narrowing_table(self, on_photos: OnPhotos) -> Table:
        rows: list[tuple[object, ...]] = [
            (
                f"{100 * row.share:g} %",
                f"{row.kept:,} / {row.channels:,}",
                f"{row.effect.score:.0f} %",
            )
            for row in on_photos.narrowings
        ]
        return Table(("share", "kept", "answers"), rows)

    def _manifold_steps(self, on_photos: OnPhotos) -> Iterator[Step]:
        layers, labels, m = self.explanation.layers, self._labels, on_photos.manifold
        drawing = figures.ranks(m.bottlenecks, {}, labels, labels["bottlenecks_title"])
        yield Step("bottlenecks", "drawing", drawing)
        if m.expansions:
            sources = source_channels(layers)
            drawing = figures.ranks(m.expansions, sources, labels, labels["expansions_title"])
            yield Step("expansions", "drawing", drawing)
            yield Step("positive", "drawing", figures.positivity(m.initial, m.trained, labels))
        if on_photos.clippings and on_photos.unchanged:
            drawing = figures.clipped(
                on_photos.clippings, shortcut_blocks(layers), on_photos.unchanged.score, labels
            )
            yield Step("clipped", "drawing", drawing)
        if on_photos.narrowings:
            yield Step("narrowed", "table", self._narrowing_table(on_photos))

    def _cost_steps(self) -> Iterator[Step]:
        cost, labels = self.explanation.cost, self._labels
        drawing = figures.cost_bars(
            cost, lambda row: row.macs, labels["macs_title"], labels["multiply_adds"], labels
        )
        yield Step("macs", "drawing", drawing)
        drawing = figures.cost_bars(
            cost,
            lambda row: row.parameters,
            labels["parameters_title"],
            labels["parameters"],
            labels,
        )
        yield Step("parameters", "drawing", drawing)

    def _head_steps(self, task: str) -> Iterator[Step]:
        e = self.explanation
        yield Step(task, "table", Table(head.COLUMNS[task], head.rows(e.checkpoint, e.cost)))
        if e.on_photos and e.on_photos.first_photo.drawn is not None:
            yield Step(f"{task}_answer", "image", jpeg_url(e.on_photos.first_photo.drawn))

    def _photo_maps(self, photo: FirstPhoto) -> PhotoMaps:
        """The photo and, of each block, the channels that vary most, most first."""
        blocks = []
        for layer in self.explanation.layers:
            if layer.name not in photo.maps:
                continue
            values = photo.maps[layer.name]  # (H, W, C)
            variance = values.reshape(-1, values.shape[2]).var(axis=0)
            channels = (-variance).argsort(kind="stable")[:MAPS_PER_BLOCK]
            images = {int(i): png_url(colour_map(values[:, :, i])) for i in channels}
            blocks.append(BlockMaps(layer.block, " × ".join(map(str, layer.out_shape)), images))
        return PhotoMaps(printable(_file_name(photo)), jpeg_url(photo.pixels), blocks)

    def _omissions(self) -> Iterator[Markup]:
        """What the page cannot show, and why."""
        on_photos = self.explanation.on_photos
        if not any(layer.role == "expand" for layer in self.explanation.layers):
            yield self._text("made", "left_expansions")
        if on_photos is None:
            yield self._text("made", "left_photos")
            return
        if on_photos.unchanged is None:
            yield self._text("made", "left_classes")
        elif not on_photos.clippings:
            yield self._text("made", "left_linear")
        if on_photos.photos.truth is None:
            yield self._text("made", "left_labels", reason=on_photos.photos.unlabelled)
        if on_photos.photos.skipped:
            yield self._text("made", "left_skipped", count=str(len(on_photos.photos.skipped)))


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _fill(text: str, values: Mapping[str, str]) -> Markup:
    """A text, which is markup, with its placeholders filled in."""
    shown = {
        name: value if isinstance(value, Markup) else printable(value)
        for name, value in values.items()
    }
    return Markup(text).format(**shown)


def _file_name(photo: FirstPhoto) -> str:
    return photo.name.rsplit("/", 1)[-1]


def _standalone(drawing: str, style: str) -> str:
    """A drawing with its style sheet inside."""
    head, rest = drawing.split(">", 1)
    return f"{head}><style>{style}</style>{rest}"
