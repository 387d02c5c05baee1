"""The runtime in WebAssembly, the JavaScript package under Node, and the page in a browser."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.detector import Detector
from mobilenetv2.heads import DeepLab, SSDLite
from mobilenetv2.images import Preprocessing
from mobilenetv2.model import Model
from mobilenetv2.runtime.program import Program, write_program
from mobilenetv2.runtime.quantize import to_int8
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.web import write_page

from .browser import Page, find_browser, opened
from .conftest import random_checkpoint

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "cat.jpg"
PACKAGE = ROOT / "src" / "mobilenetv2" / "web" / "js"

SCRIPT = """
import fs from "node:fs";
import { load } from "PACKAGE/src/index.js";
import { toPixels } from "PACKAGE/src/resize.js";
const jobs = JSON.parse(fs.readFileSync("jobs.json"));
const image = { data: new Uint8Array(fs.readFileSync("image.rgb")), width: jobs.width, height: jobs.height, channels: 3 };
const results = {};
for (const [name, preprocessing] of Object.entries(jobs.pixels)) {
  fs.writeFileSync(`${name}.pixels`, toPixels(preprocessing, image));
}
for (const [file, method, options] of jobs.runs) {
  const model = await load(file, { relaxed: jobs.relaxed });
  let result = await model[method](image, options);
  if (result.mask) result = { ...result, mask: Array.from(result.mask) };
  const pixels = toPixels(model.info.preprocessing, image);
  const outputs = model.run(pixels);
  for (const threads of [1, 3]) {
    const other = await load(file, { relaxed: jobs.relaxed, threads });
    for (let call = 0; call < 4; call++) {
      const same = Object.entries(other.run(pixels)).every(([name, values]) =>
        Buffer.from(values.buffer).equals(Buffer.from(outputs[name].buffer)));
      if (!same) throw new Error(`${file}: other bits with ${threads} threads`);
      await new Promise((resolve) => setTimeout(resolve));
    }
    (results.used ??= []).push([threads, other.info.runtime]);
    other.close();
  }
  const raw = Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, Array.from(values)]));
  results[file] = { result, raw, instructions: model.instructions, task: model.task };
  model.close();
}
for (const [name, call] of Object.entries({
  wrong: () => load("wrong.mnv2"),
  task: async () => (await load(jobs.runs[0][0])).detect(image),
  absent: () => load("absent.mnv2"),
  size: async () => (await load(jobs.runs[0][0])).run(new Uint8Array(5)),
  pixels: async () => (await load(jobs.runs[0][0])).run(null),
  floats: async () => (await load(jobs.runs[0][0])).run(new Float32Array(64 * 64 * 3)),
  zero: async () => (await load(jobs.runs[0][0])).classify(image, { top: 0 }),
  half: async () => (await load(jobs.runs[0][0])).classify(image, { top: 1.5 }),
  text: async () => (await load(jobs.runs[0][0])).classify(image, { top: "5" }),
  misspelt: async () => (await load(jobs.runs[0][0])).classify(image, { topk: 5 }),
  nothing: async () => (await load(jobs.runs[0][0])).classify(image, null),
  threshold: async () => (await load("detect-int8.mnv2")).detect(image, { threshold: NaN }),
  source: () => load(null),
  threads: () => load(jobs.runs[0][0], { threads: 65 }),
  relaxed: () => load(jobs.runs[0][0], { relaxed: "no" }),
  closed: async () => { const model = await load(jobs.runs[0][0]); model.close(); model.close(); model.run(null); },
  closed_later: async () => { const model = await load(jobs.runs[0][0]); model.close(); await model.classify(image); },
})) {
  try { await call(); results[name] = "no error"; } catch (error) { results[name] = `${error.name}: ${error.message}`; }
}
fs.writeFileSync("results.json", JSON.stringify(results));
"""


def node() -> str:
    """Node, or the test is skipped; under CI=true it must be there."""
    path = shutil.which("node")
    if path is None and os.environ.get("CI") == "true":
        pytest.fail("node is absent")
    return path or pytest.skip("node is absent")


def test_the_webassembly_is_of_these_sources() -> None:
    spec = importlib.util.spec_from_file_location("build_wasm", ROOT / "tools" / "build_wasm.py")
    assert spec is not None
    assert spec.loader is not None
    build_wasm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_wasm)
    record = json.loads(build_wasm.RECORD.read_text())
    assert record["sources"] == build_wasm.checksum(), "run tools/build_wasm.py"
    for path, _, _ in build_wasm.files():
        assert path.read_bytes()[:4] == b"\0asm"


def models() -> dict[str, Any]:
    """Small models of each task, in float32 and in int8."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    small = Architecture(width_mult=0.35, resolution=(64, 64), padding="same")
    heads = {
        "classify": small.with_classes(5),
        "detect": Architecture(
            width_mult=0.35, resolution=(64, 64), padding="same", head=SSDLite(classes=3)
        ),
        "segment": Architecture(
            width_mult=0.35,
            resolution=(64, 64),
            padding="symmetric",
            head=DeepLab(classes=4),
            output_stride=16,
        ),
    }
    made = {}
    for method, architecture in heads.items():
        checkpoint = random_checkpoint(architecture, seed=3)
        made[f"{method}-float"] = checkpoint
        made[f"{method}-int8"] = to_int8(checkpoint, pixels)
    # a classifier over more inputs than the kernel of pairs widens at once, each of them as large as they get
    deep = to_int8(
        random_checkpoint(replace(heads["classify"], last_channels=8200), seed=3), pixels
    )
    last = replace(deep.layers["features.18.0"], bias=np.full(8200, 1 << 24, np.int32))
    made["classify-deep-int8"] = replace(deep, layers={**deep.layers, "features.18.0": last})
    return made


PIXELS = {
    "short": Preprocessing(size=(224, 224)),
    "wide": Preprocessing(size=(96, 160), crop_fraction=1.0, interpolation="bicubic"),
    "stretch": Preprocessing(size=(300, 200), resize="stretch", interpolation="lanczos"),
    "fit": Preprocessing(size=(320, 320), resize="fit"),
    "larger": Preprocessing(size=(400, 700)),
    "nearest": Preprocessing(size=(224, 100), interpolation="nearest"),
    "grey": Preprocessing(size=(64, 64), mean=(0.5,), std=(0.5,)),
    "black": Preprocessing(size=(800, 100)),
}


@pytest.fixture(scope="module", params=[False, True], ids=["simd128", "relaxed"])
def answers(request, tmp_path_factory) -> tuple[Path, dict[str, Any], Image.Image]:
    """What Node gives, in a folder with the pixels that it made."""
    folder = tmp_path_factory.mktemp("node")
    image = Image.open(PHOTO).convert("RGB")
    (folder / "image.rgb").write_bytes(image.tobytes())
    (folder / "wrong.mnv2").write_bytes(b"no program, but long enough to be one" * 10)
    runs = []
    for name, checkpoint in models().items():
        method = name.partition("-")[0]
        write_program(checkpoint, folder / f"{name}.mnv2", mask=method == "segment")
        options = {"threshold": 0.05} if method == "detect" else {"top": 3}
        runs.append((f"{name}.mnv2", method, options))
    pixels = {name: preprocessing.to_dict() for name, preprocessing in PIXELS.items()}
    jobs = {"width": image.width, "height": image.height, "pixels": pixels, "runs": runs}
    (folder / "jobs.json").write_text(json.dumps({**jobs, "relaxed": request.param}))
    (folder / "script.mjs").write_text(SCRIPT.replace("PACKAGE", PACKAGE.as_uri()))
    flags = ["--experimental-wasm-relaxed-simd"] if request.param else []
    subprocess.run([node(), *flags, "script.mjs"], cwd=folder, check=True, timeout=120)
    return folder, json.loads((folder / "results.json").read_text()), image


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_those_of_the_library(answers, name) -> None:
    folder, _, image = answers
    assert (folder / f"{name}.pixels").read_bytes() == PIXELS[name](image).tobytes()


def test_outputs_are_those_of_the_engine(answers) -> None:
    _, results, image = answers
    for name, checkpoint in models().items():
        model = engine_of(checkpoint)
        pixels = checkpoint.preprocessing(image)[None]
        raw = results[f"{name}.mnv2"]["raw"]
        if name.startswith("segment"):
            agreeing = (
                np.array(raw["mask"]).reshape(64, 64) == model.engine.mask(pixels)[0]
            ).mean()
            assert agreeing == 1 if name.endswith("int8") else agreeing > 0.999
            continue
        expected = model.engine(pixels)
        expected = expected if isinstance(expected, dict) else {next(iter(raw)): expected}
        for output, values in expected.items():
            difference = np.abs(np.array(raw[output], np.float32) - values.ravel()).max()
            assert difference <= (0 if name.endswith("int8") else 1e-4), (name, output)


def test_threads_are_as_many_as_asked_for(answers) -> None:
    _, results, _ = answers
    assert results["used"]
    for threads, runtime in results["used"]:
        assert runtime["threads"] == threads
        assert "note" not in runtime


def engine_of(checkpoint: Any) -> Any:
    """The model of a checkpoint, by its task."""
    kinds = {"detection": Detector, "segmentation": Segmenter}
    return kinds.get(checkpoint.architecture.head.task, Model)(checkpoint)


def test_classes_boxes_and_masks_are_those_of_the_library(answers) -> None:
    _, results, _ = answers
    for name, checkpoint in models().items():
        model, result = engine_of(checkpoint), results[f"{name}.mnv2"]["result"]
        if name.startswith("classify"):
            expected = model.classify(PHOTO, top=3)
            assert [row["index"] for row in result] == [row.index for row in expected]
            probabilities = [row.probability for row in expected]
            assert [row["probability"] for row in result] == pytest.approx(probabilities, abs=1e-5)
        elif name.startswith("detect"):
            detections = model.detect(PHOTO, threshold=0.05)
            assert len(detections.scores) > 0
            assert [row["index"] for row in result] == detections.indices.tolist()
            boxes = np.array([row["box"] for row in result])
            np.testing.assert_allclose(boxes, detections.boxes, atol=0.02)
        else:
            mask = model.segment(PHOTO).mask
            agreeing = (np.array(result["mask"]).reshape(mask.shape) == mask).mean()
            assert agreeing > 0.999
            assert sum(row["share"] for row in result["classes"]) == pytest.approx(1)


def test_errors_are_sentences(answers) -> None:
    _, results, _ = answers
    assert "not a program" in results["wrong"]
    assert results["task"] == "Error: the model is for classification, not detection"
    assert "absent.mnv2" in results["absent"]
    assert results["size"] == "Error: 5 numbers, not 64 x 64 x 3"
    assert results["pixels"] == "TypeError: pixels must be a Uint8Array, not null"
    assert results["floats"] == "TypeError: pixels must be a Uint8Array, not Float32Array"
    top = "top must be a whole number of at least 1, not"
    assert results["zero"] == f"RangeError: {top} 0"
    assert results["half"] == f"RangeError: {top} 1.5"
    assert results["text"] == f'TypeError: {top} "5"'
    assert results["misspelt"] == "TypeError: there is no option topk: there is top"
    assert results["nothing"] == "TypeError: options must be an object, not null"
    assert results["threshold"] == "RangeError: threshold must be a number from 0 to 1, not NaN"
    assert results["threads"] == "RangeError: threads must be a whole number from 1 to 64, not 65"
    assert "an address, bytes or a response, not null" in results["source"]
    assert results["relaxed"] == 'TypeError: relaxed must be true or false, not "no"'
    assert results["closed"] == results["closed_later"]
    assert results["closed"] == "Error: the model is closed: load it again"


# the page


def test_wrong_pages_are_refused(tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert run(["page", "cifar10", "-o", str(other)]) == 2
    assert "a folder with other files" in capsys.readouterr().err
    assert run(["page", "cifar10", "-o", str(tmp_path / "no" / "site")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["other"]
    with pytest.raises(mnv2.UserError, match="a page needs a model"):
        write_page([], tmp_path / "site")
    features = random_checkpoint(Architecture(width_mult=0.35, head="features"))
    with pytest.raises(mnv2.UserError, match="ends in features"):
        write_page([features], tmp_path / "site")


def names_of(site: Path) -> list[str]:
    listed = json.loads((site / "models.json").read_text("utf-8"))["models"]
    return [entry["name"] for entry in listed]


def test_models_of_a_page_have_names_of_their_own(tmp_path) -> None:
    site = tmp_path / "site"
    checkpoint = mnv2.load("cifar10").checkpoint
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        checkpoint.save(tmp_path / folder / "mine.safetensors")
    old, new = (str(tmp_path / folder / "mine.safetensors") for folder in ("old", "new"))
    assert run(["page", "cifar10", old, "-o", str(site)]) == 0
    assert names_of(site) == ["cifar10 (float32, 32 x 32)", "mine (float32, 32 x 32)"]
    assert run(["page", old, new, "-o", str(site)]) == 0
    assert names_of(site) == [f"{path} (float32, 32 x 32)" for path in (old, new)]
    write_page([checkpoint, checkpoint], site)
    assert names_of(site) == ["float32, 32 x 32", "float32, 32 x 32, 2"]
    with pytest.raises(mnv2.UserError, match="1 names for 2 models"):
        write_page([checkpoint, checkpoint], site, names=["one"])


def test_the_command_that_serves_a_page_can_be_copied(tmp_path, capsys) -> None:
    site = tmp_path / "it's mine"
    assert run(["page", "cifar10-int8", "-o", str(site)]) == 0
    command = capsys.readouterr().err.partition("written; ")[2].partition(" serves it")[0]
    assert shlex.split(command) == ["python", "-m", "http.server", "-d", str(site)]


def test_a_page_knows_the_number_of_classes_without_labels(tmp_path) -> None:
    write_page(
        [random_checkpoint(width_mult=0.35, resolution=(32, 32), classes=7)], tmp_path / "site"
    )
    content = (tmp_path / "site" / "model-0.mnv2").read_bytes()
    assert Program(content).description["classes"] == 7


def test_a_page_is_replaced_whole(tmp_path) -> None:
    site = tmp_path / "site"
    assert run(["page", "cifar10", "cifar10-int8", "-o", str(site)]) == 0
    assert run(["page", "cifar10-int8", "-o", str(site), "--title", "한글"]) == 0
    assert sorted(path.name for path in site.glob("*.mnv2")) == ["model-0.mnv2"]
    assert json.loads((site / "models.json").read_text("utf-8"))["title"] == "한글"
    assert os.listdir(tmp_path) == ["site"]
    (site / "thesis.txt").write_text("mine")
    assert run(["page", "cifar10", "-o", str(site)]) == 2
    assert (site / "thesis.txt").read_text() == "mine"


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
    }

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""


def write_video(path: Path) -> None:
    """Some frames of the cat as a video for the browser's camera."""
    image = Image.open(PHOTO).convert("RGB").resize((320, 240))
    planes = image.convert("YCbCr").split()
    small = [plane.resize((160, 120)) for plane in planes[1:]]
    frame = b"FRAME\n" + planes[0].tobytes() + b"".join(plane.tobytes() for plane in small)
    path.write_bytes(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n" + 5 * frame)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pages")
    write_page(
        [mnv2.load("cifar10").checkpoint, mnv2.load("cifar10-int8").checkpoint], folder / "classes"
    )
    made = models()
    write_page([made["detect-int8"]], folder / "boxes")
    write_page([made["segment-float"]], folder / "masks")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium")
    folder = tmp_path_factory.mktemp("browser")
    write_video(folder / "camera.y4m")
    camera = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={folder / 'camera.y4m'}",
    )
    with opened(path, folder / "profile", *camera) as page:
        yield page


def wait(page: Page, expression: str, seconds: float = 60) -> None:
    """Until a JavaScript expression is true."""
    end = time.monotonic() + seconds
    while not page.value(expression):
        assert time.monotonic() < end, (
            expression,
            page.value("document.body.innerText"),
            page.problems,
        )
        time.sleep(0.05)


def drop(page: Page) -> None:
    data = base64.b64encode(PHOTO.read_bytes()).decode()
    text = f"""(() => {{
      const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0));
      const carried = new DataTransfer();
      carried.items.add(new File([bytes], "cat.jpg", {{ type: "image/jpeg" }}));
      document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: carried, bubbles: true, cancelable: true }}));
    }})()"""
    page.value(text)


# the model loaded with one thread, as many as usual, and three; and closed, which ends what waits
LOADED = """(async () => {
  const { loadInWorker } = await import("./mobilenetv2/src/worker.js");
  const image = new ImageData(Uint8ClampedArray.from({ length: 40 * 40 * 4 }, (_, i) => i * 7919), 40, 40);
  const loaded = [];
  for (const options of [{ threads: 1 }, {}, { threads: 3 }]) {
    const model = await loadInWorker("model-0.mnv2", options);
    const best = JSON.stringify(await model.classify(image));
    loaded.push({ ...model.info.runtime, best });
    const waiting = model.classify(image);
    model.close();
    for (const call of [() => waiting, () => model.classify(image)]) {
      const message = await call().then(() => "no error", (error) => error.message);
      if (!message.includes("the model is closed")) throw new Error(message);
    }
  }
  window.loaded = loaded;
})()"""


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["classes", "boxes", "masks"])
def test_a_photo_dropped_on_the_page(site, browser, kind, width) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(f"{site}/{kind}/", width)
    wait(browser, "document.body.dataset.ready === '1'")
    drop(browser)
    wait(browser, "document.querySelector('article')?.dataset.done === '1'")
    text = browser.value("document.querySelector('article').innerText")
    assert "cat.jpg" in text
    assert " ms" in text
    facts = browser.value("document.getElementById('facts').textContent")
    assert re.search(r", [1-9]\d* classes|클래스 [1-9]", facts)
    if kind == "classes":
        (best,) = mnv2.load("cifar10").classify(PHOTO, top=1)
        assert best.label in text.splitlines()[1:3]
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.problems == []
    assert all(url.startswith((site, "blob:", "data:")) for url in browser.requests)


def test_int8_and_korean(site, browser) -> None:
    browser.problems.clear()
    browser.open(f"{site}/classes/", 800)
    wait(browser, "document.body.dataset.ready === '1'")
    browser.value("localStorage.clear()")
    before = browser.value("document.documentElement.lang")
    drop(browser)
    wait(browser, "document.querySelector('article')?.dataset.done === '1'")
    browser.value("document.querySelector('article').dataset.done = ''")
    browser.value(
        "{const s = document.getElementById('models'); s.value = '1'; s.dispatchEvent(new Event('change'))}"
    )
    wait(browser, "document.querySelector('article').dataset.done === '1'")
    (best,) = mnv2.load("cifar10-int8").classify(PHOTO, top=1)
    assert best.label in browser.value("document.querySelector('article').innerText")
    browser.value("document.getElementById('language').click()")
    other = {"en": "ko", "ko": "en"}[before]
    assert browser.value("document.documentElement.lang") == other
    korean = "사진" in browser.value("document.getElementById('lead').innerText")
    assert korean == (other == "ko")
    browser.value("document.getElementById('language').click()")
    assert browser.problems == []


def test_the_camera(site, browser) -> None:
    browser.problems.clear()
    browser.open(f"{site}/classes/", 360)
    wait(browser, "document.body.dataset.ready === '1'")
    browser.value("document.getElementById('camera').click()")
    wait(browser, "Number(document.getElementById('live').dataset.frames ?? 0) > 2")
    assert " ms" in browser.value("document.getElementById('live-result').innerText")
    browser.value("document.getElementById('camera').click()")
    assert browser.value("document.getElementById('live').hidden")
    assert browser.problems == []


def test_the_page_works_without_its_server(browser, tmp_path) -> None:
    write_page([mnv2.load("cifar10-int8").checkpoint], tmp_path / "site")
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.open(address, 800)
        wait(browser, "document.body.dataset.ready === '1'")
        wait(browser, "navigator.serviceWorker.controller !== null")
        server.shutdown()
    browser.problems.clear()
    browser.open(address, 800)
    wait(browser, "document.body.dataset.ready === '1'")
    drop(browser)
    wait(browser, "document.querySelector('article')?.dataset.done === '1'")
    assert "cat" in browser.value("document.querySelector('article').innerText")


def test_a_page_has_threads_from_its_second_visit_on(browser, tmp_path) -> None:
    write_page([mnv2.load("cifar10-int8").checkpoint], tmp_path / "site")
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.problems.clear()
        for isolated in (False, True):
            browser.open(address, 800)
            wait(browser, "document.body.dataset.ready === '1'")
            assert browser.value("crossOriginIsolated") == isolated
            browser.value(LOADED)
            wait(browser, "window.loaded !== undefined")
            one, usual, three = browser.value("window.loaded")
            processors = browser.value("navigator.hardwareConcurrency")
            assert [one["threads"], usual["threads"], three["threads"]] == (
                [1, min(4, processors), 3] if isolated else [1, 1, 1]
            )
            assert "note" not in one
            for runtime in (usual, three):
                assert ("not cross-origin isolated" in runtime.get("note", "")) == (not isolated)
            assert one["best"] == usual["best"] == three["best"]
            drop(browser)
            wait(browser, "document.querySelector('article')?.dataset.done === '1'")
            wait(browser, "navigator.serviceWorker.controller !== null")
        assert browser.problems == []
        server.shutdown()


def test_a_file_that_is_no_image_is_named(site, browser) -> None:
    browser.open(f"{site}/classes/", 800)
    wait(browser, "document.body.dataset.ready === '1'")
    browser.value("""{
      const carried = new DataTransfer();
      carried.items.add(new File(["no image"], "notes.txt"));
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
    }""")
    wait(browser, "document.querySelector('article')?.dataset.done === '1'")
    assert "notes.txt is not an image" in browser.value(
        "document.querySelector('article').innerText"
    )
