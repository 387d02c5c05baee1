"""What the paper and TF-slim print about cost and accuracy, as data. `paper` compares it with ours."""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import OutputStride


@dataclass(frozen=True)
class Table3Row:
    """One resolution of Table 3: largest (channels, Kb at 16 bit) to be materialised; the last row
    is the maximum.
    """

    size: str
    mobilenet_v1: tuple[int | None, str]
    mobilenet_v2: tuple[int | None, str]
    shufflenet: tuple[int | None, str]


@dataclass(frozen=True)
class Table4Row:
    """One network on ImageNet: top-1 in percent, parameters, multiply-adds, milliseconds on one
    core of a Pixel 1.
    """

    network: str
    top1: float
    parameters: str
    macs: str
    cpu_ms: int | None


@dataclass(frozen=True)
class Table5Row:
    """One detection head on MobileNetV2 alone, the backbone left out: parameters, multiply-adds."""

    head: str
    parameters: str
    macs: str


@dataclass(frozen=True)
class Table6Row:
    """One detector on COCO: mAP on test-dev, parameters, multiply-adds, milliseconds on one core of a
    Pixel 1.
    """

    network: str
    map: float
    parameters: str
    macs: str
    cpu_ms: int | None


@dataclass(frozen=True)
class Table7Row:
    """One network with DeepLabv3 on PASCAL VOC 2012: mIOU in percent, parameters, multiply-adds."""

    network: str
    output_stride: OutputStride
    aspp: bool
    multi_scale: bool
    miou: float
    parameters: str
    macs: str


@dataclass(frozen=True)
class SlimRow:
    """One published checkpoint: multiply-adds, parameters, top-1 and top-5 in percent, milliseconds
    on a Pixel 1.
    """

    width_mult: float
    resolution: int
    macs: str
    parameters: str
    top1: float
    top5: float
    pixel1_ms: float


# fmt: off
TABLE_3 = (  # Sandler et al. 2018, v4
    #         size       MobileNetV1     MobileNetV2    ShuffleNet (2x, g=3)
    Table3Row("112x112", (64, "1600K"),  (16, "400K"),  (32, "800K")),
    Table3Row("56x56",   (128, "800K"),  (32, "200K"),  (48, "300K")),
    Table3Row("28x28",   (256, "400K"),  (64, "100K"),  (400, "600K")),
    Table3Row("14x14",   (512, "200K"),  (160, "62K"),  (800, "310K")),
    Table3Row("7x7",     (1024, "199K"), (320, "32K"),  (1600, "156K")),
    Table3Row("1x1",     (1024, "2K"),   (1280, "2K"),  (1600, "3K")),
    Table3Row("max",     (None, "1600K"), (None, "400K"), (None, "600K")),
)
TABLE_4 = (  # Sandler et al. 2018, v4
    #         network              top-1 params  MAdds   CPU ms
    Table4Row("MobileNetV1",       70.6, "4.2M", "575M", 113),
    Table4Row("ShuffleNet (1.5)",  71.5, "3.4M", "292M", None),
    Table4Row("ShuffleNet (x2)",   73.7, "5.4M", "524M", None),
    Table4Row("NasNet-A",          74.0, "5.3M", "564M", 183),
    Table4Row("MobileNetV2",       72.0, "3.4M", "300M", 75),
    Table4Row("MobileNetV2 (1.4)", 74.7, "6.9M", "585M", 143),
)
TABLE_5 = (  # Sandler et al. 2018, v4
    #         head       params   MAdds
    Table5Row("SSD",     "14.8M", "1.25B"),
    Table5Row("SSDLite", "2.1M",  "0.35B"),
)
TABLE_6 = (  # Sandler et al. 2018, v4; the first three are quoted from the paper of YOLO9000
    #         network              mAP   params   MAdd     CPU ms
    Table6Row("SSD300",            23.2, "36.1M", "35.2B", None),
    Table6Row("SSD512",            26.8, "36.1M", "99.5B", None),
    Table6Row("YOLOv2",            21.6, "50.7M", "17.5B", None),
    Table6Row("MNet V1 + SSDLite", 22.2, "5.1M",  "1.3B",  270),
    Table6Row("MNet V2 + SSDLite", 22.1, "4.3M",  "0.8B",  200),
)
TABLE_7 = (  # Sandler et al. 2018, v4; V2's heads stand on the 320-channel map
    #         network       OS  ASPP   MF     mIOU   params    MAdds
    Table7Row("MNet V1",    16, True,  False, 75.29, "11.15M", "14.25B"),
    Table7Row("MNet V1",     8, True,  True,  78.56, "11.15M", "941.9B"),
    Table7Row("MNet V2*",   16, True,  False, 75.70, "4.52M",  "5.8B"),
    Table7Row("MNet V2*",    8, True,  True,  78.42, "4.52M",  "387B"),
    Table7Row("MNet V2*",   16, False, False, 75.32, "2.11M",  "2.75B"),
    Table7Row("MNet V2*",    8, False, True,  77.33, "2.11M",  "152.6B"),
    Table7Row("ResNet-101", 16, True,  False, 80.49, "58.16M", "81.0B"),
    Table7Row("ResNet-101",  8, True,  True,  82.70, "58.16M", "4870.6B"),
)
SLIM = (  # tensorflow/models, research/slim/nets/mobilenet/README.md; 1001 classes, parameters without batch norm
    #       width  size  MAdds   params  top-1 top-5  ms
    SlimRow(1.4,   224, "582M", "6.06M", 75.0, 92.5, 138.0),
    SlimRow(1.3,   224, "509M", "5.34M", 74.4, 92.1, 123.0),
    SlimRow(1.0,   224, "300M", "3.47M", 71.8, 91.0, 73.8),
    SlimRow(1.0,   192, "221M", "3.47M", 70.7, 90.1, 55.1),
    SlimRow(1.0,   160, "154M", "3.47M", 68.8, 89.0, 40.2),
    SlimRow(1.0,   128, "99M",  "3.47M", 65.3, 86.9, 27.6),
    SlimRow(1.0,    96, "56M",  "3.47M", 60.3, 83.2, 17.6),
    SlimRow(0.75,  224, "209M", "2.61M", 69.8, 89.6, 55.8),
    SlimRow(0.75,  192, "153M", "2.61M", 68.7, 88.9, 41.6),
    SlimRow(0.75,  160, "107M", "2.61M", 66.4, 87.3, 30.4),
    SlimRow(0.75,  128, "69M",  "2.61M", 63.2, 85.3, 21.9),
    SlimRow(0.75,   96, "39M",  "2.61M", 58.8, 81.6, 14.2),
    SlimRow(0.5,   224, "97M",  "1.95M", 65.4, 86.4, 28.7),
    SlimRow(0.5,   192, "71M",  "1.95M", 63.9, 85.4, 21.1),
    SlimRow(0.5,   160, "50M",  "1.95M", 61.0, 83.2, 14.9),
    SlimRow(0.5,   128, "32M",  "1.95M", 57.7, 80.8, 9.9),
    SlimRow(0.5,    96, "18M",  "1.95M", 51.2, 75.8, 6.4),
    SlimRow(0.35,  224, "59M",  "1.66M", 60.3, 82.9, 19.7),
    SlimRow(0.35,  192, "43M",  "1.66M", 58.2, 81.2, 14.6),
    SlimRow(0.35,  160, "30M",  "1.66M", 55.7, 79.1, 10.5),
    SlimRow(0.35,  128, "20M",  "1.66M", 50.8, 75.0, 6.9),
    SlimRow(0.35,   96, "11M",  "1.66M", 45.5, 70.4, 4.5),
)
# fmt: on
