"""The recipe of `train`: its name or file, and the options that change it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command

if TYPE_CHECKING:
    from ..training import Recipe

RECIPES = (
    *("paper", "modern", "small", "finetune", "ssdlite", "ssdlite-finetune", "deeplab"),
    "deeplab-finetune",
)

FIELDS = (
    "epochs",
    "minutes",
    "batch",
    "lr",
    "weight_decay",
    "patience",
    "seed",
    "balance",
    "stretch",
)


def recipe_option(default: str) -> Callable[[Command], Command]:
    """The option `--recipe`; `default` says which recipe is used without it."""
    return click.option(
        "--recipe",
        metavar="NAME|FILE",
        callback=_checked,
        help=f"{', '.join(RECIPES)}, or a .json file as --show prints it.  [default: {default}]",
    )


def _checked(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or value in RECIPES or is_file(value):
        return value
    known = ", ".join(map(repr, RECIPES))
    raise click.BadParameter(f"{value!r} is neither one of {known} nor a .json file")


def is_file(name: str) -> bool:
    """Whether a recipe is given by a file."""
    return name.lower().endswith(".json")


def named_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that .json file.

    Raises:
        UserError: The file cannot be read, or is no recipe; the message names it.
    """
    from ..errors import UserError
    from ..files import read_text
    from ..training import RECIPES as BY_NAME
    from ..training import Recipe

    if not is_file(name):
        return BY_NAME[name]
    try:
        return Recipe.from_json(read_text(Path(name)))
    except UserError as error:
        raise error if str(error).startswith(name) else UserError(f"{name}: {error}") from None


def recipe_changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that the options change."""
    changes: dict[str, Any] = {}
    for text in options["changes"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set needs NAME=VALUE, not {text!r}")
        try:
            new = json.loads(value)
        except ValueError:
            new = value
        _change(changes, name, new, "--set")
    for name in FIELDS:
        if options[name] is not None:
            _change(changes, name, options[name], f"--{name.replace('_', '-')}")
    if options["freeze"]:
        if options["recipe"] not in (None, "finetune") or (
            options["weights"] is None and not options["resume"]
        ):
            raise click.UsageError("--freeze needs --weights and the recipe finetune")
        if changes.setdefault("epochs", 0) or changes.get("minutes"):
            name = "epochs" if changes["epochs"] else "minutes"
            raise click.UsageError(f"--freeze trains the head alone, which has no --{name}")
    return changes


def _change(changes: dict[str, Any], name: str, value: Any, option: str) -> None:
    """Adds a change of the recipe, unless there is another of the same field."""
    if changes.setdefault(name, value) != value:
        raise click.UsageError(
            f"{option}: {name} {value!r} contradicts --set {name}={changes[name]}: give one"
        )


def option_of(name: str, options: Mapping[str, Any]) -> str:
    """The option that sets a field of the recipe."""
    if options["freeze"] and name == "epochs":
        return "--freeze"
    return f"--{name.replace('_', '-')}" if options.get(name) is not None else "--set"


def print_recipe(recipe: Recipe, origins: Mapping[str, str]) -> None:
    """Prints every field as a recipe file has it, and to stderr where the changed ones come from."""
    click.echo(json.dumps(recipe.to_dict(), indent=1, ensure_ascii=False))
    for name, option in origins.items():
        click.echo(f"{name}: {option}", err=True)
