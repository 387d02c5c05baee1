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
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.nn.fused import fuse

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
# The first epochs are trained with a wider end, of which the weightiest channels are kept.
WIDER = replace(
    ARCHITECTURE,
    stages=(*ARCHITECTURE.stages[:-1], replace(ARCHITECTURE.stages[-1], expansion=6)),
    last_channels=320,
)
PREPROCESSING = Preprocessing(
    size=(32, 32), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
)  # -2 to 2


@dataclass(frozen=True)
class Cycle:
    """Of the learning rate: up along a line, then down along half a cosine."""

    epochs: int
    planned: int  # epochs after which it would be 0
    learning_rate: float  # the highest; SGD with Nesterov momentum 0.9
    warm_up: float  # epochs
    weight_decay: float  # not of biases, batch norms and depthwise filters


@dataclass(frozen=True)
class Recipe:
    cycles: tuple[Cycle, ...] = (
        Cycle(epochs=38, planned=45, learning_rate=0.2, warm_up=4.5, weight_decay=5e-4),
        Cycle(epochs=22, planned=22, learning_rate=0.06, warm_up=1.0, weight_decay=4e-5),
    )
    wider_epochs: int = 15
    regularised_epochs: int = 28  # with dropout and cutout; without, a small network learns more
    batch: int = 128  # of both processes together
    label_smoothing: float = 0.1
    drop_rate: float = 0.1
    ema_decay: float = 0.999
    bn_decay: float = 0.9
    shift: int = 4  # pixels, at most, over reflected edges; half of the pictures are mirrored
    cutout: int = 8  # side in pixels of the square that is greyed
    validation: int = 2000
    seed: int = 0


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
    x: NDArray[np.uint8], recipe: Recipe, cutout: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Shifts, mirrors and greys a square of each picture; (N, H, W, 3)."""
    n, side = x.shape[:2]
    padded = np.pad(x, ((0, 0), (recipe.shift,) * 2, (recipe.shift,) * 2, (0, 0)), "reflect")
    top, left = random.integers(0, 2 * recipe.shift + 1, (2, n, 1))
    at = np.arange(side)
    columns = np.where(random.random((n, 1)) < 0.5, at, side - 1 - at) + left
    x = padded[np.arange(n)[:, None, None], (at + top)[:, :, None], columns[:, None, :]]
    centre = random.integers(0, side, (2, n, 1))
    hit = np.abs(at - centre + 0.5) <= cutout / 2
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


def kept_channels(state: dict[str, Tensor]) -> dict[str, tuple[int, Tensor]]:
    """Of each tensor that narrows from WIDER to ARCHITECTURE: which dimension, and what is kept."""
    expanded = state["features.17.conv.1.1.weight"].abs() * state[
        "features.17.conv.2.weight"
    ].flatten(1).norm(dim=0)
    last = state["features.18.1.weight"].abs() * state["classifier.1.weight"].norm(dim=0)
    inner = expanded.topk(4 * 96).indices.sort().values
    outer = last.topk(ARCHITECTURE.last_channels or 0).indices.sort().values
    kept = {"features.17.conv.2.weight": (1, inner), "classifier.1.weight": (1, outer)}
    for name, tensor in state.items():
        if name.startswith(("features.17.conv.0.", "features.17.conv.1.")) and tensor.ndim:
            kept[name] = 0, inner
        elif name.startswith("features.18.") and tensor.ndim:
            kept[name] = 0, outer
    return kept


def narrow(state: dict[str, dict]) -> None:
    """Narrows a checkpoint of WIDER: network, moving average and momentum alike."""
    kept = kept_channels(state["net"])
    parameters = [
        name for group in ordered_parameters(MobileNetV2(WIDER)).values() for name, _ in group
    ]
    momentum = state["optimizer"]["state"]
    for name, (dimension, channels) in kept.items():
        for part, key in (("net", name), ("ema", f"module.{name}")):
            state[part][key] = state[part][key].index_select(dimension, channels)
        if name in parameters:
            buffers = momentum[parameters.index(name)]
            buffers["momentum_buffer"] = buffers["momentum_buffer"].index_select(
                dimension, channels
            )


def ordered_parameters(net: nn.Module) -> dict[bool, list[tuple[str, nn.Parameter]]]:
    """Those with weight decay (True) and those without."""
    depthwise = {
        f"{name}.weight"
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1
    }
    groups: dict[bool, list[tuple[str, nn.Parameter]]] = {True: [], False: []}
    for name, parameter in net.named_parameters():
        groups[parameter.ndim > 1 and name not in depthwise].append((name, parameter))
    return groups


def cycle_at(recipe: Recipe, epoch: float) -> tuple[Cycle, float]:
    """The cycle at so many epochs from the start, and how many it is in."""
    for cycle in recipe.cycles[:-1]:
        if epoch < cycle.epochs:
            return cycle, epoch
        epoch -= cycle.epochs
    return recipe.cycles[-1], epoch


def restored(state: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The parts with their states loaded."""
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return parts


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

    def rate(step: int) -> float:
        cycle, done = cycle_at(recipe, step / steps)
        if done < cycle.warm_up:
            return cycle.learning_rate * done / cycle.warm_up
        share = (done - cycle.warm_up) / (cycle.planned - cycle.warm_up)
        return cycle.learning_rate * (0.5 + 0.5 * math.cos(math.pi * share))

    def parts_of(architecture: Architecture) -> dict[str, Any]:
        net = MobileNetV2(architecture, drop_rate=recipe.drop_rate, bn_decay=recipe.bn_decay)
        net.to(memory_format=torch.channels_last)
        ema = AveragedModel(
            net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )
        fuse(net)
        groups = ordered_parameters(net)
        optimizer = torch.optim.SGD(
            [
                {"params": [p for _, p in groups[decays]], "weight_decay": decay}
                for decays, decay in ((True, recipe.cycles[0].weight_decay), (False, 0.0))
            ],
            lr=1.0,
            momentum=0.9,
            nesterov=True,
        )
        return {"net": net, "ema": ema, "optimizer": optimizer}

    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    parts = parts_of(WIDER)
    saved = options.output.with_suffix(".part.pt")
    log: list[dict[str, float]] = []
    seconds_before = 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        log = state["log"]
        seconds_before = log[-1]["seconds"]
        parts = restored(
            state, parts if len(log) <= recipe.wider_epochs else parts_of(ARCHITECTURE)
        )

    started = time.time()
    for epoch in range(len(log), sum(cycle.epochs for cycle in recipe.cycles)):
        if epoch == recipe.wider_epochs and parts["net"].architecture == WIDER:
            state = {name: part.state_dict() for name, part in parts.items()}
            narrow(state)
            parts = restored(state, parts_of(ARCHITECTURE))
        net, ema, optimizer = parts.values()
        optimizer.param_groups[0]["weight_decay"] = cycle_at(recipe, epoch)[0].weight_decay
        regularised = epoch < recipe.regularised_epochs
        net.classifier[0].p = recipe.drop_rate if regularised else 0.0
        cutout = recipe.cutout if regularised else 0
        random = np.random.default_rng([recipe.seed, epoch, rank])
        torch.manual_seed(1000 * epoch + rank)
        shuffled = np.random.default_rng([recipe.seed, epoch]).permutation(train)
        net.train()
        losses, right = [], 0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch * steps + step)
            part = shuffled[step * recipe.batch : (step + 1) * recipe.batch][rank::world]
            pictures, labels = normalise(augment(x[part], recipe, cutout, random)), y[part]
            with torch.autocast("cpu", torch.bfloat16):
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
                    "loss": round(float(np.mean(losses)), 4),
                    "train_top1": round(100 * right / (len(losses) * len(part)), 2),
                    "validation_top1": round(accuracy(ema.module, x[held_out], y[held_out]), 2),
                    "learning_rate": round(rate(epoch * steps + steps - 1), 6),
                    "seconds": round(seconds_before + time.time() - started, 1),
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
