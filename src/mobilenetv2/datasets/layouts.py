"""Folders of other tasks (detection, segmentation), which are recognised and refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection

_COCO_FILE = r"(.*[_.-])?(instances|annotations|panoptic|person_keypoints)([_.-].*)?\.json"
# What it is, patterns that each match one of the folders or .json files, and whether its name alone is certain
LAYOUTS = (
    ("a Pascal VOC folder", ("JPEGImages", "Annotations|SegmentationClass|ImageSets"), True),
    ("a Pascal VOC folder", ("VOCdevkit",), True),
    ("a Cityscapes folder", ("leftImg8bit", "gtFine|gtCoarse"), True),
    ("a COCO folder", ("annotations", "(train|val|test)20[0-9]{2}"), True),
    ("a COCO folder", ("_annotations.coco.json",), True),
    ("a COCO folder", ("images", _COCO_FILE), False),
    ("a COCO or ADE20K folder", ("images", "annotations"), False),
    ("a YOLO folder", ("images", "labels"), False),
    ("a segmentation folder", ("images|imgs", "masks?|segmentations?"), False),
)
USE = (
    "whose boxes or masks label parts of images; a classifier needs one folder per class, "
    "CLASS/image.jpg, or a .csv list with the columns file and label"
)


def other_layout(names: Collection[str], certain: bool = False) -> str:
    """What a folder with subfolders and .json files of these names is, and what to use instead; "" if it is none.

    Args:
        names: Names of the folders and .json files in it.
        certain: Look for names alone that could hardly be those of classes.
    """
    for what, patterns, is_certain in LAYOUTS:
        matched = [
            next((name for name in sorted(names) if re.fullmatch(pattern, name)), "")
            for pattern in patterns
        ]
        if all(matched) and (is_certain or not certain):
            return f"{what} ({', '.join(matched)}), {USE}"
    return ""
