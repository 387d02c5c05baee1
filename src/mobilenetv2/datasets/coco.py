"""Boxes in COCO's JSON."""

from __future__ import annotations

import codecs
import mmap
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import UserError, shortened
from ..paths import located, obstacle
from .frames import frame
from .objects import Object, ObjectChecks, image_files, repeated, unique_classes
from .splits import SPLITS
from .targets import BoxDataset, BoxSample

TRIED = 50  # images that decide where they all are


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0
    area: float | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Listing(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]


Content = TypeVar("Content", bound=msgspec.Struct)


@dataclass(frozen=True)
class CocoIds:
    """The numbers that a COCO file has for its images and classes.

    Attributes:
        images: By file name without folders.
        categories: By name, in ascending order of the numbers.
    """

    images: dict[str, int | str]
    categories: dict[str, int]


def read_coco_ids(path: Path) -> CocoIds:
    """The numbers in a COCO file, which may lack annotations; its images need not be there.

    Raises:
        UserError: The file is damaged, or two images or classes have one name.
    """
    content = _parsed(path, _Listing)
    categories = sorted(content.categories, key=lambda category: category.id)
    unique_classes([_name(category) for category in categories], str(path))
    names = [posixpath.basename(image.file_name) for image in content.images]
    _check_unique(names, path, "entries of the image")
    return CocoIds(
        dict(zip(names, [image.id for image in content.images], strict=True)),
        {_name(category): category.id for category in categories},
    )


def read_coco(path: Path) -> BoxDataset:
    """The boxes in one COCO file, with the images beside it.

    Classes are ordered by category id. Polygons are not read.

    Raises:
        UserError: The file is damaged or contradicts itself, or images are missing.
    """
    content = _parsed(path, _File)
    categories = sorted(content.categories, key=lambda category: category.id)
    unique_classes([_name(category) for category in categories], str(path))
    _check_unique([category.id for category in categories], path, "categories with the id")
    _check_unique([image.id for image in content.images], path, "images with the id")
    named = [posixpath.normpath(image.file_name) for image in content.images]
    _check_unique(named, path, "entries of the image")
    if not content.images:
        raise UserError(f"{path}: no images")
    index = {category.id: i for i, category in enumerate(categories)}
    objects = _objects(content, index, path)
    folder = _image_folder(path, [image.file_name for image in content.images])
    checks, samples = ObjectChecks(), []
    for image in content.images:
        name = located(folder, image.file_name)
        stated = (image.height, image.width) if image.height and image.width else None
        placed = frame(Path(name), stated, str(path))
        target = checks.target(name, objects.get(image.id, ()), placed, image.id)
        samples.append(BoxSample(name, target))
    problems = checks.problems()
    problems += _unnamed(folder, samples)
    return BoxDataset(
        tuple(_name(category) for category in categories),
        tuple(samples),
        tuple(category.id for category in categories),
        tuple(problems),
        (str(path),),
    )


def _parsed(path: Path, kind: type[Content]) -> Content:
    if reason := obstacle(path):
        raise UserError(f"{path}: {reason}")
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            mark = bytes(view[:3]) == codecs.BOM_UTF8
            with view[3 * mark :] as text:
                return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: not a COCO file of boxes: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise UserError(f"{path}: cannot be read: {error}") from None
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory") from None


def _name(category: _Category) -> str:
    return unicodedata.normalize("NFC", category.name)


def _check_unique(values: Sequence[object], path: Path, what: str) -> None:
    if twice := repeated(values):
        raise UserError(f"{path}: several {what} {shortened(twice)}")


def _objects(content: _File, index: dict[int, int], path: Path) -> dict[int | str, list[Object]]:
    """The objects of each image."""
    images = {image.id for image in content.images}
    objects = defaultdict(list)
    for number, annotation in enumerate(content.annotations):
        where = f"{path}: annotations[{number}]"
        if annotation.image_id not in images:
            raise UserError(f"{where}: no image has the id {annotation.image_id!r:.80}")
        if annotation.category_id not in index:
            raise UserError(f"{where}: no category has the id {annotation.category_id}")
        left, top, width, height = annotation.bbox
        objects[annotation.image_id].append(
            Object(
                (left, top, left + width, top + height),
                index[annotation.category_id],
                bool(annotation.iscrowd),
                area=annotation.area,
            )
        )
    return objects


def _image_folder(path: Path, names: Sequence[str]) -> Path:
    """The folder that the names of the images are relative to.

    It is `images` or the file's own folder, these one level up, or a folder in one of them that is
    called as the file: val2017 for instances_val2017.json.

    Raises:
        UserError: Images are in none of the folders that are tried.
    """
    parent = path.parent
    own = re.sub("^instances_|^_annotations.*", "", path.stem)
    folders = [parent / "images", parent, parent.parent / "images", parent.parent]
    folders += [base / own for base in (parent, *folders) if own]
    few = names[:TRIED]

    def present(folder: Path) -> int:
        return sum(not obstacle(located(folder, name)) for name in few)

    folder = max(folders, key=present)
    missing = [name for name in names if obstacle(located(folder, name))]
    if missing:
        tried = shortened([str(each) for each in dict.fromkeys(folders)], 3)
        where = f"in {folder}" if present(folder) else f"in {tried}"
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} images are not {where}: {shortened(missing)}"
        )
    return folder


def _unnamed(folder: Path, samples: Sequence[BoxSample]) -> list[str]:
    """A line about images in the folder that the file does not name."""
    named = {Path(sample.name).name for sample in samples}
    others = [path.name for path in image_files(folder) if path.name not in named]
    if not others:
        return []
    return [f"{len(others)} images in {folder} without an entry left out: {shortened(others)}"]


def coco_files(folder: Path) -> dict[str, list[Path]]:
    """COCO's files in a folder by their split, "" for those that name none.

    They are called instances.json, as in `annotations/instances_val2017.json`, val.json,
    `val/_annotations.coco.json`. Files of other tasks (captions, keypoints, panoptic) are left out.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    places = [folder, folder / "annotations", *sorted(folder / name for name in SPLITS)]
    for place in places:
        for path in sorted(place.glob("*.json")):
            words = re.split("[^a-z]+", path.stem.lower())
            if {"captions", "keypoints", "panoptic", "stuff", "info"} & {*words}:
                continue
            splits = [SPLITS[word] for word in (*words, place.name.lower()) if word in SPLITS]
            if splits or {"instances", "annotations", "coco"} & {*words}:
                files[splits[0] if splits else ""].append(path)
    return files
