"""Training of detectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..architecture import Architecture
from ..boxes import anchors, decode_boxes
from ..checkpoint import Checkpoint
from ..datasets import BoxDataset, BoxSample, read_boxes
from ..datasets.shard_sample import BoxTargets
from ..detector import Detector
from ..drawing import draw_boxes
from ..errors import UserError
from ..evaluation.detection import DetectionEvaluation, check_pycocotools, evaluate_detector
from ..evaluation.pairs import GRID, MOST, box_caption, box_sheet
from ..graph import network
from ..heads import SSDHead, SSDLite
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..nn.backbone import Backbone
from ..nn.build_heads import DETECTION_SIZE, ssdlite_mobilenet_v2
from ..nn.heads import DetectionNetwork
from .augment import Augmentation
from .data import Images, rarest_classes
from .network import published_architecture
from .parts import read_parts
from .recipes import RECIPES, Recipe
from .report import draw_precision
from .shards import ShardTarget
from .sheets import Sheet, counted, picture_of
from .splits import Split
from .ssd import BACKGROUND, anchor_targets, ssd_loss
from .start import Start
from .task import Scores, Task, Validation
from .windows import box_transform, refuse_fields


class BoxImages(Images):
    """Images with the targets of a detector's anchors.

    Args:
        samples: Of a `BoxDataset`.
        augmentation: Random changes; None: as for evaluation.
        preprocessing: That of the pixels.
        own_anchors: (m, 4) of the network for pixels of this size.
        seed: As for `Images`.
        remember_bytes: As for `Images`.
    """

    def __init__(
        self,
        samples: Sequence[BoxSample],
        augmentation: Augmentation | None,
        preprocessing: Preprocessing,
        own_anchors: NDArray[np.float64],
        seed: int = 0,
        remember_bytes: int = 0,
    ) -> None:
        transform = box_transform(augmentation, preprocessing)
        super().__init__(samples, transform, seed, remember_bytes)
        self.anchors = own_anchors

    def item(
        self, image: Image.Image, sample: Any, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(C, H, W) uint8, and (m, 5) of `anchor_targets`."""
        target = sample.target
        pixels, boxes, kept = self.transform(image, target.boxes, rng)
        crowd = target.crowd[kept]
        targets = anchor_targets(
            boxes[~crowd], target.classes[kept][~crowd], self.anchors, boxes[crowd]
        )
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(targets)

    def labels(self) -> NDArray[np.int64]:
        """As `Images.labels`: the rarest class in each image."""
        targets = [sample.target for sample in self.samples]
        return rarest_classes([{*target.classes[~target.crowd].tolist()} for target in targets])


class Detection(Task):
    """Boxes and their classes."""

    name = "detection"
    columns = ("val_ap", "val_ap50")
    result_columns = ("class", "boxes", "ap", "ap50")
    figure = "precision.png"

    def default_recipe(self, weights: bool, small_images: bool) -> Recipe:
        """As `Task.default_recipe`."""
        return RECIPES["ssdlite-finetune"] if weights else RECIPES["ssdlite"]

    def check(self, recipe: Recipe, start: Start) -> None:
        """As `Task.check`."""
        check_pycocotools()
        if start.small_images:
            raise UserError("small_images (--small-images) is for classifiers")
        fields = {"head_first": False, "label_smoothing": 0.0, "drop_rate": 0.0}
        refuse_fields(recipe, fields, ("ssd", "none"), self.name)

    def read(self, data: str, val: str | None, recipe: Recipe) -> Split:
        """As `Task.read`."""
        split = read_parts(read_boxes, data, val, recipe.val_share, recipe.seed)
        if not any(len(sample.target) for sample in split.train.samples):
            raise UserError(f"{data}: no image to train with has a box")
        return split

    def read_all(self, val: str) -> BoxDataset:
        """As `Task.read_all`."""
        return read_boxes(val)

    def shard_target(self, val: Any) -> ShardTarget:
        """As `Task.shard_target`."""
        of_coco = all(file.lower().endswith(".json") for file in val.files)
        return BoxTargets(val.category_ids if of_coco else ())

    def table(self, split: Split) -> Iterator[str]:
        """As `Task.table`."""
        yield from super().table(split)
        for purpose, part in (("train", split.train), ("validate", split.val)):
            boxes = sum(len(sample.target) for sample in part.samples)
            if part.samples:
                yield f"{boxes:,} boxes of {len(part.classes)} classes to {purpose} with"

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
        own = anchors(_head(architecture), network(architecture, *preprocessing.size))
        augmentation = recipe.augmentation if train else None
        return BoxImages(samples, augmentation, preprocessing, own, recipe.seed, remember_bytes)

    def from_scratch(
        self, start: Start, classes: int, samples: Sequence[Any]
    ) -> tuple[Architecture, Preprocessing]:
        """As `Task.from_scratch`."""
        base = published_architecture(start, DETECTION_SIZE)
        head = base.head if isinstance(base.head, SSDHead) else SSDLite()
        architecture = replace(base, head=head.with_classes(classes), output_stride=32)
        half = (0.5,) * base.in_channels
        return architecture, Preprocessing(
            size=architecture.resolution, resize="stretch", mean=half, std=half
        )

    def new(self, architecture: Architecture, recipe: Recipe) -> Backbone:
        """As `Task.new`."""
        rates = {"drop_path_rate": recipe.drop_path_rate, "bn_decay": recipe.bn_decay}
        return DetectionNetwork(architecture, **rates)

    def from_weights(
        self, checkpoint: Checkpoint, start: Start, classes: tuple[str, ...], recipe: Recipe
    ) -> tuple[Backbone, Preprocessing]:
        """As `Task.from_weights`."""
        net = ssdlite_mobilenet_v2(
            weights=checkpoint,
            width_mult=start.width,
            num_classes=len(classes),
            fresh_head=checkpoint.labels != classes,
            drop_path_rate=recipe.drop_path_rate,
            bn_decay=recipe.bn_decay,
        )
        preprocessing = checkpoint.preprocessing
        if checkpoint.architecture.head.task != self.name:
            preprocessing = replace(preprocessing, size=DETECTION_SIZE, resize="stretch")
        size = start.resolution or preprocessing.size
        net.architecture = replace(net.architecture, resolution=size)
        return net, replace(preprocessing, size=size)

    def loss(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, Tensor | None]:
        """As `Task.loss`."""
        codes, scores = output
        return ssd_loss(codes.float(), scores.float(), targets, _head(architecture).score)

    def sums(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, ...]:
        """As `Task.sums`; then the number of matched anchors."""
        codes, scores = output
        total, count = ssd_loss(codes, scores, targets, _head(architecture).score)
        return total.double(), count

    def zeros(self, classes: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `Task.zeros`."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        return *super().zeros(classes, device), count

    def validation(self, sums: tuple[Tensor, ...], classes: int) -> Validation:
        """As `Task.validation`."""
        total, count = sums
        return Validation(float(total) / max(1, int(count)), {})

    def measured(self, checkpoint: Callable[[], AnyCheckpoint], val: BoxDataset) -> Scores:
        """As `Task.measured`: AP over overlaps of 0.50 to 0.95, and at 0.50, from 0 to 1."""
        scores = self.evaluate(checkpoint(), val).scores
        return {"val_ap": _or_zero(scores.ap), "val_ap50": _or_zero(scores.ap50)}

    def line(self, row: Mapping[str, Any]) -> str:
        """As `Task.line`."""
        return f"AP {row['val_ap']:.4f}, AP50 {row['val_ap50']:.4f}"

    def evaluate(self, checkpoint: AnyCheckpoint, val: BoxDataset) -> DetectionEvaluation:
        """As `Task.evaluate`."""
        same = {index: index for index in range(len(val.classes))}
        return evaluate_detector(Detector(checkpoint), val, matched=same)

    def scores(self, evaluation: DetectionEvaluation) -> dict[str, Any]:
        """As `Task.scores`."""
        scores = asdict(evaluation.scores)
        return {name: None if isnan(value) else value for name, value in scores.items()}

    def summary(self, evaluation: DetectionEvaluation) -> dict[str, Any]:
        """As `Task.summary`."""
        return {
            "images": len(evaluation.answers),
            **{name: _rounded(value) for name, value in self.scores(evaluation).items()},
        }

    def class_rows(self, evaluation: DetectionEvaluation) -> list[dict[str, Any]]:
        """As `Task.class_rows`."""
        return [
            {
                "class": c.label,
                "boxes": c.boxes,
                "ap": _rounded(None if isnan(c.ap) else c.ap),
                "ap50": _rounded(None if isnan(c.ap50) else c.ap50),
            }
            for c in evaluation.classes
        ]

    def draw(self, evaluation: DetectionEvaluation, classes: Sequence[str], path: Path) -> None:
        """As `Task.draw`: precision over recall."""
        draw_precision(evaluation.curves, path)

    def tile(
        self,
        pixels: NDArray[np.uint8],
        target: NDArray[Any],
        classes: Sequence[str],
        architecture: Architecture,
    ) -> tuple[Image.Image, str]:
        """As `Task.tile`: the boxes that anchors are to answer."""
        own = anchors(_head(architecture), network(architecture, *pixels.shape[:2]))
        image, positive = picture_of(pixels), target[:, 0] > BACKGROUND
        boxes = decode_boxes(target[positive, 1:], own[positive]) * (2 * image.size)
        # anchors of one object answer the same box, but for rounding
        rows = np.column_stack([target[positive, 0] - 1, boxes.round()])
        objects = np.unique(rows, axis=0)
        indices = objects[:, 0].astype(int).tolist()
        names = [classes[i] for i in indices]
        drawn = draw_boxes(image, image.size[::-1], objects[:, 1:], names, indices)
        return drawn, counted(Counter(names)) or "no object"

    def answers(self, evaluation: DetectionEvaluation, checkpoint: Checkpoint) -> Sheet:
        """As `Task.answers`; those with most errors first."""
        right = (answer for answer in evaluation.answers if not answer.missed + answer.wrong)
        shown = [*evaluation.worst, *right][:MOST]
        return Sheet(
            box_sheet(evaluation, shown), GRID, [(box_caption(answer),) for answer in shown]
        )

    def class_table(self, evaluation: DetectionEvaluation) -> list[dict[str, Any]]:
        """As `Task.class_table`: average precision."""
        return [
            {
                "class": c.label,
                "boxes": c.boxes,
                "AP50": None if isnan(c.ap50) else c.ap50,
                "AP": None if isnan(c.ap) else c.ap,
            }
            for c in evaluation.classes
        ]


def _head(architecture: Architecture) -> SSDHead:
    assert isinstance(architecture.head, SSDHead)
    return architecture.head


def _or_zero(value: float) -> float:
    """A score; 0 where there is nothing to find."""
    return 0.0 if isnan(value) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
