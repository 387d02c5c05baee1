"""What a service does with an image, for each task of a model: options, JSON, tensors."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..decoding import decode, ignore_remark
from ..drawing import mask_png
from ..errors import ImageError, UserError
from ..loading import load
from ..pipeline import GROUP
from ..printable import printable
from .limits import RefusalError

MAX_BOXES = 1000


def _whole(value: Any) -> int:
    if not re.fullmatch("-?[0-9]{1,18}", str(value)):  # int() also reads 1_0 and other digits
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not str(value).isascii() or "_" in str(value):
        raise ValueError
    return float(value)


def _truth(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).lower()]


def _classes(value: Any) -> list[str | int]:
    classes = value if isinstance(value, list) else [value]
    if not classes or not all(type(item) in (str, int) for item in classes):
        raise ValueError
    return classes


# by option of a request: how its text is read, and what it must be
KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "top": (_whole, "a whole number"),
    "threshold": (_number, "a number"),
    "iou_threshold": (_number, "a number"),
    "limit": (_whole, "a whole number"),
    "class": (_classes, "a class, by label or index, or a list of them"),
    "mask": (_truth, "true or false"),
}


class Task:
    """A model and what a service does with it.

    Args:
        model: As for `mobilenetv2.load`.
        max_pixels: Of an image.

    Attributes:
        model: The model, which runs on the thread that calls it.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    # name -> datatype and shape of each output of the V2 protocol; the first `answered` by default
    outputs: dict[str, tuple[str, list[int]]]
    answered: ClassVar[int] = 8
    # images that are worked on together, where that is faster than one after the other
    group: ClassVar[int] = 1

    def __init__(self, model: Any, max_pixels: int) -> None:
        self.model = model
        self._max_pixels = max_pixels

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a request, as numbers.

        Args:
            options: Texts, or lists of them; or what JSON has for them.

        Raises:
            RefusalError: One is unknown, or not of its kind.
        """
        values: dict[str, Any] = {}
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise RefusalError(
                    400, f"unknown option {name!r:.80}: a {self.name} model has {known}"
                )
            last = value[-1] if isinstance(value, list) and name != "class" and value else value
            read, kind = KINDS[name]
            try:
                values[name] = read(last)
            except (KeyError, OverflowError, TypeError, ValueError):
                raise RefusalError(400, f"{name} must be {kind}, not {last!r:.80}") from None
        return values

    def run(self, images: Sequence[Any], options: Mapping[str, Any]) -> list[Any | ImageError]:
        """The result for each image, or its error, if it cannot be decoded.

        Args:
            images: Files' contents, or decoded pixels.
            options: As `checked` gives them.

        Raises:
            UserError: An option is out of range.
        """
        return [result for _, result in self._results(images, options)]

    def _opened(self, image: Any) -> Any:
        if isinstance(image, np.ndarray):
            return image
        return decode(image, max_pixels=self._max_pixels, warn=ignore_remark)

    def _results(
        self, images: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any | ImageError]]:
        """Each image with its result, or its error."""
        raise NotImplementedError

    def plain(self, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """A result as a dictionary fit for JSON."""
        raise NotImplementedError

    def tensors(self, results: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """The results of a request as tensors, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run:
    """What is done with images: equal for all requests with the same options.

    Args:
        task: The model.
        options: As `Task.checked` gives them.
        plain: Whether results are made fit for JSON, an image that cannot be decoded too.
    """

    task: Task
    options: Mapping[str, Any]
    plain: bool

    def __call__(self, images: Sequence[Any]) -> list[Any]:
        """The result of each image, or its error."""
        try:
            results = self.task.run(images, self.options)
            return self._plain(images, results) if self.plain else results
        except UserError as error:
            raise RefusalError(400, sentence(error)) from None

    def _plain(self, images: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        return [
            {"name": printable(image.name)}
            | (
                {"error": sentence(result)}
                if isinstance(result, ImageError)
                else self.task.plain(result, self.options)
            )
            for image, result in zip(images, results, strict=True)
        ]


def sentence(error: UserError) -> str:
    """What is wrong, without advice about options that a caller of the service does not have."""
    return printable(error.problem if isinstance(error, ImageError) else str(error))


class Classification(Task):
    """The most probable classes."""

    name = "classification"
    options = ("top",)
    group = GROUP

    def __init__(self, model: Any, max_pixels: int) -> None:
        super().__init__(model, max_pixels)
        shape = [-1, -1]
        self.outputs = {
            "label": ("BYTES", shape),
            "index": ("INT64", shape),
            "probability": ("FP32", shape),
        }

    def _results(
        self, images: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any | ImageError]]:
        results: Iterable[tuple[Any, Any]] = self.model.classify_files(
            images, open_source=self._opened, **options
        )
        return results

    def plain(self, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        rows = [
            {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
            for p in result
        ]
        return {"predictions": rows}

    def tensors(self, results: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return {
            "label": np.array([[p.label for p in result] for result in results], object),
            "index": np.array([[p.index for p in result] for result in results], np.int64),
            "probability": np.array([[p.probability for p in r] for r in results], np.float32),
        }


class Detection(Task):
    """Objects with their boxes."""

    name = "detection"
    options = ("threshold", "iou_threshold", "limit", "class")

    def __init__(self, model: Any, max_pixels: int) -> None:
        super().__init__(model, max_pixels)
        self.outputs = {
            "boxes": ("FP32", [-1, 4]),
            "scores": ("FP32", [-1]),
            "labels": ("BYTES", [-1]),
            "indices": ("INT64", [-1]),
            "image": ("INT64", [-1]),
        }

    def _results(
        self, images: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any | ImageError]]:
        selection = dict(options)
        if "class" in selection:
            selection["classes"] = tuple(map(self._class, selection.pop("class")))
        if selection.get("limit", 0) > MAX_BOXES:
            raise UserError(f"limit must be at most {MAX_BOXES}")
        results: Iterable[tuple[Any, Any]] = self.model.detect_files(
            images, self._opened, **selection
        )
        return results

    def _class(self, name: Any) -> Any:
        """A label, or the index that a text of digits means."""
        digits = isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 9
        return int(name) if digits and name not in self.model.class_names() else name

    def plain(self, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = result.to_dict()
        return plain

    def tensors(self, results: Sequence[Any]) -> dict[str, NDArray[Any]]:
        counts = [len(result) for result in results]
        return {
            "boxes": np.concatenate([result.boxes for result in results]),
            "scores": np.concatenate([result.scores for result in results]).astype(np.float32),
            "labels": np.array([label for result in results for label in result.labels], object),
            "indices": np.concatenate([result.indices for result in results]).astype(np.int64),
            "image": np.repeat(np.arange(len(results), dtype=np.int64), counts),
        }


class SegmentationTask(Task):
    """The class of each pixel."""

    name = "segmentation"
    options = ("mask",)
    answered = 1

    def __init__(self, model: Any, max_pixels: int) -> None:
        super().__init__(model, max_pixels)
        wide = len(model.class_names()) > 256
        self.outputs = {
            "mask": ("UINT16" if wide else "UINT8", [-1, -1, -1]),
            "mask_png": ("BYTES", [-1]),
        }

    def _results(
        self, images: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any | ImageError]]:
        results: Iterable[tuple[Any, Any]] = self.model.segment_files(images, self._opened)
        return results

    def plain(self, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = result.to_dict()
        plain["indices"] = {result.labels[i]: i for i, _ in result.class_shares()}
        if options.get("mask"):
            plain["mask"] = base64.b64encode(mask_png(result.mask)).decode()
        return plain

    def tensors(self, results: Sequence[Any]) -> dict[str, NDArray[Any]]:
        files = np.empty(len(results), object)
        for i, result in enumerate(results):
            files[i] = mask_png(result.mask)
        tensors: dict[str, NDArray[Any]] = {"mask_png": files}
        if len({result.mask.shape for result in results}) == 1:
            tensors["mask"] = np.stack([result.mask for result in results])
        return tensors


class FeaturesTask(Task):
    """A vector that describes the image."""

    name = "features"
    group = GROUP

    def __init__(self, model: Any, max_pixels: int) -> None:
        super().__init__(model, max_pixels)
        self.outputs = {"features": ("FP32", [-1, -1])}

    def _results(
        self, images: Sequence[Any], options: Mapping[str, Any]
    ) -> Iterable[tuple[Any, Any | ImageError]]:
        results: Iterable[tuple[Any, Any]] = self.model.features_files(images, self._opened)
        return results

    def plain(self, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"features": result.tolist()}

    def tensors(self, results: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return {"features": np.stack(results)}


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Detection, SegmentationTask, FeaturesTask)
}


def load_task(model: str, max_pixels: int, precision: str | None = None) -> Task:
    """A model for a service, which runs on the thread that calls it; many threads may.

    Args:
        model: A file or a name.
        max_pixels: Of an image.
        precision: As for `mobilenetv2.load`.

    Raises:
        UserError: As for `mobilenetv2.load`.
    """
    loaded = load(model, threads=1, precision=precision)
    return TASKS[loaded.checkpoint.architecture.head.task](loaded, max_pixels)
