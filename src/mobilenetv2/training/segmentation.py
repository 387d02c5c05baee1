"""Training of segmenters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..datasets import IGNORED, MaskDataset, read_masks
from ..datasets.shard_sample import mask_target
from ..drawing import draw_mask
from ..errors import UserError
from ..evaluation.pairs import GRID, MOST, mask_caption, mask_sheet
from ..evaluation.segmentation import SegmentationEvaluation, evaluate_segmenter
from ..heads import DeepLab
from ..images import Preprocessing
from ..int8 import AnyCheckpoint
from ..nn.backbone import Backbone
from ..nn.build_heads import DEEPLAB_OUTPUT_STRIDE, SEGMENTATION_SIZE, deeplabv3_mobilenet_v2
from ..nn.heads import SegmentationNetwork
from ..segmenter import Segmenter
from .data import Images, rarest_classes
from .network import published_architecture
from .parts import read_parts
from .recipes import RECIPES, Recipe
from .report import confused, draw_confusion, share
from .shards import ShardTarget
from .sheets import Sheet, picture_of
from .splits import Split
from .start import Start
from .task import Scores, Task, Validation
from .windows import mask_transform, refuse_fields


class MaskImages(Images):
    """Images with their masks."""

    def item(
        self, image: Image.Image, sample: Any, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(C, H, W) uint8, and the class of each pixel (H, W) uint8 or int32; `IGNORED` for none."""
        pixels, mask = self.transform(image, sample.target.read(), rng)
        mask = mask if mask.dtype == np.uint8 else mask.astype(np.int32)
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(mask)

    def labels(self) -> NDArray[np.int64]:
        """As `Images.labels`: the rarest class in each image."""
        return rarest_classes([{*sample.target.classes} for sample in self.samples])


class Segmentation(Task):
    """A class for each pixel."""

    name = "segmentation"
    columns = ("val_miou", "val_pixels")
    result_columns = ("class", "pixels", "iou", "recall")

    def default_recipe(self, weights: bool, small_images: bool) -> Recipe:
        """As `Task.default_recipe`."""
        return RECIPES["deeplab-finetune"] if weights else RECIPES["deeplab"]

    def check(self, recipe: Recipe, start: Start) -> None:
        """As `Task.check`."""
        if start.small_images:
            raise UserError("small_images (--small-images) is for classifiers")
        refuse_fields(recipe, {"head_first": False}, ("zoomed", "none"), self.name)

    def read(self, data: str, val: str | None, recipe: Recipe) -> Split:
        """As `Task.read`."""
        return read_parts(_read, data, val, recipe.val_share, recipe.seed)

    def read_all(self, val: str) -> MaskDataset:
        """As `Task.read_all`."""
        return read_masks(val)

    def shard_target(self, val: Any) -> ShardTarget:
        """As `Task.shard_target`."""
        return mask_target

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
        transform = mask_transform(recipe.augmentation if train else None, preprocessing)
        return MaskImages(samples, transform, recipe.seed, remember_bytes)

    def from_scratch(
        self, start: Start, classes: int, samples: Sequence[Any]
    ) -> tuple[Architecture, Preprocessing]:
        """As `Task.from_scratch`."""
        base = published_architecture(start, SEGMENTATION_SIZE)
        of_segmenter = isinstance(base.head, DeepLab)
        head = base.head if isinstance(base.head, DeepLab) else DeepLab()
        stride = base.output_stride if of_segmenter else DEEPLAB_OUTPUT_STRIDE
        architecture = replace(base, head=head.with_classes(classes), output_stride=stride)
        half = (0.5,) * base.in_channels
        return architecture, Preprocessing(
            size=architecture.resolution, resize="fit", mean=half, std=half
        )

    def new(self, architecture: Architecture, recipe: Recipe) -> Backbone:
        """As `Task.new`."""
        return SegmentationNetwork(architecture, **_rates(recipe))

    def from_weights(
        self, checkpoint: Checkpoint, start: Start, classes: tuple[str, ...], recipe: Recipe
    ) -> tuple[Backbone, Preprocessing]:
        """As `Task.from_weights`."""
        net = deeplabv3_mobilenet_v2(
            weights=checkpoint,
            width_mult=start.width,
            num_classes=len(classes),
            fresh_head=checkpoint.labels != classes,
            **_rates(recipe),
        )
        preprocessing = checkpoint.preprocessing
        if checkpoint.architecture.head.task != self.name:
            preprocessing = replace(preprocessing, size=SEGMENTATION_SIZE, resize="fit")
        size = start.resolution or preprocessing.size
        net.architecture = replace(net.architecture, resolution=size)
        return net, replace(preprocessing, size=size)

    def loss(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, Tensor | None]:
        """As `Task.loss`: cross-entropy of every pixel that has a class."""
        return _loss(output.float(), targets, recipe.label_smoothing)

    def sums(
        self, output: Any, targets: Tensor, recipe: Recipe, architecture: Architecture
    ) -> tuple[Tensor, ...]:
        """As `Task.sums`; then the number of pixels that have a class."""
        total, count = _loss(output, targets)
        return total.double(), count

    def zeros(self, classes: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `Task.zeros`."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        return *super().zeros(classes, device), count

    def validation(self, sums: tuple[Tensor, ...], classes: int) -> Validation:
        """As `Task.validation`."""
        total, count = sums
        return Validation(float(total) / max(1, int(count)), {})

    def measured(self, checkpoint: Callable[[], AnyCheckpoint], val: MaskDataset) -> Scores:
        """As `Task.measured`: mIoU and the share of right pixels, from 0 to 1."""
        scores = self.evaluate(checkpoint(), val).scores
        return {"val_miou": scores.miou, "val_pixels": scores.pixel_accuracy}

    def line(self, row: Mapping[str, Any]) -> str:
        """As `Task.line`."""
        return f"mIoU {row['val_miou']:.4f}, pixels {100 * row['val_pixels']:.2f} %"

    def evaluate(self, checkpoint: AnyCheckpoint, val: MaskDataset) -> SegmentationEvaluation:
        """As `Task.evaluate`."""
        return evaluate_segmenter(Segmenter(checkpoint), val)

    def scores(self, evaluation: SegmentationEvaluation) -> dict[str, Any]:
        """As `Task.scores`."""
        return asdict(evaluation.scores)

    def summary(self, evaluation: SegmentationEvaluation) -> dict[str, Any]:
        """As `Task.summary`."""
        rounded = {name: round(value, 6) for name, value in self.scores(evaluation).items()}
        return {"images": len(evaluation.answers), **rounded}

    def class_rows(self, evaluation: SegmentationEvaluation) -> list[dict[str, Any]]:
        """As `Task.class_rows`."""
        return [
            {
                "class": c.label,
                "pixels": c.pixels,
                "iou": None if isnan(c.iou) else round(c.iou, 6),
                "recall": None if isnan(c.recall) else round(c.recall, 6),
            }
            for c in evaluation.classes
        ]

    def draw(self, evaluation: SegmentationEvaluation, classes: Sequence[str], path: Path) -> None:
        """As `Task.draw`: the confusion matrix, in pixels."""
        draw_confusion(evaluation.confusion[:, : len(classes)], classes, path)

    def tile(
        self,
        pixels: NDArray[np.uint8],
        target: NDArray[Any],
        classes: Sequence[str],
        architecture: Architecture,
    ) -> tuple[Image.Image, str]:
        """As `Task.tile`: the classes of the pixels; those without one in black and white."""
        image = picture_of(pixels)
        rows, columns = (
            np.arange(side) * before // side for side, before in zip(image.size[::-1], target.shape)
        )
        mask = target[rows][:, columns]
        names = {i: classes[i] for i in np.unique(mask).tolist() if i not in (0, IGNORED)}
        drawn = draw_mask(image, mask, names, IGNORED)
        return drawn, ", ".join(names.values()) or classes[0]

    def answers(self, evaluation: SegmentationEvaluation, checkpoint: Checkpoint) -> Sheet:
        """As `Task.answers`; those with the lowest mIoU first."""
        right = (answer for answer in evaluation.answers if not answer.pixel_accuracy < 1)
        shown = [*evaluation.worst, *right][:MOST]
        sheet = mask_sheet(evaluation, Segmenter(checkpoint), shown)
        return Sheet(sheet, GRID, [(mask_caption(answer),) for answer in shown])

    def class_table(self, evaluation: SegmentationEvaluation) -> list[dict[str, Any]]:
        """As `Task.class_table`: precision, recall and intersection over union."""
        predicted = evaluation.confusion.sum(0)
        return [
            {
                "class": c.label,
                "pixels": c.pixels,
                "precision": share(int(evaluation.confusion[i, i]), int(predicted[i])),
                "recall": None if isnan(c.recall) else c.recall,
                "IoU": None if isnan(c.iou) else c.iou,
            }
            for i, c in enumerate(evaluation.classes)
        ]

    def confusions(self, evaluation: SegmentationEvaluation) -> list[dict[str, Any]]:
        """As `Task.confusions`."""
        labels = [c.label for c in evaluation.classes]
        return confused(evaluation.confusion[:, : len(labels)], labels, "pixels")


def _read(source: str, split: str | None, classes: tuple[str, ...] | None) -> MaskDataset:
    return read_masks(source, split)


def _rates(recipe: Recipe) -> dict[str, float]:
    return {
        "drop_rate": recipe.drop_rate,
        "drop_path_rate": recipe.drop_path_rate,
        "bn_decay": recipe.bn_decay,
        "head_bn_decay": recipe.bn_decay,
    }


def _loss(logits: Tensor, mask: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The sum over the pixels that have a class, and their number."""
    classes = mask.long()
    total = functional.cross_entropy(
        logits, classes, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    return total, (classes != IGNORED).sum()
