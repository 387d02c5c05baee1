"""How every command prints its results, as a table, JSON or CSV, and shows its progress.

Rich is loaded for tables and progress bars only.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import click

from ..printable import printable

PIPE_WIDTH = 1000  # of a table that does not go to a terminal: nothing is cut
FORMAT_WARNING = warnings.formatwarning
Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """The option `--format table|json|csv`, which a command gets as `format_`."""
    choice = click.Choice(["table", "json", "csv"])
    return click.option(
        "--format", "format_", type=choice, default="table", show_default=True, help="How to print."
    )(command)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], format_: str, title: str = ""
) -> None:
    """Prints rows to stdout: an aligned table, a JSON array of objects, or CSV with a header.

    Args:
        rows: Each has a value for every column.
        columns: Their order.
        format_: "table", "json" or "csv".
        title: Of a table.
    """
    if format_ == "json":
        write_json({name: row[name] for name in columns} for row in rows)
    elif format_ == "csv":
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _write_table(rows, columns, title)


def write_json(objects: Iterable[Any]) -> None:
    """Prints a JSON array with one element per line, each as soon as it is there."""
    separator = "[\n"
    for value in objects:
        click.echo(separator + json.dumps(value, ensure_ascii=False), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def write_properties(properties: Mapping[str, Any], format_: str = "table") -> None:
    """Prints names and values as rows of two columns."""
    rows = ({"property": name, "value": value} for name, value in properties.items())
    write_rows(rows, ("property", "value"), format_)


def show_image_warnings() -> None:
    """Shows our warnings about images as one line each, and none of Pillow's.

    Pillow warns about large images and odd EXIF data; what it cannot read is an error.
    """
    from ..decoding import NarrowRangeWarning

    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("always", category=NarrowRangeWarning)
    warnings.formatwarning = _formatted


def _formatted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    from ..decoding import NarrowRangeWarning

    if issubclass(category, NarrowRangeWarning):
        return f"warning: {printable(str(message))}\n"
    return FORMAT_WARNING(message, category, filename, lineno, line)


@contextmanager
def progress(total: int, activity: str) -> Iterator[Callable[[], object]]:
    """A progress bar on stderr, if that is a terminal and `total` is above 1.

    Args:
        total: The number of steps.
        activity: What is done, as text.

    Yields:
        A function to call after each step.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(activity), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    all_rows = list(rows)
    table = Table(box=box.SIMPLE, title=title or None, title_justify="left")
    for name in columns:
        values = [row[name] for row in all_rows]
        numeric = all(isinstance(value, int | float) or value in ("", None) for value in values)
        justify: Literal["left", "right"] = "right" if numeric and values else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold")
    for row in all_rows:
        table.add_row(*(Text(_cell(row[name])) for name in columns))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    console = Console(width=PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
