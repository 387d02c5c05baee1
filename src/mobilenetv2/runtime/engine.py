"""The native runtime: a checkpoint, folded and packed once, run with one plan per image size."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_whole
from ..checkpoint import Checkpoint
from ..errors import NotFiniteError, UserError
from ..graph import Network, network
from ..locks import ForkSafeLock
from .choices import chosen_isa, chosen_precision, chosen_threads
from .inputs import check_images, checked_names, to_pixels
from .packed import Packed, packed
from .plan import MASK, Plan, plan
from .steps import Steps, group

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint
    from . import _native

KEPT_PLANS = 16
KEPT_PACKINGS = 2  # weights laid out once more, for outputs from within steps
BATCH = 4  # images at once at least; more go one group after another, so that memory stays small


class Engine:
    """Runs a checkpoint on the CPU, in float32, bfloat16 or int8.

    It may be called from several Python threads and in forked children; the GIL is released
    meanwhile. The answers are the same bits for any number of threads, and for an image alone or in
    a batch. A copy, or an engine that is unpickled, is made anew from the arguments.

    Args:
        checkpoint: The model.
        threads: Threads of this engine; None: what the environment variable MOBILENETV2_THREADS
            says, else the processors that this process may use. With 1, calls from several Python
            threads run side by side; with more, one after another, each on all threads.
        isa: Instruction set, such as "avx2"; None: what the environment variable MOBILENETV2_ISA
            says, else the best.
        precision: What float weights run in: "float32", or "bf16", where weights and activations are
            bfloat16, and sums float32; None: "float32". An int8 checkpoint runs in int8.

    Attributes:
        checkpoint: The model.
        threads: As chosen, or with a warning fewer, where the system gives no more.
        isa: As chosen.
        precision: "float32", "bf16" or "int8".

    Raises:
        UserError: No such number of threads; an instruction set or a precision that is unknown or
            that the processor lacks; an int8 checkpoint with a precision; or an int8 network that
            has layers without int8 kernels.
    """

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

    def __reduce__(self) -> tuple[type[Engine], tuple[Any, ...]]:
        return type(self), self._arguments

    def __call__(self, images: NDArray[Any], alone: bool = False) -> Any:
        """Runs the network on a batch of images.

        Args:
            images: uint8 pixels (N, H, W, C), or float32 that is normalised already. Arrays that are
                not contiguous are copied first.
            alone: The calling thread does all of the work, and such calls from several Python
                threads run side by side.

        Returns:
            The network's output, float32: (N, classes) logits of a classifier, else (N, H, W, C). A
            network with several outputs gives a dict of them by name.

        Raises:
            UserError: Not a batch of images of the network's channels, an empty batch, or NaN.
            NotFiniteError: An image has an answer that is not finite.
        """
        outputs = self._run(images, threads=1 if alone else None)
        answer = {name: self._shaped(name, values) for name, values in outputs.items()}
        return next(iter(answer.values())) if len(answer) == 1 else answer

    def outputs(self, images: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Named tensors of the network, such as the levels of a feature pyramid.

        The first call for tensors inside an inverted residual or a chain packs the weights once
        more, for the steps that then run apart.

        Args:
            images: As for the call.
            names: Names of layers, as `mobilenetv2 cost` lists them.

        Returns:
            By name, float32 (N, H, W, C).

        Raises:
            UserError: As for the call; an unknown name; or, in int8, a tensor that the network does
                not store.
        """
        names = checked_names(names)
        self._check_names(names)
        return self._run(images, names)

    def features(self, images: NDArray[Any], alone: bool = False) -> NDArray[np.float32]:
        """The last map of the network before any classifier layer, averaged over its places.

        Args:
            images: As for the call.
            alone: As for the call.

        Returns:
            (N, channels) float32.

        Raises:
            UserError: As for the call, and where the head is neither a classifier nor `Features`.
        """
        head = self.checkpoint.architecture.head
        if head.task not in ("classification", "features"):
            raise UserError(
                f"the model's head is {head}: it has no features of a whole image; calling it gives "
                "its map"
            )
        last = self._described[self._described.outputs[0]]
        names = last.sources if last.kind == "linear" else (last.name,)
        (values,) = self._run(images, names, 1 if alone else None).values()
        vectors: NDArray[np.float32] = values.mean((1, 2), np.float64).astype(np.float32)
        return vectors

    def mask(self, images: NDArray[Any], alone: bool = False) -> NDArray[Any]:
        """The best class of each pixel, of a segmenter: the first of the greatest scores of the call.
        The scores at the image's size never exist.

        Args:
            images: As for the call.
            alone: As for the call.

        Returns:
            (N, H, W) uint8; uint16 of more than 256 classes.

        Raises:
            UserError: As for the call, or the head is no segmenter.
            NotFiniteError: As for the call.
        """
        head = self.checkpoint.architecture.head
        if head.task != "segmentation":
            raise UserError(f"the model's head is {head}: it gives no mask")
        scores = self._described[self._described.outputs[0]]
        name = scores.sources[0] if scores.kind == "resize" else scores.name
        return self._run(images, (name,), 1 if alone else None, mask_of=scores.name)[MASK]

    def profile(self, images: NDArray[Any]) -> list[tuple[str, str, str, float]]:
        """Runs once and measures each step: its first layer, its last layer, its kind, milliseconds.

        Args:
            images: As for the call.

        Raises:
            UserError: As for the call.
        """
        check_images(images, self.checkpoint.architecture.in_channels)
        height, width = images.shape[1:3]
        steps = self._plan_for(height, width).steps
        seconds = np.zeros(len(steps))
        self._run(images, seconds=seconds)
        sums = dict.fromkeys(steps, 0.0)  # of all bands of a step
        for names, taken in zip(steps, seconds.tolist()):
            sums[names] += 1e3 * taken
        return [(*names, taken) for names, taken in sums.items()]

    def activation_bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Memory that `batch` images of this size take while they run, all scratch included, the
        images and the answer not.

        Raises:
            UserError: A side or `batch` is out of range.
        """
        batch = check_whole("batch", batch)
        native = self._plan_for(height, width).native
        return self._packed.weights.item_bytes * native.size(min(batch, self._group))

    def activation_steps(self, height: int, width: int) -> list[tuple[str, str, str, int]]:
        """Memory of each step for one image of this size, its scratch included: the step's first
        layer, its last layer, its kind, bytes. The most of them is `activation_bytes`.

        Raises:
            ArchitectureError: A side is out of range.
        """
        chosen = self._plan_for(height, width)
        native, item_bytes = self._packed.native, self._packed.weights.item_bytes
        most = dict.fromkeys(chosen.steps, 0)  # of all bands of a step
        for names, step in zip(chosen.steps, chosen.native_steps):
            size = native.plan([step], self.threads).size(1)
            most[names] = max(most[names], item_bytes * size)
        return [(*names, size) for names, size in most.items()]

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as the kernels read them: batch norms folded in, whole vectors."""
        return self._packed.native.weight_bytes

    @property
    def _group(self) -> int:
        """Images at once."""
        return max(BATCH, self.threads)

    def _network(self, height: int, width: int) -> Network:
        """What is run; `insight` runs variations of it on the same weights."""
        return network(self.checkpoint.architecture, height, width)

    def _shaped(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, classes) of logits, else (N, H, W, C) as it is."""
        linear = self._described[name].kind == "linear"
        return values.reshape(len(values), -1) if linear else values

    def _pack(self, steps: Steps) -> Packed:
        return packed(self.checkpoint, self.precision, self.isa, self.threads, steps)

    def _check_names(self, names: tuple[str, ...]) -> None:
        unknown = sorted(set(names) - {layer.name for layer in self._described.layers})
        if unknown or not names:
            shown = ", ".join(map(repr, unknown)) or "no name"
            raise UserError(f"no layer named {shown}; `mobilenetv2 cost` lists them")
        if self._int8 is not None:
            self._check_stored(names)

    def _check_stored(self, names: tuple[str, ...]) -> None:
        """Refuses tensors that an int8 network does not store, or cannot without another kernel."""
        from ..int8 import float_results

        assert self._int8 is not None
        results = float_results(self._described, self._int8.rounding)
        missing = sorted(set(names) - set(self._int8.activations) - results)
        if not missing:
            apart = group(self._described, names).steps
            missing = [step.layers[0] for step in apart if step.kind == "add"]
        if missing:
            raise UserError(
                f"int8 adds a shortcut before it stores the sum: {missing[0]} is not to be had "
                "together with these names; ask for the sums, or use the float model"
            )

    def _run(
        self,
        images: NDArray[Any],
        names: tuple[str, ...] | None = None,
        threads: int | None = None,
        seconds: NDArray[np.float64] | None = None,
        mask_of: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """What `_computed` gives, of images that were checked, or an error where it is not finite."""
        checkpoint = self.checkpoint
        check_images(images, checkpoint.architecture.in_channels, checkpoint.preprocessing)
        answers = self._computed(images, names, threads, seconds, mask_of)
        if self._int8 is None:
            for values in answers.values():
                if not np.isfinite(values).all():
                    finite = np.isfinite(values.reshape(len(values), -1)).all(1)
                    raise self._not_finite(images, int(finite.argmin()))
        return answers

    def _not_finite(self, images: NDArray[Any], index: int) -> NotFiniteError:
        """The error that names the first layer whose values are not finite for an image."""
        names = tuple(step.layers[-1] for step in self._packed.steps.steps)
        values = self._computed(images[index : index + 1], names)
        layer = next(name for name in names if not np.isfinite(values[name]).all())
        image = f"image {index} of the batch: " if len(images) > 1 else ""
        return NotFiniteError(
            f"{image}the values after layer {layer} are not finite; the weights are damaged or too "
            "large"
        )

    def _computed(
        self,
        images: NDArray[Any],
        names: tuple[str, ...] | None = None,
        threads: int | None = None,
        seconds: NDArray[np.float64] | None = None,
        mask_of: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The outputs (N, H, W, C) by name: those asked for, or the network's own; and with `mask_of`
        the best class of each pixel of that map, (N, H, W). The time of each step is added to
        `seconds`.
        """
        height, width = images.shape[1:3]
        weights = self._packed_steps(names)
        chosen = self._plan_for(height, width, weights, names, threads, mask_of)
        native = weights.native
        if self._int8:
            images = to_pixels(images, self._int8.preprocessing)
        pixels = images.dtype == np.uint8
        images = np.ascontiguousarray(images, np.uint8 if pixels else np.float32)
        run = native.run_pixels
        if not pixels:
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
