"""`mobilenetv2 serve`: right answers, refusals with a sentence, and an end that loses no request."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import io
import json
import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenetv2 as mnv2
from mobilenetv2.architecture import Architecture
from mobilenetv2.cli import run
from mobilenetv2.heads import DeepLab, SSDLite

from .browser import find_browser, opened
from .conftest import random_checkpoint

for module in ("starlette", "uvicorn", "python_multipart"):
    pytest.importorskip(module, reason="the extra `serve` is not installed")

SMALL = Architecture(width_mult=0.35, resolution=(32, 32))
HEADS = {"detection": SSDLite(2), "segmentation": DeepLab(3), "features": "features"}
TASKS = ("classification", *HEADS)
FORM = "multipart/form-data; boundary=xx"


def png(seed: int, side: int = 40) -> bytes:
    content = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def form(*files: bytes, **fields: str) -> bytes:
    """A form with files and fields."""
    parts = [
        f'--xx\r\nContent-Disposition: form-data; name="image"; filename="{i}.png"\r\n\r\n'.encode()
        + content
        for i, content in enumerate(files)
    ]
    parts += [
        f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    return b"\r\n".join([*parts, b"--xx--\r\n"])


class Server:
    """A running service.

    Attributes:
        model: The file that it serves.
        port: Where it listens.
        process: What runs it.
    """

    def __init__(self, model: Path, *options: str) -> None:
        self.model = model
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mobilenetv2", "serve", str(model), "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)$", self.line.strip())
        assert match, self.line + self.process.stderr.read()
        self.port = int(match[1])

    def request(
        self, path: str, body: bytes | None = None, method: str = "", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, content

    def json(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        status, _, content = self.request(path, body, **headers)
        return status, json.loads(content)

    def stop(self) -> int:
        """Ends the service; its exit code."""
        self.process.terminate()
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def running(model: Path, *options: str) -> Iterator[Server]:
    server = Server(model, *options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model file of each task."""
    folder = tmp_path_factory.mktemp("models")
    paths = {task: folder / f"{task}.safetensors" for task in TASKS}
    checkpoint = random_checkpoint(SMALL, classes=4)
    replace(checkpoint, labels=("ä", "b", "c", "<d>")).save(paths["classification"])
    for task, head in HEADS.items():
        random_checkpoint(replace(SMALL, head=head)).save(paths[task])
    return paths


@pytest.fixture(scope="module")
def servers(models: dict[str, Path]) -> Iterator[dict[str, Server]]:
    """A service of each task, with small limits."""
    options = (
        "--max-bytes",
        "100000",
        "--max-images",
        "3",
        "--max-pixels",
        "5000",
    )
    started = {task: Server(path, *options) for task, path in models.items()}
    yield started
    assert [server.stop() for server in started.values()] == [0] * len(started)


@pytest.fixture
def server(servers: dict[str, Server]) -> Server:
    return servers["classification"]


def best(server: Server, content: bytes, top: int = 5) -> list[dict[str, Any]]:
    predictions = mnv2.load(server.model).classify(content, top=top)
    return [
        {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
        for p in predictions
    ]


def test_an_image_as_the_body_and_several_in_a_form(server: Server) -> None:
    status, message = server.json("/predict?top=2", png(0))
    assert (status, message["model"], message["task"]) == (200, "classification", "classification")
    assert message["images"] == [{"name": "the image", "predictions": best(server, png(0), 2)}]
    body = form(png(0), png(1)[:500], png(2), top="1")
    status, message = server.json("/predict", body, content_type=FORM)
    assert status == 200
    first, second, third = message["images"]
    assert first == {"name": "0.png", "predictions": best(server, png(0), 1)}
    assert third == {"name": "2.png", "predictions": best(server, png(2), 1)}
    assert second["name"] == "1.png"
    assert second["error"].startswith("1.png: cannot be decoded")
    encoded = form(png(0)).replace(b'filename="0.png"', b"filename*=UTF-8''%ea%b3%a0.png")
    status, message = server.json("/predict", encoded, content_type=FORM)
    assert (status, message["images"][0]["name"]) == (200, "고.png")
    packed = gzip.compress(png(0))
    halves = gzip.compress(png(0)[:999]) + gzip.compress(png(0)[999:])
    for encoding, body in (
        ("gzip", packed),
        ("GZIP", halves),
        ("x-gzip", packed),
        ("Identity", png(0)),
        ("deflate", zlib.compress(png(0))),
    ):
        status, message = server.json("/predict", body, content_encoding=encoding)
        assert (status, message["images"][0]["predictions"]) == (200, best(server, png(0)))


def test_the_other_tasks(servers: dict[str, Server]) -> None:
    for task, query in (
        ("detection", "?threshold=0.3&class=1&limit=2"),
        ("segmentation", "?mask=true"),
        ("features", ""),
    ):
        server = servers[task]
        status, message = server.json("/predict" + query, png(0))
        assert (status, message["task"]) == (200, task)
        (answer,) = message["images"]
        model = mnv2.load(server.model)
        if task == "detection":
            expected = model.detect(png(0), threshold=0.3, classes=(1,), limit=2).to_dict()
            assert expected["detections"]
        elif task == "segmentation":
            segmented = model.segment(png(0))
            mask = Image.open(io.BytesIO(base64.b64decode(answer.pop("mask"))))
            assert np.array_equal(np.asarray(mask), segmented.mask)
            expected = segmented.to_dict()
            indices = {segmented.labels[i]: i for i, _ in segmented.class_shares()}
            assert answer.pop("indices") == indices
        else:
            expected = {
                "features": model.features(model.checkpoint.preprocessing(png(0))[None])[0].tolist()
            }
        assert answer == {"name": "the image", **expected}


BODIES = {
    "broken": ("/predict", png(0)[:700], {}, 422, "the image: cannot be decoded"),
    "no image": ("/predict", b"no image", {}, 422, "the image: not an image"),
    "empty": ("/predict", b"", {}, 400, "no image in the request"),
    "large": ("/predict", bytes(200_000), {}, 413, "larger than 100000 bytes"),
    "many pixels": ("/predict", png(0, 80), {}, 422, "the image: more than 5000 pixels"),
    "many images": ("/predict", form(*[png(0)] * 4), {"content_type": FORM}, 413, "more than 3 images"),
    "form cut off": ("/predict", form(png(0))[:-9], {"content_type": FORM}, 400, "the form is cut off"),
    "long boundary": ("/predict", form(png(0)), {"content_type": FORM + "x" * 3000}, 400, "not multipart/form-data"),
    "no boundary": ("/predict", form(png(0)), {"content_type": "multipart/form-data"}, 400, "boundary"),
    "no form": ("/predict", png(0), {"content_type": FORM}, 400, "not multipart/form-data"),
    "form without a file": ("/predict", form(top="1"), {"content_type": FORM}, 400, "no image in the form"),
    "option": ("/predict?size=1", png(0), {}, 400, "unknown option 'size': a classification model has top"),
    "no number": ("/predict?top=x", png(0), {}, 400, "top must be a whole number, not 'x'"),
    "underscore": ("/predict?top=1_0", png(0), {}, 400, "top must be a whole number"),
    "other digits": ("/predict?top=%D9%A3", png(0), {}, 400, "top must be a whole number"),
    "image as a field": ("/predict", form(image="x" * 2000), {"content_type": FORM}, 413, "needs a filename, as in -F"),
    "many fields": ("/predict", form(**{f"f{i}": "" for i in range(21)}), {"content_type": FORM}, 413, "more than 20 fields"),
    "field left empty": ("/predict", form(b"").replace(b"0.png", b""), {"content_type": FORM}, 400, "no image in the form"),
    "bytes behind gzip": ("/predict", gzip.compress(png(0)) + b"x", {"content_encoding": "gzip"}, 400, "not gzip"),
    "bytes behind deflate": ("/predict", zlib.compress(png(0)) + b"x", {"content_encoding": "deflate"}, 400, "not deflate"),
    "no deflate": ("/predict", png(0), {"content_encoding": "deflate"}, 400, "not deflate"),
    "deflate cut off": ("/predict", zlib.compress(png(0))[:-9], {"content_encoding": "deflate"}, 400, "cut off"),
    "deflate bomb": ("/predict", zlib.compress(bytes(10**7)), {"content_encoding": "deflate"}, 413, "larger than"),
    "out of range": ("/predict?top=0", png(0), {}, 400, "top must be a whole number of at least 1"),
    "encoding": ("/predict", png(0), {"content_encoding": "br"}, 415, "gzip and deflate are read"),
    "no gzip": ("/predict", png(0), {"content_encoding": "gzip"}, 400, "not gzip"),
    "gzip cut off": ("/predict", gzip.compress(png(0))[:-9], {"content_encoding": "gzip"}, 400, "cut off"),
    "gzip bomb": ("/predict", gzip.compress(bytes(10**7)), {"content_encoding": "gzip"}, 413, "larger than"),
    "address": ("/nowhere", png(0), {}, 404, "Not Found: POST /nowhere"),
    "model": ("/v2/models/other/infer", b"{}", {}, 404, "the model here is classification"),
    "slash": ("/predict/", png(0), {}, 404, "Not Found: POST /predict/"),
    "method": ("/predict", None, {}, 405, "Method Not Allowed"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_refusal_has_a_status_and_a_sentence(server: Server, name: str) -> None:
    path, body, headers, status, message = BODIES[name]
    got, answer = server.json(path, body, **headers)
    assert got == status
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert "--max-pixels" not in answer["error"]  # is for who runs the service


def test_a_connection_goes_on_after_a_large_body_for_a_wrong_address(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for path, body, status in (("/nowhere", bytes(1 << 20), 404), ("/predict?top=1", png(0), 200)):
        connection.request("POST", path, body)
        response = connection.getresponse()
        assert response.status == status
        response.read()
    connection.close()


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: "
UPGRADE = HEAD.replace(
    b"Content",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nContent",
)
CONNECTIONS = {
    "cut off": ([HEAD + b"1000\r\n\r\nabc"], True, 400, "the request was cut off"),
    "slow": ([HEAD + b"1000\r\n\r\nabc"], False, 408, "not complete after 3 seconds"),
    "slow head": ([b"POST /predict HT"], False, 408, "no request was complete after 3 seconds"),
    "silent": ([], False, 408, "no request was complete"),
    "asks before a large body": (
        [HEAD + b"99999999\r\nExpect: 100-continue\r\n\r\n"], False, 413, "larger than 100000 bytes",
    ),
    "large and slow": ([HEAD + b"99999999\r\n\r\nabc"], False, 413, "larger than 100000 bytes"),
    "large in chunks": (
        [b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
         *[b"10000\r\n" + bytes(1 << 16) + b"\r\n"] * 9, b"0\r\n\r\n"],
        False, 413, "larger than 100000 bytes",
    ),
    "large head": (
        [b"POST /predict HTTP/1.1\r\nX: ", bytes(70_000).replace(b"\0", b"a")],
        False, 431, "headers of more than 65536 bytes",
    ),
    "large head at once": (
        [b"GET /health HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"],
        False, 431, '{"error": "headers of more than 65536 bytes"}',
    ),
    "no HTTP": ([b"hello\r\n\r\n"], False, 400, '{"error": "Invalid HTTP request'),
    "offers another protocol": (
        [UPGRADE + str(len(png(0))).encode() + b"\r\n\r\n" + png(0)[:99], png(0)[99:]],
        False, 200, "predictions",
    ),
    "offers another protocol, in chunks": (
        [UPGRADE.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n\r\n")
         + f"{len(png(0)):x}\r\n".encode() + png(0) + b"\r\n0\r\n\r\n"],
        False, 200, "predictions",
    ),
    "ends its side after a whole request": (
        [HEAD + str(len(png(0))).encode() + b"\r\n\r\n" + png(0)], True, 200, "predictions",
    ),
}  # fmt: skip


def converse(server: Server, parts: list[bytes], ends: bool) -> bytes:
    """What the service answers to raw bytes; `ends`: the client then closes its side."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not re.search(rb"\r\n\r\n.", answer, re.DOTALL):
            received = connection.recv(1 << 16)
            if not received:
                break
            answer += received
    return answer


def test_slow_and_cut_connections_are_answered_while_good_ones_go_on(
    models: dict[str, Path],
) -> None:
    options = ("--timeout", "3", "--max-bytes", "100000")
    with (
        running(models["classification"], *options) as server,
        ThreadPoolExecutor(len(CONNECTIONS)) as threads,
    ):
        answers = {
            name: threads.submit(converse, server, parts, ends)
            for name, (parts, ends, _, _) in CONNECTIONS.items()
        }
        good = [server.json("/predict?top=1", png(i)) for i in range(20)]
    assert [status for status, _ in good] == [200] * 20
    for name, (_, _, status, message) in CONNECTIONS.items():
        answer = answers[name].result()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (name, answer)
        assert message.encode() in answer, (name, answer)


def test_the_logging_of_the_process_stays(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilenetv2.serving import server
    from mobilenetv2.serving.limits import Limits
    from mobilenetv2.serving.tasks import load_task

    monkeypatch.setattr(server._Server, "run", lambda self, sockets: None)
    loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error")]
    before = [list(logger.handlers) for logger in loggers]
    task = load_task(str(models["classification"]), 10**6)
    server.serve(task, "mine", "127.0.0.1", 0, Limits(), print)
    assert [list(logger.handlers) for logger in loggers] == before


def test_a_full_queue_is_said_and_waiting_has_an_end() -> None:
    from mobilenetv2.serving.limits import Limits, RefusalError
    from mobilenetv2.serving.pool import Pool

    async def scenario() -> None:
        pool = Pool(1, Limits(queue=2, images=2, seconds=0.3))
        gate = threading.Event()
        running = asyncio.create_task(pool.map(lambda items: [gate.wait(10)], [0]))
        waiting = asyncio.create_task(pool.map(lambda items: items, [1, 2]))
        await asyncio.sleep(0.05)
        with pytest.raises(RefusalError, match="the queue is full, 3 images wait") as full:
            await pool.map(lambda items: items, [3])
        assert (full.value.status, full.value.headers) == (429, {"retry-after": "1"})
        for task in (running, waiting):
            with pytest.raises(RefusalError, match=r"more than 0\.3 seconds") as late:
                await task
            assert late.value.status == 503
        gate.set()
        while pool.pending:
            await asyncio.sleep(0.01)
        assert await pool.map(lambda items: [item + 1 for item in items], [4, 5]) == [5, 6]
        pool.close()

    asyncio.run(scenario())


def test_waiting_images_of_equal_work_are_worked_on_together() -> None:
    from mobilenetv2.serving.limits import Limits
    from mobilenetv2.serving.pool import Pool

    gate, groups = threading.Event(), []

    def double(items: list[int]) -> list[int]:
        groups.append(items)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]

    async def scenario() -> list[Any]:
        pool = Pool(1, Limits(), group=4)
        calls = [pool.map(lambda items: [gate.wait(10)], [0])]
        calls += [pool.map(double, [i]) for i in (1, 2)]
        calls += [pool.map(double, [3, 4, 5]), pool.map(lambda items: items, [6])]
        calls += [pool.map(double, [12]), pool.map(double, [13]), pool.map(double, [14])]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.05)
        gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert pool.pending == 0
        pool.close()
        return answers

    answers = asyncio.run(scenario())
    assert answers[:6] == [[True], [2], [4], [6, 8, 10], [6], [24]]
    assert (str(answers[6]), answers[7]) == ("13", [28])  # one's error is not the others'
    assert groups == [[1, 2, 3, 4], [5], [12, 13, 14], [12], [13], [14]]


def test_free_threads_share_the_images_of_a_request() -> None:
    from mobilenetv2.serving.limits import Limits
    from mobilenetv2.serving.pool import Pool

    both = threading.Barrier(2)  # broken, unless two threads come

    async def scenario() -> list[int]:
        pool = Pool(2, Limits(), group=4)
        answers = await pool.map(lambda items: [both.wait(10) >= 0, len(items)], [0, 1, 2, 3])
        pool.close()
        return answers

    assert asyncio.run(scenario()) == [True, 2, True, 2]


def test_clients_at_once_get_their_own_answers(server: Server) -> None:
    def answer(i: int) -> Any:
        body = png(i)[:500] if i % 5 == 4 else png(i)
        return server.json(f"/predict?top={1 + i % 2}", body)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(answer, range(30)))
    for i, (status, message) in enumerate(answers):
        if i % 5 == 4:
            assert (status, "cannot be decoded" in message["error"]) == (422, True)
        else:
            predictions = best(server, png(i), 1 + i % 2)
            assert message["images"] == [{"name": "the image", "predictions": predictions}]


def test_health_readiness_and_metrics(models: dict[str, Path]) -> None:
    with running(models["classification"], "--name", "mine") as server:
        assert server.json("/health") == (200, {"live": True})
        assert server.json("/ready") == (200, {"name": "mine", "ready": True})
        server.json("/predict", form(png(0), b"x"), content_type=FORM)
        server.json("/predict", b"")
        _, headers, content = server.request("/metrics")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = content.decode().splitlines()
    for line in (
        'mobilenetv2_model_info{model="mine",task="classification"} 1',
        'mobilenetv2_images_total{outcome="answered"} 1',
        'mobilenetv2_images_total{outcome="refused"} 1',
        'mobilenetv2_requests_total{route="/predict",status="200"} 1',
        'mobilenetv2_requests_total{route="/predict",status="400"} 1',
        'mobilenetv2_request_seconds_bucket{route="/predict",le="+Inf"} 2',
        'mobilenetv2_request_seconds_count{route="/predict"} 2',
        "mobilenetv2_requests_in_flight 1",
        "mobilenetv2_images_pending 0",
    ):
        assert line in lines
    helped = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    names = {
        re.sub("_(bucket|sum|count)$", "", re.split("[ {]", x)[0]) for x in lines if x[0] != "#"
    }
    assert names == helped


def counters(server: Server) -> dict[str, float]:
    _, _, content = server.request("/metrics")
    lines = (line for line in content.decode().splitlines() if line[0] != "#")
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_is_refused_is_counted(server: Server) -> None:
    before = counters(server)
    converse(server, [b"hello\r\n\r\n"], False)
    converse(server, CONNECTIONS["large head at once"][0], False)
    converse(server, [HEAD + b"1000\r\n\r\nabc"], True)  # counted at its own address
    server.json("/predict?top=x", form(png(0), png(1)), content_type=FORM)
    infer(server, {"inputs": [PIXELS], "parameters": {"top": 0}})
    changes = {k: v - before.get(k, 0) for k, v in counters(server).items()}
    other = {k: v for k, v in changes.items() if 'route="other"' in k and "total" in k and v}
    assert other == {
        f'mobilenetv2_requests_total{{route="other",status="{status}"}}': 1 for status in (400, 431)
    }
    assert changes['mobilenetv2_requests_total{route="/predict",status="400"}'] == 2
    assert changes['mobilenetv2_images_total{outcome="refused"}'] == 3


def infer(server: Server, message: dict[str, Any], binary: bytes = b"", task: str = "") -> Any:
    """Status, JSON and binary data of an answer of the V2 protocol."""
    text = json.dumps(message).encode()
    headers = {"inference_header_content_length": str(len(text))} if binary else {}
    path = f"/v2/models/{task or server.model.stem}/infer"
    status, got, content = server.request(path, text + binary, **headers)
    length = int(got.get("inference-header-content-length", len(content)))
    return status, json.loads(content[:length]), content[length:]


def files_input(*contents: bytes) -> tuple[dict[str, Any], bytes]:
    """Image files as an input with binary data."""
    binary = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    entry = {"name": "image", "datatype": "BYTES", "shape": [len(contents)]}
    return {**entry, "parameters": {"binary_data_size": len(binary)}}, binary


def test_the_v2_protocol_classifies(server: Server) -> None:
    metadata = server.json("/v2/models/classification")[1]
    assert [entry["name"] for entry in metadata["inputs"]] == ["image", "pixels"]
    assert server.json("/v2")[1]["extensions"][0] == "binary_tensor_data"
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/classification/versions/1/ready",
    ):
        assert server.json(path)[0] == 200
    expected = [best(server, png(i), 2) for i in range(2)]

    entry, binary = files_input(png(0), png(1))
    message = {"id": "7", "inputs": [entry], "parameters": {"top": 2, "binary_data_output": True}}
    status, answer, data = infer(server, message, binary)
    assert (status, answer["id"], answer["model_name"], answer["model_version"]) == (
        200,
        "7",
        "classification",
        "1",
    )
    sizes = [each["parameters"]["binary_data_size"] for each in answer["outputs"]]
    assert [(e["name"], e["datatype"], e["shape"]) for e in answer["outputs"]] == [
        ("label", "BYTES", [2, 2]), ("index", "INT64", [2, 2]), ("probability", "FP32", [2, 2]),
    ]  # fmt: skip
    labels, index, probability = (data[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(3))
    names = [p["label"].encode() for each in expected for p in each]
    assert labels == b"".join(struct.pack("<I", len(name)) + name for name in names)
    assert np.frombuffer(index, "<i8").tolist() == [p["index"] for each in expected for p in each]
    rounded = np.frombuffer(probability, "<f4").round(6)
    assert np.allclose(rounded, [p["probability"] for each in expected for p in each], atol=1e-6)

    pixels = [np.asarray(Image.open(io.BytesIO(png(i)))).tolist() for i in range(2)]
    asked = {"outputs": [{"name": "index"}], "parameters": {"top": 2}}
    for values, entry in (
        ([base64.b64encode(png(i)).decode() for i in range(2)], {"name": "image", "datatype": "BYTES", "shape": [2]}),
        (pixels, {"name": "pixels", "datatype": "UINT8", "shape": [2, 40, 40, 3]}),
    ):  # fmt: skip
        status, answer, _ = infer(server, {"inputs": [{**entry, "data": values}], **asked})
        assert status == 200
        (output,) = answer["outputs"]
        assert output["data"] == [p["index"] for each in expected for p in each]


def test_the_v2_protocol_detects_segments_and_describes(servers: dict[str, Server]) -> None:
    entry, binary = files_input(png(0), png(1))
    parameters = {"threshold": 0.3, "limit": 2}
    _, answer, _ = infer(
        servers["detection"], {"inputs": [entry], "parameters": parameters}, binary
    )
    values = {output["name"]: output["data"] for output in answer["outputs"]}
    expected = mnv2.load(servers["detection"].model).detect([png(0), png(1)], **parameters)
    assert values["boxes"] == [side for each in expected for side in each.boxes.ravel().tolist()]
    assert values["image"] == [i for i, each in enumerate(expected) for _ in range(len(each))]
    assert values["indices"] == [i for each in expected for i in each.indices.tolist()]

    server = servers["segmentation"]
    masks = [each.mask for each in mnv2.load(server.model).segment([png(0), png(1)])]
    message = {
        "inputs": [entry],
        "outputs": [{"name": "mask", "parameters": {"binary_data": True}}],
    }
    _, answer, data = infer(server, message, binary)
    assert answer["outputs"][0]["shape"] == [2, 40, 40]
    assert data == np.stack(masks).tobytes()
    other, more = files_input(png(0), png(1, 50))
    status, answer, _ = infer(server, {"inputs": [other]}, more)
    assert (status, "images of one size" in answer["error"]) == (400, True)
    status, answer, _ = infer(server, {"inputs": [other], "outputs": [{"name": "mask_png"}]}, more)
    decoded = [Image.open(io.BytesIO(base64.b64decode(x))) for x in answer["outputs"][0]["data"]]
    assert np.array_equal(np.asarray(decoded[0]), masks[0])
    assert decoded[1].size == (50, 50)

    _, answer, _ = infer(servers["features"], {"inputs": [entry]}, binary)
    assert answer["outputs"][0]["shape"][0] == 2


GOOD = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGk="]}
BINARY = {name: value for name, value in GOOD.items() if name != "data"}
PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("message", "binary", "error"),
    [
        ([], b"", "a list of inputs"),
        ({"inputs": []}, b"", "one input is needed: image"),
        ({"inputs": [{**GOOD, "name": "x"}]}, b"", "one input is needed"),
        ({"inputs": [GOOD]}, b"", "image 0: not an image"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, b"", "the datatype BYTES"),
        ({"inputs": [{**GOOD, "shape": [2]}]}, b"", "1 values, and its shape is of 2"),
        ({"inputs": [{**GOOD, "shape": [-1]}]}, b"", "must have the shape [-1]"),
        ({"inputs": [{**GOOD, "shape": None}]}, b"", "must have the shape"),
        ({"inputs": [{**GOOD, "data": ["?"]}]}, b"", "base64"),
        ({"inputs": [{**GOOD, "data": 3}]}, b"", "base64"),
        ({"inputs": [{**GOOD, "shape": [9], "data": ["aGk="] * 9}]}, b"", "more than 3 images"),
        ({"inputs": [{**PIXELS, "data": [1, 2, 300]}]}, b"", "from 0 to 255"),
        ({"inputs": [{**PIXELS, "data": [[1], [2, 3]]}]}, b"", "must be"),
        ({"inputs": [{**PIXELS, "data": [1]}]}, b"", "has 1 values"),
        ({"inputs": [{**PIXELS, "shape": [1, 3]}]}, b"", "must have the shape [-1, -1, -1, 3]"),
        ({"inputs": [{**BINARY, "parameters": {"binary_data_size": 3}}]}, b"abcd", "must be the 4 bytes"),
        ({"inputs": [{**BINARY, "parameters": {"binary_data_size": 4}}]}, b"\xff\xff\0\0", "cut off"),
        ({"inputs": [GOOD], "parameters": {"top": 2.5}}, b"", "top must be a whole number, not 2.5"),
        ({"inputs": [GOOD], "parameters": {"x": 1}}, b"", "unknown option 'x'"),
        ({"inputs": [GOOD], "parameters": 1}, b"", "parameters must be a JSON object"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, b"", "no output 'x': the model has label"),
        ({"inputs": [GOOD], "outputs": [1]}, b"", "outputs must be a list"),
        ({"inputs": [GOOD], "outputs": 5}, b"", "outputs must be a list"),
        ({"inputs": [GOOD], "outputs": {}}, b"", "outputs must be a list"),
        ({"inputs": [{**GOOD, "name": ["image"]}]}, b"", "one input is needed"),
        ({"inputs": [{**GOOD, "name": {"a": 1}}]}, b"", "one input is needed"),
        ({"inputs": [GOOD], "id": {"a": 1}}, b"", "id must be text"),
        ({"inputs": [{**GOOD, "data": {"aGk=": 1}}]}, b"", "base64"),
        ({"inputs": [GOOD]}, b"abcd", "either data, or binary_data_size"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 4}}]}, b"abcd", "either data, or binary"),
    ],
)  # fmt: skip
def test_the_v2_protocol_refuses(server: Server, message: Any, binary: bytes, error: str) -> None:
    status, answer, _ = infer(server, message, binary)
    assert status in (400, 413)
    assert error in answer["error"]


@pytest.mark.parametrize(
    ("task", "name", "value", "kind"),
    [
        ("classification", "top", 2.0, "a whole number"),
        ("detection", "limit", 1.0, "a whole number"),
        ("detection", "threshold", True, "a number"),
        ("detection", "threshold", "1_0", "a number"),
        ("detection", "class", [], "a class, by label or index"),
        ("detection", "class", [{}], "a class, by label or index"),
        ("segmentation", "mask", 1, "true or false"),
    ],
)
def test_an_option_of_another_kind_is_refused(
    servers: dict[str, Server], task: str, name: str, value: Any, kind: str
) -> None:
    status, answer, _ = infer(servers[task], {"inputs": [GOOD], "parameters": {name: value}})
    assert status == 400
    assert f"{name} must be {kind}" in answer["error"]


def test_a_mask_is_given_or_the_option_refused(servers: dict[str, Server]) -> None:
    for value, given in (("True", True), ("false", False)):
        _, answer = servers["segmentation"].json(f"/predict?mask={value}", png(0))
        assert ("mask" in answer["images"][0]) == given
    status, answer = servers["segmentation"].json("/predict?mask=yes", png(0))
    assert (status, answer["error"]) == (400, "mask must be true or false, not 'yes'")


@pytest.mark.parametrize("length", ["x", "-1", "1", "99", "9" * 5000, "\xb2"])
def test_a_wrong_length_of_the_header_is_refused(server: Server, length: str) -> None:
    path = "/v2/models/classification/infer"
    status, answer = server.json(path, b"{} {}", inference_header_content_length=length)
    assert status == 400
    assert "not JSON" in answer["error"] or "at most the 5 bytes of the body" in answer["error"]


def test_unmodified_clients(server: Server) -> None:
    client = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    triton = client.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert triton.is_model_ready("classification")
    entry = client.InferInput("image", [2], "BYTES")
    entry.set_data_from_numpy(np.array([png(0), png(1)], object))
    answer = triton.infer("classification", [entry], parameters={"top": 1})
    expected = [best(server, png(i), 1)[0]["index"] for i in range(2)]
    assert answer.as_numpy("index").tolist() == [[i] for i in expected]


def test_a_stop_answers_what_has_begun(models: dict[str, Path]) -> None:
    server = Server(models["classification"])
    body = png(0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(HEAD + str(len(body)).encode() + b"\r\n\r\n" + body[:100])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        connection.sendall(body[100:])
        answer = b""
        while received := connection.recv(1 << 16):
            answer += received
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["images"][0]["predictions"] == best(
        server, body
    )
    assert server.process.wait(20) == 0
    server.stop()


def test_a_second_interrupt_is_said_to_those_who_wait(models: dict[str, Path]) -> None:
    server = Server(models["segmentation"], "--threads", "1")
    content = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(content, "PNG")
    body = form(*[content.getvalue()] * 32)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.json, "/predict", body, content_type=FORM)
        while b"mobilenetv2_images_pending 0" in server.request("/metrics")[2]:
            time.sleep(0.02)
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert answer.result() == (503, {"error": "the service was stopped before the answer"})
    assert server.process.wait(20) == 0
    assert server.process.stderr is not None
    assert server.process.stderr.read() == ""
    server.stop()


def test_the_command_refuses(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = str(models["classification"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            ([model, "--port", port], "cannot be listened at"),
            ([model, "--host", "256.1.1.1"], "cannot be listened at"),
            ([model, "--name", "a/b"], "cannot be part of an address: give --name"),
            ([model, "--max-images", "65"], "--max-images 65: must be at most --queue, 64"),
            ([model, "--queue", "10", "--port", port], "cannot be listened at"),
            ([model, "--timeout", "nan"], "--timeout must be"),
            ([model, "--max-bytes", "99999999999999"], "--max-bytes"),
            ([model, "--max-pixels", "9" * 20], "--max-pixels"),
            (["."], "a folder"),
            (["absent.safetensors"], "absent.safetensors"),
            ([], "no MODEL"),
        ):
            assert run(["serve", *arguments]) == 2
            assert message in capsys.readouterr().err


def test_the_benchmark_compares_every_answer(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service

    for i in range(3):
        Image.open(io.BytesIO(png(i))).save(tmp_path / f"{i}.jpg")
    options = ["--images", str(tmp_path), "--model", str(models["classification"])]
    short = ["--seconds", "0.2", "--rounds", "2", "--clients", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["service.py", *options, *short])
    assert service.main() == 0
    (file,) = tmp_path.glob("*.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert {name: len(rates) for name, rates in results["images_per_second"].items()} == {
        "engine": 2,
        "batch": 2,
        "service": 2,
    }
    assert results["service"]["failed"] == 0
    assert results["service"]["requests"] > 2
    assert len(results["service"]["resident_megabytes"]) == 2
    assert len(results["service"]["clients_processor_ms_per_image"]) == 2

    load = service.Load(1, [b""], ["x"], 0.1)  # nobody listens at port 1
    load.run(2)
    assert load.failed == 2


def test_the_page_has_both_languages(servers: dict[str, Server]) -> None:
    from mobilenetv2.serving.page import texts

    assert texts("en").keys() == texts("ko").keys()
    for key, text in texts("en").items():
        assert re.findall(r"{\w+}", text) == re.findall(r"{\w+}", texts("ko")[key]), key
    for task, server in servers.items():
        for language, accepted in (("ko", "ko-KR,en;q=0.5"), ("en", "de,en"), ("en", "")):
            status, headers, content = server.request("/", accept_language=accepted)
            page = content.decode()
            assert (status, f'<html lang="{language}">' in page) == (200, True)
            assert texts(language)[f"lead_{task}"] in page
            assert "default-src 'none'" in headers["content-security-policy"]
            assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


@pytest.mark.skipif(find_browser() is None, reason="Chromium is not installed")
@pytest.mark.parametrize("task", TASKS)
def test_a_photo_on_the_page(servers: dict[str, Server], tmp_path: Path, task: str) -> None:
    """The page works in a browser, and loads from its own server only."""
    server, browser = servers[task], find_browser()
    assert browser is not None
    address = f"http://127.0.0.1:{server.port}/"
    with opened(browser, tmp_path) as page:
        page.call("Page.navigate", url=address)
        deadline = time.monotonic() + 20
        while page.value("typeof send") != "function" and time.monotonic() < deadline:
            time.sleep(0.1)
        content = base64.b64encode(png(0)).decode()
        file = f"new File([Uint8Array.from(atob('{content}'), c => c.charCodeAt(0))], 'a.png')"
        page.value(f"send({file})")
        while not page.value("document.getElementById('took').textContent"):
            assert time.monotonic() < deadline, page.problems
            time.sleep(0.1)
        texts = page.value("document.getElementById('answers').innerText")
        if task == "classification":
            for prediction in best(server, png(0)):
                assert prediction["label"] in texts
                assert f"{100 * prediction['probability']:.1f} %" in texts
        elif task == "segmentation":
            assert page.value("document.getElementById('mask').naturalWidth") == 40
        page.value("send(new File(['x'], 'b.png'))")
        while "not an image" not in page.value("document.getElementById('message').textContent"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        own = tuple(url for url in page.requests if not url.startswith((address, "data:", "blob:")))
    assert own == ()
    assert [problem for problem in page.problems if "422" not in problem] == []
