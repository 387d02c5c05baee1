"""How every command prints its results, as a table, JSON or CSV, and shows messages and progress.

Rich is loaded for tables and progress bars only.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ..printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from ..int8 import AnyCheckpoint

PIPE_WIDTH = 1000  # of a table that does not go to a terminal: nothing is cut
LEAST_TEXT = 20  # columns for a text of a table with several; a longer one is folded
FORMATS = ("table", "json", "csv")
Command = TypeVar("Command", bound=Callable[..., Any])
# A spreadsheet computes a cell that begins so; an apostrophe in front makes it text.
_COMPUTED = re.compile("[=+@'\uff1d\uff0b\uff0d\uff20-]")
# What is legal inside JSON, but not safe on a terminal or not encodable.
_JSON_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class OutputPath(click.Path):
    """The name of a file to write, refused before any work if it cannot be one.

    Args:
        suffixes: What its name must end in; none: anything.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path)
        self.suffixes = suffixes

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Any:
        if value == "-":
            self.fail("-: /dev/stdout is stdout, ./- a file of that name", param, context)
        path = Path(value)
        try:
            problem = self._problem(path)
        except (OSError, ValueError) as error:  # a name too long, or no permission
            problem = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        if problem:
            self.fail(f"{path}: {problem}", param, context)
        return path

    def files(self, path: Path, options: Mapping[str, Any]) -> tuple[Path, ...]:
        """All files that a command with these options writes where it is given `path`."""
        return (path,)

    def _problem(self, path: Path) -> str:
        if self.suffixes and path.suffix.lower() not in self.suffixes:
            return f"must end in {' or '.join(self.suffixes)}"
        if path.is_dir():
            return "is a folder"
        if path.exists() and not os.access(path, os.W_OK):
            return "cannot be written: no permission"
        if path.exists() and not path.is_file():  # a device or pipe, written to directly
            return ""
        if not path.parent.is_dir():
            return f"the folder {path.parent} does not exist"
        return "" if os.access(path.parent, os.W_OK) else "cannot be written: no permission"


def format_option(command: Command) -> Command:
    """The option `--format table|json|csv`, which a command gets as `format_`."""
    return click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print.",
    )(command)


def result_options(command: Command) -> Command:
    """The options `--format table|json|csv`, which a command gets as `format_`, and `-o FILE`.

    With `-o`, what the command prints goes to that file instead, once the command is done.
    """

    @functools.wraps(command)
    def writes(*arguments: Any, format_: str | None, output: Path | None, **others: Any) -> Any:
        if output is None:
            return command(*arguments, format_=format_ or "table", **others)
        suffix = output.suffix.lower().removeprefix(".")
        format_ = format_ or (suffix if suffix in FORMATS else "table")
        with redirect_stdout(io.StringIO()) as printed:
            code = command(*arguments, format_=format_, **others)
        from ..files import write_atomically

        write_atomically(output, printed.getvalue().encode())
        return code

    output_option = click.option(
        "-o",
        "--output",
        type=OutputPath(),
        metavar="FILE",
        help="Write the results to this file instead of printing them.",
    )
    format_option = click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        help="How to print.  [default: by the suffix of --output, else table]",
    )
    return format_option(output_option(writes))  # type: ignore[return-value]


def use_utf8() -> None:
    """Files and pipes get UTF-8, whatever the locale says; a terminal gets escapes of what it
    cannot show. Names on stdin are read as file names are."""
    if sys.stderr is None:  # closed by the caller
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")


def notify(text: object) -> None:
    """Prints a line to stderr, with everything in it escaped that a terminal might obey."""
    print(printable(str(text)), file=sys.stderr, flush=True)


def notify_notes(checkpoint: AnyCheckpoint) -> None:
    """Prints what the reader of another library's file assumed, chose or left out."""
    for note in checkpoint.notes:
        notify(f"note: {note}")


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
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([csv_cell(row[name]) for name in columns] for row in rows)
    else:
        _write_table(rows, columns, title)


def save_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path, format_: str
) -> None:
    """Writes rows to a file, as `write_rows` prints them."""
    from ..files import write_atomically

    write_atomically(path, rows_content(rows, columns, format_))


def save_image(image: Image, path: Path) -> None:
    """Writes an image to a file, of the kind that its suffix says."""
    from PIL import Image

    from ..files import write_atomically

    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[path.suffix.lower()])
    write_atomically(path, content.getvalue())


def rows_content(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], format_: str) -> bytes:
    """What `write_rows` prints, in UTF-8."""
    with redirect_stdout(io.StringIO()) as text:
        write_rows(rows, columns, format_)
    return text.getvalue().encode()


def csv_cell(value: Any) -> Any:
    """A value as CSV has it: texts as `printable` shows them, and never a formula.

    A text that a spreadsheet would compute gets an apostrophe in front; so does one that begins
    with an apostrophe, so that the first can always be taken away. Numbers are left alone.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, int | float):
        return value
    text = printable(str(value))
    return f"'{text}" if _COMPUTED.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", text) is not None


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which no number is NaN or infinite: these are null. Paths are as `printable` shows
    them; all other texts are exact.
    """
    text = json.dumps(
        _finite(value), ensure_ascii=False, allow_nan=False, default=_shown, indent=indent
    )
    return _JSON_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    if isinstance(value, PurePath):
        return printable(str(value))
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_json(objects: Iterable[Any]) -> None:
    """Prints a JSON array with one element per line, each as soon as it is there."""
    separator = "[\n"
    for value in objects:
        sys.stdout.write(separator + json_text(value))
        sys.stdout.flush()
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def write_properties(properties: Mapping[str, Any], format_: str = "table") -> None:
    """Prints names and values as rows of two columns."""
    rows = ({"property": name, "value": value} for name, value in properties.items())
    write_rows(rows, ("property", "value"), format_)


def show_warnings_as_lines() -> None:
    """Shows every warning as one line, without the place in the program that it comes from."""

    def line(message: Warning | str, *_: object) -> str:
        return f"warning: {printable(str(message))}\n"

    warnings.formatwarning = line  # type: ignore[assignment]


def show_image_warnings() -> None:
    """Shows our warnings about each image, and none of Pillow's.

    Pillow warns about large images and odd EXIF data; what it cannot read is an error.
    """
    from ..decoding import NarrowRangeWarning

    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("always", category=NarrowRangeWarning)


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
    console = Console(stderr=True)
    # results that go elsewhere than the bar must not be sent to it
    shared = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    all_rows = list(rows)
    table = Table(box=box.SIMPLE, title=Text(printable(title)) if title else None)
    table.title_justify = "left"
    most = LEAST_TEXT if len(columns) > 2 else LEAST_TEXT // 2
    fixed = []
    for name in columns:
        values = [row[name] for row in all_rows]
        numeric = all(_is_value(value) or value in ("", None) for value in values)
        justify: Literal["left", "right"] = "right" if numeric and values else "left"
        # names and numbers are never folded
        whole = numeric or name == columns[0]
        lengths = [(value, cell_len(_cell(value))) for value in values]
        widths = [n if whole or _is_value(value) else min(n, most) for value, n in lengths]
        width = max([*map(len, name.split("_")), *widths])
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold", min_width=width)
        fixed += [table.columns[-1]] if whole else []
    for row in all_rows:
        table.add_row(*(Text(_cell(row[name])) for name in columns))
    console = Console()
    if console.is_terminal:
        unlimited = console.options.update(max_width=PIPE_WIDTH)
        least, natural = console.measure(table, options=unlimited)
        if least > console.width:
            _write_blocks(console, all_rows, columns, title)
            return
        if natural > console.width:  # what must be narrower are headings and texts
            for column in fixed:
                column.width = column.min_width
        console.print(table)
        return
    console = Console(width=PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _is_value(value: Any) -> bool:
    return isinstance(value, int | float)


def _write_blocks(
    console: Console, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str
) -> None:
    """Prints for each row its first value, and below it a line per other value that it has: for a
    terminal too narrow for a table."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if title:
        console.print(Text(printable(title)))
    first, *others = columns
    for row in rows:
        console.print(Text(_cell(row[first]), style="bold", overflow="fold"))
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(overflow="fold")
        block.add_column(overflow="fold")
        for name in others:
            if cell := _cell(row[name]):
                names = [name.replace("_", " ")] if len(others) > 1 else []
                block.add_row(*map(Text, names), Text(cell, no_wrap=_is_value(row[name])))
        console.print(Padding(block, (0, 0, 0, 2)))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(str(value))
