"""What training asks of a task, so that the loop never asks which task it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..datasets import shared_images
from ..errors import UserError
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..nn.backbone import Backbone
from .recipes import Recipe
from .shards import ShardTarget, in_shards
from .splits import Split

if TYPE_CHECKING:
    from PIL.Image import Image

    from .data import Images
    from .sheets import Sheet
    from .start import Start

Scores = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        loss: Mean loss.
        scores: By the name of the column in the log.
    """

    loss: float
    scores: Scores


class Task(ABC):
    """One task: its data, network, loss, and what makes one result better than another.

    Attributes:
        name: The `task` of its heads.
        columns: What the log states of each validation, behind the loss; the first decides which
            network is the best, and of equal ones the loss.
        result_columns: Columns of `class_rows`.
        figure: The file of the figure that `draw` makes.
        fits_head: Whether it has `fit_head`.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    result_columns: ClassVar[tuple[str, ...]]
    figure: ClassVar[str] = "confusion.png"
    fits_head: ClassVar[bool] = False

    # the arguments of a run

    @abstractmethod
    def default_recipe(self, weights: bool, small_images: bool) -> Recipe:
        """The recipe that is used if none is given."""

    @abstractmethod
    def check(self, recipe: Recipe, start: Start) -> None:
        """Raises UserError: A field of the recipe or of the start means nothing to this task."""

    # images

    @abstractmethod
    def read(self, data: str, val: str | None, recipe: Recipe) -> Split:
        """The images to train with and to validate with.

        Raises:
            UserError: They cannot be read, or are not enough.
        """

    @abstractmethod
    def read_all(self, val: str) -> Any:
        """The images to validate with of a source of its own, where those to train with are in
        shards.
        """

    @abstractmethod
    def shard_target(self, val: Any) -> ShardTarget:
        """What reads the target of an image in shards; `val` are the images to validate with."""

    def read_shards(self, data: str, val: str | None, recipe: Recipe) -> Split:
        """A split without images to train with: shards are not read in advance. Their classes are
        those of the images to validate with.

        Raises:
            UserError: As for `read`, or a setting needs images that are read in advance.
        """
        if val is None or in_shards(val) or not recipe.epoch_steps:
            raise UserError(
                f"{data}: shards need images to validate with, which also name the classes "
                "(--val, no shards), and the number of steps per epoch (--set epoch_steps=1000)"
            )
        held_out = self.read_all(val)
        if recipe.head_first:
            raise UserError(
                f"{data}: the head cannot be fitted first to shards, which are not read in advance: "
                "give --set head_first=false"
            )
        if recipe.balance:
            raise UserError(f"{data}: shards are not read in advance: leave out --balance")
        train = replace(held_out, samples=(), problems=())
        return Split(train, held_out, held_out.problems)

    def repeated(self, split: Split) -> list[str]:
        """Warnings about images that are there twice."""
        return shared_images(split.train.samples, split.val.samples)

    def check_classes(self, split: Split, data: str, in_shards: bool) -> None:
        """Raises UserError: The images that can be read are not enough."""
        return

    @abstractmethod
    def images(
        self,
        samples: Sequence[Any],
        recipe: Recipe,
        architecture: Architecture,
        preprocessing: Preprocessing,
        *,
        train: bool,
        remember_bytes: int = 0,
    ) -> Images:
        """The images with what the network is to answer, changed at random to train."""

    # the network

    @abstractmethod
    def from_scratch(
        self, start: Start, classes: int, samples: Sequence[Any]
    ) -> tuple[Architecture, Preprocessing]:
        """A new network's description and the preprocessing of its images."""

    @abstractmethod
    def new(self, architecture: Architecture, recipe: Recipe) -> Backbone:
        """A new network with the recipe's rates."""

    @abstractmethod
    def from_weights(
        self, checkpoint: Checkpoint, start: Start, classes: tuple[str, ...], recipe: Recipe
    ) -> tuple[Backbone, Preprocessing]:
        """A network with the weights of a checkpoint, which may be of another task."""

    def fit_head(
        self,
        net: Backbone,
        preprocessing: Preprocessing,
        recipe: Recipe,
        batches: Callable[[], Any],
    ) -> None:
        """Fits the head before the first epoch, where the recipe has `head_first`."""
        raise UserError(
            f"head_first fits the head of a classifier; for {self.name} use head_epochs"
        )

    # steps and validation

    def mixed(
        self,
        x: Tensor,
        targets: Tensor,
        recipe: Recipe,
        classes: int,
        generator: torch.Generator,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """Images and targets of a batch, mixed with each other where the recipe says so when this
        share of the run is done.
        """
        return x, targets

    @abstractmethod
    def loss(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of the loss over a batch and by what to divide it; or the mean, and None."""

    @abstractmethod
    def sums(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, ...]:
        """What `validation` needs of a batch, to be added up: the sum of the loss first, float64."""

    def zeros(self, classes: int, device: torch.device) -> tuple[Tensor, ...]:
        """The `sums` of no image, for a process that gets none."""
        return (torch.zeros((), dtype=torch.float64, device=device),)

    @abstractmethod
    def validation(self, sums: tuple[Tensor, ...], classes: int) -> Validation:
        """The result of the sums over all batches."""

    def measured(self, checkpoint: Callable[[], AnyCheckpoint], val: Any) -> Scores:
        """Scores that the runtime gives after an epoch, beside those of `validation`."""
        return {}

    def rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """A pair that is greater for a better validation."""
        return scores[self.columns[0]], -scores["val_loss"]

    @abstractmethod
    def line(self, row: Mapping[str, Any]) -> str:
        """The scores of a validation in words."""

    # the finished run

    @abstractmethod
    def evaluate(self, checkpoint: AnyCheckpoint, val: Any) -> Any:
        """Evaluates a checkpoint by the CPU runtime."""

    @abstractmethod
    def scores(self, evaluation: Any) -> dict[str, Any]:
        """What the model file states of it."""

    @abstractmethod
    def summary(self, evaluation: Any) -> dict[str, Any]:
        """What the command prints of it."""

    @abstractmethod
    def class_rows(self, evaluation: Any) -> list[dict[str, Any]]:
        """One row for each class, with `result_columns`."""

    @abstractmethod
    def draw(self, evaluation: Any, classes: Sequence[str], path: Path) -> None:
        """Draws the figure of the finished run beside its curves."""

    @abstractmethod
    def tile(
        self,
        pixels: NDArray[np.uint8],
        target: NDArray[Any],
        classes: Sequence[str],
        architecture: Architecture,
    ) -> tuple[Image, str]:
        """One image of a batch with what is to be learnt of it, as `picture_of` scales it, and a
        caption.

        Args:
            pixels: (H, W, channels).
            target: As `mixed` gives it for this image.
            classes: Their names.
            architecture: That of the network.
        """

    @abstractmethod
    def answers(self, evaluation: Any, checkpoint: Checkpoint) -> Sheet:
        """Answers for images to validate with, mistakes first."""

    @abstractmethod
    def class_table(self, evaluation: Any) -> list[dict[str, Any]]:
        """One row for each class: its name, how many there are, and what the page shows of it, each
        from 0 to 1 and None where it is not defined; the last of these is the one to sort by.
        """

    def confusions(self, evaluation: Any) -> list[dict[str, Any]]:
        """Pairs of classes that are taken for each other, the most frequent first."""
        return []

    def table(self, split: Split) -> Iterator[str]:
        """The lines of a table of the images."""
        count = (
            f"{len(split.train.samples):,} images" if split.train.samples else "images of shards"
        )
        yield f"{count} to train with, {len(split.val.samples):,} to validate"
