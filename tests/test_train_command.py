"""`mobilenetv2 train` as a user meets it: what it prints, its exit codes, and two processes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.cli import run
from mobilenetv2.cli.train import _processes
from mobilenetv2.errors import UserError
from mobilenetv2.heads import Classifier
from mobilenetv2.training import RECIPES, Recipe, processes
from mobilenetv2.training.run_folder import RunFolder

from .conftest import random_checkpoint
from .test_fit import make_images, read_log

train_module = sys.modules["mobilenetv2.cli.train"]  # the package has the command by this name
TINY = ["--small-images", "--resolution", "16", "--width", "0.35", "--batch", "8", "--lr", "0.05"]
PLAIN = ["--set", "augmentation.policy=none", "--set", "warmup_epochs=0.5"]
HERE = ["--precision", "32", "--workers", "0"]
QUICK = [*TINY, *PLAIN, *HERE, "--epochs", "1"]
COMMAND = ["-m", "mobilenetv2", "train"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_images(tmp_path / "data" / "train", {"dark": 20, "light": 21})
    make_images(tmp_path / "data" / "val", {"dark": 4, "light": 5}, seed=1)
    return tmp_path / "data"


def test_the_file_is_as_good_as_it_says(data: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "run")
    assert run(["train", str(data), "-o", out, *QUICK, "--format", "json"]) == 0
    (said,), err = (f(text) for f, text in zip((json.loads, str), capsys.readouterr()))
    assert [c["class"] for c in said["classes"]] == ["dark", "light"]
    lines = [line.split() for line in err.splitlines()]
    assert ["dark", "20", "4"] in lines
    assert ["light", "21", "5"] in lines
    assert run(["evaluate", str(data), "--model", said["file"], "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    for name in ("images", "top1", "ece", "nll"):
        assert found[name] == said[name]
    recalls = [c["percent"] for c in said["classes"]]
    assert said["balanced"] == pytest.approx(sum(recalls) / 2)


def test_names_that_are_not_text(tmp_path: Path, capsys, monkeypatch) -> None:
    # records hold the names as they are, which pytest cannot send between its processes
    monkeypatch.setattr(logging.getLogger("mobilenetv2"), "propagate", False)
    folder, out = tmp_path / "d\udcff", tmp_path / "r\udcfe"
    try:
        make_images(folder / "train", {"caf\udce9": 10, "$\\x$\x1b]": 10})
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text alone")
    (folder / "train" / "caf\udce9" / "bad\udce9.png").write_bytes(b"no")
    assert run(["train", str(folder), "-o", str(out), *QUICK]) == 1
    captured = capsys.readouterr()
    assert r"d\xff/train/caf\xe9/bad\xe9.png: not an image" in captured.err
    assert "\x1b" not in captured.err + captured.out
    assert Checkpoint.load(out / "model.safetensors").labels == (r"$\x$\x1b]", r"caf\xe9")
    assert RunFolder(out).read_settings().data == str(folder)
    assert {path.suffix for path in out.iterdir()} >= {".png", ".csv", ".json"}
    assert list(out.glob("events.out.tfevents.*"))
    assert run(["train", str(folder), "-o", str(out), "--resume"]) == 1


def test_broken_images(data: Path, tmp_path: Path, capsys) -> None:
    (data / "train" / "dark" / "bad.jpg").write_bytes(b"bad")
    assert run(["train", str(data), "-o", str(tmp_path / "run"), *QUICK]) == 1
    out, err = capsys.readouterr()
    assert "bad.jpg: not an image" in err
    assert "1 of 51 images" in err
    assert "balanced" in out


def test_a_loss_that_is_not_finite(data: Path, tmp_path: Path, capsys) -> None:
    options = ["--set", "lr=1e3", "--weight-decay", "1", "--set", "clip_norm=0"]
    quick = [option for option in QUICK if option not in ("--lr", "0.05")]
    command = ["train", str(data), "-o", str(tmp_path / "run"), *quick, *options, "--epochs", "9"]
    assert run(command) == 1
    assert "no longer finite" in capsys.readouterr().err


def test_a_described_network(data: Path, tmp_path: Path, capsys) -> None:
    stages = (Stage(1, 8, 1, 1), Stage(4, 16, 2, 2))
    wanted = Architecture(stages=stages, stem_channels=8, last_channels=24, resolution=(16, 16))
    described = tmp_path / "tiny.json"
    described.write_text(wanted.to_json())
    command = ["train", str(data), "-o", str(tmp_path / "run"), "--batch", "8", "--epochs", "1"]
    command += [*PLAIN, *HERE, "--architecture", str(described)]
    assert run(command) == 0
    assert run([*command, "--resume"]) == 0
    model = Checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert model.architecture == replace(wanted, head=Classifier(2))
    described.write_text("{}}")
    assert run([*command, "--resume"]) == 2
    assert "tiny.json: the architecture is not JSON" in capsys.readouterr().err
    assert run([*command[:-1], str(tmp_path / "run" / "model.safetensors"), "--resume"]) == 2
    assert "classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "cifar10", "--architecture", "cifar10"], "give one of weights"),
        (["--freeze"], "--freeze needs --weights"),
        (["--weights", "cifar10", "--freeze", "--epochs", "3"], "has no --epochs"),
        (["--weights", "cifar10", "--freeze", "--minutes", "3"], "has no --minutes"),
        (["--epochs", "3", "--minutes", "3"], "epochs=3 and minutes=3 contradict each other"),
        (["--recipe", "smal"], "'smal' is neither one of 'paper', 'modern', 'small'"),
        (["--recipe", "my.json"], "my.json: cannot be read"),
        (["--weights", "cifar10", "--small-images"], "small_images is for new networks"),
        (["--weights", "nobody"], "nobody"),
        (["--recipe", "finetune"], "needs weights"),
        (["--set", "lr"], "NAME=VALUE"),
        (["--set", "augmentation.twist=3"], "no field 'augmentation.twist'"),
        (
            ["--set", "epochs=2", "--epochs", "1"],
            "--epochs: epochs 1 contradicts --set epochs=2: give one",
        ),
        (
            ["--set", "clip_norm=0", "--set", "clip_norm=1"],
            "clip_norm 1 contradicts --set clip_norm=0",
        ),
        (["--set", "momentum=much"], "momentum must be a number"),
        (["--lr", "-1"], "lr must be a number from"),
        (["--batch", "0"], "batch must be a whole number from"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--workers", "-1"], "workers must be"),
        (["--processes", "0"], "'--processes': 0 is not in the range"),
        (["--resume"], "no run to resume"),
        (["--resolution", "big"], "neither a side"),
    ],
)
def test_refusals(data: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
    assert run(["train", str(data), "-o", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err


def test_the_recipe_that_is_shown_is_one_to_run(data: Path, tmp_path: Path, capsys) -> None:
    own = ["--recipe", "small", "--minutes", "0.5", "--set", "augmentation.policy=none"]
    assert run(["train", str(data), *own, "--show"]) == 0
    shown, origins = capsys.readouterr()
    expected = RECIPES["small"].changed({"minutes": 0.5, "augmentation.policy": "none"})
    assert Recipe.from_json(shown) == expected
    assert json.loads(shown).keys() == expected.to_dict().keys()
    assert origins == "augmentation.policy: --set\nminutes: --minutes\n"
    (tmp_path / "mine.json").write_text(shown)
    command = ["train", str(data), "-o", str(tmp_path / "run"), *HERE]
    command += ["--recipe", str(tmp_path / "mine.json"), "--batch", "8", "--epochs", "1"]
    assert run([*command, "--resolution", "16", "--width", "0.35"]) == 0
    settings = RunFolder(tmp_path / "run").read_settings()
    assert settings.recipe == expected.changed({"batch": 8, "epochs": 1})
    assert settings.architecture.stages == expected.architecture.stages
    assert run([*command, "--resume"]) == 0
    capsys.readouterr()
    assert run([*command[:4], "--resume", "--show"]) == 0
    assert Recipe.from_json(capsys.readouterr().out) == settings.recipe
    assert run([*command, "--batch", "9", "--resume"]) == 2
    assert "the run to resume had batch 8, not 9" in capsys.readouterr().err
    (tmp_path / "mine.json").write_text(shown.replace("muon_lr", "muon_speed"))
    assert run([*command, "--show"]) == 2
    message = "mine.json: the recipe has unknown fields: muon_speed"
    assert message in capsys.readouterr().err


def test_what_replaces_other_programs_options_is_right(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Each suggested field is one of the recipe, with a value that it may have."""
    for option in ("--optimizer", "--dropout", "--sched", "--ema", "--mixup", "--drop-path"):
        assert run(["train", str(data), "-o", str(tmp_path / "run"), option, "1"]) == 2
        suggested = re.search("`train --set (.*?)`", capsys.readouterr().err)
        assert suggested is not None
        name, _, value = suggested[1].partition("=")
        RECIPES["modern"].changed({name: value if value.isalpha() else float(value)})


def test_a_deleted_working_directory_is_named_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    program = (
        f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())\n"
        "from mobilenetv2.cli import run; import sys\n"
        "code = run(['train', '/nowhere', '-o', '/nowhere/run'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the working directory is gone (No such file or directory): change to another one "
        "(cd)\n"
    )


def test_one_class_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    data = make_images(tmp_path / "data", {"only": 2})
    assert run(["train", str(data), "-o", str(tmp_path / "run"), *QUICK]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "expected one folder per class" in line
    assert "\\x0a" not in line


@pytest.mark.parametrize(
    "options",
    [
        ["--batch-size", "8", "--learning-rate", "0.05", "--num-workers", "0", "--imgsz", "16"],
        ["--bs=8", "--lr0=0.05", "--num_workers=0", "--img_size=16"],
    ],
)
def test_names_of_other_programs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], capsys
) -> None:
    def reached(_data: str, _output: Path, given: dict[str, object], *_: object) -> None:
        assert (given["batch"], given["lr"], given["workers"]) == (8, 0.05, 0)
        assert given["resolution"] == (16, 16)
        raise UserError("reached")

    monkeypatch.setattr(train_module, "_fit", reached)
    run(["train", str(data), "-o", str(tmp_path / "run"), *options])
    assert capsys.readouterr().err == "error: reached\n"


def test_wrong_usage_is_told_before_anything_is_loaded() -> None:
    code = (
        "import sys; from mobilenetv2.cli import run; run(['train', 'x', '-o', 'y', '--freeze'])\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'lightning' else find(name, *rest)\n"
        "from mobilenetv2.cli import run; sys.exit(run(['train', 'x', '-o', 'y']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: training needs lightning; in the checkout of mobilenetv2: pip install '.[train]'\n"
    )


OWN = [
    *QUICK, "--patience", "3", "--seed", "5", "--weight-decay", "1e-5", "--balance", "--recipe", "modern",
]  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a run of one epoch with many options."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ended")
    make_images(folder / "data", {"dark": 10, "light": 10})
    make_images(folder / "val", {"dark": 3, "light": 3}, seed=1)
    command = [str(folder / "data"), "-o", str(folder / "run"), "--val", str(folder / "val")]
    assert run(["train", *command, *OWN]) == 0
    return folder / "data", folder / "run"


def test_resumed_with_all_its_own_options(ended: tuple[Path, Path], capsys) -> None:
    data, out = ended
    own = [*OWN, "--val", f"{data.parent}/./val", "--processes", "1", "--format", "json"]
    assert run(["train", str(data), "-o", str(out), "--resume", *own]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["epochs"] == 1
    assert "must be the same" not in captured.err


PAIRS = [
    ["--small-images"],
    ["--balance"],
    *(OWN[i : i + 2] for i in (1, 3, 5, 7, 9, 11, 13, 17, 19, 21, 23, 26)),
]


@pytest.mark.parametrize(
    "own", [*PAIRS, ["--precision", "auto"], ["--workers", "3"], []], ids=" ".join
)
def test_resumed_with_one_of_its_own_options(
    ended: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own: list[str], capsys
) -> None:
    def reached(*_: object) -> None:
        raise UserError("reached")

    monkeypatch.setattr(train_module, "_fit", reached)
    run(["train", str(ended[0]), "-o", str(ended[1]), "--resume", *own])
    assert capsys.readouterr().err == "error: reached\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "7"], "--epochs: the run to resume had epochs 1, not 7; .* another run with"),
        (["--recipe", "paper"], "--recipe: the run to resume had name 'modern', not 'paper'"),
        (["--batch", "9"], "--batch: the run to resume had batch 8, not 9"),
        (["--lr", "0.1"], "--lr: the run to resume had lr 0.05, not 0.1"),
        (["--weight-decay", "0"], "--weight-decay: .* weight_decay 1e-05, not 0.0"),
        (["--patience", "1"], "--patience: .* had patience 3, not 1"),
        (["--seed", "6"], "--seed: the run to resume had seed 5, not 6"),
        (["--stretch"], "--stretch: the run to resume had stretch False, not True"),
        (["--freeze"], "--freeze: "),
        (["--set", "momentum=0.5"], "--set momentum: the run to resume had momentum 0.9, not 0.5"),
        (["--set", "augmentation.crop=none"], "had augmentation.crop 'resized', not 'none'"),
        (["--set", "lr=fast"], "--set lr: .*lr must be a number"),
        (["--set", "speed=1"], "--set speed: a recipe has no field 'speed'"),
        (["--weights", "cifar10"], "--weights: small_images is for new networks"),
        (["--architecture", "cifar10"], "--architecture: give one of"),
        (["--width", "0.5"], "--width: the run to resume had width 0.35, not 0.5"),
        (["--resolution", "32x16"], r"--resolution: .*had resolution .16, 16., not .32, 16."),
        (["--precision", "bf16"], "--precision: the run to resume had 32, not bf16"),
    ],
)
def test_resumed_with_another_value(
    ended: tuple[Path, Path], options: list[str], message: str, capsys
) -> None:
    assert run(["train", str(ended[0]), "-o", str(ended[1]), "--resume", *options]) == 2
    assert re.match(f"error: .*{message}", capsys.readouterr().err)


def test_other_images_to_validate_with_are_not_taken_silently(
    ended: tuple[Path, Path], data: Path, tmp_path: Path, capsys
) -> None:
    other = make_images(tmp_path / "other", {"dark": 3, "light": 3}, seed=2)
    command = ["train", str(ended[0]), "-o", str(ended[1]), "--resume", "--val", str(other)]
    assert run(command) == 0
    assert f"validate with were {ended[0].parent / 'val'}, and are now" in capsys.readouterr().err
    out = str(tmp_path / "run")
    assert run(["train", str(data), "-o", out, *QUICK]) == 0
    assert run(["train", str(data), "-o", out, "--resume", "--val", str(other)]) == 2
    assert f"--val: the run to resume had none, not {other}" in capsys.readouterr().err


@contextmanager
def begun(data: Path, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A long run after its first epoch."""
    command = [sys.executable, *COMMAND, str(data), "-o", str(out), *QUICK, "--epochs", "500"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1/500"):
                break
        yield process


@pytest.mark.parametrize(
    ("kind", "count"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGTERM, "2")]
)
def test_signals_save(data: Path, tmp_path: Path, kind: signal.Signals, count: str) -> None:
    out = tmp_path / "run"
    with begun(data, out, "--processes", count) as process:
        assert process.stderr is not None
        process.send_signal(kind)
        said = process.stderr.read()
    assert process.returncode == 128 + kind, said
    assert "Traceback" not in said
    assert "--resume" in said
    state = RunFolder(out).read_state()
    assert state is not None
    assert state["progress"]["epoch"] >= 1
    # within an epoch each process has its own
    together = count == "2" and state["progress"]["step"] > 0
    assert ("statistics" in state) == together
    assert all(len(each) == 2 for each in state.get("statistics", []))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the other process in /proc")
@pytest.mark.parametrize("first", [True, False], ids=["first", "other"])
def test_a_process_does_not_outlive_another(data: Path, tmp_path: Path, first: bool) -> None:
    with begun(data, tmp_path / "run", "--processes", "2") as process:
        assert process.stderr is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        (other,) = map(int, children.split())
        os.kill(process.pid if first else other, signal.SIGKILL)
        said = process.stderr.read()
    gone = Path(f"/proc/{other}/stat")
    for _ in range(100):
        if not gone.exists() or gone.read_text().split(") ")[1][0] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("it goes on alone")
    if not first:
        assert process.returncode == 2
        assert said.splitlines()[-1] == (
            "error: one of the 2 processes that train together was killed, perhaps for lack of "
            "memory: use a smaller --batch or --processes 1"
        )


NOTHING = dict.fromkeys(
    ("processes", "resume", "weights", "recipe", "small_images", "val", "freeze")
)


def test_from_scratch_images_and_batch_decide(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "default_processes", lambda images, batch: 100 * images + batch)
    assert _processes(str(data), tmp_path, NOTHING, {}) == 100 * 41 + 128
    assert _processes(str(data), tmp_path, NOTHING, {"batch": 8}) == 100 * 41 + 8
    assert _processes(str(data), tmp_path, NOTHING | {"weights": "cifar10"}, {}) == 1
    assert _processes(str(data), tmp_path, NOTHING | {"processes": 3}, {}) == 3


def test_torchrun_has_said_how_many(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert run(["train", str(data), "-o", str(tmp_path / "run"), *QUICK, "--processes", "2"]) == 2
    assert "leave it out, torchrun has already started several" in capsys.readouterr().err


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`mobilenetv2 train` in two processes."""
    options = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *options, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def ourselves(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same without `torchrun`."""
    command = [sys.executable, *COMMAND, *arguments, "--processes", "2"]
    return subprocess.run(command, capture_output=True, text=True)


def test_two_processes_share_statistics_and_print_once(data: Path, tmp_path: Path) -> None:
    """The validation of both together is that of the file alone, so their batch norms agreed."""
    done = ourselves(str(data), "-o", str(tmp_path / "run"), *QUICK, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").read_settings().processes == 2
    assert _processes("", tmp_path / "run", NOTHING | {"resume": True}, {}) == 2
    (said,) = json.loads(done.stdout)
    assert sum(line.startswith("epoch 1/1") for line in done.stderr.splitlines()) == 1
    assert said["images"] == 9  # each counted once
    (row,) = read_log(tmp_path / "run")
    assert float(row["val_top1"]) == pytest.approx(said["top1"], abs=1e-3)
    assert float(row["val_loss"]) == pytest.approx(said["nll"], abs=1e-4)


def two_machines(places: list[Path], *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """`mobilenetv2 train` in one process on each of two machines with folders of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    options += ["--master-addr", "127.0.0.1", "--master-port", port, "--node-rank"]

    def start(rank: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *options, str(rank), *COMMAND, *arguments]
        return subprocess.run(
            command, cwd=places[rank], capture_output=True, text=True, timeout=240
        )

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(start, (0, 1)))


def test_two_machines_without_a_common_disk(data: Path, tmp_path: Path) -> None:
    """The first has the folder of the run, from which both go on."""
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        shutil.copytree(data, place / "data")
    both = two_machines(places, "data", "-o", "run", *QUICK)
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    assert [(place / "run").exists() for place in places] == [True, False]
    folder = RunFolder(places[0] / "run")
    assert folder.read_settings().processes == 2
    weights = folder.model.read_bytes()
    both = two_machines(places, "data", "-o", "run", "--resume")
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    assert len(read_log(folder.path)) == 1
    assert folder.model.read_bytes() == weights


def test_two_processes_do_as_one(data: Path, tmp_path: Path) -> None:
    """Without normalising by batches and dropout, but for rounding."""
    (data / "train" / "light" / "000.png").unlink()  # 40 images in even batches
    random_checkpoint(width_mult=0.35, resolution=(32, 32)).save(tmp_path / "start.safetensors")
    start = ["--weights", str(tmp_path / "start.safetensors"), "--set", "drop_rate=0"]
    start += ["--set", "augmentation.mixup=0"]
    options = [*start, *HERE, "--epochs", "2", "--batch", "8"]
    assert run(["train", str(data), "-o", str(tmp_path / "one"), *options]) == 0
    done = torchrun(str(data), "-o", str(tmp_path / "two"), *options)
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(read_log(tmp_path / "two")[1:], read_log(tmp_path / "one")[1:]):
        assert mine["lr"] == theirs["lr"]
        for name in ("train_loss", "val_loss"):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), abs=1e-3)
