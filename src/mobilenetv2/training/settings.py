"""Everything that a run was asked for: recipe.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..architecture import Architecture
from ..errors import UserError
from ..images import Preprocessing
from .network import Start
from .recipes import Recipe


@dataclass(frozen=True)
class Settings:
    """What repeats a run.

    Attributes:
        version: The package's that began it.
        data: The images.
        val: Other images to validate with.
        start: The network to start from.
        recipe: How it is trained.
        precision: "32" or "bf16", as asked for or measured.
        classes: Their names.
        images: How many to train and to validate with ("train", "val"), broken ones left out.
        architecture: The network.
        preprocessing: What it expects of an image.
        weights: Provenance of those it started from.
        processes: How many shared the work, on all machines together.
    """

    version: str
    data: str
    val: str | None
    start: Start
    recipe: Recipe
    precision: str
    classes: tuple[str, ...]
    images: Mapping[str, int]
    architecture: Architecture
    preprocessing: Preprocessing
    weights: Mapping[str, Any]
    processes: int = 1

    def to_json(self) -> str:
        """As JSON text; `from_json` gives an equal object back."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Reads what `to_json` wrote.

        Raises:
            UserError: It is not that.
        """
        try:
            values = json.loads(text)
            start = values["start"]
            start["resolution"] = start["resolution"] and tuple(start["resolution"])
            if start["architecture"]:
                start["architecture"] = Architecture.from_json(json.dumps(start["architecture"]))
            values |= {
                "start": Start(**start),
                "recipe": Recipe.from_json(json.dumps(values["recipe"])),
                "classes": tuple(values["classes"]),
                "architecture": Architecture.from_json(json.dumps(values["architecture"])),
                "preprocessing": Preprocessing.from_json(json.dumps(values["preprocessing"])),
            }
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"not the settings of a run: {error}") from None

    def check_resumed(self, asked: Mapping[str, Any]) -> None:
        """Refuses to go on with something else.

        Args:
            asked: Fields of this class as they would be now; None: whatever they were.

        Raises:
            UserError: One differs; the message says from what to what.
        """
        for name, now in asked.items():
            before = getattr(self, name)
            if now is not None and now != before:
                raise UserError(f"the run to resume had {_differing(name, before, now)}")


def _differing(name: str, before: Any, now: Any) -> str:
    if isinstance(before, Recipe | Start):
        old, new = asdict(before), asdict(now)
        name = next(key for key in old if old[key] != new[key])
        before, now = old[name], new[name]
    return f"{name} {before!r:.200}, not {now!r:.200}"
