"""Outputs that would overwrite an input of the command, or each other: refused before any work."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import OutputPath

if TYPE_CHECKING:
    from ..datasets import Sample

NO_FILES = ("isa", "split", "weights_of")  # parameters whose values are names of something else


def without_overwriting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, called only where no output is another parameter's file."""

    @functools.wraps(command)
    def checked(*arguments: Any, **options: Any) -> Any:
        context = click.get_current_context()
        outputs = _outputs(context)
        for (name, path), (other, second) in combinations(outputs, 2):
            if os.path.realpath(path) == os.path.realpath(second):
                raise click.UsageError(f"{name} and {other} are both {path}: give two names")
        for parameter in context.command.params:
            if isinstance(parameter.type, OutputPath | click.Choice) or parameter.name in NO_FILES:
                continue
            value = context.params.get(parameter.name or "")
            for source in value if isinstance(value, tuple) else (value,):
                if isinstance(source, str | Path):
                    _refuse_same(outputs, source, f"{_shown(parameter)} itself")
        return command(*arguments, **options)

    return checked


def refuse_overwritten(samples: Iterable[Sample], lists: Iterable[str] = ()) -> None:
    """Refuses outputs of the current command that are among its images.

    Args:
        samples: The images.
        lists: The .csv lists that name them.

    Raises:
        click.UsageError: An output is one of these files, or an archive with images.
    """
    outputs = _outputs(click.get_current_context())
    outputs = [(name, path) for name, path in outputs if path.exists()]
    if not outputs:
        return
    for file in lists:
        _refuse_same(outputs, file, "a list of the images")
    for sample in samples:
        _refuse_same(outputs, getattr(sample.source, "path", sample.name), "among the images")


def refuse_written(option: str, paths: Iterable[Path]) -> None:
    """Refuses files that an option's folder gets where they are another output, or another parameter.

    Raises:
        click.UsageError: One of them is.
    """
    context = click.get_current_context()
    written = {os.path.realpath(path) for path in paths}
    others = dict(_outputs(context))
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(value, str | Path) and not isinstance(parameter.type, click.Choice):
            others[_shown(parameter)] = Path(value)
    for name, path in others.items():
        if name != option and os.path.realpath(path) in written:
            raise click.UsageError(
                f"{name} is {path}, which {option} would write: give another name"
            )


def _outputs(context: click.Context) -> list[tuple[str, Path]]:
    """The regular files that a command writes, with the names of their parameters."""
    return [
        (_shown(parameter), path)
        for parameter in context.command.params
        if isinstance(parameter.type, OutputPath) and context.params.get(parameter.name or "")
        for path in parameter.type.files(context.params[parameter.name or ""], context.params)
        if path.is_file() or not path.exists()
    ]


def _shown(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return (parameter.metavar or str(parameter.name).upper()).strip(".")
    return max(parameter.opts, key=len)


def _refuse_same(outputs: Iterable[tuple[str, Path]], source: str | Path, what: str) -> None:
    for name, path in outputs:
        try:
            same = os.path.samefile(path, source)
        except (OSError, ValueError):  # one of them is no file
            continue
        if same:
            raise click.UsageError(f"{name} is {what}, {source}: give another name")
