"""Trains the network that ships: CIFAR-10's ten classes at 32 x 32, from scratch.

    torchrun --nproc_per_node 2 tools/train_bundled_model.py TRAIN.zip TEST.zip -o cifar10.safetensors

The zips hold JPEG files as class/name.jpg. 2,000 of the training pictures (of a fixed shuffle) are
the validation set; the test set is used once, at the end. Each process trains half of every batch on
one core. A checkpoint is written after each epoch; started again, it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import zipfile
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, distributed, nn
from torch.nn.functional import interpolate
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.nn.fused import fuse
from mobilenetv2.training.machine import autocast, faster_precision
from mobilenetv2.training.optim import parameter_groups
from mobilenetv2.training.recipes import MODERN

# Table 2 with less stride in front, and channels where they are cheap: 32, 16, 8 and 4 pixels.
ARCHITECTURE = Architecture(
    stages=(
        Stage(expansion=1, channels=16, repeats=1, stride=1),
        Stage(expansion=4, channels=16, repeats=2, stride=1),
        Stage(expansion=6, channels=24, repeats=3, stride=2),
        Stage(expansion=6, channels=48, repeats=4, stride=2),
        Stage(expansion=6, channels=72, repeats=3, stride=1),
        Stage(expansion=6, channels=96, repeats=3, stride=2),
        Stage(expansion=4, channels=128, repeats=1, stride=1),
    ),
    stem_channels=16,
    stem_stride=1,
    last_channels=256,
    classes=10,
    resolution=(32, 32),
    padding="symmetric",
    bn_epsilon=1e-5,
)
PREPROCESSING = Preprocessing(
    size=(32, 32), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
)  # -2 to 2


@dataclass(frozen=True)
class Recipe:
    epochs: int = 64
    sides: tuple[tuple[float, int], ...] = ((0.25, 24), (0.25, 28), (0.5, 32))  # share, pixels
    learning_rate: float = 0.2  # the highest, after which half a cosine; SGD, Nesterov momentum 0.9
    warm_up: float = 4.0  # epochs
    weight_decay: float = 5e-4  # not of biases, batch norms and depthwise filters
    batch: int = 128  # of both processes together
    label_smoothing: float = 0.1
    drop_rate: float = 0.1
    ema_decay: float = 0.999
    bn_decay: float = 0.9
    shift: int = 4  # pixels, at most, over reflected edges
    cutout: int = 8  # side in pixels of the square that is greyed
    validation: int = 2000
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """Learning rate so many epochs from the start."""
        if epoch < self.warm_up:
            return self.learning_rate * epoch / self.warm_up
        share = (epoch - self.warm_up) / (self.epochs - self.warm_up)
        return self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * share))

    def side(self, epoch: int) -> int:
        """Pixels to which pictures are resized."""
        ends = np.cumsum([share for share, _ in self.sides])
        return self.sides[int((epoch >= self.epochs * ends[:-1]).sum())][1]


def read_zip(path: Path) -> tuple[NDArray[np.uint8], Tensor, list[str]]:
    """All pictures of a zip as (N, H, W, 3), their classes, and the class names in sorted order."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        pictures = np.stack(
            [np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB")) for name in names]
        )
    return pictures, torch.tensor([classes.index(name.split("/")[-2]) for name in names]), classes


def augment(
    x: NDArray[np.uint8], mirrored: NDArray[np.bool_], recipe: Recipe, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Shifts, mirrors and greys a square of each picture; (N, H, W, 3)."""
    n, side = x.shape[:2]
    padded = np.pad(x, ((0, 0), (recipe.shift,) * 2, (recipe.shift,) * 2, (0, 0)), "reflect")
    top, left = random.integers(0, 2 * recipe.shift + 1, (2, n, 1))
    at = np.arange(side)
    columns = np.where(mirrored[:, None], side - 1 - at, at) + left
    x = padded[np.arange(n)[:, None, None], (at + top)[:, :, None], columns[:, None, :]]
    centre = random.integers(0, side, (2, n, 1))
    hit = np.abs(at - centre + 0.5) <= recipe.cutout / 2
    x[hit[0][:, :, None] & hit[1][:, None, :]] = 128
    return x


def normalise(x: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) of 0..255 -> what the network is fed, (N, 3, H, W) channels last."""
    return ((torch.from_numpy(x).float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(net: nn.Module, x: NDArray[np.uint8], y: Tensor) -> float:
    """Percent of the pictures whose most probable class is right."""
    net.eval()
    right = sum(
        int((net(normalise(x[i : i + 250])).argmax(1) == y[i : i + 250]).sum())
        for i in range(0, len(y), 250)
    )
    return 100 * right / len(y)


def shared_mean(tensors: list[Tensor]) -> None:
    """Each tensor becomes its mean over the processes."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    recipe = Recipe()
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    x, y, classes = read_zip(options.train)
    order = np.random.default_rng(recipe.seed).permutation(len(x))
    held_out, train = order[: recipe.validation], order[recipe.validation :]

    steps = len(train) // recipe.batch  # an epoch
    net = MobileNetV2(ARCHITECTURE, drop_rate=recipe.drop_rate, bn_decay=recipe.bn_decay)
    net.to(memory_format=torch.channels_last)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    fuse(net)
    optimizer = torch.optim.SGD(
        parameter_groups(net, MODERN.changed({"weight_decay": recipe.weight_decay})),
        momentum=0.9,
        nesterov=True,
        fused=True,
    )
    choice = [faster_precision(net, PREPROCESSING, torch.device("cpu"))]
    distributed.broadcast_object_list(choice)  # the first process's
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    parts = {"net": net, "ema": ema, "optimizer": optimizer}
    saved = options.output.with_suffix(".part.pt")
    log: list[dict[str, float]] = []
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        log = state["log"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    started = time.time() - (log[-1]["seconds"] if log else 0.0)
    for epoch in range(len(log), recipe.epochs):
        random = np.random.default_rng([recipe.seed, epoch, rank])
        torch.manual_seed(1000 * epoch + rank)
        shuffled = np.random.default_rng([recipe.seed, epoch]).permutation(train)
        net.train()
        losses, right = [], 0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch + step / steps)
            part = shuffled[step * recipe.batch : (step + 1) * recipe.batch][rank::world]
            mirrored = (part + epoch) % 2 == 0  # each picture in every other epoch
            pictures, labels = normalise(augment(x[part], mirrored, recipe, random)), y[part]
            pictures = interpolate(
                pictures, size=recipe.side(epoch), mode="bilinear", antialias=True
            )
            with autocast(pictures.device, choice[0]):
                logits = net(pictures).float()
            loss = loss_of(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            shared_mean([p.grad for p in net.parameters() if p.grad is not None])
            optimizer.step()
            ema.update_parameters(net)
            losses.append(loss.item())
            right += int((logits.argmax(1) == labels).sum())
        shared_mean([b for b in net.buffers() if b.dtype == torch.float32])
        shared_mean([b for b in ema.buffers() if b.dtype == torch.float32])
        if rank == 0:
            log.append(
                {
                    "epoch": epoch + 1,
                    "side": recipe.side(epoch),
                    "loss": round(float(np.mean(losses)), 4),
                    "train_top1": round(100 * right / (len(losses) * len(part)), 2),
                    "validation_top1": round(accuracy(ema.module, x[held_out], y[held_out]), 2),
                    "learning_rate": round(recipe.rate(epoch + 1), 6),
                    "seconds": round(time.time() - started, 1),
                }
            )
            print(json.dumps(log[-1]), flush=True)
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "log": log}, saved.with_suffix(".tmp"))
            os.replace(saved.with_suffix(".tmp"), saved)
    if rank == 0:
        test_x, test_y, _ = read_zip(options.test)
        provenance = {
            "source": "tools/train_bundled_model.py",
            "trained_on": f"CIFAR-10 (Krizhevsky 2009), {len(train)} of the {len(x)} training "
            "pictures, from scratch",
            "licence": "Apache-2.0",
            "test_top1": accuracy(ema.module, test_x, test_y),
            "recipe": asdict(recipe),
            "log": log,
        }
        print(json.dumps(provenance["test_top1"]), flush=True)
        ema.module.to_checkpoint(
            labels=classes, preprocessing=PREPROCESSING, provenance=provenance
        ).save(options.output)
    distributed.barrier()


if __name__ == "__main__":
    main()
