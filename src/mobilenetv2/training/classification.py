"""Training of classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..datasets import Dataset, read_dataset, repeated_images
from ..datasets.shard_sample import class_target
from ..decoding import ignore_remark
from ..errors import UserError
from ..evaluation import Evaluation, evaluate, match_classes
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..model import Model
from ..nn import MobileNetV2, mobilenet_v2
from ..nn.backbone import Backbone
from .augment import evaluation_transform
from .data import Images
from .network import fit_head, plain_architecture
from .recipes import RECIPES, Recipe
from .report import confused, draw_confusion, share
from .shards import ShardTarget
from .sheets import Sheet, picture_of, sheet_of
from .splits import Split, read_split
from .start import Start
from .task import Task, Validation

ANSWERS = 24  # images for which they are drawn
MAX_LISTED = 50  # with more classes, only the totals are logged


class Classification(Task):
    """One class for each image."""

    name = "classification"
    columns = ("val_top1", "val_balanced")
    result_columns = ("class", "images", "right", "percent")
    fits_head = True

    def default_recipe(self, weights: bool, small_images: bool) -> Recipe:
        """As `Task.default_recipe`."""
        recipe = RECIPES["finetune" if weights else "modern"]
        padded = small_images and not weights
        return recipe.changed({"augmentation.crop": "pad"}) if padded else recipe

    def check(self, recipe: Recipe, start: Start) -> None:
        """As `Task.check`."""
        if recipe.head_first and start.weights is None:
            raise UserError(
                f"recipe {recipe.name!r} fits the head first, so it needs weights (--weights)"
            )
        recipe.augmentation.check_for_classes()

    def read(self, data: str, val: str | None, recipe: Recipe) -> Split:
        """As `Task.read`."""
        return read_split(data, val, val_share=recipe.val_share, seed=recipe.seed)

    def read_all(self, val: str) -> Dataset:
        """As `Task.read_all`."""
        return read_dataset(val)

    def shard_target(self, val: Any) -> ShardTarget:
        """As `Task.shard_target`."""
        return class_target

    def repeated(self, split: Split) -> list[str]:
        """As `Task.repeated`."""
        return repeated_images(split.train, split.val)

    def check_classes(self, split: Split, data: str, in_shards: bool) -> None:
        """As `Task.check_classes`."""
        used = {sample.target for sample in (split.val if in_shards else split.train).samples}
        if len(used) < 2:
            raise UserError(f"{data}: images of one class only; a classifier needs two")
        match_classes(_validation(split.val), split.val.classes, len(split.val.classes), used)

    def table(self, split: Split) -> Iterator[str]:
        """Numbers of images per class, and their sums."""
        rows = split.rows()
        total = {
            "class": f"{len(rows)} classes",
            "train": len(split.train.samples),
            "val": len(split.val.samples),
        }
        shown = [*(rows if len(rows) <= MAX_LISTED else ()), total]
        width = max(len(str(row["class"])) for row in shown)
        yield f"{'class':{width}}  {'train':>9}  {'val':>9}"
        for row in shown:
            yield f"{row['class']:{width}}  {row['train']:9,}  {row['val']:9,}"

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
        """As `Task.images`."""
        if not train:
            return Images(samples, evaluation_transform(preprocessing))
        augmentation = recipe.augmentation
        augmented, late = (
            each.transform(preprocessing.size, preprocessing)
            for each in (augmentation, augmentation.after_policy())
        )
        return Images(
            samples,
            augmented,
            recipe.seed,
            remember_bytes,
            (augmentation.policy_until, late),
            augmentation.flip == "alternate",
        )

    def from_scratch(
        self, start: Start, classes: int, samples: Sequence[Any]
    ) -> tuple[Architecture, Preprocessing]:
        """As `Task.from_scratch`."""
        architecture, preprocessing = plain_architecture(start, samples)
        return architecture.with_classes(classes), preprocessing

    def new(self, architecture: Architecture, recipe: Recipe) -> Backbone:
        """As `Task.new`."""
        return MobileNetV2(
            architecture,
            drop_rate=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
            bn_decay=recipe.bn_decay,
        )

    def from_weights(
        self, checkpoint: Checkpoint, start: Start, classes: tuple[str, ...], recipe: Recipe
    ) -> tuple[Backbone, Preprocessing]:
        """As `Task.from_weights`."""
        net = mobilenet_v2(
            weights=checkpoint,
            width_mult=start.width,
            num_classes=len(classes),
            fresh_head=checkpoint.labels != classes,
            dropout=recipe.drop_rate,
            drop_path_rate=recipe.drop_path_rate,
            bn_decay=recipe.bn_decay,
        )
        preprocessing = checkpoint.preprocessing
        if checkpoint.architecture.head.task not in (self.name, "features"):
            usual = Preprocessing()
            preprocessing = replace(preprocessing, size=usual.size, resize=usual.resize)
        size = start.resolution or preprocessing.size
        net.architecture = replace(net.architecture, resolution=size)
        return net, replace(preprocessing, size=size)

    def fit_head(
        self,
        net: Backbone,
        preprocessing: Preprocessing,
        recipe: Recipe,
        batches: Callable[[], Any],
    ) -> None:
        """As `Task.fit_head`."""
        assert isinstance(net, MobileNetV2)
        fit_head(net, preprocessing, batches(), recipe.head_l2, recipe.balance)

    def mixed(
        self,
        x: Tensor,
        targets: Tensor,
        recipe: Recipe,
        classes: int,
        generator: torch.Generator,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """As `Task.mixed`; the targets become the share of each class, and the images smaller where
        the recipe has `sizes`.
        """
        x, targets = recipe.augmentation.mix(x, targets, classes, generator, share)
        side = recipe.side(share)
        if side < 1:
            size = [max(1, round(side * length)) for length in x.shape[2:]]
            x = functional.interpolate(x, size=size, mode="bilinear", antialias=True)
        return x, targets

    def loss(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, Tensor | None]:
        """As `Task.loss`: mean cross-entropy."""
        smoothing = recipe.label_smoothing
        return functional.cross_entropy(output.float(), targets, label_smoothing=smoothing), None

    def sums(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, ...]:
        """As `Task.sums`; then the confusion matrix, (classes * classes,)."""
        classes = architecture.classes
        pairs = targets * classes + output.argmax(1)
        loss = functional.cross_entropy(output, targets, reduction="sum")
        return loss.double(), torch.bincount(pairs, minlength=classes**2)

    def zeros(self, classes: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `Task.zeros`."""
        confusion = torch.zeros(classes**2, dtype=torch.int64, device=device)
        return *super().zeros(classes, device), confusion

    def validation(self, sums: tuple[Tensor, ...], classes: int) -> Validation:
        """As `Task.validation`."""
        loss, confusion = sums
        counts = confusion.view(classes, classes).cpu().numpy()
        images = int(counts.sum())
        top1 = 100 * float(np.trace(counts) / images)
        scores = {"val_top1": top1, "val_balanced": balanced(counts)}
        return Validation(float(loss) / images, scores)

    def line(self, row: Mapping[str, Any]) -> str:
        """As `Task.line`."""
        return f"top1 {row['val_top1']:.2f} %, balanced {row['val_balanced']:.2f} %"

    def evaluate(self, checkpoint: AnyCheckpoint, val: Any) -> Evaluation:
        """As `Task.evaluate`."""
        return evaluate(Model(checkpoint), _validation(val))

    def scores(self, evaluation: Evaluation) -> dict[str, Any]:
        """As `Task.scores`."""
        return {**asdict(evaluation.scores), "balanced": balanced(evaluation.confusion)}

    def summary(self, evaluation: Evaluation) -> dict[str, Any]:
        """As `Task.summary`."""
        scores = evaluation.scores
        return {
            "images": evaluation.images,
            "top1": round(scores.top1, 4),
            **({"top5": round(scores.top5, 4)} if len(evaluation.labels) > 5 else {}),
            "balanced": round(balanced(evaluation.confusion), 4),
            "ece": round(scores.ece, 6),
            "nll": round(scores.nll, 6),
        }

    def class_rows(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """As `Task.class_rows`."""
        return [
            {
                "class": c.label,
                "images": c.images,
                "right": c.right,
                "percent": round(100 * c.right / c.images, 4) if c.images else None,
            }
            for c in evaluation.classes
        ]

    def draw(self, evaluation: Evaluation, classes: Sequence[str], path: Path) -> None:
        """As `Task.draw`: the confusion matrix."""
        draw_confusion(evaluation.confusion, classes, path)

    def tile(
        self,
        pixels: NDArray[np.uint8],
        target: NDArray[Any],
        classes: Sequence[str],
        architecture: Architecture,
    ) -> tuple[Image, str]:
        """As `Task.tile`; the caption has the shares of mixed images."""
        parts = [(classes[i], target[i]) for i in np.argsort(-target)[:2] if target[i] > 0]
        caption = parts[0][0] if len(parts) == 1 else _percents(parts)
        return picture_of(pixels), caption

    def answers(self, evaluation: Evaluation, checkpoint: Checkpoint) -> Sheet:
        """As `Task.answers`; right ones, the least certain first, fill the sheet."""
        right = (answer for answer in evaluation.answers if answer.right)
        doubtful = sorted(right, key=lambda answer: answer.probability)
        tiles = []
        for answer in [*evaluation.mistakes, *doubtful][:ANSWERS]:
            pixels = checkpoint.preprocessing(answer.sample.decode(warn=ignore_remark))
            predicted = f"{answer.predicted} {answer.probability:.2f}"
            lines = (
                f"is {answer.truth}",
                f"{'right' if answer.right else 'wrong'}: {predicted}",
                PurePath(answer.sample.name).name,
            )
            tiles.append((picture_of(pixels), lines))
        return sheet_of(tiles)

    def class_table(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """As `Task.class_table`: precision and recall."""
        predicted = evaluation.confusion.sum(0)
        return [
            {
                "class": c.label,
                "images": c.images,
                "precision": share(c.right, int(predicted[c.index])),
                "recall": share(c.right, c.images),
            }
            for c in evaluation.classes
        ]

    def confusions(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """As `Task.confusions`."""
        return confused(evaluation.confusion, evaluation.labels, "images")


def balanced(confusion: NDArray[np.int64]) -> float:
    """Balanced accuracy in percent: the mean recall of the classes that have images."""
    images = confusion.sum(1)
    return 100 * float((confusion.diagonal()[images > 0] / images[images > 0]).mean())


def _percents(parts: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} {100 * share:.0f} %" for label, share in parts)


def _validation(val: Dataset) -> Dataset:
    """The images held out, labelled by the classes of the trained model. The class indices of a list
    are kept only if they are those of the model.
    """
    same = val.indices == tuple(range(len(val.classes)))
    return val if same else replace(val, indices=())
