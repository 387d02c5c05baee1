"""What a service costs: images per second of the engine with decoding, of `mobilenetv2.batch` and of
`mobilenetv2 serve` under several clients. They take turns.

    pip install '.[serve]'
    python benchmarks/service.py --images photos/ --model mine.safetensors

All three are given the same image files as bytes and use all processors. The engine is
`Model.classify_files` in this process, the batch class is called with 64 images at a time, and the
service is a process of its own, whose clients are threads of this one: the processor time that they
take is lost to it, and printed. "Processor ms" is the time that the process itself computed per image, which other
programs on the machine change little. Every answer of the service must have the status 200 and the engine's best class; otherwise
the exit code is 1. The memory of the service is that after the first and the last round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, Watch, machine, markdown, ratio, report, turn

from mobilenetv2 import load
from mobilenetv2.batch import Classifier
from mobilenetv2.processors import usable_processors

ENGINE, BATCH, SERVICE = "engine", "batch", "service"
ROWS = 64


def main() -> int:
    """Measures, prints and writes the table, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--model", required=True, help="any model file of a classifier")
    parser.add_argument("--most", type=int, default=200, help="number of images; default: 200")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    contents = [file.read_bytes() for file in sorted(options.images.glob("*.jpg"))[: options.most]]
    if not contents:
        raise SystemExit(f"{options.images}: no .jpg files")
    about, watch = machine(["starlette", "uvicorn", "pillow"]), Watch()
    rates, service = measure(contents, options)
    text = table(rates, service, options.clients)
    results = {"images_per_second": rates, "service": service}
    report("service", about, watch, results, text, options.output)
    return 1 if service["failed"] else 0


def measure(
    contents: list[bytes], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Images per second of each turn, and what else there is to say of the service."""
    model = load(options.model)
    labels = [best[0].label for _, best in model.classify_files(contents, top=1)]
    classifier = Classifier(options.model)
    rates: dict[str, list[float]] = {ENGINE: [], BATCH: [], SERVICE: []}
    work: dict[str, list[float]] = {ENGINE: [], BATCH: [], SERVICE: []}
    seconds: list[float] = []
    clients: list[float] = []
    failed, memory = 0, []
    command = [sys.executable, "-m", "mobilenetv2", "serve", options.model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = started_port(process)
            for round_ in range(options.rounds):
                for name in turn([ENGINE, BATCH, SERVICE], round_):
                    own = process.pid if name == SERVICE else os.getpid()
                    begin, before = time.perf_counter(), busy_seconds(own)
                    before_here = busy_seconds(os.getpid())
                    if name == ENGINE:
                        rates[name].append(engine_rate(model, contents, options.seconds))
                    elif name == BATCH:
                        rates[name].append(batch_rate(classifier, contents, options.seconds))
                    else:
                        load_ = Load(port, contents, labels, options.seconds)
                        rates[name].append(load_.run(options.clients))
                        seconds += load_.latencies
                        failed += load_.failed
                        memory.append(resident_megabytes(process.pid))
                    images = rates[name][-1] * (time.perf_counter() - begin)
                    work[name].append(1e3 * (busy_seconds(own) - before) / images)
                    if name == SERVICE:
                        clients.append(1e3 * (busy_seconds(os.getpid()) - before_here) / images)
        finally:
            process.terminate()
    p50, p99 = (1e3 * np.percentile(seconds, (50, 99))).tolist()
    service = {
        "processor_ms_per_image": work,
        "clients_processor_ms_per_image": clients,
        "requests": len(seconds),
        "failed": failed,
        "p50_ms": p50,
        "p99_ms": p99,
        "resident_megabytes": memory,
    }
    return rates, service


def engine_rate(model: Any, contents: list[bytes], seconds: float) -> float:
    """Images per second of the engine, decoding included."""
    begin = time.perf_counter()
    end = begin + seconds
    count = sum(1 for _ in model.classify_files(until(end, contents), top=5))
    return count / (time.perf_counter() - begin)


def batch_rate(classifier: Classifier, contents: list[bytes], seconds: float) -> float:
    """Images per second of the batch class."""
    source, count, begin = cycle(contents), 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        count += len(classifier({"bytes": list(islice(source, ROWS))})["label"])
    return count / (time.perf_counter() - begin)


def until(end: float, contents: list[bytes]) -> Any:
    """The contents again and again, until that time."""
    for content in cycle(contents):
        if time.perf_counter() > end:
            return
        yield content


class Load:
    """Clients that send one image after another, each on one connection.

    Args:
        port: Of the service.
        contents: The images.
        labels: The best class of each.
        seconds: For how long.

    Attributes:
        latencies: Seconds of each request.
        failed: Requests with another status, another answer, or none.
    """

    def __init__(self, port: int, contents: list[bytes], labels: list[str], seconds: float) -> None:
        self._port, self._seconds = port, seconds
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        self._requests = [
            (head % len(content) + content, label) for content, label in zip(contents, labels)
        ]
        self.latencies: list[float] = []
        self.failed = 0

    def run(self, clients: int) -> float:
        """Requests per second of all clients."""
        begin = time.perf_counter()
        threads = [
            threading.Thread(target=self._client, args=(i, begin + self._seconds))
            for i in range(clients)
        ]
        before = len(self.latencies)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (len(self.latencies) - before) / (time.perf_counter() - begin)

    def _client(self, first: int, end: float) -> None:
        requests = islice(cycle(self._requests), first, None)
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
                while time.perf_counter() < end:
                    request, label = next(requests)
                    begin = time.perf_counter()
                    connection.sendall(request)
                    status, answer = received(connection)
                    self.latencies.append(time.perf_counter() - begin)
                    best = answer["images"][0]["predictions"][0]["label"] if status == 200 else None
                    self.failed += best != label
        except (OSError, ValueError):
            self.failed += 1


def received(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    content = b""
    while b"\r\n\r\n" not in content:
        if not (part := connection.recv(1 << 16)):
            raise OSError("the connection was closed")
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
    while len(body) < length:
        body += connection.recv(1 << 16)
    return int(head[9:12]), json.loads(body)


def started_port(process: subprocess.Popen[str]) -> int:
    """The port of a service that has just been started."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"http://127\.0\.0\.1:(\d+)$", line.strip()):
            return int(match[1])
    raise SystemExit("the service did not start")


def busy_seconds(pid: int) -> float:
    """Processor time of a process; 0 outside Linux."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, in MB; 0 outside Linux."""
    status = Path(f"/proc/{pid}/status")
    text = status.read_text() if status.exists() else ""
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match[1]) / 1024 if match else 0.0


def table(rates: dict[str, list[float]], service: dict[str, Any], clients: int) -> str:
    """The medians as Markdown, and the ratios to the engine, round by round."""
    rows = [
        [
            name,
            f"{np.median(values):.1f}",
            str(ratio(values, rates[ENGINE])),
            f"{np.median(service['processor_ms_per_image'][name]):.2f}",
        ]
        for name, values in rates.items()
    ]
    columns = ["", "images per second", "of the engine", "processor ms per image"]
    memory = service["resident_megabytes"]
    return markdown(columns, rows) + (
        f"\n\nThe service: {clients} clients, {service['requests']} requests, {service['failed']} "
        f"failed; p50 {service['p50_ms']:.0f} ms, p99 {service['p99_ms']:.0f} ms; "
        f"the clients took {np.median(service['clients_processor_ms_per_image']):.2f} ms of a processor "
        f"per image; {memory[0]:.0f} MB after the first round, {memory[-1]:.0f} MB after the last. "
        f"{usable_processors()} processors."
    )


if __name__ == "__main__":
    sys.exit(main())
