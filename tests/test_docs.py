"""What pages and messages tell a reader to type works: every Python block and every command line of
the README and of docs/ runs, page by page from top to bottom, in a folder as the pages describe.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import main, run
from mobilenetv2.heads import DeepLab, SSDLite
from mobilenetv2.labels import VOC
from mobilenetv2.training import recipes

from . import test_boxes_data, test_masks_data
from .conftest import random_checkpoint
from .writers import TFLiteWriter

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
COMMAND = re.compile(r"^\s*(mobilenetv2|pip|python3?|pytest|torchrun) ", re.MULTILINE)

NOT_RUN = {  # why a command of a page does not run here
    "python3 -m venv .venv && . .venv/bin/activate": "downloads; .ci/run does it",
    "pip install -c constraints.txt . && mobilenetv2 classify examples/cat.jpg": "as above",
    "pip install -c constraints.txt '.[dev]' && pytest -n auto --dist worksteal": "as above",
    "pip install -c constraints.txt '.[benchmark]'": "downloads a gigabyte of other runtimes",
    "mobilenetv2 convert ssd_mobilenet_v2.tflite detector.safetensors --labels labels.txt": (
        "tests/test_formats_tflite.py reads the real file"
    ),
    "mobilenetv2 convert deeplabv3_mnv2_pascal_quant.tflite segmenter.safetensors": ("as above"),
    "python benchmarks/latency.py": "needs other runtimes and an idle machine",
    "python benchmarks/latency.py --precision int8": "as above",
    "python benchmarks/latency.py --precision bf16": "as above",
    "python benchmarks/plot.py benchmarks/results/latency-DATE-CPU.json docs/images/latency.png": (
        "draws the results of the above; tests/test_benchmarks.py draws some"
    ),
    "python benchmarks/startup.py": "as above",
    "python benchmarks/tasks.py ssd_mobilenet_v2_oidv4_fp16.tflite deeplabv3_mnv2_pascal_quant.tflite"
    " deeplabv3_mnv2_dm05_pascal_quant.tflite --images JPEGImages --samples 32": "as above",
    "python benchmarks/folder.py --images photos/ --model tf2_mobilenet_v2_1.0_224_ptq.tflite": (
        "as above"
    ),
    "python benchmarks/folder.py --images photos/ --model tf2_mobilenet_v2_1.0_224_ptq.tflite"
    " --precision int8": "as above",
    "python tools/ablations.py TRAIN.zip TEST.zip -o runs/ --results docs/ablations.json"
    " --figure docs/images/ablations.png": "97 minutes; see tests/test_ablations.py",
    "mobilenetv2 train TRAIN.zip -o cifar10 --recipe small": "118 minutes; see test_small_recipe.py",
    "mobilenetv2 quantize cifar10/model.safetensors --calibrate photos/ --samples 500"
    " -o cifar10-int8.safetensors": "as above",
    "torchrun --nnodes 2 --node-rank 0 --nproc_per_node 2 --master-addr HOST --master-port 29500"
    " -m mobilenetv2 train photos/ -o run": "needs two machines; see test_train_command.py",
    "mobilenetv2 serve mine.safetensors --port 8000": "runs until it is ended; see test_serving.py",
    **dict.fromkeys(
        (f"pip install '.[{extra}]'" for extra in ("ray", "spark", "dask", "serve")),
        "installs what the tests of the examples and of the service need",
    ),
    "python examples/ray_folder.py photos/ rows/ --model mine.safetensors --workers 2 --cpus 0.8": (
        "needs Ray; see test_examples.py"
    ),
    "python examples/spark_folder.py photos/ rows/ --model mine.safetensors": "as above, Spark",
    "python examples/dask_folder.py photos/ rows/ --model mine.safetensors --workers 2": "as above",
    "python examples/webdataset_shards.py train-000.tar train-001.tar -o rows/"
    " --model mine.safetensors": "as above, webdataset and pyarrow",
    "curl --data-binary @examples/cat.jpg 'http://127.0.0.1:8000/predict?top=1'": (
        "needs a service; see test_serving.py"
    ),
    "curl -F image=@examples/cat.jpg -F image=@rose.jpg -F top=2 http://127.0.0.1:8000/predict": (
        "as above"
    ),
    "python benchmarks/service.py --images photos/ --model mine.safetensors": (
        "needs an idle machine; see test_serving.py"
    ),
    "mobilenetv2 train photos/ -o four --processes 4": "four processes; see tests/test_processes.py",
}
SHORTER = {  # what a page does at length
    '"epochs": 10': '"epochs": 1',
    "--set epoch_steps=1000": "--set epoch_steps=1 --resolution 32",
    "steps=1000, workers=4": "steps=2, workers=0",
    "train coco/": "train coco/ --resolution 64",
    "train voc/": "train voc/ --resolution 64",
    "--minutes 30": "--minutes 0.01",
    "--recipe mine.json": "--recipe mine.json --epochs 1",
}


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    text: str
    line: int


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in blocks]


def command_lines(block: Block) -> list[str]:
    """The commands of a block, each in one line with single spaces, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines]


def jpeg(brightness: int, seed: int) -> bytes:
    """A smooth image of 40 x 40 pixels."""
    coarse = np.random.default_rng(seed).integers(brightness, brightness + 100, (4, 4, 3))
    content = io.BytesIO()
    image = Image.fromarray(coarse.astype(np.uint8)).resize((40, 40), Image.Resampling.BICUBIC)
    image.save(content, "jpeg")
    return content.getvalue()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages mention, as small as can be: 32 x 32 pixels, width 0.35."""
    folder = tmp_path_factory.mktemp("described")
    shutil.copytree(ROOT / "examples", folder / "examples")
    images = {
        f"{split}/{name}/{i}.jpg": jpeg(brightness, i)
        for split, count in (("train", 16), ("val", 2))
        for name, brightness in (("ant", 0), ("bee", 150))
        for i in range(count)
    }
    with zipfile.ZipFile(folder / "cifar.zip", "w") as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    shutil.unpack_archive(folder / "cifar.zip", folder / "photos")
    for name in ("rose", "street"):
        (folder / f"{name}.jpg").write_bytes(jpeg(50, 0))
    rows = (f"photos/{name},{name.split('/')[1]}\n" for name in images)
    (folder / "labels.csv").write_text("file,label\n" + "".join(rows))
    for i in range(124):
        with tarfile.open(folder / f"train-{i:03}.tar", "w") as shard:
            boxes = b'{"boxes": [[8, 8, 30, 20]], "labels": ["dog"]}'
            image = jpeg(150 * (i % 2), i)
            for name, content in (("0.jpg", image), ("0.cls", b"%d" % (i % 2)), ("0.json", boxes)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))

    small = Architecture(width_mult=0.35, resolution=(32, 32), padding="same")
    checkpoint = replace(random_checkpoint(small, classes=2), labels=("ant", "bee"))
    for name in ("mine", "cifar10", "cache/slim-1.0-224"):
        (folder / name).parent.mkdir(exist_ok=True)
        checkpoint.save(folder / f"{name}.safetensors")
    random_checkpoint(small, width_mult=0.5).save(folder / "cache" / "slim-0.5-224.safetensors")
    other_tasks = (("detector", SSDLite(2), ("cat", "dog")), ("segmenter", DeepLab(21), VOC))
    for name, head, labels in other_tasks:
        checkpoint = random_checkpoint(replace(small, head=head))
        replace(checkpoint, labels=labels).save(folder / f"{name}.safetensors")
    test_boxes_data.write_coco(folder / "coco")
    voc = test_masks_data.write(folder / "voc")
    for name in "bcd":  # enough to train with
        for file in ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"):
            shutil.copy(voc / file.format("a"), voc / file.format(name))
    # with ImageNet's classes, of which ant and bee are two
    imagenet = TFLiteWriter(random_checkpoint(small, classes=1001))
    for name in ("mobilenet_v2", "tf2_mobilenet_v2_1.0_224_ptq"):
        imagenet.save(folder / f"{name}.tflite")
    return folder


@pytest.fixture
def reader(described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: published models are in the cache, no server is reached, recipes are short,
    and a shell finds the command `mobilenetv2`.
    """
    folder = tmp_path / "reader"
    shutil.copytree(described, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOBILENETV2_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MOBILENETV2_MIRROR", "http://127.0.0.1:9")
    for name, recipe in recipes.RECIPES.items():
        short = recipe.changed({"epochs": 1, "batch": 8, "warmup_epochs": 0.5})
        monkeypatch.setitem(recipes.RECIPES, name, short)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "mobilenetv2"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mobilenetv2 "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    torch.set_num_threads(1)
    return folder


def run_line(line: str) -> int:
    """Runs a command in this process, or in a shell where it needs one; returns the exit code."""
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    words = shlex.split(line)
    if words[0] == "mobilenetv2" and not {"&&", "|", ">", "<"} & set(words):
        return run(words[1:])
    return subprocess.run(["sh", "-c", line]).returncode


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if {b.language for b in read_blocks(p)} - {""}],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_runs_from_top_to_bottom(page: Path, reader: Path) -> None:
    names: dict[str, object] = {}
    for block in read_blocks(page):
        if block.language == "python":
            text = "\n" * (block.line - 1) + block.text
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a new head, of few images
                exec(compile(text, str(page), "exec"), names)
        elif block.language == "sh":
            for line in command_lines(block):
                if line and line not in NOT_RUN:
                    assert run_line(line) == 0, line


def test_every_command_is_in_a_block_that_runs() -> None:
    for page in PAGES:
        for block in read_blocks(page):
            assert block.language in ("", "sh", "python"), f"{page}: {block.line}"
            assert block.language or not COMMAND.search(block.text), f"{page}: {block.line}"
        indented = [line for line in prose(page).splitlines() if line.startswith("    ")]
        assert not COMMAND.search("\n".join(indented)), page


def test_what_does_not_run_is_on_a_page() -> None:
    blocks = [block for page in PAGES for block in read_blocks(page)]
    lines = {line for block in blocks if block.language == "sh" for line in command_lines(block)}
    assert NOT_RUN.keys() <= lines
    assert all(any(long in block.text for block in blocks) for long in SHORTER)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """What a link may name behind #, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" not in path:
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_commands_within_sentences_exist() -> None:
    """`mobilenetv2 ...` in a sentence of a page, or in a message: the command and its options."""
    texts = [prose(page) for page in PAGES]
    texts += [file.read_text(encoding="utf-8") for file in ROOT.glob("src/**/*.py")]
    lines = [line for text in texts for line in re.findall(r"`(mobilenetv2 [a-z][^`]*)`", text)]
    assert len(lines) > 20
    for line in lines:
        name, *words = line.split()[1:]
        known = {flag for option in main.commands[name].params for flag in option.opts}
        flags = {word.strip("[]") for word in words if word.strip("[").startswith("-")}
        assert flags - {"-h", "--help", "-"} <= known, line


def test_nothing_is_installed_from_an_index() -> None:
    """No index has the package: extras are installed from a checkout."""
    files = [*PAGES, *ROOT.glob("benchmarks/*.py"), *ROOT.glob("src/**/*.py")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "mobilenetv2[" in line] == []
    assert [line for line in lines if "pip install mobilenetv2" in line] == []


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path)],
        env={**os.environ, "CXX": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("CMake Error")]
    assert len(errors) == 1
    assert "needs a C++17 compiler" in done.stderr
