from array import array
from collections.abc import Sequence
from enum import Enum
from typing import Any

from numpy.typing import NDArray

Memory = memoryview[Any] | NDArray[Any]
BLOCK: int
IMAGE: int
ANSWER: int

def instruction_sets() -> list[str]: ...
def kernel_names() -> list[str]: ...
def bf16_kernel_names() -> list[str]: ...
def byte_kernel_names() -> list[str]: ...
def float_target(isa: str) -> str | None: ...
def fma_rate(isa: str) -> float: ...
def bf16_fma_rate(isa: str) -> float: ...
def byte_fma_rate(isa: str) -> float: ...

class Filter(Enum):
    BILINEAR = ...
    BICUBIC = ...
    LANCZOS = ...

def resample(
    image: object,
    size: tuple[int, int],
    resized: tuple[int, int],
    offset: tuple[int, int],
    filter: Filter,
    pixels: Memory,
) -> None: ...
def all_finite(values: Memory) -> bool: ...
def fold(
    kernel: Memory,
    shape: tuple[int, int, int],
    depthwise: bool,
    norm: Sequence[Memory],
    epsilon: float,
    scale: list[float],
    offset: list[float],
    weights: Memory,
    bias: Memory,
) -> bool: ...

class FactorForm(Enum):
    TOO_LARGE = ...
    PLAIN = ...
    COLLAPSED = ...

def int8_factors(
    scales: Memory,
    input: float,
    in_float: bool,
    outcome: float,
    may_collapse: bool,
    split: Sequence[Memory],
    factor: Memory | None = None,
) -> FactorForm: ...
def int8_bias(
    values: Memory,
    zero: int,
    shape: tuple[int, int, int],
    bias: Memory,
    zeros: list[int],
    factor: Memory | None,
    result: Memory,
) -> tuple[int, int, float]: ...
def int8_matrix(
    values: Memory,
    zero: int,
    shape: tuple[int, int, int],
    middle: int,
    inputs: int,
    rows: Memory,
) -> None: ...
def int8_taps(
    values: Memory, zero: int, shape: tuple[int, int, int], parts: int, taps: Memory
) -> None: ...
def best_classes(logits: Memory, count: int) -> list[tuple[int, float]]: ...

class Twice:
    def __init__(self, fraction: float, power: float) -> None: ...
    @property
    def fraction(self) -> float: ...
    @property
    def power(self) -> float: ...

class Program:
    def __init__(self, content: bytes, threads: int, isa: str) -> None: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def info(self) -> str: ...
    @property
    def outputs(self) -> list[tuple[str, int, int, int, int]]: ...
    def run(self, pixels: NDArray[Any], answers: list[NDArray[Any]]) -> None: ...

class RoundingMode(Enum):
    ONCE = ...
    ONCE_SATURATING = ...
    TWICE = ...
    TWICE_NON_NEGATIVE = ...
    ONCE_TO_FLOAT = ...
    TWICE_TO_FLOAT = ...

class Rounding:
    mode: RoundingMode
    zero: int
    input_zero: int
    low: float
    high: float
    product_low: float
    product_high: float
    shortcut_zero: int
    shortcut_factor: float
    product: Twice
    shortcut: Twice
    total: Twice
    float_scale: float

class Stage:
    in_height: int
    in_width: int
    in_channels: int
    wide_channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    top: int
    left: int
    conv: int
    conv_pixels: int
    expand: int
    depthwise: int
    project: int
    wide_low: float
    wide_high: float
    low: float
    high: float
    shortcut: bool
    strip: int

class StepKind(Enum):
    ROWS = ...
    PLANE = ...
    MATMUL = ...
    MEAN = ...
    ADD = ...
    CONCAT = ...
    RESIZE = ...
    LABELS = ...
    TO_FLOAT = ...

class Step:
    kind: StepKind
    stages: list[Stage]
    inputs: list[int]
    input_channels: list[int]
    output: int
    scratch: int
    top: int
    chunk: int
    stripes: int
    matrix: int
    low: float
    high: float
    rounding: Rounding
    mean_factor: float
    mean_divisor: float
    rescaling: list[int]
    reads_floats: bool
    signed_codes: bool
    label_bytes: int
    in_channels: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    out_channels: int

def rows_scratch(step: Step, item_bytes: int) -> int: ...

class Plan:
    def size(self, images: int) -> int: ...

class ByteNetwork:
    def __init__(self, isa: str, threads: int) -> None: ...
    @property
    def panel_channels(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def reserve(self, weights: int) -> None: ...
    def add_matrix(
        self,
        weights: Memory,
        bias: Memory,
        input_factor: int = 0,
        tail: int = 0,
        factor: Memory | None = None,
        fraction: Memory | None = None,
        power: Memory | None = None,
        rounding: Rounding = ...,
    ) -> int: ...
    def add_depthwise(
        self,
        weights: Memory,
        bias: Memory,
        copies: int = 1,
        factor: Memory | None = None,
        fraction: Memory | None = None,
        power: Memory | None = None,
        rounding: Rounding = ...,
    ) -> int: ...
    def set_pixel_padding(self, values: list[float]) -> None: ...
    def plan(self, steps: list[Step], threads: int) -> Plan: ...
    def run_pixels(
        self,
        plan: Plan,
        images: Memory,
        answers: Sequence[Memory],
        seconds: Memory | array[float] | None = None,
    ) -> None: ...

class Network(ByteNetwork):
    def run_values(
        self,
        plan: Plan,
        images: Memory,
        answers: Sequence[Memory],
        seconds: Memory | array[float] | None = None,
    ) -> None: ...

class BF16Network(Network): ...
