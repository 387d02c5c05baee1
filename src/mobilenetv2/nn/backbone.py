"""The network up to its last map as a `torch.nn.Module`, built by a loop over the layers of `graph`.
The state-dict keys are those of torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..architecture import Architecture
from ..checkpoint import Checkpoint, check_classes
from ..errors import ArchitectureError, ModelFileError, UserError, shortened
from ..graph import array_shapes, blocks, network
from ..images import Preprocessing
from .blocks import FeatureModules, InvertedResidual, WideFeatureModules, conv_norm
from .unchanged import differences

# share of the old statistics kept at each step; TF-slim mobilenet.py training_scope
PAPER_BN_DECAY = 0.997
PAPER_INIT_STD = 0.09  # truncated normal; TF-slim mobilenet.py training_scope


@dataclass(frozen=True)
class FeatureTap:
    """A map that `forward_pyramid` returns: the output of `features[index]`.

    Attributes:
        index: Index in `features`.
        channels: Channels of the map.
        stride: Pixels of the input per pixel of the map.
    """

    index: int
    channels: int
    stride: int


class FeatureInfo(list[dict[str, Any]]):
    """The levels of a network, as timm describes them: a dict for the map at the end of each stage
    before the size is halved, with `stage`, `reduction`, `module`, `num_chs` and `index`.

    Args:
        levels: All of them.
        out_indices: Those that the network returns, in this order.
    """

    def __init__(self, levels: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        super().__init__(levels)
        self.out_indices = tuple(out_indices)

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of the maps that are returned, or of the given levels."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels of the input per pixel of each map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Name of the module that gives each map."""
        return self.get("module", idx)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One value of the maps that are returned, of one level (an int) or of several."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[i][key] for i in (self.out_indices if idx is None else idx)]

    def module_indices(self) -> list[int]:
        """Indices in `features` of the modules whose maps are returned."""
        return [_index(self[i]) for i in self.out_indices]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """As `get`, for several values or all."""
        if isinstance(idx, int):
            return self.get_dicts(keys, [idx])[0]
        levels = [self[i] for i in (self.out_indices if idx is None else idx)]
        return [{key: level[key] for key in keys or level} for level in levels]


class Backbone(nn.Module):
    """Stem, inverted residuals and last convolution.

    Args:
        architecture: Which network.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from the first block.
        bn_decay: Share of the old running statistics kept at each step (PyTorch calls 1 - bn_decay
            "momentum").

    Attributes:
        features: The modules, as in torchvision.
        taps: What `forward_pyramid` returns.
        feature_info: The levels, as timm describes them.
        num_features: Channels of the last map; timm's name.

    Raises:
        ArchitectureError: A rate outside [0, 1).
    """

    def __init__(
        self, architecture: Architecture, *, drop_path_rate: float, bn_decay: float
    ) -> None:
        super().__init__()
        check_rates(drop_path_rate=drop_path_rate, bn_decay=bn_decay)
        self.architecture = architecture
        steps = network(architecture).layers
        block_count = max(layer.block or 0 for layer in steps)
        modules: list[nn.Module] = []
        taps: list[FeatureTap] = []
        stride = 1
        for block, group in groupby(
            (layer for layer in steps if layer.name.startswith("features.")),
            key=lambda layer: layer.block,
        ):
            records = list(group)
            if block is None:
                modules += [
                    nn.Sequential(*conv_norm(layer, architecture.padding, bn_decay))
                    for layer in records
                ]
            else:
                rate = drop_path_rate * (block - 1) / max(1, block_count - 1)
                modules.append(InvertedResidual(records, architecture.padding, bn_decay, rate))
            for layer in records:
                stride *= layer.stride
            if block is not None:
                taps = [tap for tap in taps if tap.stride != stride]
                taps.append(FeatureTap(block, records[-1].out_shape[0], stride))
            self.num_features = records[-1].out_shape[0]
        wide = architecture.shortcut == "expansion"
        self.features = (WideFeatureModules if wide else FeatureModules)(*modules)
        self.taps = tuple(taps)
        levels = _levels(architecture)
        self.feature_info = FeatureInfo(levels, range(len(levels)))

    def reset_parameters(self) -> None:
        """Initialises as TF-slim does: kernels from a normal distribution truncated at two standard
        deviations, batch norms to the identity.
        """
        for module in self.modules():
            initialise(module)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the map before pooling, (N, last, H / 32, W / 32) at output
        stride 32.
        """
        return self.features(x)  # type: ignore[no-any-return]

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps that `taps` describes: the last one of each stride."""
        return self.features.maps(x, [tap.index for tap in self.taps])

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> Any:
        """The last map and the maps of the levels of `feature_info`, in the network's order.

        Args:
            x: (N, in_channels, H, W).
            indices: Which levels, those below 0 counted from the end; an int: the last so many;
                None: all.
            norm: Without effect, as in timm: each map is normalised already.
            stop_early: Run no further than the last of them, whose map is then the last map.
            output_fmt: "NCHW".
            intermediates_only: Return the maps of the levels alone.
            extra_blocks: Take the stem and the ends of all stages as levels.

        Raises:
            UserError: No such level or format.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt must be 'NCHW', not {output_fmt!r:.80}")
        levels = _stage_ends(self.architecture) if extra_blocks else self.feature_info
        taken = [_index(levels[i]) for i in checked_indices(indices, len(levels))]
        last = len(self.features) - 1
        maps = self.features.maps(x, taken if stop_early or intermediates_only else [*taken, last])
        if intermediates_only:
            return maps
        return maps[-1], maps[: len(taken)]

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Copies the arrays of a checkpoint into the module.

        Raises:
            ModelFileError: An array is missing, unknown or of another shape; the first is named.
        """
        self.load_arrays(checkpoint.arrays)

    def load_arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Copies arrays with torchvision's names into the module; raises as `load_checkpoint`."""
        shapes = array_shapes(self.architecture)
        for name in sorted(shapes.keys() | arrays.keys()):
            expected = shapes.get(name, "nothing")
            shape = arrays[name].shape if name in arrays else "nothing"
            if shape != expected:
                raise ModelFileError(
                    f"{name}: the network needs {expected}, the checkpoint has {shape}"
                )
        self.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, strict=True
        )

    def to_checkpoint(
        self,
        *,
        labels: Sequence[str] | None = (),
        preprocessing: Preprocessing | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """A copy of the arrays as a `Checkpoint`, to save or to run without PyTorch.

        Args:
            labels: Names of the classes, in their order; None or () for none.
            preprocessing: What the weights expect. Default: the size of the architecture, and
                values from -1 to 1.
            provenance: Where the weights come from.

        Raises:
            UserError: The network was changed in a way that a checkpoint cannot hold, or labels or
                provenance are of another type.
        """
        architecture, state = self._described()
        check_classes(architecture)
        changed = list(self._changes())
        if changed:
            raise UserError(
                "the network is no longer that of its architecture, which is what a checkpoint "
                f"holds: {shortened(changed, 3, '; ')}"
            )
        arrays = {
            name: state[name].float().cpu().numpy().copy() for name in array_shapes(architecture)
        }
        half = (0.5,) * architecture.in_channels
        preprocessing = preprocessing or Preprocessing(
            size=architecture.resolution, mean=half, std=half
        )
        if hasattr(labels, "tolist"):  # an array or a column of texts
            labels = labels.tolist()
        if isinstance(labels, Sequence) and not isinstance(labels, str):
            labels = tuple(labels)
        facts = {} if provenance is None else provenance
        return Checkpoint(
            architecture,
            arrays,
            () if labels is None else labels,  # type: ignore[arg-type]
            preprocessing,
            dict(facts) if isinstance(facts, Mapping) else facts,
        )

    def _changes(self) -> Iterator[str]:
        """What differs from a new network of the architecture, a sentence for each."""
        with torch.device("meta"):
            described = Backbone(self.architecture, drop_path_rate=0.0, bn_decay=PAPER_BN_DECAY)
        for text in differences(self.features, described.features):
            yield f"features.{text}"

    def _described(self) -> tuple[Architecture, dict[str, Tensor]]:
        """The architecture and the arrays as they are now."""
        return self.architecture, self.state_dict()


def initialise(module: nn.Module, std: float = PAPER_INIT_STD) -> None:
    """Initialises one layer as `Backbone.reset_parameters` does; leaves other modules alone."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


def check_rates(**rates: float) -> None:
    """Refuses a rate outside [0, 1), by its name.

    Raises:
        ArchitectureError: One is.
    """
    for name, value in rates.items():
        if not isinstance(value, Real) or not 0 <= value < 1:
            raise ArchitectureError(f"{name} must be at least 0 and below 1, not {value!r}")


def checked_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Indices of levels, rising: all (None), the last so many (an int), or those given, where
    negative ones count from the end.

    Raises:
        UserError: There is no such level.
    """
    if indices is None:
        return list(range(count))
    taken = list(range(-indices, 0)) if isinstance(indices, int) else list(indices)
    if not taken or not all(isinstance(i, int) and -count <= i < count for i in taken):
        raise UserError(f"indices of levels are from 0 to {count - 1}, not {indices!r:.80}")
    return sorted({i % count for i in taken})


def _stage_ends(architecture: Architecture) -> list[dict[str, Any]]:
    """The stem and the last block of each stage, as `FeatureInfo` describes a level."""
    resolved = blocks(architecture)
    stride, index = architecture.stem_stride, 0
    ends = [{"stage": 0, "reduction": stride, "module": "features.0"}]
    ends[0]["num_chs"] = resolved[0].in_channels
    for number, stage in enumerate(architecture.stages, 1):
        for block in resolved[index : index + stage.repeats]:
            stride *= block.stride
        index += stage.repeats
        end = {"stage": number, "reduction": stride, "module": f"features.{index}"}
        ends.append({**end, "num_chs": resolved[index - 1].out_channels})
    return ends


def _levels(architecture: Architecture) -> list[dict[str, Any]]:
    """The ends of stages before which the size is, or without dilation would be, halved."""
    halved = [*(stage.stride > 1 for stage in architecture.stages), True]
    ends = [end for end, last in zip(_stage_ends(architecture), halved, strict=True) if last]
    return [{**end, "index": index} for index, end in enumerate(ends)]


def _index(level: Mapping[str, Any]) -> int:
    return int(level["module"].rpartition(".")[2])
