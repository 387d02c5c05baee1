"""Reads images with boxes or with masks from a source of any kind."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arguments import check_list, check_path
from ..errors import UserError, shortened
from ..paths import is_folder, obstacle
from .coco import coco_files, read_coco
from .splits import NoSplitError, default_splits, splits_called
from .targets import BoxDataset, BoxSample, BoxTarget, MaskDataset
from .voc import BOXES, MASKS, read_voc_boxes, read_voc_masks, voc_folder
from .yolo import is_yolo, read_yolo

COCO_KEYS = (b"info", b"licenses", b"images", b"annotations", b"categories")
COCO_BEGIN = 4096  # bytes of a file in which its first key stands
LAYOUTS = (
    "COCO (instances.json beside images/), Pascal VOC (JPEGImages/ and Annotations/) or YOLO "
    "(images/, labels/ and data.yaml or classes.txt)"
)


def read_boxes(
    source: str | os.PathLike[str],
    split: str | None = None,
    classes: Sequence[str] | None = None,
) -> BoxDataset:
    """The images and boxes of one split of a dataset for detection.

    Args:
        source: A folder in the layout of COCO, Pascal VOC or YOLO; COCO's .json or YOLO's .yaml.
        split: train, val or test; None: val if the source has it, else test, else everything.
        classes: The names of the classes, in this order; boxes of others are left out. None: all.

    Raises:
        UserError: The source has none of these layouts, no such split, or no images; images or
            annotations are missing, damaged, or contradict each other.
    """
    if classes is not None:
        check_list("classes", classes)
    if classes is not None and (not classes or len({*classes}) < len(classes)):
        raise UserError("classes needs names, none of them twice")
    path = Path(check_path("source", source))
    dataset = _boxes(path, split, classes)
    return dataset if classes is None else _of_classes(dataset, tuple(classes), path)


def read_masks(source: str | os.PathLike[str], split: str | None = None) -> MaskDataset:
    """The images and masks of one split of a dataset for segmentation.

    Args:
        source: A folder with JPEGImages, SegmentationClass and, with splits, ImageSets/Segmentation.
        split: As for `read_boxes`.

    Raises:
        UserError: As for `read_boxes`, or a mask has values that are no classes.
    """
    path = Path(check_path("source", source))
    folder = voc_folder(path) if is_folder(path) else None
    if folder is None or not is_folder(folder / MASKS):
        reason = "" if is_folder(path) else obstacle(path)
        layout = f"no masks in the layout of Pascal VOC (JPEGImages/ and {MASKS}/)"
        raise UserError(f"{path}: {reason or layout}")
    return read_voc_masks(folder, split)


def is_boxes(path: Path) -> bool:
    """Whether a source looks like one of images with boxes; it is not read.

    Raises:
        UserError: Several years of Pascal VOC lie below it.
    """
    if not is_folder(path):
        return path.suffix.lower() in (".json", ".yaml", ".yml")
    folder = voc_folder(path)
    of_voc = folder is not None and is_folder(folder / BOXES)
    of_coco = any(_has_coco_keys(file) for files in coco_files(path).values() for file in files)
    return of_voc or of_coco or is_yolo(path)


def _has_coco_keys(file: Path) -> bool:
    """Whether a .json file begins as COCO's do: it may as well list the classes of folders."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(COCO_BEGIN)
    except OSError:
        return False
    return any(b'"%s"' % key in begin for key in COCO_KEYS)


def is_masks(path: Path) -> bool:
    """The same for images with masks."""
    folder = voc_folder(path) if is_folder(path) else None
    return folder is not None and is_folder(folder / MASKS)


def _boxes(path: Path, split: str | None, classes: Sequence[str] | None) -> BoxDataset:
    if not is_folder(path):
        if reason := obstacle(path):
            raise UserError(f"{path}: {reason}")
        if path.suffix.lower() == ".json":
            if split is not None:
                raise NoSplitError(f"{path}: is one split; leave out the split, or give its folder")
            return read_coco(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            return read_yolo(path, split)
        archive = "unpack it first; " if zipfile.is_zipfile(path) else ""
        raise UserError(f"{path}: {archive}no boxes in the layout of {LAYOUTS}")
    folder = voc_folder(path)
    if folder and is_folder(folder / BOXES):
        return read_voc_boxes(folder, split, classes)
    files = coco_files(path)
    if files:
        return read_coco(_chosen_file(path, files, split))
    if is_yolo(path):
        return read_yolo(path, split)
    others = sorted(path.glob("*.json"))
    if len(others) == 1 and split is None:
        return read_coco(others[0])
    raise UserError(f"{path}: no boxes in the layout of {LAYOUTS}")


def _chosen_file(folder: Path, files: dict[str, list[Path]], split: str | None) -> Path:
    names = sorted(name for name in files if name)
    if split is not None:
        chosen = splits_called(split, names)
        if not chosen:
            listed = shortened(names) or "none"
            raise NoSplitError(f"{folder}: no split {split!r:.80}; its splits are {listed}")
    else:
        chosen = default_splits(names) if len(names) > 1 else names
    paths = [path for name in chosen for path in files[name]] if chosen else files[""]
    if len(paths) > 1:
        listed = shortened([str(path) for path in paths])
        raise UserError(f"{folder}: several files of boxes; give one of {listed}")
    return paths[0]


def _of_classes(dataset: BoxDataset, classes: tuple[str, ...], path: Path) -> BoxDataset:
    """The dataset with these classes in this order, and the boxes of these alone.

    Raises:
        UserError: The dataset has no such class.
    """
    if dataset.classes == classes:
        return dataset
    if unknown := [name for name in classes if name not in dataset.classes]:
        raise UserError(
            f"{path}: no class {shortened(unknown)}; its {len(dataset.classes)} are "
            f"{shortened(dataset.classes)}"
        )
    chosen = [dataset.classes.index(name) for name in classes]
    new = np.full(len(dataset.classes), -1, np.int64)
    new[chosen] = np.arange(len(chosen))
    samples, left_out = [], 0
    for sample in dataset.samples:
        indices = new[sample.target.classes]
        left_out += int((indices < 0).sum())
        samples.append(BoxSample(sample.name, _selected(sample.target, indices)))
    problems = [*dataset.problems]
    if left_out:
        problems.append(f"{left_out} boxes of other classes left out")
    ids = tuple(dataset.category_ids[i] for i in chosen)
    return BoxDataset(classes, tuple(samples), ids, tuple(problems), dataset.files)


def _selected(target: BoxTarget, indices: np.typing.NDArray[np.int64]) -> BoxTarget:
    kept = indices >= 0
    return replace(
        target,
        boxes=target.boxes[kept],
        classes=indices[kept],
        crowd=target.crowd[kept],
        difficult=target.difficult[kept],
        areas=target.areas[kept],
    )
