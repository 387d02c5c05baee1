"""The folder of a run: its settings, its state to resume from, its log and its results."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from ..architecture import Architecture
from ..datasets.splits import splits_among
from ..errors import ModelFileError, UserError
from ..files import write_atomically
from ..images import Preprocessing
from ..paths import is_hidden
from ..records import Record
from .recipes import Recipe
from .start import Start

BATCHES = 3  # of which there are pictures


@dataclass(frozen=True)
class Settings(Record):
    """Everything needed to repeat a run; the content of its recipe.json.

    Attributes:
        version: Version of the package that began the run.
        data: Source of the images.
        val: Another source of images to validate with.
        start: The network to start from.
        recipe: How to train it.
        precision: "32" or "bf16", as requested or as the device has it.
        classes: Names of the classes.
        images: Numbers of images, without broken ones: "train" and "val".
        architecture: The network.
        preprocessing: The preprocessing that the network expects.
        weights: Provenance of the weights it started from.
        processes: Number of processes, on all machines together.
        new: The arrays that the weights did not bring; () without weights.
    """

    noun: ClassVar[str] = "run record"

    version: str
    data: str
    val: str | None
    start: Start
    recipe: Recipe
    precision: Literal["32", "bf16"]
    classes: tuple[str, ...]
    images: Mapping[str, int]
    architecture: Architecture
    preprocessing: Preprocessing
    weights: Mapping[str, Any]
    processes: int = 1
    new: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Any) -> Settings:
        """Reads what `to_dict` gave, in this release or an earlier one.

        Raises:
            UserError: Not a dictionary, an unknown or a missing field, or a value out of range.
        """
        if isinstance(values, Mapping) and "pictures" in values:  # the name of "images" before
            values = {"images" if name == "pictures" else name: x for name, x in values.items()}
        return super().from_dict(values)

    def check_resumed(self, requested: Mapping[str, Any]) -> None:
        """Checks that a run is resumed with the settings it began with.

        Args:
            requested: Settings by name, as requested now. None fits any value.

        Raises:
            UserError: One differs; the message gives both values.
        """
        for name, now in requested.items():
            before = getattr(self, name)
            if now is not None and now != before:
                raise UserError(f"the run to resume had {_differing(name, before, now)}")

    def check_options(self, options: Mapping[str, tuple[str, str, Any]]) -> None:
        """As `check_resumed`, for single options of a command.

        Args:
            options: What is given, as the user writes it, with the name of the record that has it
                ("start" or "recipe"), of its field, and the value.

        Raises:
            UserError: One differs, or cannot have the value; the message names the option.
        """
        for option, (record, field, value) in options.items():
            try:
                before = getattr(self, record)
                change = before.changed if record == "recipe" else partial(_replaced, before)
                self.check_resumed({record: change({field: value})})
            except UserError as error:
                raise UserError(f"{option}: {error}") from None


def _replaced(start: Start, changes: Mapping[str, Any]) -> Start:
    same_file = "weights" in changes and is_same_file(start.weights, changes["weights"])
    return start if same_file else replace(start, **changes)


def is_same_file(one: Any, other: Any) -> bool:
    """Whether two paths lead to one file or folder that exists."""
    try:
        return os.path.samefile(one, other)
    except (OSError, TypeError, ValueError):  # no such file, or None
        return False


def _differing(name: str, before: Any, now: Any) -> str:
    if not isinstance(before, Recipe | Start):
        return f"{name} {before!r:.200}, not {now!r:.200}"
    old, new, path = before.to_dict(), now.to_dict(), []
    while isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        path.append(next(key for key in old if old[key] != new[key]))
        old, new = old[path[-1]], new[path[-1]]
    text = f"{'.'.join(path)} {old!r:.200}, not {new!r:.200}"
    if path in (["epochs"], ["minutes"]):
        text += (
            "; its learning rate is planned for these: to train longer, begin another run with its "
            "model.safetensors as the weights"
        )
    return text


class RunFolder:
    """The files of one run. Each is written completely or not at all.

    recipe.json: everything needed to repeat the run. checkpoints/last.ckpt: the state to resume
    from. log.csv: one row per epoch. model.safetensors: the best network so far. calibrated.safetensors:
    where the recipe has `int8`, the int8 model before training. curves.png, confusion.png, batch-1.jpg
    and others, answers.jpg: what is drawn. index.html: the page that shows all of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.json"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.log = self.path / "log.csv"
        self.model = self.path / "model.safetensors"
        self.calibrated = self.path / "calibrated.safetensors"
        self.curves = self.path / "curves.png"
        self.answers = self.path / "answers.jpg"
        self.page = self.path / "index.html"

    def batch_picture(self, number: int) -> Path:
        """The picture of a batch, counted from 0."""
        return self.path / f"batch-{number + 1}.jpg"

    def _files(self) -> list[Path]:
        """What a run writes and a new one does not overwrite."""
        models = [self.model, self.calibrated, self.last]
        return [self.recipe, self.log, *models, self.curves, self.answers, self.page]

    def check_new(self, *sources: str | None) -> None:
        """Checks that a run may begin here, without making the folder.

        Args:
            sources: Where the images of the run come from.

        Raises:
            UserError: It has a run or the files of one already, would be a class of a source, or
                cannot be made.
        """
        try:
            if not stat.S_ISDIR(os.stat(self.path).st_mode):
                raise UserError(f"{self.path}: cannot be made: it is a file")
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise self._cannot_be_made(error) from None
        if self.recipe.exists():
            raise UserError(
                f"{self.path}: has a run already; resume it (--resume), or name another folder"
            )
        for file in self._files():
            if file.exists():
                raise UserError(f"{file}: a run would overwrite it; name another folder")
        for source in sources:
            if source is not None and self._would_be_read(Path(source)):
                raise UserError(
                    f"{self.path}: the run would become part of the images in {source}; name a "
                    "folder outside"
                )

    def _would_be_read(self, source: Path) -> bool:
        """Whether the run would lie in a class folder of a source, or be one."""
        root, path = Path(os.path.realpath(source)), Path(os.path.realpath(self.path))
        if not (source.is_dir() and path.is_relative_to(root)):
            return False
        parts = path.relative_to(root).parts or (self.last.parent.name,)
        folders = {entry.name for entry in root.iterdir() if entry.is_dir()} | {parts[0]}
        splits = splits_among(sorted(name for name in folders if not is_hidden(name)))
        return not (any(map(is_hidden, parts)) or (splits and parts[0] not in splits))

    def check_writable(self) -> None:
        """Raises UserError: No file can be made in the folder, or where it would be made."""
        for folder in (self.path, self.last.parent):
            present = next((f for f in (folder, *folder.parents) if f.exists()), folder)
            if not os.access(present, os.W_OK | os.X_OK):
                raise UserError(f"{present}: cannot be written to")

    def _cannot_be_made(self, error: OSError | ValueError) -> UserError:
        reason = getattr(error, "strerror", None) or error  # ValueError: a NUL in the name
        return UserError(f"{self.path!s:.200}: cannot be made: {reason}")

    @contextmanager
    def begun(self) -> Iterator[None]:
        """In the block, a new run begins. If it ends before a state is saved, its files and the
        folder are removed, so that a corrected run may begin here.
        """
        was_there = self.path.exists()
        try:
            yield
        except BaseException:
            if not self.last.exists():
                pictures = [self.batch_picture(number) for number in range(BATCHES)]
                for file in (*self._files(), *pictures):
                    with suppress(OSError):
                        file.unlink()
                for folder in (self.last.parent, *(() if was_there else (self.path,))):
                    with suppress(OSError):  # not empty
                        folder.rmdir()
            raise

    def write_settings(self, settings: Settings) -> None:
        """Writes recipe.json; makes the folder first."""
        try:
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_be_made(error) from None
        self.check_writable()
        text = json.dumps(settings.to_dict(), indent=1, ensure_ascii=False)
        # bytes of a file name that are not UTF-8 become JSON's own escapes
        write_atomically(self.recipe, f"{text}\n".encode("utf-8", "backslashreplace"))

    def read_settings(self) -> Settings:
        """The content of recipe.json.

        Raises:
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
        """The last state written; None if there is none yet.

        Raises:
            ModelFileError: The file is damaged, or it or the model file of the run is gone.
        """
        other = (
            "the run cannot go on: begin another one in another folder, perhaps with a "
            "model.safetensors as its weights (--weights)"
        )
        if not self.last.exists():
            if self.log.exists():  # the state is written before it
                raise ModelFileError(f"{self.last}: no such file, so {other}")
            return None
        try:
            state = dict(torch.load(self.last, map_location="cpu", weights_only=True))
            best = state["progress"]["best"]
        except Exception as error:  # torch, pickle and zip raise nearly anything
            reason = str(error).split("\n")[0] or "it ends too early"
            raise ModelFileError(f"{self.last}: cannot be read: {reason}; {other}") from None
        if best and not self.model.exists():
            raise ModelFileError(f"{self.model}: no such file, so {other}")
        return state

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys() if rows else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.log, text.getvalue().encode())
