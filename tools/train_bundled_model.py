"""Trains the small network that ships until a better one does: CIFAR-10's ten classes at 32 x 32.

    python tools/train_bundled_model.py TRAIN.zip TEST.zip -o
    src/mobilenetv2/bundled/cifar10.safetensors

The zips hold JPEG files as class/name.jpg. The last tenth of the training pictures (of a fixed
shuffle) is the validation set; the test set is used once, at the end. Plain PyTorch on purpose: the
recipe is thirty lines."""

from __future__ import annotations

import argparse
import json
import math
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mobilenetv2.architecture import SMALL_IMAGES
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2

STRIDES = (
    1,
    2,
    2,
    1,
    1,
    2,
    1,
)  # 32, 16, 8, 8, 8, 4, 4 pixels: a third of the cost of MOBILENET_V2_32PX
ARCHITECTURE = replace(
    SMALL_IMAGES,
    width_mult=0.5,
    last_channels=320,
    classes=10,
    stages=tuple(
        replace(stage, stride=stride)
        for stage, stride in zip(SMALL_IMAGES.stages, STRIDES, strict=True)
    ),
)
PREPROCESSING = Preprocessing(
    size=(32, 32), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
)  # -2 to 2


def read_zip(path: Path) -> tuple[Tensor, Tensor, list[str]]:
    """All pictures of a zip as (N, 3, H, W) uint8, their classes, and the class names in sorted
    order.
    """
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        pictures = np.stack(
            [np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB")) for name in names]
        )
    labels = torch.tensor([classes.index(name.split("/")[-2]) for name in names])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), labels, classes


def augment(x: Tensor) -> Tensor:
    """Zooms (0.55 to 1.1 of the side stays in view), shifts and mirrors. (N, 3, H, W) uint8 ->
    float of the same.
    """
    count = len(x)
    zoom = torch.empty(count, 1).uniform_(0.55, 1.1)
    shift = torch.empty(count, 2).uniform_(-1, 1) * (1 - zoom).abs().clamp(min=0.2)
    mirror = torch.where(torch.rand(count, 1) < 0.5, 1.0, -1.0)
    zero = torch.zeros(count, 1)
    matrix = torch.cat([zoom * mirror, zero, shift[:, :1], zero, zoom, shift[:, 1:]], dim=1).view(
        count, 2, 3
    )
    grid = nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(
        x.float(), grid, padding_mode="reflection", align_corners=False
    )


def normalise(x: Tensor) -> Tensor:
    """(N, 3, H, W) of 0..255 -> what the network is fed."""
    return ((x.float() / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the pictures whose most probable class is right."""
    net.eval()
    right = sum(
        int((net(normalise(part)).argmax(1) == want).sum())
        for part, want in zip(x.split(500), y.split(500))
    )
    return right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    x, y, classes = read_zip(options.train)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[: len(x) * 9 // 10], order[len(x) * 9 // 10 :]
    net = MobileNetV2(ARCHITECTURE, drop_rate=0.1, bn_decay=0.9).to(
        memory_format=torch.channels_last
    )
    net.reset_parameters()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    batch, steps = 128, options.epochs * (len(train) // 128)
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}],
        lr=0.2,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            step / (0.15 * steps),
            0.5 + 0.5 * math.cos(math.pi * max(0, step / steps - 0.15) / 0.85),
        ),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    started, log = time.time(), []
    for epoch in range(options.epochs):
        net.train()
        losses = []
        for part in train[torch.randperm(len(train))].split(batch)[:-1]:
            loss = loss_of(net(normalise(augment(x[part]))), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            ema.update_parameters(net)
            losses.append(loss.item())
        record = {
            "epoch": epoch + 1,
            "loss": round(float(np.mean(losses)), 4),
            "seconds": round(time.time() - started),
        }
        record["validation_top1"] = accuracy(ema.module, x[held_out], y[held_out])
        log.append(record)
        print(json.dumps(record), flush=True)
        torch.save(ema.module.state_dict(), options.output.with_suffix(".part.pt"))
    test_x, test_y, _ = read_zip(options.test)
    provenance = {
        "source": "tools/train_bundled_model.py",
        "trained_on": "CIFAR-10 (Krizhevsky 2009), 45,000 of the 50,000 training pictures, from scratch",
        "licence": "Apache-2.0",
        "test_top1": accuracy(ema.module, test_x, test_y),
        "log": log,
    }
    print(json.dumps(provenance), flush=True)
    ema.module.to_checkpoint(
        labels=classes, preprocessing=PREPROCESSING, provenance=provenance
    ).save(options.output)


if __name__ == "__main__":
    main()
