"""Training end to end: what must come out of it whatever happens on the way."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2 import Checkpoint, Model, UserError, decode, evaluate, read_dataset
from mobilenetv2.architecture import Architecture
from mobilenetv2.graph import layers
from mobilenetv2.heads import Classifier
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.runtime.quantize import quantize
from mobilenetv2.training import RECIPES, Machine, Recipe, Start, epochs, fit
from mobilenetv2.training.classification import Classification
from mobilenetv2.training.epochs import DivergedError
from mobilenetv2.training.machine import automatic_precision
from mobilenetv2.training.optim import RMSProp, learning_rate, make_optimizer, parameter_groups
from mobilenetv2.training.run_folder import RunFolder

from .conftest import REPOSITORY, random_checkpoint

TINY = Start(width=0.35, resolution=(16, 16), small_images=True)
QUICK = RECIPES["modern"].changed(
    {
        "epochs": 2,
        "batch": 8,
        "lr": 0.05,
        "warmup_epochs": 0.5,
        "augmentation.crop": "pad",
        "augmentation.policy": "none",
    }
)
MACHINE = Machine(workers=0, precision="32")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_images(folder: Path, counts: dict[str, int], side: int = 16, seed: int = 0) -> Path:
    """Noise that is brighter in each class than in the one before: easy to tell apart."""
    rng = np.random.default_rng(seed)
    for i, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        low = 200 * i // max(1, len(counts) - 1)
        for j in range(count):
            pixels = rng.integers(low, low + 56, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{j:03}.png")
    return folder


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", {"dark": 20, "light": 20})


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("device", "sets", "cuda", "precision"),
    [
        ("cpu", ["scalar", "avx2", "avx512", "avx512bf16"], False, "bf16"),
        ("cpu", ["scalar", "avx2", "avx512"], True, "32"),
        ("cpu", [], False, "32"),
        ("cuda", ["avx512bf16"], False, "32"),
        ("cuda", [], True, "bf16"),
        ("mps", ["avx512bf16"], True, "32"),
    ],
)
def test_the_automatic_precision_is_what_the_device_has(
    monkeypatch: pytest.MonkeyPatch, device: str, sets: list[str], cuda: bool, precision: str
) -> None:
    monkeypatch.setattr("mobilenetv2.training.machine.instruction_sets", lambda: sets)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda)
    assert automatic_precision(torch.device(device)) == precision


@pytest.mark.parametrize(("requested", "used"), [("auto", "bf16"), ("32", "32")])
def test_the_precision_is_logged_and_noted(
    two_classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    requested: str,
    used: str,
) -> None:
    monkeypatch.setattr("mobilenetv2.training.machine.instruction_sets", lambda: ["avx512bf16"])
    machine = Machine(workers=0, precision=requested)  # type: ignore[arg-type]
    with caplog.at_level("INFO", "mobilenetv2"):
        fit(two_classes, tmp_path / "run", replace(QUICK, epochs=1), TINY, machine=machine)
    assert f"precision {used}" in caplog.messages
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["precision"] == used


def test_a_run_and_its_folder(two_classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = fit(two_classes, out, QUICK, TINY, machine=MACHINE)
    kept = Checkpoint.load(out / "model.safetensors")
    assert kept.labels == ("dark", "light")
    assert kept.preprocessing.size == (16, 16)
    assert kept.preprocessing.crop_fraction == 1  # the images are no larger
    assert Recipe.from_json(json.dumps(kept.provenance["recipe"])) == QUICK
    assert kept.provenance["trained_on"] == {
        "data": str(two_classes), "val": None, "train_images": 36, "val_images": 4,
    }  # fmt: skip
    assert kept.provenance["validation"]["top1"] == trained.evaluation.scores.top1
    assert [row["epoch"] for row in read_log(out)] == ["1", "2"]
    assert any(path.name.startswith("events.out") for path in out.iterdir())
    for name in ("curves.png", "confusion.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 100
    with pytest.raises(UserError, match="has a run already"):
        fit(two_classes, out, QUICK, TINY, machine=MACHINE)


def test_the_accuracy_is_what_evaluate_gives(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make_images(tmp_path / "data" / split, {"a": 10, "b": 10, "c": 10}, side=24)
    out = tmp_path / "run"
    trained = fit(tmp_path / "data", out, QUICK, TINY, machine=MACHINE)
    kept = Checkpoint.load(out / "model.safetensors")
    assert kept.preprocessing.crop_fraction == 0.875
    found = evaluate(Model(kept), read_dataset(tmp_path / "data", "val"))
    assert found.scores == trained.evaluation.scores
    best = read_log(out)[trained.best_epoch - 1]
    assert float(best["val_top1"]) == pytest.approx(found.scores.top1, abs=1e-3)
    assert float(best["val_loss"]) == pytest.approx(found.scores.nll, abs=1e-4)


def test_every_parameter_is_in_one_group() -> None:
    net = MobileNetV2(Architecture(width_mult=0.35, head=Classifier(3)))
    groups = parameter_groups(net, RECIPES["finetune"])
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(dict(net.named_parameters()))
    kinds = {layer.weight: layer.kind for layer in layers(net.architecture)}
    for group in groups:
        for name in group["names"]:
            decayed = kinds.get(name) in ("conv", "linear")
            assert group["weight_decay"] == (4e-5 if decayed else 0)
    scales = {name: group["scale"] for group in groups for name in group["names"]}
    assert scales["classifier.1.weight"] == 1
    assert scales["features.18.0.weight"] == pytest.approx(0.8)
    assert scales["features.0.1.bias"] == pytest.approx(0.8**19)


def test_rmsprop_is_tensorflows() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = RMSProp([weight], lr=0.1)
    square, momentum, wanted = 1.0, 0.0, 1.0
    for gradient in (2.0, -1.0, 0.5):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.9 * momentum + 0.1 * gradient / math.sqrt(square + 1)
        wanted -= momentum
    assert weight.item() == pytest.approx(wanted, rel=1e-6)


def test_learning_rates() -> None:
    cosine = replace(RECIPES["modern"], epochs=10, warmup_epochs=1.0, lr=1.0)
    rates = [learning_rate(cosine, step, 5) for step in range(50)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.002 < rates[-6]  # near 0 at the last step, not an epoch early
    paper = RECIPES["paper"]
    assert learning_rate(paper, 0, 5) == learning_rate(paper, 4, 5) == 0.045
    assert learning_rate(paper, 5, 5) == pytest.approx(0.045 * 0.98)
    assert learning_rate(replace(paper, epochs=30), 5, 5) == pytest.approx(0.045 * 0.98**10)


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd", "adamw"])
def test_the_optimisers_make_progress(optimizer: str) -> None:
    torch.manual_seed(0)
    net = MobileNetV2(
        Architecture(width_mult=0.35, head=Classifier(2), resolution=(32, 32)), bn_decay=0.9
    )
    recipe = replace(QUICK, optimizer=optimizer)
    chosen = make_optimizer(net, recipe)
    x, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        chosen.zero_grad()
        loss.backward()
        for group in chosen.param_groups:
            group["lr"] = 0.003
        chosen.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0] - 0.1


def test_evaluation_agrees_with_training_after_few_steps(tmp_path: Path) -> None:
    """200 images, two easy classes, batches of 8, 10 epochs: running statistics suffice."""
    data = make_images(tmp_path / "data", {"dark": 100, "light": 100})
    recipe = QUICK.changed({"epochs": 10, "val_share": 0.1})
    trained = fit(data, tmp_path / "run", recipe, TINY, machine=MACHINE)
    kept = Checkpoint.load(trained.file)
    found = evaluate(Model(kept), read_dataset(data))
    assert found.scores.top1 >= 95
    start = {"running_mean": 0.0, "running_var": 1.0}
    for name, array in kept.arrays.items():
        if (kind := name.rpartition(".")[2]) in start:
            assert not np.any(array == start[kind]), name
    assert abs(found.scores.top1 - accuracy_in_train_mode(kept, data)) <= 10


def accuracy_in_train_mode(kept: Checkpoint, data: Path) -> float:
    """Percent right where batches of 8 are normalised by themselves, as in training."""
    net = MobileNetV2(kept.architecture, drop_rate=0.0).train()
    net.load_checkpoint(kept)
    samples = read_dataset(data).samples
    order = np.random.default_rng(0).permutation(len(samples))
    right = 0
    for batch in np.split(order, len(order) // 8):
        pixels = np.stack([kept.preprocessing(decode(samples[i].open())) for i in batch])
        x = torch.from_numpy(kept.preprocessing.normalize(pixels)).permute(0, 3, 1, 2)
        said = net(x).argmax(1).numpy()
        right += int((said == [samples[i].target for i in batch]).sum())
    return 100 * right / len(samples)


def test_the_frozen_backbone_stays(two_classes: Path, tmp_path: Path) -> None:
    before = random_checkpoint(width_mult=0.35, resolution=(32, 32))
    before.save(tmp_path / "start.safetensors")
    start = Start(weights=tmp_path / "start.safetensors")
    recipe = RECIPES["finetune"].changed({"epochs": 0})
    trained = fit(two_classes, tmp_path / "run", recipe, start, machine=MACHINE)
    after = Checkpoint.load(trained.file)
    assert trained.best_epoch == trained.epochs == 0
    assert trained.evaluation.scores.top1 == 100
    for name, array in after.arrays.items():
        if name.startswith("features."):
            assert np.array_equal(array, before.arrays[name]), name


def test_folded_batch_norms_are_not_normalised_by_batches(
    two_classes: Path, tmp_path: Path
) -> None:
    before = random_checkpoint(width_mult=0.35, resolution=(32, 32))
    folded = {
        name: np.zeros_like(array) if name.endswith("running_mean") else array
        for name, array in before.arrays.items()
    }
    replace(before, arrays=folded).save(tmp_path / "start.safetensors")
    recipe = RECIPES["finetune"].changed({"freeze_norms": False})
    with pytest.raises(UserError, match="freeze_norms"):
        fit(
            two_classes,
            tmp_path / "run",
            recipe,
            Start(weights=tmp_path / "start.safetensors"),
            machine=MACHINE,
        )


def test_fine_tuning_moves_all_but_the_statistics(two_classes: Path, tmp_path: Path) -> None:
    before = random_checkpoint(width_mult=0.35, resolution=(32, 32))
    before.save(tmp_path / "start.safetensors")
    recipe = RECIPES["finetune"].changed({"epochs": 1, "batch": 16})
    start = Start(weights=tmp_path / "start.safetensors", resolution=(24, 24))
    fit(two_classes, tmp_path / "run", recipe, start, machine=MACHINE)
    state = RunFolder(tmp_path / "run").read_state()
    assert state is not None
    for name, array in state["net"].items():
        if name.startswith("features.") and name in before.arrays:
            same = np.array_equal(array.numpy(), before.arrays[name])
            assert same == ("running" in name), name


def test_the_best_may_be_between_the_start_and_the_last_epoch(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends before the mixtures are validated goes on to the same file."""
    random_checkpoint(width_mult=0.35, resolution=(32, 32)).save(tmp_path / "start.safetensors")
    start = Start(weights=tmp_path / "start.safetensors")
    changes = {"epochs": 1, "batch": 16, "start_shares": [0.25, 0.5]}
    recipe, out = RECIPES["finetune"].changed(changes), tmp_path / "run"
    rank = staticmethod(lambda scores: (scores.get("trained_share", 0.0), 0.0))
    monkeypatch.setattr(Classification, "rank", rank)
    with monkeypatch.context() as stopped:
        stopped.setattr(epochs, "mix_with_start", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(two_classes, out, recipe, start, machine=MACHINE)
    trained = fit(two_classes, out, resume=True, machine=MACHINE)
    state = RunFolder(out).read_state()
    assert state is not None
    file = Checkpoint.load(trained.file)
    for name, array in file.arrays.items():
        mixed = (state["start"][name] + state["average"][f"module.{name}"]) / 2
        np.testing.assert_allclose(array, mixed.numpy(), atol=1e-6)
    assert file.provenance["validation"]["trained_share"] == 0.5
    page = " ".join(RunFolder(out).page.read_text(encoding="utf-8").split())
    assert "50 % of the way from the fitted head to the network after epoch 1" in page
    assert file.preprocessing.crop_fraction == 1
    again = fit(two_classes, out, resume=True, machine=MACHINE)
    assert Checkpoint.load(again.file).arrays.keys() == file.arrays.keys()
    assert len(read_log(out)) == 2


def test_padding_and_epsilon_stay_those_of_the_weights(two_classes: Path, tmp_path: Path) -> None:
    """Trained, saved, read again and quantised."""
    rules = {"padding": "same", "bn_epsilon": 1e-3}
    before = random_checkpoint(width_mult=0.35, resolution=(32, 32), **rules)
    before.save(tmp_path / "start.safetensors")
    recipe = RECIPES["finetune"].changed({"epochs": 1, "batch": 16})
    start = Start(weights=tmp_path / "start.safetensors")
    trained = fit(two_classes, tmp_path / "run", recipe, start, machine=MACHINE)
    after = Checkpoint.load(trained.file)
    with pytest.warns(UserWarning, match="images to calibrate with"):
        quantized = quantize(after, sorted(two_classes.rglob("*.png"))[::20])
    expected = before.architecture.with_classes(2)
    assert after.architecture == quantized.architecture == expected
    norms = [m for m in MobileNetV2(after.architecture).modules() if hasattr(m, "eps")]
    assert {norm.eps for norm in norms} == {1e-3}


def test_fifty_steps_in_bfloat16(tmp_path: Path) -> None:
    """As good on easy classes as float32, whose classes are then all right."""
    data = make_images(tmp_path / "data", {"dark": 50, "light": 50})
    recipe, machine = QUICK.changed({"epochs": 5}), Machine(workers=0, precision="bf16")
    trained = fit(data, tmp_path / "run", recipe, TINY, machine=machine)
    losses = [float(row["train_loss"]) for row in read_log(tmp_path / "run")]
    assert losses[-1] < 0.4 < losses[0]
    found = evaluate(Model(Checkpoint.load(trained.file)), read_dataset(data))
    assert found.scores.top1 >= 98


def test_the_order_of_classes_is_in_the_file(tmp_path: Path) -> None:
    counts = dict.fromkeys(("B", "a", *map(str, range(13))), 3)
    data = make_images(tmp_path / "data", counts)
    recipe = replace(QUICK, epochs=1)
    trained = fit(data, tmp_path / "run", recipe, TINY, machine=MACHINE)
    alone = trained.file.rename(tmp_path / "alone.safetensors")
    ordered = ("0", "1", "10", "11", "12", *"23456789", "B", "a")  # by code point
    model = Model(Checkpoint.load(alone))
    assert model.checkpoint.labels == ordered
    whole = evaluate(model, read_dataset(data))
    (data / "B").rename(data / "b")  # another system's spelling and order
    renamed = evaluate(model, read_dataset(data))
    assert [c.label for c in renamed.classes] == [*ordered[:-2], "a", "b"]
    assert renamed.scores.nll == pytest.approx(whole.scores.nll)
    assert renamed.scores.top1 == whole.scores.top1


def test_a_loss_that_is_not_finite_stops(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mobilenetv2.training.epochs.learning_rate",
        lambda recipe, step, epoch_steps: 0.05 if step < epoch_steps else 1e30,
    )
    said = r"finite at step [2-5] of 5 in epoch 2, learning rate 1e\+30; .*state is .*last.ckpt"
    with pytest.raises(DivergedError, match=said):
        fit(two_classes, tmp_path / "run", QUICK, TINY, machine=MACHINE)
    state = RunFolder(tmp_path / "run").read_state()
    assert state is not None
    assert state["progress"]["epoch"] == 1
    assert all(bool(torch.isfinite(x).all()) for x in state["net"].values())


@pytest.mark.parametrize(
    ("counts", "batch"),
    [
        ({"a": 33, "b": 32}, 64),
        ({"a": 3, "b": 3}, 32),
        ({f"{i:03}": 3 for i in range(1000)}, 64),
        ({"a": 6, "b": 6, "c": 6, "d": 6}, 1),
    ],
)
def test_awkward_numbers(counts: dict[str, int], batch: int, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", counts)
    recipe = replace(QUICK, epochs=1, batch=batch)
    trained = fit(data, tmp_path / "run", recipe, TINY, machine=MACHINE)
    assert len(trained.evaluation.labels) == len(counts)
    assert 0 <= trained.evaluation.scores.top1 <= trained.evaluation.scores.top5 <= 100


def test_no_memory_for_a_batch(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MobileNetV2, "forward", lambda net, x: torch.empty(1 << 50, len(x)))
    with pytest.raises(UserError, match="no memory for a step with a batch of 8: give a smaller"):
        fit(two_classes, tmp_path / "run", QUICK, TINY, machine=MACHINE)
    monkeypatch.setattr(MobileNetV2, "forward", lambda net, x: torch.zeros(2).view(3))
    with pytest.raises(RuntimeError, match="invalid for input"):  # another error stays what it is
        fit(two_classes, tmp_path / "other", QUICK, TINY, machine=MACHINE)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept() -> None:
    code = """
import torch
from pathlib import Path
from mobilenetv2.training.machine import keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
for keep in (False, True):
    if keep:
        keep_freed_memory()
    before = resident()
    x = torch.ones(1 << 25)
    del x
    print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back < 1 << 25 < kept  # of 128 MB


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/run", "run: cannot be made: Not a directory"),
        ("x" * 300, "xxx: cannot be made: File name too long"),
        ("a\0b", "cannot be made: "),
    ],
)
def test_a_folder_that_cannot_be_made(
    two_classes: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=message):
        fit(two_classes, f"{tmp_path}/{name}", QUICK, TINY, machine=MACHINE)


@pytest.mark.parametrize(
    ("data", "out", "read"),
    [
        ("images", "images", True),
        ("images", "images/run", True),
        ("images", "images/dark/deep/run", True),
        ("images", "images/.run", False),
        ("images", "run", False),
        ("link", "images/run", True),
        ("split", "split/run", False),
        ("split", "split", False),
        ("split", "split/val/run", True),
        ("train alone", "train alone/run", True),  # a second folder makes train a class
    ],
)
def test_a_run_among_the_images_is_refused(
    two_classes: Path, tmp_path: Path, data: str, out: str, read: bool
) -> None:
    (tmp_path / "link").symlink_to("images")
    for name in ("split/train", "split/val", "train alone/train"):
        (tmp_path / name / "dark").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for sources in ((str(tmp_path / data), None), ("elsewhere.csv", str(tmp_path / data))):
        if read:
            with pytest.raises(
                UserError, match=f"part of the images in {sources[1] or sources[0]}"
            ):
                fit(sources[0], tmp_path / out, QUICK, TINY, val=sources[1], machine=MACHINE)
        else:
            RunFolder(tmp_path / out).check_new(*sources)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_never_begins_leaves_no_folder(two_classes: Path, tmp_path: Path) -> None:
    others = make_images(tmp_path / "others", {"dark": 2, "dusk": 2})
    for start, val in ((Start(weights=str(tmp_path / "gone.pth")), None), (TINY, others)):
        with pytest.raises(UserError):
            fit(two_classes, tmp_path / "run", start=start, val=val, machine=MACHINE)
    assert not (tmp_path / "run").exists()


def test_files_of_another_run_are_not_overwritten(two_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"good")
    with pytest.raises(UserError, match=r"model.safetensors: a run would overwrite it"):
        fit(two_classes, tmp_path, QUICK, TINY, machine=MACHINE)


def test_a_run_without_its_files_does_not_begin_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.last.parent.mkdir()
    folder.write_log([{"epoch": 1}])
    with pytest.raises(UserError, match=r"last.ckpt: no such file, so the run cannot go on: begin"):
        folder.read_state()
    folder.last.write_bytes(b"")
    with pytest.raises(UserError, match=r"last.ckpt: cannot be read: \w.+; the run cannot go on"):
        folder.read_state()
    folder.write_state({"progress": {"best": {"epoch": 1}}})
    with pytest.raises(UserError, match=r"model.safetensors: no such file, so the run cannot"):
        folder.read_state()
    folder.model.write_bytes(b"")
    assert folder.read_state() == {"progress": {"best": {"epoch": 1}}}


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_to_is_named_first(
    straight: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "checkpoints")
    with pytest.raises(UserError, match="checkpoints: cannot be written to"):
        fit(
            straight[0], straight[1] if resume else tmp_path / "run", machine=MACHINE, resume=resume
        )


@pytest.mark.parametrize("written", [3, 10, 13])
def test_a_full_disk_leaves_whole_files(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Whichever file is the first that does not fit, the run says so, and can be resumed, or begun
    again where no state was saved.
    """
    left, sync = written, os.fsync

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "run"
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        fit(two_classes, out, QUICK, TINY, machine=MACHINE)
    assert not list(out.rglob("*.part"))
    if (out / "model.safetensors").exists():
        Checkpoint.load(out / "model.safetensors")
    state = RunFolder(out).read_state()
    assert state is None or state["progress"]["epoch"] in (1, 2)
    assert (state is None) == (written == 3)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    settings = (QUICK, TINY) if state is None else (None, None)
    resumed = fit(two_classes, out, *settings, machine=MACHINE, resume=state is not None)
    assert resumed.epochs == 2


def test_one_class_is_refused(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", {"only": 8})
    with pytest.raises(UserError, match="two classes"):
        fit(data, tmp_path / "run", QUICK, TINY, machine=MACHINE)


def test_broken_images_are_named_and_left_out(
    two_classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (two_classes / "dark" / "broken.png").write_bytes(b"not an image")
    with caplog.at_level("INFO", "mobilenetv2"):
        trained = fit(
            two_classes, tmp_path / "run", replace(QUICK, epochs=1), TINY, machine=MACHINE
        )
    assert [Path(name).name for name in trained.broken] == ["broken.png"]
    lines = caplog.messages
    named = next(i for i, line in enumerate(lines) if "broken.png" in line)
    first = next(i for i, line in enumerate(lines) if line.startswith("epoch 1/1"))
    assert named < first
    assert any(line.split() == ["dark", "18", "2"] for line in lines)


def test_nothing_but_broken_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "data" / name / f"{i}.jpg").write_bytes(b"no")
    with pytest.raises(UserError, match="no image to train with can be read"):
        fit(tmp_path / "data", tmp_path / "run", QUICK, TINY, machine=MACHINE)


def test_a_map_of_one_pixel_is_warned_of(
    two_classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = replace(TINY, small_images=False, resolution=(32, 32))
    fit(two_classes, tmp_path / "run", replace(QUICK, epochs=1), start, machine=MACHINE)
    assert "1x1" in caplog.text
    assert "--small-images" in caplog.text


def test_grey_networks_get_grey_images(two_classes: Path, tmp_path: Path) -> None:
    architecture = Architecture(width_mult=0.35, in_channels=1, resolution=(32, 32))
    start, recipe = Start(architecture=architecture), replace(QUICK, epochs=1)
    trained = fit(two_classes, tmp_path / "run", recipe, start, machine=MACHINE)
    kept = Checkpoint.load(trained.file)
    assert kept.preprocessing.channels == kept.architecture.in_channels == 1
    found = evaluate(Model(kept), read_dataset(two_classes))
    assert found.images == 40
    pictures = {path.name for path in (tmp_path / "run").glob("*.jpg")}
    assert pictures == {"batch-1.jpg", "batch-2.jpg", "batch-3.jpg", "answers.jpg"}


def test_balance_lifts_the_small_class(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_images(data / "train", {"large": 120, "small": 4})
    make_images(data / "val", {"large": 20, "small": 20}, seed=1)
    recall = {}
    for balance in (False, True):
        recipe = QUICK.changed({"balance": balance, "epochs": 4, "lr": 0.02})
        trained = fit(data, tmp_path / f"run{balance}", recipe, TINY, machine=MACHINE)
        recall[balance] = trained.evaluation.classes[1].right
    assert recall[True] > recall[False]


def test_shards(two_classes: Path, tmp_path: Path) -> None:
    for s in range(2):
        with tarfile.open(tmp_path / f"train-{s}.tar", "w") as archive:
            for name in ("dark", "light"):
                for file in sorted((two_classes / name).glob("*.png"))[s::2]:
                    label = tmp_path / f"{name}.cls"
                    label.write_text(name)
                    archive.add(file, f"{name}{file.stem}.png")
                    archive.add(label, f"{name}{file.stem}.cls")
    pattern, recipe = (
        str(tmp_path / "train-{0..1}.tar"),
        QUICK.changed({"epoch_steps": 10, "epochs": 4}),
    )
    trained = fit(pattern, tmp_path / "run", recipe, TINY, val=two_classes, machine=MACHINE)
    assert trained.epochs == 4
    assert trained.evaluation.images == 40
    assert trained.evaluation.scores.top1 > 90
    assert Checkpoint.load(trained.file).labels == ("dark", "light")
    again = fit(pattern, tmp_path / "run", machine=MACHINE, resume=True)
    assert again.evaluation.scores == trained.evaluation.scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"train-.*--val.*epoch_steps"),
        ({"epoch_steps": 10, "balance": True}, "not read in advance: leave out --balance"),
        ({"epoch_steps": 10, "head_first": True}, "give --set head_first=false"),
    ],
)
def test_shards_need_steps_and_no_balance(
    two_classes: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    pattern, recipe = str(tmp_path / "train-{0..1}.tar"), QUICK.changed(changes)
    start = Start(weights="cifar10") if "head_first" in changes else TINY
    with pytest.raises(UserError, match=message):
        fit(pattern, tmp_path / "run", recipe, start, val=two_classes, machine=MACHINE)
    if len(changes) == 2:
        with pytest.raises(UserError, match=r"absent: no such file or folder"):
            fit(pattern, tmp_path / "run", recipe, start, val="absent", machine=MACHINE)


def test_a_run_without_a_first_step_can_be_corrected(two_classes: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "train.tar", tmp_path / "run"
    recipe = QUICK.changed({"epoch_steps": 2, "epochs": 1, "batch": 4})

    def write(label: str) -> None:
        with tarfile.open(file, "w") as archive:
            (tmp_path / "x.cls").write_text(label)
            (tmp_path / "bad.png").write_bytes(b"no")
            images = [*two_classes.glob("dark/*.png")][:5]
            for i, image in enumerate([*images, tmp_path / "bad.png"]):
                archive.add(image, f"{i}.png")
                archive.add(tmp_path / "x.cls", f"{i}.cls")

    write("green")
    with pytest.raises(UserError, match="its class 'green' is not one of the 2 classes"):
        fit(str(file), run, recipe, TINY, val=two_classes, machine=MACHINE)
    assert not run.exists()
    write("dark")
    with pytest.warns(UserWarning, match="left out"):
        trained = fit(str(file), run, recipe, TINY, val=two_classes, machine=MACHINE)
    assert [name.partition("train.tar/")[2] for name in trained.broken] == ["5.png"]


def test_patience(two_classes: Path, tmp_path: Path) -> None:
    recipe = QUICK.changed({"epochs": 30, "patience": 2, "lr": 1e-9, "warmup_epochs": 0.0})
    trained = fit(two_classes, tmp_path / "run", recipe, TINY, machine=MACHINE)
    assert trained.epochs == trained.best_epoch + 2 < 30


PROGRAM = """
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tests.test_fit import *
from mobilenetv2.training import trainer
steps, step = [0], trainer.Trainer.step
def counted(self, *rest):
    loss = step(self, *rest)
    steps[0] += 1
    if steps[0] == {at}:
        os.kill(os.getpid(), {signal})
    return loss
trainer.Trainer.step = counted
recipe = QUICK.changed({{"epochs": 4, "drop_rate": 0.3, "augmentation.mixup": 0.2}})
fit({data!r}, {out!r}, recipe, TINY, machine=MACHINE)
"""


def run_killed(data: Path, out: Path, at: int, kind: int) -> subprocess.CompletedProcess[str]:
    """Four epochs of five steps, with a signal to itself after so many steps."""
    program = PROGRAM.format(
        tests=str(REPOSITORY), data=str(data), out=str(out), at=at, signal=int(kind)
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and four epochs without an interruption."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("straight")
    data = make_images(folder / "data", {"dark": 20, "light": 20})
    fit(data, folder / "run", four_epochs(), TINY, machine=MACHINE)
    return data, folder / "run"


def four_epochs() -> Recipe:
    return QUICK.changed({"epochs": 4, "drop_rate": 0.3, "augmentation.mixup": 0.2})


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM], ids=lambda kind: kind.name)
def test_resumed_is_as_never_stopped(
    straight: tuple[Path, Path], tmp_path: Path, kind: signal.Signals
) -> None:
    data, whole = straight
    out = tmp_path / "run"
    done = run_killed(data, out, 8, kind)
    assert done.returncode == (-9 if kind == signal.SIGKILL else 1), done.stderr
    saved = RunFolder(out).read_state()
    assert saved is not None
    assert saved["progress"]["epoch"] == 1
    assert saved["progress"]["step"] == (0 if kind == signal.SIGKILL else 3)
    fit(data, out, resume=True, machine=MACHINE)
    assert same_state(RunFolder(out).read_state(), RunFolder(whole).read_state())
    assert [row["lr"] for row in read_log(out)] == [row["lr"] for row in read_log(whole)]
    mine, theirs = (Checkpoint.load(run / "model.safetensors") for run in (out, whole))
    assert mine.labels == theirs.labels
    for name, array in mine.arrays.items():
        assert np.array_equal(array, theirs.arrays[name]), name


def same_state(one: object, other: object) -> bool:
    """Equal to the last bit, but for the times in the log."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - {"seconds", "waiting"}
        return one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_state, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one == other


@pytest.mark.parametrize(
    ("counts", "lr", "message"),
    [
        ({"dark": 20, "dusk": 20}, 0.05, r"run to resume had classes .*'light'.*, not .*'dusk'"),
        ({"dark": 20, "light": 21}, 0.05, "run to resume had images .*, not "),
        ({"dark": 20, "light": 20}, 0.1, "run to resume had lr 0.05, not 0.1"),
    ],
)
def test_resume_refuses_what_differs(
    straight: tuple[Path, Path], tmp_path: Path, counts: dict[str, int], lr: float, message: str
) -> None:
    data = make_images(tmp_path / "data", counts)
    with pytest.raises(UserError, match=message):
        fit(data, straight[1], replace(four_epochs(), lr=lr), resume=True, machine=MACHINE)


def test_resume_needs_a_run(two_classes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to resume"):
        fit(two_classes, tmp_path / "none", resume=True, machine=MACHINE)


def test_a_kill_while_writing_leaves_the_state_before(
    straight: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(straight[1])
    before = folder.last.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write_state({"epoch": 5})
    assert folder.last.read_bytes() == before
    assert folder.read_state() is not None
