"""The native runtime: a checkpoint, folded and packed once, run on a plan a picture size."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import Layer, layers
from ..checkpoint import Checkpoint, fold
from ..errors import UserError
from . import _native
from .inputs import check_images
from .plan import Plan, Weights, chained, grouped, plan, up_to_block

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
        self._plans: OrderedDict[tuple[int, int, bool, int], Plan] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[Any], alone: bool = False) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) pixels -> the last layer's output: (N, classes) logits of a
        classifier, else (N, H, W, C).

        float32 images are taken as normalised already. Arrays that are not contiguous are copied
        first. With `alone` the calling thread does all of it, and such calls from several Python
        threads run side by side.

        Raises:
            UserError: Not a batch of pictures of the network's channels, an empty batch, or NaN.
        """
        answer = self._run(images, self._plan(images, threads=1 if alone else self.threads))
        return answer.reshape(len(answer), -1) if self._classifies else answer

    def features(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """What the classifier layer sees: the last map, averaged over its places, (N, channels).

        Args:
            images: As for the call.

        Raises:
            UserError: As for the call, and where there is no classifier.
        """
        if not self._classifies:
            raise UserError(
                f"the model's head is {self.checkpoint.architecture.head!r}: it has no classifier to stop before; "
                "calling it gives its map"
            )
        answer = self._run(images, self._plan(images, features=True))
        return answer.reshape(len(answer), -1)

    def profile(self, images: NDArray[Any]) -> list[tuple[str, str, str, float]]:
        """Runs once and says how long each step took: its first layer, its last layer, its kind,
        milliseconds.

        Args:
            images: As for the call.

        Raises:
            UserError: As for the call.
        """
        chosen = self._plan(images)
        seconds = np.zeros(len(chosen.steps))
        self._run(images, chosen, seconds)
        return [(*names, 1e3 * taken) for names, taken in zip(chosen.steps, seconds.tolist())]

    def activation_bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Memory that `batch` pictures of this size take while they run, all scratch included, the
        pictures and the answer not.

        Raises:
            ArchitectureError: A side is out of range.
        """
        native = self._plan_for(height, width).native
        return 4 * native.size(min(batch, self._group))

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as the kernels read them: batch norms folded in, whole vectors."""
        return self._network.weight_bytes

    @property
    def _classifies(self) -> bool:
        return self.checkpoint.architecture.head == "classifier"

    @property
    def _group(self) -> int:
        """Pictures at once."""
        return max(BATCH, self.threads)

    def _run(
        self, images: NDArray[Any], chosen: Plan, seconds: NDArray[np.float64] | None = None
    ) -> NDArray[np.float32]:
        """The output (N, H, W, C) of a plan's last step; the time of each step is added to
        `seconds`.
        """
        pixels = images.dtype == np.uint8
        images = np.ascontiguousarray(images, np.uint8 if pixels else np.float32)
        run = self._network.run_pixels if pixels else self._network.run_values
        channels, height, width = chosen.out_shape
        answer = np.empty((len(images), height, width, channels), np.float32)
        for begin in range(0, len(images), self._group):
            part = slice(begin, begin + self._group)
            run(chosen.native, images[part], answer[part], seconds)
        return answer

    def _plan(
        self, images: NDArray[Any], *, features: bool = False, threads: int | None = None
    ) -> Plan:
        check_images(images, self.checkpoint.architecture.in_channels)
        return self._plan_for(images.shape[1], images.shape[2], features, threads)

    def _plan_for(
        self, height: int, width: int, features: bool = False, threads: int | None = None
    ) -> Plan:
        """The plan for a size and a number of threads, to the end or up to the classifier; the most
        recent ones are remembered.
        """
        threads = threads or self.threads
        key = height, width, features, threads
        with self._lock:
            found = self._plans.pop(key, None)
            if found is None:
                steps = layers(self.checkpoint.architecture, height, width)
                steps = steps[:-1] if features else steps
                found = plan(self._network, steps, self._weights, threads)
            self._plans[key] = found
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return found

    def _pack(self) -> Weights:
        """Folds the batch norms and hands all weights to the extension."""
        numbers: dict[str, int] = {}
        pixels = -1
        for layer, reads_blocks, writes_blocks in _weighted(self.checkpoint):
            exact = "image" in layer.sources  # two matrices are made of it
            weight, bias = fold(self.checkpoint, layer, np.float64 if exact else np.float32)
            if writes_blocks:
                weight, bias = _blocked(weight), _blocked(bias)
            if layer.kind == "depthwise":
                taps = weight.reshape(-1, layer.kernel**2).T  # (9, C)
                numbers[layer.name] = self._network.add_depthwise(_packable(taps), _packable(bias))
                continue
            weight = weight.reshape(len(weight), -1, layer.kernel, layer.kernel)
            weight = weight.transpose(0, 2, 3, 1)
            if reads_blocks:
                weight = _blocked(weight, 3)
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


def _weighted(checkpoint: Checkpoint) -> Iterator[tuple[Layer, bool, bool]]:
    """Each layer that has weights, and whether it reads and whether it writes a blocked tensor."""
    for chain in chained(grouped(list(layers(checkpoint.architecture)))):
        members = [(layer, group.is_block) for group in chain for layer in group.layers]
        kinds = [layer.kind for layer, _ in members]
        for index, (layer, in_block) in enumerate(members):
            if layer.weight is not None:
                writes_blocks = "depthwise" in kinds[index : index + 2]
                yield layer, in_block and layer.role == "project", writes_blocks


def _blocked(array: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """Zeros behind the channels up to whole blocks: wide tensors have no others."""
    room = [(0, 0)] * array.ndim
    room[axis] = (0, up_to_block(array.shape[axis]) - array.shape[axis])
    return np.pad(array, room)


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
