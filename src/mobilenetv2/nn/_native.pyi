"""Training steps in C++ (native/): maps channels last, of float32 or bfloat16, channels a multiple
of 8; everything else float32. Results are written into the arrays given for them.
"""

from typing import Any

def instruction_sets() -> list[str]: ...

class Training:
    def __init__(self, isa: str, threads: int) -> None: ...
    @property
    def group(self) -> int: ...
    def norm(
        self,
        in_: Any,
        weight: Any,
        bias: Any,
        epsilon: float,
        relu6: bool,
        mean: Any,
        variance: Any,
        out: Any,
    ) -> None: ...
    def norm_gradient(
        self,
        gradient: Any,
        in_: Any,
        weight: Any,
        bias: Any,
        epsilon: float,
        relu6: bool,
        mean: Any,
        variance: Any,
        out: Any,
        weight_gradient: Any,
        bias_gradient: Any,
    ) -> None: ...
    def depthwise(
        self, in_: Any, weights: Any, stride: int, top: int, left: int, out: Any
    ) -> None: ...
    def depthwise_gradient(
        self,
        gradient: Any,
        in_: Any,
        weights: Any,
        stride: int,
        top: int,
        left: int,
        out: Any,
        weight_gradient: Any,
    ) -> None: ...
    def residual(
        self,
        in_: Any,
        expand: Any,
        norms: Any,
        taps: Any,
        project: Any,
        expand_epsilon: float,
        depthwise_epsilon: float,
        stride: int,
        top: int,
        left: int,
        moments: Any,
        statistics: Any,
        kept: Any,
        out: Any,
    ) -> None: ...
    def residual_gradient(
        self,
        gradient: Any,
        in_: Any,
        expand: Any,
        norms: Any,
        taps: Any,
        project: Any,
        expand_epsilon: float,
        depthwise_epsilon: float,
        stride: int,
        top: int,
        left: int,
        moments: Any,
        statistics: Any,
        kept: Any,
        out: Any,
        for_expand: Any,
        for_norms: Any,
        for_taps: Any,
        for_project: Any,
    ) -> None: ...
