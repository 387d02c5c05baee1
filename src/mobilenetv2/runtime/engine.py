"""The native runtime: a checkpoint, folded and packed once, run on a plan an image size."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..errors import UserError
from ..graph import Layer, layers
from . import _native
from .inputs import check_images, to_pixels
from .packing import pack
from .plan import Plan, plan

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint

KEPT_PLANS = 16
BATCH = 4  # images at once at least; more go one group after another, so that memory stays small
MOST_THREADS = 1024
FLOAT_ISA = {"avxvnni": "avx2", "avx512vnni": "avx512"}  # what these add is for integers alone


class Engine:
    """Runs a checkpoint in float32, or a quantised one in integers. May be called from several Python threads; the GIL is released
    meanwhile.

    The answers are the same bits for any number of threads and for an image alone or in a batch.

    Args:
        checkpoint: The model.
        threads: Threads of this engine; None: the processors this process may use. With 1, calls
            from several Python threads run side by side; with more, one after another, each on all
            threads.
        isa: "scalar", "avx2" or "avx512", for integers also "avxvnni" and "avx512vnni"; None: what
            the environment variable MOBILENETV2_ISA says, else the best.

    Attributes:
        checkpoint: The model.
        threads: As chosen.
        isa: As chosen.

    Raises:
        UserError: No such number of threads, or an instruction set that is unknown or that the
            processor lacks.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        threads: int | None = None,
        isa: str | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.threads = _threads(threads)
        self._quantized = None if isinstance(checkpoint, Checkpoint) else checkpoint
        self.isa = _isa(isa, self._quantized is not None)
        if isinstance(checkpoint, Checkpoint):
            network = _native.Network(self.isa, self.threads)
            self._network: _native.ByteNetwork = network
            self._weights = pack(network, checkpoint)
        else:
            from .int8_packing import pack_int8
            from .int8_reference import check_int8

            check_int8(checkpoint)
            self._network = _native.ByteNetwork(self.isa, self.threads)
            self._weights = pack_int8(self._network, checkpoint)
        self._plans: OrderedDict[tuple[int, int, bool, int], Plan] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[Any], alone: bool = False) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) pixels -> the last layer's output: (N, classes) logits of a
        classifier, else (N, H, W, C).

        float32 images are taken as normalised already. Arrays that are not contiguous are copied
        first. With `alone` the calling thread does all of it, and such calls from several Python
        threads run side by side.

        Raises:
            UserError: Not a batch of images of the network's channels, an empty batch, or NaN.
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
        """Memory that `batch` images of this size take while they run, all scratch included, the
        images and the answer not.

        Raises:
            ArchitectureError: A side is out of range.
        """
        native = self._plan_for(height, width).native
        return self._weights.item_bytes * native.size(min(batch, self._group))

    def activation_steps(self, height: int, width: int) -> list[tuple[str, str, str, int]]:
        """Memory of each step for one image of this size, its scratch included: the step's first
        layer, its last layer, its kind, bytes. The most of them is `activation_bytes`.

        Raises:
            ArchitectureError: A side is out of range.
        """
        chosen = self._plan_for(height, width)
        return [
            (*names, self._weights.item_bytes * self._network.plan([step], self.threads).size(1))
            for names, step in zip(chosen.steps, chosen.native_steps)
        ]

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as the kernels read them: batch norms folded in, whole vectors."""
        return self._network.weight_bytes

    @property
    def _classifies(self) -> bool:
        return self.checkpoint.architecture.head == "classifier"

    @property
    def _group(self) -> int:
        """Images at once."""
        return max(BATCH, self.threads)

    def _layers(self, height: int, width: int) -> tuple[Layer, ...]:
        """What is run; `insight` runs variations of it on the same weights."""
        return layers(self.checkpoint.architecture, height, width)

    def _run(
        self, images: NDArray[Any], chosen: Plan, seconds: NDArray[np.float64] | None = None
    ) -> NDArray[np.float32]:
        """The output (N, H, W, C) of a plan's last step; the time of each step is added to
        `seconds`.
        """
        if self._quantized:
            images = to_pixels(images, self._quantized.preprocessing)
        pixels = images.dtype == np.uint8
        images = np.ascontiguousarray(images, np.uint8 if pixels else np.float32)
        run = self._network.run_pixels
        if not pixels:
            assert isinstance(self._network, _native.Network)
            run = self._network.run_values
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
                steps = self._layers(height, width)
                steps = steps[:-1] if features else steps
                found = plan(self._network, steps, self._weights, threads, self._quantized)
            self._plans[key] = found
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return found


def _threads(wanted: int | None) -> int:
    if wanted is None:
        usable = getattr(os, "sched_getaffinity", None)
        return len(usable(0)) if usable else os.cpu_count() or 1
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MOST_THREADS:
        raise UserError(
            f"threads must be a whole number from 1 to {MOST_THREADS}, not {wanted!r:.80}"
        )
    return wanted


def _isa(wanted: str | None, quantized: bool) -> str:
    known = _native.byte_kernel_names() if quantized else _native.kernel_names()
    source = "isa"
    if wanted is None:
        wanted, source = os.environ.get("MOBILENETV2_ISA") or known[-1], "MOBILENETV2_ISA"
    if wanted in _native.byte_kernel_names() and wanted not in known:
        wanted = FLOAT_ISA[wanted]
    if wanted not in known:
        raise UserError(
            f"{source} must be one that this machine has ({', '.join(known)}), not {wanted!r:.80}"
        )
    return wanted
