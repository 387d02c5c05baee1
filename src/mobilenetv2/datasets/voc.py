"""Boxes and masks in the folders of Pascal VOC."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ..errors import UserError, shortened
from ..files import read_lines
from ..labels import VOC
from ..paths import is_folder
from .frames import frame
from .mask_file import Mask, read_mask
from .objects import Object, ObjectChecks, image_files, repeated
from .splits import SPLITS, NoSplitError, default_splits, splits_called
from .targets import IGNORED, BoxDataset, BoxSample, MaskDataset, MaskSample, MaskTarget
from .xml_file import parse_xml, read_xml

IMAGES, BOXES, MASKS = "JPEGImages", "Annotations", "SegmentationClass"
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
CLASS_LIST = re.compile(r"\s(-1|0|1)$")  # the end of a line of cat_train.txt
LARGEST_TEXT = 1000  # characters of a name


def voc_folder(path: Path) -> Path | None:
    """The folder that has JPEGImages: this one, or the only such one below it; None: neither.

    Raises:
        UserError: Several years lie below it.
    """
    places = [path, *sorted(path.glob("VOC*")), *sorted(path.glob("VOCdevkit/VOC*"))]
    folders = [each for each in places if is_folder(each / IMAGES)]
    if len(folders) > 1 and folders[0] != path:
        raise UserError(f"{path}: give one of {shortened([str(each) for each in folders])}")
    return folders[0] if folders else None


def read_voc_boxes(folder: Path, split: str | None, classes: Sequence[str] | None) -> BoxDataset:
    """The boxes of one split.

    Pascal VOC counts pixels from 1 and the last one in: a box (1, 1, w, h) is the whole image of
    width w and height h.

    Args:
        folder: Has JPEGImages and Annotations.
        split: As for `read_boxes`.
        classes: Their names in order; None: all that any file names, in alphabetical order.

    Raises:
        UserError: A file is damaged or missing, or no image is left.
    """
    images = _images(folder / IMAGES)
    annotations = {path.stem: path for path in sorted((folder / BOXES).glob("*.xml"))}
    stems = _stems(folder, "Main", split, annotations)
    _check_present(stems, annotations, folder / BOXES, "annotations")
    parsed = {stem: read_xml(path) for stem, path in annotations.items()}
    all_names = {
        _text(each, "name", annotations[stem])
        for stem, root in parsed.items()
        for each in root.findall("object")
    }
    names = list(classes) if classes else sorted(all_names)
    if not names:
        raise UserError(f"{folder / BOXES}: no file names an object")
    index = {name: i for i, name in enumerate(names)}
    checks, samples, unknown = ObjectChecks(), [], []
    for stem in stems:
        path, root = annotations[stem], parsed[stem]
        image = images.get(stem) or images.get(Path(_text(root, "filename", path, "")).stem)
        if image is None:
            raise UserError(f"{path}: no image {stem} in {folder / IMAGES}")
        objects = []
        for each in root.findall("object"):
            name = _text(each, "name", path)
            if name in index:
                objects.append(_object(each, index[name], path))
            else:
                unknown.append(name)
        placed = frame(image, _stated_size(root, path), str(path))
        samples.append(BoxSample(str(image), checks.target(stem, objects, placed, stem)))
    if twice := repeated([sample.name for sample in samples]):
        raise UserError(f"{folder / BOXES}: several files annotate {shortened(twice)}")
    problems = checks.problems()
    if unknown:
        listed = shortened(sorted(set(unknown)))
        problems.append(f"{len(unknown)} boxes of other classes left out: {listed}")
    if without := sorted(images.keys() - annotations.keys()):
        problems.append(f"{len(without)} images without annotation left out: {shortened(without)}")
    ids = tuple(range(1, len(names) + 1))
    files = tuple(map(str, annotations.values()))
    return BoxDataset(tuple(names), tuple(samples), ids, tuple(problems), files)


def read_voc_masks(folder: Path, split: str | None) -> MaskDataset:
    """The masks of one split, each of which is read once to check its size and values.

    The names of the classes stand in classes.txt or labels.txt, one per line with the background
    first; without it they are the 21 of Pascal VOC.

    Args:
        folder: Has JPEGImages and SegmentationClass.
        split: As for `read_boxes`.

    Raises:
        UserError: A mask or image is missing, a mask is damaged, of another size than its image, or
            has values that are no classes.
    """
    images = _images(folder / IMAGES)
    masks = _images(folder / MASKS)
    stems = _stems(folder, "Segmentation", split, masks)
    _check_present(stems, masks, folder / MASKS, "masks")
    _check_present(stems, images, folder / IMAGES, "images")
    names = _class_names(folder)
    samples = []
    for stem in stems:
        target = _mask_target(masks[stem], images[stem], names)
        samples.append(MaskSample(str(images[stem]), target))
    problems = []
    if len(names) > IGNORED:
        problems.append(f"pixels of {IGNORED} have no class, so that {names[IGNORED]} never counts")
    if without := sorted(images.keys() - masks.keys()):
        problems.append(f"{len(without)} images without mask left out: {shortened(without)}")
    return MaskDataset(names, tuple(samples), tuple(problems))


def parse_voc(
    content: bytes, where: str, index: Callable[[str], int]
) -> tuple[list[Object], tuple[int, int] | None]:
    """The objects of one image, and the height and width that are stated.

    Args:
        content: The bytes of a file of Annotations.
        where: What messages call it.
        index: The number of the class of a name.

    Raises:
        UserError: The file is damaged.
    """
    root = parse_xml(content, where)
    objects = [
        _object(each, index(_text(each, "name", where)), where) for each in root.findall("object")
    ]
    return objects, _stated_size(root, where)


def _mask_target(path: Path, image: Path, names: Sequence[str]) -> MaskTarget:
    """The target of one image, whose mask has been read and checked."""
    mask = read_mask(path)
    stated = mask.shape[0], mask.shape[1]
    placed = frame(image, stated, str(path))
    fix = f"classes.txt in {path.parent.parent} names others"
    values = check_values(mask, names, str(path), fix)
    return MaskTarget(path, placed.size, values, placed.turn)


def check_values(mask: Mask, classes: Sequence[str], where: str, fix: str) -> tuple[int, ...]:
    """The classes that occur in a mask, in ascending order.

    Args:
        mask: The values.
        classes: The names of the classes.
        where: What messages call the mask.
        fix: What they advise.

    Raises:
        UserError: A value is neither a class nor `IGNORED`.
    """
    values = {*np.unique(mask).tolist()} - {IGNORED}
    if wrong := [str(value) for value in sorted(values) if value >= len(classes)]:
        raise UserError(
            f"{where}: values {shortened(wrong)}, but there are {len(classes)} classes and "
            f"{IGNORED} for pixels without one; {fix}"
        )
    return tuple(sorted(values))


def _class_names(folder: Path) -> tuple[str, ...]:
    for name in CLASS_FILES:
        path = folder / name
        if path.exists():
            names = read_lines(path)
            if not all(names) or len({*names}) < len(names):
                raise UserError(f"{path}: a class without a name, or two of one name")
            return tuple(names)
    return VOC


def _images(folder: Path) -> dict[str, Path]:
    """The images in a folder by name without suffix."""
    images: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in images:
            raise UserError(f"{images[path.stem]} and {path}: two images of one name")
        images[path.stem] = path
    return images


def _stems(folder: Path, kind: str, split: str | None, known: dict[str, Path]) -> list[str]:
    """The names in the list of a split, or all that are known where there are no lists."""
    lists = folder / "ImageSets" / kind
    names = [path.stem for path in sorted(lists.glob("*.txt"))] if is_folder(lists) else []
    if split is None:
        splits = default_splits([name for name in names if name.lower() in SPLITS])
    else:
        splits = splits_called(split, names)
        if not splits:
            listed = shortened(names) or "none"
            raise NoSplitError(f"{folder}: no list {split}.txt in {lists}; its lists are {listed}")
    if not splits:
        if not known:
            raise UserError(f"{folder}: no annotations in {BOXES} or {MASKS}")
        return list(known)
    stems: list[str] = []
    for name in splits:
        for stem in read_lines(lists / f"{name}.txt"):
            if stem not in known and CLASS_LIST.search(stem):
                raise UserError(f"{lists / name}.txt: a list of one class, not of a split")
            stems += [stem] if stem else []
    if twice := repeated(stems):
        raise UserError(f"{lists}: images listed more than once: {shortened(twice)}")
    if not stems:
        raise UserError(f"{lists}: {shortened(splits)}.txt is empty")
    return stems


def _check_present(stems: Sequence[str], known: dict[str, Path], folder: Path, what: str) -> None:
    if missing := [stem for stem in stems if stem not in known]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(stems)} {what} are missing: {shortened(missing)}"
        )


def _object(each: Element, class_index: int, path: Path | str) -> Object:
    box = each.find("bndbox")
    if box is None:
        raise UserError(f"{path}: an object without bndbox: only upright boxes are read")
    left, top, right, bottom = (_number(box, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax"))
    flag = _text(each, "difficult", path, "0").lower()
    if flag not in ("0", "1", "false", "true"):
        raise UserError(f"{path}: difficult {flag!r:.80} is neither 0 nor 1")
    difficult = flag in ("1", "true")
    first = min(left, right) - 1, min(top, bottom) - 1
    last = max(left, right), max(top, bottom)
    corners = (*first, *last)
    if right < left or bottom < top:
        corners = (*last, *first)  # swapped, which is mentioned
    return Object(corners, class_index, difficult=difficult)


def _stated_size(root: Element, path: Path | str) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(size, tag, path) for tag in ("height", "width"))
    return (int(height), int(width)) if height and width else None


def _number(parent: Element, tag: str, path: Path | str) -> float:
    text = _text(parent, tag, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}: {tag} {text!r:.80} is not a number")
    return number


def _text(parent: Element, tag: str, path: Path | str, default: str | None = None) -> str:
    text = unicodedata.normalize("NFC", (parent.findtext(tag) or "").strip())
    if not text:
        if default is None:
            raise UserError(f"{path}: no <{tag}> in <{parent.tag:.80}>")
        return default
    if len(text) > LARGEST_TEXT:
        raise UserError(f"{path}: <{tag}> of {len(text)} characters")
    return text
