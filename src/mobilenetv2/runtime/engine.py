"""The native runtime: NumPy's arrays in, arrays out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..arguments import check_whole
from ..errors import UserError
from .inputs import check_images, checked_names, to_pixels
from .plan import MASK
from .runner import Runner
from .steps import group

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Engine(Runner):
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

    def logits(self, pixels: memoryview, alone: bool = False) -> list[memoryview]:
        """The logits of a classifier, without NumPy, whose import takes longer than many a call.

        Args:
            pixels: Bytes (N, H, W, C), contiguous, as `preparing` gives them.
            alone: As for the call.

        Returns:
            Of each image (classes,) float32.

        Raises:
            NotFiniteError: An image has an answer that is not finite.
        """
        (values,) = self._finite(pixels, threads=1 if alone else None).values()
        flat: memoryview[Any] = values.cast("B").cast("f")
        classes = len(flat) // len(pixels)
        return [flat[begin : begin + classes] for begin in range(0, len(flat), classes)]

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
        import numpy as np

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
        seconds = array("d", bytes(8 * len(steps)))
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

    def _shaped(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, classes) of logits, else (N, H, W, C) as it is."""
        linear = self._described[name].kind == "linear"
        return values.reshape(len(values), -1) if linear else values

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
        seconds: array[float] | None = None,
        mask_of: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """What `_finite` gives, of arrays that are checked first, as arrays."""
        import numpy as np

        checkpoint = self.checkpoint
        check_images(images, checkpoint.architecture.in_channels, checkpoint.preprocessing)
        if self._int8:
            images = to_pixels(images, self._int8.preprocessing)
        images = np.ascontiguousarray(images, np.uint8 if images.dtype == np.uint8 else np.float32)
        answers = self._finite(images.data, names, threads, seconds, mask_of)
        return {name: np.asarray(values) for name, values in answers.items()}
