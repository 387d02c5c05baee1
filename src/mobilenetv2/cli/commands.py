"""The group of all commands: each is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from importlib import import_module

import click

from .options import own_names
from .overwriting import without_overwriting


class OwnModules(MutableMapping[str, click.Command]):
    """Commands by name, each in a module of its name, which is imported with the first look at it.

    Args:
        package: Where the modules are.
        names: Of the commands.
    """

    def __init__(self, package: str, names: Iterable[str]) -> None:
        self._package = package
        self._commands: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if command is None:
            loaded: click.Command = getattr(import_module(f"{self._package}.{name}"), name)
            if loaded.callback is not None:
                loaded.callback = without_overwriting(loaded.callback)
            self._commands[name] = command = loaded
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


class Commands(click.Group):
    """Commands that know what other programs call their options."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is None:
            return name, command, rest
        return name, command, own_names(rest, _flags(command))


def _flags(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
