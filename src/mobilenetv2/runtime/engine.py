"""The native runtime: a checkpoint, folded and packed once, run on a plan a picture size."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import layers
from ..checkpoint import Checkpoint, fold
from ..errors import UserError
from . import _native
from .inputs import check_images
from .plan import Plan, Weights, plan

KEPT_PLANS = 16
BATCH = 4  # pictures at once at least; more go one group after another, so that memory stays small
MOST_THREADS = 1024


class Engine:
    """Runs a checkpoint in float32. May be called from several Python threads; the GIL is released
    meanwhile.

    The answers are the same bits for any number of threads and for a picture alone or in a batch.

    Args:
        checkpoint: The model.
        threads: Threads of this engine; None: the processors this process may use. With 1, calls
            from several Python threads run side by side; with more, one after another, each on all
            threads.
        isa: "scalar", "avx2" or "avx512"; None: what the environment variable MOBILENETV2_ISA says,
            else the best.

    Attributes:
        checkpoint: The model.
        threads: As chosen.
        isa: As chosen.

    Raises:
        UserError: No such number of threads, or an instruction set that is unknown or that the
            processor lacks.
    """

    def __init__(
        self, checkpoint: Checkpoint, threads: int | None = None, isa: str | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.threads = _threads(threads)
        self.isa = _isa(isa)
        self._network = _native.Network(self.isa, self.threads)
        self._weights = self._pack()
        self._plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) pixels -> the last layer's output: (N, classes) logits of a
        classifier, else (N, H, W, C).

        float32 images are taken as normalised already. Arrays that are not contiguous are copied
        first.

        Raises:
            UserError: Not a batch of pictures of the network's channels, an empty batch, or NaN.
        """
        check_images(images, self.checkpoint.architecture.in_channels)
        chosen = self._plan(images.shape[1], images.shape[2])
        pixels = images.dtype == np.uint8
        images = np.ascontiguousarray(images, np.uint8 if pixels else np.float32)
        run = self._network.run_pixels if pixels else self._network.run_values
        channels, height, width = chosen.out_shape
        answer = np.empty((len(images), height, width, channels), np.float32)
        group = max(BATCH, self.threads)
        for begin in range(0, len(images), group):
            run(chosen.native, images[begin : begin + group], answer[begin : begin + group])
        return (
            answer.reshape(len(answer), -1)
            if self.checkpoint.architecture.head == "classifier"
            else answer
        )

    def profile(self, images: NDArray[np.uint8]) -> list[tuple[str, str, str, float]]:
        """Runs once and says how long each step took: its first layer, its last layer, its kind,
        milliseconds.

        Args:
            images: uint8 (N, H, W, C).

        Raises:
            UserError: As for the call, and for float images.
        """
        check_images(images, self.checkpoint.architecture.in_channels)
        if images.dtype != np.uint8:
            raise UserError(f"profile takes uint8 pixels, not {images.dtype}")
        chosen = self._plan(images.shape[1], images.shape[2])
        channels, height, width = chosen.out_shape
        answer = np.empty((len(images), height, width, channels), np.float32)
        seconds = self._network.profile_pixels(chosen.native, np.ascontiguousarray(images), answer)
        return [(*names, 1e3 * taken) for names, taken in zip(chosen.steps, seconds)]

    def activation_bytes(self, height: int, width: int) -> int:
        """Memory that one picture of this size takes while it runs, all scratch included, the
        picture itself not.

        Raises:
            ArchitectureError: A side is out of range.
        """
        chosen = self._plan(height, width).native
        return 4 * (chosen.image_floats + self.threads * chosen.scratch_floats)

    def _plan(self, height: int, width: int) -> Plan:
        """The plan for a size; the most recent ones are remembered."""
        with self._lock:
            found = self._plans.pop((height, width), None)
            if found is None:
                steps = layers(self.checkpoint.architecture, height, width)
                found = plan(self._network, steps, self._weights, self.threads)
            self._plans[height, width] = found
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return found

    def _pack(self) -> Weights:
        """Folds the batch norms and hands all weights to the extension."""
        numbers: dict[str, int] = {}
        pixels = -1
        for layer in layers(self.checkpoint.architecture):
            if layer.weight is None:
                continue
            exact = "image" in layer.sources  # two matrices are made of it
            weight, bias = fold(self.checkpoint, layer, np.float64 if exact else np.float32)
            if layer.kind == "depthwise":
                taps = weight.reshape(-1, layer.kernel**2).T  # (9, C)
                numbers[layer.name] = self._network.add_depthwise(_packable(taps), _packable(bias))
                continue
            weight = weight.reshape(layer.out_shape[0], -1, layer.kernel, layer.kernel).transpose(
                0, 2, 3, 1
            )
            numbers[layer.name] = self._add_matrix(weight, bias)
            if exact:
                scale, offset = self.checkpoint.preprocessing.scale_offset()
                pixels = self._add_matrix(
                    weight * scale, bias + (weight * offset).sum(axis=(1, 2, 3))
                )
                self._network.set_pixel_padding((-offset / scale).tolist())
        return Weights(numbers, pixels, self._network.panel_channels)

    def _add_matrix(self, weight: NDArray[Any], bias: NDArray[np.float64]) -> int:
        return self._network.add_matrix(_packable(weight.reshape(len(weight), -1)), _packable(bias))


def _packable(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


def _threads(wanted: int | None) -> int:
    if wanted is None:
        usable = getattr(os, "sched_getaffinity", None)
        return len(usable(0)) if usable else os.cpu_count() or 1
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MOST_THREADS:
        raise UserError(
            f"threads must be a whole number from 1 to {MOST_THREADS}, not {wanted!r:.80}"
        )
    return wanted


def _isa(wanted: str | None) -> str:
    known = _native.kernel_names()
    source = "isa"
    if wanted is None:
        wanted, source = os.environ.get("MOBILENETV2_ISA") or known[-1], "MOBILENETV2_ISA"
    if wanted not in known:
        raise UserError(
            f"{source} must be one that this machine has ({', '.join(known)}), not {wanted!r:.80}"
        )
    return wanted
