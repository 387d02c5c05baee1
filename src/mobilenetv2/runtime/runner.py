"""A checkpoint, folded and packed once, run with one plan per image size: memory in, memory out,
without NumPy.
"""

from __future__ import annotations

import warnings
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from ..checkpoint import Checkpoint
from ..errors import NotFiniteError, UserError
from ..graph import Network, network
from ..locks import ForkSafeLock
from . import _native
from .choices import chosen_isa, chosen_precision, chosen_threads
from .packed import Packed, packed
from .plan import Plan, plan
from .steps import Steps, group

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint

KEPT_PLANS = 16
KEPT_PACKINGS = 2  # weights laid out once more, for outputs from within steps
BATCH = 4  # images at once at least; more go one group after another, so that memory stays small


class Runner:
    """Base of `Engine`, whose arguments and attributes it has: runs a network on images as memory."""

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        threads: int | None = None,
        isa: str | None = None,
        precision: str | None = None,
    ) -> None:
        if not hasattr(checkpoint, "architecture"):
            raise UserError(
                "a Checkpoint or Int8Checkpoint is needed, as mobilenetv2.load reads it from a file, "
                f"not {type(checkpoint).__name__}"
            )
        self.checkpoint = checkpoint
        self._arguments = checkpoint, threads, isa, precision
        self.threads = chosen_threads(threads)
        self._int8 = None if isinstance(checkpoint, Checkpoint) else checkpoint
        self.precision = chosen_precision(precision, self._int8 is not None)
        self.isa = chosen_isa(isa, self.precision)
        self._described = network(checkpoint.architecture)
        self._packed = self._pack(group(self._described))
        started = self._packed.native.threads
        if started < self.threads:
            warnings.warn(
                f"the system lets this process start {started} of {self.threads} threads",
                RuntimeWarning,
                stacklevel=2,
            )
            self.threads = started
        self._repacked: list[Packed] = []
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        self._lock = ForkSafeLock()

    def __reduce__(self) -> tuple[type[Runner], tuple[Any, ...]]:
        return type(self), self._arguments

    @property
    def _group(self) -> int:
        """Images at once."""
        return max(BATCH, self.threads)

    def _network(self, height: int, width: int) -> Network:
        """What is run; `insight` runs variations of it on the same weights."""
        return network(self.checkpoint.architecture, height, width)

    def _pack(self, steps: Steps) -> Packed:
        return packed(self.checkpoint, self.precision, self.isa, self.threads, steps)

    def _finite(
        self,
        images: memoryview,
        names: tuple[str, ...] | None = None,
        threads: int | None = None,
        seconds: array[float] | None = None,
        mask_of: str | None = None,
    ) -> dict[str, memoryview]:
        """What `_computed` gives, or an error where it is not finite."""
        answers = self._computed(images, names, threads, seconds, mask_of)
        if self._int8 is None:
            for values in answers.values():
                if values.format == "f" and not _native.all_finite(values):
                    raise self._not_finite(images, _first_not_finite(values))
        return answers

    def _not_finite(self, images: memoryview, index: int) -> NotFiniteError:
        """The error that names the first layer whose values are not finite for an image."""
        names = tuple(step.layers[-1] for step in self._packed.steps.steps)
        values = self._computed(images[index : index + 1], names)
        layer = next(name for name in names if not _native.all_finite(values[name]))
        image = f"image {index} of the batch: " if len(images) > 1 else ""
        return NotFiniteError(
            f"{image}the values after layer {layer} are not finite; the weights are damaged or too "
            "large"
        )

    def _computed(
        self,
        images: memoryview,
        names: tuple[str, ...] | None = None,
        threads: int | None = None,
        seconds: array[float] | None = None,
        mask_of: str | None = None,
    ) -> dict[str, memoryview]:
        """The outputs (N, H, W, C) by name: those asked for, or the network's own; and with `mask_of`
        the best class of each pixel of that map, (N, H, W). The time of each step is added to
        `seconds`.
        """
        _, height, width, _ = cast(tuple[int, ...], images.shape)
        weights = self._packed_steps(names)
        chosen = self._plan_for(height, width, weights, names, threads, mask_of)
        native = weights.native
        run = native.run_pixels
        if images.format == "f":
            run = cast("_native.Network", native).run_values
        answers = chosen.empty_answers(len(images))
        for begin in range(0, len(images), self._group):
            part = slice(begin, begin + self._group)
            run(
                chosen.native,
                images[part],
                [answer[part] for answer in answers.values()],
                seconds,
            )
        return answers

    def _packed_steps(self, names: tuple[str, ...] | None) -> Packed:
        """The weights laid out for these outputs: the engine's own, or those packed for earlier
        outputs, where their steps are among them.
        """
        if names is None:
            return self._packed
        steps = group(self._described, names)
        with self._lock:
            for before in (self._packed, *self._repacked):
                if set(steps.steps) <= set(before.steps.steps):
                    return Packed(before.native, steps, before.weights)
            if len(self._repacked) == KEPT_PACKINGS:
                self._plans.clear()  # some are of the weights that go
                self._repacked.pop(0)
            self._repacked.append(self._pack(steps))
            return self._repacked[-1]

    def _plan_for(
        self,
        height: int,
        width: int,
        weights: Packed | None = None,
        names: tuple[str, ...] | None = None,
        threads: int | None = None,
        mask_of: str | None = None,
    ) -> Plan:
        """The plan for a size, outputs, a mask and a number of threads; the most recent ones are
        remembered.
        """
        weights = weights or self._packed
        threads = 1 if threads == 1 else weights.native.threads
        key = names, mask_of, height, width, threads
        with self._lock:
            chosen = self._plans.pop(key, None)
            if chosen is None:
                chosen = plan(
                    weights.native,
                    self._network(height, width),
                    weights.steps,
                    weights.weights,
                    threads,
                    self._int8,
                    mask_of,
                )
            self._plans[key] = chosen
            if len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return chosen


def _first_not_finite(values: memoryview) -> int:
    """Index of the first image with a value that is not finite, which there must be."""
    images = (values[index : index + 1] for index in range(len(values)))
    return [_native.all_finite(image) for image in images].index(False)
