"""The folder of a run: what it was asked for, how far it is, and what came of it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError, UserError
from ..files import write_atomically
from .settings import Settings


class RunFolder:
    """Files of one run, each written whole or not at all.

    recipe.json: everything to repeat the run. checkpoints/last.ckpt: what to resume from. log.csv:
    a row an epoch. model.safetensors: the best network so far. curves.png and confusion.png.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.json"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.log = self.path / "log.csv"
        self.model = self.path / "model.safetensors"
        self.curves = self.path / "curves.png"
        self.confusion = self.path / "confusion.png"

    def check_new(self) -> None:
        """Raises:
        UserError: There is a run already, or the folder cannot be made.
        """
        if self.recipe.exists():
            raise UserError(
                f"{self.path}: has a run already; resume it (--resume), or name another folder"
            )
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made: {error.strerror}") from None

    def write_settings(self, settings: Settings) -> None:
        write_atomically(self.recipe, settings.to_json().encode())

    def read_settings(self) -> Settings:
        """Raises:
        UserError: There is no run to resume, or its recipe.json is damaged.
        """
        try:
            return Settings.from_json(self.recipe.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.path}: has no run to resume; leave out --resume to begin one"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.recipe}: cannot be read: {error}") from None

    def write_state(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(dict(state), content)
        write_atomically(self.last, content.getvalue())

    def read_state(self) -> dict[str, Any] | None:
        """The last state written; None before there is one.

        Raises:
            ModelFileError: The file is damaged.
        """
        if not self.last.exists():
            return None
        try:
            return dict(torch.load(self.last, map_location="cpu", weights_only=True))
        except Exception as error:  # of torch, pickle and zip, nearly anything
            raise ModelFileError(f"{self.last}: cannot be read: {error}") from None

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys() if rows else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.log, text.getvalue().encode())
