"""One image of a tar file, and what the files beside it say about it."""

from __future__ import annotations

import codecs
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

from ..errors import ImageError, UserError, shortened
from ..paths import is_image_name
from .frames import Frame, frame
from .mask_file import Mask, read_mask
from .objects import Object, ObjectChecks
from .targets import BoxTarget
from .voc import check_values, parse_voc

MASKS = ("mask", "seg")  # a mask is NAME.mask.png or NAME.seg.png
BESIDE = ("cls", "json", "xml")  # what says something about an image
Corners = tuple[float, float, float, float]


class _Annotation(msgspec.Struct, gc=False):
    bbox: Corners
    category: int | str | None = None
    category_id: int | None = None
    iscrowd: int | bool = 0
    area: float | None = None


class _Content(msgspec.Struct):
    boxes: list[Corners] | None = None
    labels: list[int | str] | None = None
    iscrowd: list[int | bool] | None = None
    annotations: list[_Annotation] | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class ShardSample:
    """An image and the files of the same name, all of them in memory.

    Attributes:
        name: What messages call it: the tar file and the name without its suffix.
        files: The contents by what follows the first dot of their names, in lower case.
        links: Where the files that are only links lead, in the same way.
    """

    name: str
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def image(self) -> str | None:
        """Which of the files is the image: one that is no mask, that with fewest dots in its name."""
        return next(iter(self._images()), None)

    def left_out(self) -> dict[str, ImageError]:
        """Images that cannot be read whatever is in them, by name: links, and all but one of a name."""
        if not (images := self._images()):
            return {}
        for kind, target in self.links.items():
            if kind in images or kind in BESIDE or _is_mask(kind):
                error = ImageError(
                    f"{self.name}.{kind}: a link to {target}, and those in tar files are not followed:"
                    " store the file itself (tar --dereference --hard-dereference)"
                )
                return {f"{self.name}.{image}": error for image in images}
        return {
            f"{self.name}.{kind}": ImageError(
                f"{self.name}.{kind}: beside {self.name}.{images[0]}, and one image per name is read "
                "(a name ends at its first dot)"
            )
            for kind in images[1:]
        }

    def _images(self) -> list[str]:
        """The images, that with fewest dots in its name first."""
        kinds = [kind for kind in (*self.files, *self.links) if is_image_name(f"x.{kind}")]
        return sorted((k for k in kinds if not _is_mask(k)), key=lambda kind: kind.count("."))

    def open(self, kind: str) -> IO[bytes]:
        """One of the files, as an open file with a name."""
        file = io.BytesIO(self.files[kind])
        file.name = f"{self.name}.{kind}"
        return file


def class_target(sample: ShardSample, classes: Sequence[str], size: tuple[int, int]) -> int:
    """The class index in .cls, or in .json as index or label.

    Args:
        sample: The image.
        classes: Names of the classes; (): there are only numbers.
        size: Height and width of the upright image.

    Raises:
        UserError: The image has no class, or an unknown one.
    """
    try:
        if "cls" in sample.files:
            value: Any = sample.files["cls"].decode().strip()
        else:
            content = json.loads(sample.files["json"])
            value = content["index"] if "index" in content else content["label"]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{sample.name}.*: no class: neither a .cls file nor a .json file with label or index "
            "beside it"
        ) from None
    return class_index(value, classes, f"{sample.name}.*: its class")


def class_index(value: Any, classes: Sequence[str], what: str) -> int:
    """The index of a class that is stated by its name or by its index from 0.

    Args:
        value: The statement.
        classes: Names of the classes; (): there are only numbers.
        what: What messages call the value.

    Raises:
        UserError: There is no such class.
    """
    if value not in classes and isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
    if value in classes:
        return classes.index(value)
    if not re.fullmatch("[0-9]{1,9}", str(value)) or (classes and int(value) >= len(classes)):
        known = (
            f"one of the {len(classes)} classes" if classes else "a number, and no names are given"
        )
        raise UserError(f"{what} {value!r:.80} is not {known}")
    return int(value)


@dataclass
class BoxTargets:
    """Reads the boxes of images in .json or .xml.

    What it changes or leaves out is mentioned for the first image of each kind of change.

    Attributes:
        category_ids: COCO's id of each class; (): there are none.
    """

    category_ids: tuple[int, ...] = ()
    _mentioned: set[str] = field(default_factory=set)

    def __call__(
        self, sample: ShardSample, classes: Sequence[str], size: tuple[int, int]
    ) -> BoxTarget:
        """The objects in one image.

        Args:
            sample: The image.
            classes: Names of the classes.
            size: Height and width of the upright image.

        Raises:
            UserError: The image has no boxes beside it, or damaged ones, of another size or of
                unknown classes.
        """
        kind = next((kind for kind in ("json", "xml") if kind in sample.files), None)
        if kind is None:
            raise UserError(
                f"{sample.name}.*: no boxes: neither a .json nor a .xml file beside it (a name "
                "ends at its first dot)"
            )
        where, content = f"{sample.name}.{kind}", sample.files[kind]

        def index(value: int | str) -> int:
            return class_index(value, classes, f"{where}: the class")

        if kind == "json":
            objects, stated = _objects(content, where, index, self.category_ids)
        else:
            objects, stated = parse_voc(content, where, index)
        checks = ObjectChecks()
        placed = _frame(sample, stated, size, where)
        target = checks.target(where, objects, placed, sample.name)
        for change, names in checks.changes().items():
            if change not in self._mentioned:
                self._mentioned.add(change)
                warnings.warn(
                    f"{where}: {len(names)} boxes {change}; other images are not mentioned",
                    stacklevel=2,
                )
        return target


@dataclass(frozen=True)
class ShardMask:
    """The mask of an image in a tar file, read already.

    Attributes:
        values: (height, width) of the upright image: classes, and `IGNORED` for none.
    """

    values: Mask

    def read(self) -> Mask:
        """The values."""
        return self.values


def mask_target(sample: ShardSample, classes: Sequence[str], size: tuple[int, int]) -> ShardMask:
    """The mask of one image in .mask.png or .seg.png.

    Args:
        sample: The image.
        classes: Names of the classes by mask value.
        size: Height and width of the upright image.

    Raises:
        UserError: The image has no mask beside it or several; or it is damaged, of another size, or
            has values that are no classes.
    """
    kinds = [kind for kind in sample.files if _is_mask(kind)]
    if len(kinds) != 1:
        number = f"{len(kinds)} masks ({', '.join(kinds)})" if kinds else "no mask"
        raise UserError(f"{sample.name}.*: {number}: one .mask.png or .seg.png must be beside it")
    where = f"{sample.name}.{kinds[0]}"
    values = read_mask(sample.open(kinds[0]))
    check_values(values, classes, where, "the images to validate with name the classes")
    placed = _frame(sample, (values.shape[0], values.shape[1]), size, where)
    turned = placed.turn != 1
    return ShardMask(read_mask(sample.open(kinds[0]), size, placed.turn) if turned else values)


def _is_mask(kind: str) -> bool:
    return kind.rpartition(".")[0] in MASKS and is_image_name(kind)


def _frame(
    sample: ShardSample, stated: tuple[int, int] | None, size: tuple[int, int], where: str
) -> Frame:
    """The frame of annotations of an image whose upright size is known."""
    if stated in (None, size):
        return Frame(size)
    assert sample.image is not None
    placed = frame(sample.open(sample.image), stated, where)
    if placed.size != size:
        raise UserError(f"{where}: the size of {sample.name}.{sample.image} cannot be read")
    return placed


def _objects(
    content: bytes,
    where: str,
    index: Callable[[int | str], int],
    category_ids: tuple[int, ...],
) -> tuple[list[Object], tuple[int, int] | None]:
    """The objects in .json, and the height and width that it states."""
    try:
        stated = msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=_Content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not boxes: {error}") from None
    if (stated.boxes is None) == (stated.annotations is None):
        raise UserError(f"{where}: needs either boxes and labels, or annotations")
    size = (stated.height, stated.width) if stated.height and stated.width else None
    if stated.annotations is not None:
        objects = []
        for each in stated.annotations:
            left, top, width, height = each.bbox
            corners = (left, top, left + width, top + height)
            number = _category(each, where, index, category_ids)
            objects.append(Object(corners, number, bool(each.iscrowd), area=each.area))
        return objects, size
    boxes, labels = stated.boxes or [], stated.labels or []
    crowds = [False] * len(boxes) if stated.iscrowd is None else stated.iscrowd
    if not len(boxes) == len(labels) == len(crowds):
        raise UserError(
            f"{where}: {len(boxes)} boxes, but {len(labels)} labels and {len(crowds)} iscrowd"
        )
    return [
        Object(corners, index(label), bool(crowd))
        for corners, label, crowd in zip(boxes, labels, crowds)
    ], size


def _category(
    each: _Annotation,
    where: str,
    index: Callable[[int | str], int],
    category_ids: tuple[int, ...],
) -> int:
    """The class of an annotation: its category, or else its category_id."""
    if each.category is not None:
        return index(each.category)
    if each.category_id is None:
        raise UserError(f"{where}: an annotation without category (a class's name or index)")
    if each.category_id not in category_ids:
        ids = shortened([str(value) for value in category_ids])
        raise UserError(
            f"{where}: the category_id {each.category_id} is none of the COCO file to validate "
            f"with ({ids or 'there is no such file: give category, a name or an index'})"
        )
    return category_ids.index(each.category_id)
