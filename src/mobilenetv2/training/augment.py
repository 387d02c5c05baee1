"""Augmentation: random changes of images, each from its own random numbers, and mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil, exp, log, sqrt
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import UserError
from ..images import Preprocessing
from ..records import Meta, Record
from .colour import jitter
from .mixing import cutmix, mixup

Transform = Callable[[Image.Image, Generator], NDArray[np.uint8]]
Box = tuple[int, int, int, int]  # left, top, right, bottom
Fill = tuple[int, ...]  # one value per channel
MAX_MAGNITUDE = 30  # a policy's magnitudes are 0..30
ATTEMPTS = 10  # draws of a rectangle before giving up
Share = Annotated[float, Meta(ge=0, le=1)]
UpTo1 = Annotated[float, Meta(gt=0, le=1)]
UpTo100 = Annotated[float, Meta(gt=0, le=100)]
Shares = Annotated[tuple[UpTo1, UpTo1], Meta(description="two rising numbers above 0 and up to 1")]
Ratios = Annotated[
    tuple[UpTo100, UpTo100], Meta(description="two rising numbers above 0 and up to 100")
]
BetaParameter = Annotated[float, Meta(ge=0, le=100)]


class Strength(NamedTuple):
    """What a policy's operations do at the greatest magnitude.

    Attributes:
        shear: Slope.
        translate_pixels: Pixels.
        translate_share: Share of the side, added to the pixels.
        degrees: Of a rotation.
        factor: Added to or subtracted from a factor of 1 (brightness, colour, contrast, sharpness).
        bits: Removed by "posterize".
    """

    shear: float
    translate_pixels: float
    translate_share: float
    degrees: float
    factor: float
    bits: int


WIDE = Strength(0.99, 32, 0, 135, 0.99, 6)  # TrivialAugment
RANDAUGMENT = Strength(0.3, 0, 150 / 331, 30, 0.9, 4)
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


# fields that mean something only together with others: what they need, in words, and the test
Needs = Mapping[str, tuple[str, Callable[[Mapping[str, Any]], bool]]]
NEEDS: Needs = {
    "policy_until": ("policy", lambda a: a["policy"] != "none"),
    "cutmix_share": ("cutmix", lambda a: a["cutmix"] != 0),
    "mix_from": ("mixup or cutmix", lambda a: (a["mixup"], a["cutmix"]) != (0, 0)),
    "mix_until": ("mixup or cutmix", lambda a: (a["mixup"], a["cutmix"]) != (0, 0)),
}


def unused(values: Mapping[str, Any], needs: Needs) -> dict[str, str]:
    """The fields of a record that mean nothing beside its other values, with what they need."""
    return {name: other for name, (other, holds) in needs.items() if not holds(values)}


@dataclass(frozen=True, kw_only=True)
class Augmentation(Record):
    """The random changes that training makes to images.

    Attributes:
        crop: "resized": a random part of the image, scaled to the size, as in TF-slim and the
            Inception paper; "pad": prepared as for evaluation, then shifted by up to `pad` pixels
            with mirrored edges, as is usual for 32x32 pixels; "none": prepared as for evaluation.
            For boxes: "ssd" or "none"; for masks: "zoomed" or "none". "ssd": a part that covers
            one object or more by a random share, TensorFlow's `ssd_random_crop`; "zoomed": the
            image as large as the size holds, times `zoom`, and a part of the size of that.
        scale: Lowest and highest share of the image's area that "resized" takes.
        ratio: Lowest and highest width over height of that part, relative to the size.
        pad: Largest shift of "pad", in pixels.
        expand: With boxes, half of the images are put on a larger ground, its sides up to this
            many times theirs.
        zoom: Lowest and highest factor of "zoomed".
        flip: Mirror half of the images left to right; "alternate": each image in every other epoch.
        colour: TF-slim's fast mode: change brightness by up to 32 of 255, scale colour by 0.5
            to 1.5.
        policy: "trivial": TrivialAugment (wide; Mueller and Hutter 2021); "rand": RandAugment
            (Cubuk et al. 2019) of `rand_ops` operations of magnitude `rand_magnitude`; "none".
        policy_until: Share of the run after which there is no policy.
        rand_ops: Operations per image.
        rand_magnitude: 0..30.
        erase: Share of the images in which a rectangle becomes the mean colour (random erasing,
            Zhong et al. 2017).
        erase_scale: Lowest and highest share of the image's area that the rectangle covers.
        erase_ratio: Lowest and highest width over height of the rectangle.
        cutout: Side in pixels of the square around a random point that becomes the mean colour
            (DeVries and Taylor 2017); 0: none.
        mixup: Parameter of the beta distribution that mixes pairs of images (Zhang et al. 2017);
            0: never.
        cutmix: The same for rectangles pasted from another image (Yun et al. 2019). If both are
            set, each batch gets one of them at random.
        cutmix_share: Share of the images into which a rectangle is pasted.
        mix_from: Share of the run from which on images are mixed.
        mix_until: Share of the run after which they are not.

    Raises:
        UserError: A value is out of range; the message names it.
    """

    noun: ClassVar[str] = "augmentation"

    crop: Literal["resized", "pad", "none", "ssd", "zoomed"] = "resized"
    scale: Shares = (0.05, 1.0)
    ratio: Ratios = (3 / 4, 4 / 3)
    pad: Annotated[int, Meta(ge=0, le=1024)] = 4
    expand: Annotated[float, Meta(ge=1, le=8)] = 1.0
    zoom: Ratios = (0.5, 2.0)
    flip: bool | Literal["alternate"] = True
    colour: bool = False
    policy: Literal["none", "trivial", "rand"] = "none"
    policy_until: Share = 1.0
    rand_ops: Annotated[int, Meta(ge=0, le=14)] = 2
    rand_magnitude: Annotated[int, Meta(ge=0, le=MAX_MAGNITUDE)] = 9
    erase: Share = 0.0
    erase_scale: Shares = (0.02, 1 / 3)
    erase_ratio: Ratios = (0.3, 3.3)
    cutout: Annotated[int, Meta(ge=0, le=1024)] = 0
    mixup: BetaParameter = 0.0
    cutmix: BetaParameter = 0.0
    cutmix_share: Share = 1.0
    mix_from: Share = 0.0
    mix_until: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "ratio", "zoom", "erase_scale", "erase_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise self.refusal(name, "two rising numbers")
        if self.mix_from >= self.mix_until:
            raise self.refusal("mix_from", f"below mix_until, {self.mix_until}")
        for name, other in unused(self.to_dict(), NEEDS).items():
            if getattr(self, name) != getattr(Augmentation, name):
                raise UserError(f"augmentation {name}={getattr(self, name)!r} needs {other}")

    def check_for_classes(self) -> None:
        """Raises UserError: The crop is for images with boxes or masks."""
        if self.crop in ("ssd", "zoomed"):
            raise UserError(f"augmentation.crop={self.crop} is for images with boxes or masks")

    def transform(self, size: tuple[int, int], preprocessing: Preprocessing) -> Transform:
        """The function that changes one image.

        Args:
            size: (height, width) of the result.
            preprocessing: Gives channels, interpolation, mean colour, and for crops other than
                "resized" the way of resizing.

        Returns:
            A function of an upright RGB image and a random generator that returns (H, W, channels)
            uint8. It can be pickled.

        Raises:
            UserError: The crop is "pad" and `size` is not larger than `pad`, or one for boxes or
                masks.
        """
        self.check_for_classes()
        if self.crop == "pad" and min(size) <= self.pad:
            raise UserError(f"images of {size[0]}x{size[1]} cannot be padded by {self.pad}")
        return partial(_transformed, self, replace(preprocessing, size=(size[0], size[1])))

    def after_policy(self) -> Augmentation:
        """The augmentation from `policy_until` on."""
        return replace(self, policy="none", policy_until=1.0)

    def mix(
        self,
        x: Tensor,
        labels: Tensor,
        classes: int,
        generator: torch.Generator,
        share: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Mixes the images of a batch with each other.

        Args:
            x: (N, C, H, W) floats.
            labels: Class indices, (N,) int64.
            classes: Number of classes.
            generator: On the CPU; decides what is mixed and how much.
            share: How much of the run is done.

        Returns:
            x, mixed or unchanged, and the share of each class, (N, classes) float32.
        """
        rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
        pairs = ((mixup, self.mixup), (partial(cutmix, chance=self.cutmix_share), self.cutmix))
        choices = [(function, alpha) for function, alpha in pairs if alpha > 0]
        shares = one_hot(labels, classes).float()  # (N, classes)
        if not choices or not self.mix_from <= share < self.mix_until:
            return x, shares
        function, alpha = choices[rng.integers(len(choices))]
        return function(x, shares, alpha, rng)


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """The preprocessing of prediction as a function for `Images`. It can be pickled."""
    return partial(_prepared, preprocessing)


def _prepared(
    preprocessing: Preprocessing, image: Image.Image, rng: Generator
) -> NDArray[np.uint8]:
    return preprocessing(image)


def _transformed(
    augmentation: Augmentation, preprocessing: Preprocessing, image: Image.Image, rng: Generator
) -> NDArray[np.uint8]:
    a, (height, width), channels = augmentation, preprocessing.size, preprocessing.channels
    if a.crop == "resized":
        image = image.convert("L") if channels == 1 else image
        ratio = (a.ratio[0] * width / height, a.ratio[1] * width / height)
        box = crop_box(image.size, a.scale, ratio, rng)
        filter_ = Image.Resampling[preprocessing.interpolation.upper()]
        image = image.resize((width, height), filter_, box=box)
    else:
        # (H, W, channels); an image that is right already needs no copy
        pixels = np.asarray(image) if _is_prepared(image, preprocessing) else preprocessing(image)
        pixels = shifted(pixels, a.pad, rng) if a.crop == "pad" else pixels
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    if a.flip is True and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if a.colour:
        image = jitter(image, rng)
    fill = tuple(round(255 * min(max(mean, 0), 1)) for mean in preprocessing.mean)
    image = POLICIES[a.policy](a, image, fill, rng)
    if rng.random() < a.erase:
        erased = fitting_box(image.size, a.erase_scale, a.erase_ratio, rng)
        if erased:
            image.paste(fill, erased)
    pixels = np.array(image).reshape(height, width, channels)
    if a.cutout:
        pixels[_square(a.cutout, (height, width), rng)] = fill
    return pixels


def _is_prepared(image: Image.Image, preprocessing: Preprocessing) -> bool:
    """Whether the preprocessing leaves an upright image as it is."""
    size = image.height, image.width
    same = image.mode == "RGB" and preprocessing.channels == 3 and size == preprocessing.size
    return same and preprocessing.resized(*size) == size


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> Box:
    """A random part of an image of size (width, height), with a share of its area within `scale`
    and a width over height within `ratio`. If no draw fits, the middle, as large as the ratio
    allows.
    """
    if box := fitting_box(size, scale, ratio, rng):
        return box
    width, height = size
    shape = min(max(width / height, ratio[0]), ratio[1])
    wide, high = min(width, round(height * shape)), min(height, round(width / shape))
    left, top = (width - max(1, wide)) // 2, (height - max(1, high)) // 2
    return left, top, left + max(1, wide), top + max(1, high)


def fitting_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> Box | None:
    """A random rectangle inside (width, height): its share of the area is uniform, the logarithm
    of its width over height too. None if ten draws did not fit.
    """
    width, height = size
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        shape = exp(rng.uniform(log(ratio[0]), log(ratio[1])))
        wide, high = round(sqrt(area * shape)), round(sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            left = int(rng.integers(width - wide + 1))
            top = int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    return None


def shifted(pixels: NDArray[np.uint8], pad: int, rng: Generator) -> NDArray[np.uint8]:
    """(H, W, C) shifted by up to `pad` pixels, with the image mirrored beyond its edges."""
    top, left = rng.integers(2 * pad + 1, size=2)
    rows, columns = (_mirrored(side, pad) for side in pixels.shape[:2])
    # not by indexing, which is four times as slow
    chosen = pixels.take(rows[top : top + len(pixels)], 0)
    return chosen.take(columns[left : left + pixels.shape[1]], 1)


@lru_cache
def _mirrored(side: int, pad: int) -> NDArray[np.intp]:
    return np.pad(np.arange(side), pad, mode="reflect")


def operate(
    operation: str, image: Image.Image, magnitude: float, sign: int, strength: Strength, fill: Fill
) -> Image.Image:
    """Applies one of `OPERATIONS` to an image.

    Args:
        operation: Its name.
        image: RGB or L.
        magnitude: 0..30.
        sign: 1 or -1: the direction, for operations that have two.
        strength: What the greatest magnitude does.
        fill: Colour of what lies outside the image.
    """
    share = magnitude / MAX_MAGNITUDE
    if operation in ("brightness", "color", "contrast", "sharpness"):
        enhancer = getattr(ImageEnhance, operation.capitalize())(image)
        enhanced: Image.Image = enhancer.enhance(1 + sign * share * strength.factor)
        return enhanced
    if operation == "rotate":
        return image.rotate(
            sign * share * strength.degrees, Image.Resampling.BILINEAR, fillcolor=fill
        )
    if operation == "posterize":
        return ImageOps.posterize(image, 8 - round(share * strength.bits))
    if operation == "solarize":
        return ImageOps.solarize(image, ceil(255 * (1 - share)))
    if operation in ("autocontrast", "equalize"):
        return (
            ImageOps.autocontrast(image)
            if operation == "autocontrast"
            else ImageOps.equalize(image)
        )
    slope = sign * share * strength.shear
    across, down = (
        sign * share * (strength.translate_pixels + strength.translate_share * side)
        for side in image.size
    )
    matrix = {
        "shear_x": (1, slope, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, slope, 1, 0),
        "translate_x": (1, 0, round(across), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, round(down)),
    }.get(operation)
    if matrix is None:
        return image
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _random_operation(
    image: Image.Image, magnitude: float, strength: Strength, fill: Fill, rng: Generator
) -> Image.Image:
    operation = OPERATIONS[rng.integers(len(OPERATIONS))]
    return operate(operation, image, magnitude, 1 if rng.random() < 0.5 else -1, strength, fill)


def _trivial(a: Augmentation, image: Image.Image, fill: Fill, rng: Generator) -> Image.Image:
    return _random_operation(image, int(rng.integers(MAX_MAGNITUDE + 1)), WIDE, fill, rng)


def _rand(a: Augmentation, image: Image.Image, fill: Fill, rng: Generator) -> Image.Image:
    for _ in range(a.rand_ops):
        image = _random_operation(image, a.rand_magnitude, RANDAUGMENT, fill, rng)
    return image


POLICIES: dict[str, Callable[[Augmentation, Image.Image, Fill, Generator], Image.Image]] = {
    "none": lambda a, image, fill, rng: image,
    "trivial": _trivial,
    "rand": _rand,
}


def _square(side: int, size: tuple[int, int], rng: Generator) -> tuple[slice, slice]:
    """The rows and columns of a square around a random point of (height, width), cut at the edges."""
    y, x = (int(rng.integers(length)) - side // 2 for length in size)
    return slice(max(0, y), y + side), slice(max(0, x), x + side)
