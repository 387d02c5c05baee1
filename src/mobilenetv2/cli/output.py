"""How every command prints rows: a table for people, JSON or CSV for programs; and how it shows
progress. Rich is loaded for tables and bars only.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

PIPE_WIDTH = 1000  # a pipe has no width; nothing that goes into it is cut
Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """The option `--format table|json|csv`, handed over as `format_`."""
    choice = click.Choice(["table", "json", "csv"])
    return click.option(
        "--format", "format_", type=choice, default="table", show_default=True, help="How to print."
    )(command)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], format_: str, title: str = ""
) -> None:
    """Prints rows to stdout: an aligned table, a JSON array of objects (one a line), or CSV with a
    header.
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
    """Prints a JSON array, one element a line, as the elements come."""
    separator = "[\n"
    for value in objects:
        click.echo(separator + json.dumps(value, ensure_ascii=False), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


@contextmanager
def progress(total: int, doing: str) -> Iterator[Callable[[], object]]:
    """A bar on stderr if that is a terminal and there is something to wait for; yields the step
    function.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    held = list(rows)
    table = Table(box=box.SIMPLE, title=title or None, title_justify="left")
    for name in columns:
        numeric = all(isinstance(row[name], int | float) or row[name] in ("", None) for row in held)
        table.add_column(
            name.replace("_", " "), justify="right" if numeric and held else "left", overflow="fold"
        )
    for row in held:
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
