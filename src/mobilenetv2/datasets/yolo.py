"""Boxes in the text files of YOLO."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, UserError, install_hint, missing_modules, shortened
from ..files import read_lines, read_text
from ..paths import folder_content, is_folder, located, obstacle
from .frames import frame
from .objects import Object, ObjectChecks, unique_classes
from .splits import SPLITS, NoSplitError, default_splits
from .targets import BoxDataset, BoxSample

YAML = ("*.yaml", "*.yml")
CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
NO_VALUES = ("null", "Null", "NULL", "~")
MOST_YAML = 1 << 20  # characters of a .yaml file
DEEPEST = 10  # levels of a .yaml file
ROUNDING = 0.01  # by which parts of an image may be outside of 0..1


def yolo_file(folder: Path) -> Path | None:
    """data.yaml in a folder, or the only other .yaml file; None where there is none."""
    files = sorted(path for pattern in YAML for path in folder.glob(pattern))
    named = [path for path in files if path.stem == "data"]
    return (named or files)[0] if named or len(files) == 1 else None


def is_yolo(folder: Path) -> bool:
    """Whether a folder has images beside labels, perhaps in a folder per split, or a data.yaml."""
    places = [folder, *(folder / name for name in SPLITS)]
    beside = any(is_folder(each / "images") and is_folder(each / "labels") for each in places)
    return beside or (folder / "data.yaml").exists()


def read_yolo(path: Path, split: str | None) -> BoxDataset:
    """The boxes of one split.

    The labels of images/a.jpg are in labels/a.txt: per line a class, and centre x and y, width and
    height in parts of the upright image, or the corners of a polygon. An image without such a file
    has no objects.

    Args:
        path: The folder, or the .yaml file in it.
        split: As for `read_boxes`.

    Raises:
        UserError: A file is damaged or missing, or a class or a number out of range.
    """
    settings = path if not is_folder(path) else yolo_file(path)
    folder = path if is_folder(path) else path.parent
    fields = _fields(settings) if settings else {}
    names = _names(fields, settings) if settings else _listed_names(folder)
    unique_classes(names, str(settings or folder))
    images = _images(folder, fields, split)
    stems = Counter(image.stem for image in images)
    checks, samples, unlabelled = ObjectChecks(), [], []
    for image in images:
        labels = _labels_of(image)
        objects: list[tuple[int, list[float]]] = []
        if obstacle(labels):
            unlabelled.append(image.name)
        else:
            objects = list(_lines(labels, len(names)))
        placed = frame(image, None, "")
        height, width = placed.size
        boxes = [Object(_corners(values, width, height), i) for i, values in objects]
        image_id = image.stem if stems[image.stem] == 1 else str(image.with_suffix(""))
        samples.append(BoxSample(str(image), checks.target(image.name, boxes, placed, image_id)))
    problems = checks.problems()
    if unlabelled:
        problems.append(
            f"{len(unlabelled)} images without a file of labels have no objects: "
            f"{shortened(unlabelled)}"
        )
    if len(unlabelled) == len(images):
        raise UserError(f"{folder}: none of {len(images)} images has a file in labels/")
    ids = tuple(range(1, len(names) + 1))
    files = [str(settings)] if settings else []
    files += [str(_labels_of(image)) for image in images]
    return BoxDataset(tuple(names), tuple(samples), ids, tuple(problems), tuple(files))


def _fields(path: Path) -> Mapping[str, Any]:
    if missing_modules("yaml"):
        raise MissingExtraError(f"{path}: needs PyYAML: {install_hint('detection')}")
    import yaml

    text = read_text(path, "utf-8-sig")
    try:
        _check_yaml(text)
        fields = yaml.load(text, Loader=yaml.BaseLoader)  # lists, mappings and text alone
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not the description of a dataset: {reason:.200}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: not the description of a dataset: no fields")
    return fields


def _check_yaml(text: str) -> None:
    """Refuses what a description does not need and what could take long to read."""
    import yaml

    flow = yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken
    starts = (*flow, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
    ends = yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken
    if len(text) > MOST_YAML:
        raise ValueError(f"more than {MOST_YAML} characters")
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, starts) - isinstance(token, ends)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
        if isinstance(token, yaml.AliasToken):
            raise ValueError("references (*name) are not accepted")


def _names(fields: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the classes: a list, or a mapping from 0, 1, ..."""
    names = fields.get("names")
    if isinstance(names, dict):
        numbers = [str(i) for i in range(len(names))]
        if {*names} != {*numbers}:
            raise UserError(f"{path}: the numbers of names are not 0, 1, 2 ...")
        names = [names[i] for i in numbers]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: needs names, a list of the classes")
    if not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{path}: a class in names that is not a text")
    if (count := fields.get("nc", str(len(names)))) != str(len(names)):
        raise UserError(f"{path}: nc is {count!r:.80}, but there are {len(names)} names")
    return [unicodedata.normalize("NFC", name) for name in names]


def _listed_names(folder: Path) -> list[str]:
    for name in CLASS_FILES:
        if (folder / name).exists():
            return read_lines(folder / name)
    raise UserError(f"{folder}: no data.yaml or classes.txt, which name the classes")


def _images(folder: Path, fields: Mapping[str, Any], split: str | None) -> list[Path]:
    """The images of one split, sorted."""
    stated = fields.get("path")
    root = Path(folder, stated if isinstance(stated, str) else "")
    root = root if is_folder(root) else folder
    places: dict[str, list[str]] = {}
    for name in SPLITS:
        listed = fields.get(name)
        if listed and listed not in NO_VALUES:
            places[name] = [listed] if isinstance(listed, str) else _texts(listed, name, folder)
        elif not fields:
            below = [f"images/{name}", f"{name}/images"]
            present = [each for each in below if is_folder(folder / each)]
            if present:
                places[name] = present
    kind = SPLITS.get(split.lower(), split) if split else None
    chosen = [name for name in places if kind and SPLITS[name] == kind]
    if split and not chosen:
        listed = shortened(list(places)) or "none"
        raise NoSplitError(f"{folder}: no split {split!r:.80}; its splits are {listed}")
    chosen = chosen or default_splits(list(places))
    sources = [each for name in chosen for each in places[name]] or ["images"]
    images = sorted({image for source in sources for image in _source(root, folder, source)})
    if not images:
        raise UserError(f"{folder}: no images in {shortened(sources)}")
    return images


def _texts(values: object, name: str, folder: Path) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{folder}: {name} in the .yaml file is neither a path nor a list of paths")
    return values


def _source(root: Path, folder: Path, name: str) -> list[Path]:
    """The images of a folder or of a text file that lists them."""
    # exported files often say ../train/images where train/images is meant
    ways = [root / name, folder / name, folder / name.removeprefix("../")]
    for path in ways:
        if is_folder(path):
            return folder_content(path).images
        if path.suffix == ".txt" and not obstacle(path):
            images = [Path(located(path.parent, line)) for line in read_lines(path) if line]
            if missing := [str(image) for image in images if obstacle(image)]:
                raise UserError(f"{path}: {len(missing)} images are missing: {shortened(missing)}")
            return images
    raise UserError(f"{ways[0]}: no such folder or list of images")


def _labels_of(image: Path) -> Path:
    """The file of an image's labels: its path with labels instead of the last images."""
    parts = list(image.parent.parts)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts, f"{image.stem}.txt")


def _lines(path: Path, classes: int) -> Iterator[tuple[int, list[float]]]:
    """The class and the numbers of each line.

    Raises:
        UserError: A line that is none, a class or a number out of range.
    """
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}: line {number}"
        try:
            index, *values = map(float, fields)
        except ValueError:
            raise UserError(f"{where}: {line!r:.80} is not a class and numbers") from None
        if len(values) < 4 or len(values) % 2:
            raise UserError(f"{where}: {len(fields)} numbers; a class and 4 are needed")
        if not (index.is_integer() and 0 <= index < classes):
            raise UserError(
                f"{where}: class {fields[0]:.80}, but there are {classes} classes, 0 to {classes - 1}"
            )
        if not all(-ROUNDING <= value <= 1 + ROUNDING for value in values):
            raise UserError(f"{where}: numbers outside of 0..1: parts of the image are needed")
        yield int(index), values


def _corners(values: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """The box in pixels: of centre and size, or around a polygon."""
    if len(values) == 4:
        x, y, w, h = values
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        left, right = min(values[::2]), max(values[::2])
        top, bottom = min(values[1::2]), max(values[1::2])
    return left * width, top * height, right * width, bottom * height
