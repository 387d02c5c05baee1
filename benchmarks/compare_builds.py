"""Whether a change made the runtime slower: two builds of this package, in turns, on the same model.

    git worktree add /tmp/before HEAD~1
    pip install --no-deps --target /tmp/old /tmp/before
    pip install --no-deps --target /tmp/new .
    python benchmarks/compare_builds.py /tmp/old /tmp/new --model mine.safetensors --resolution 224

A build is a folder that has the package `mobilenetv2` with its extension. Each runs in a process of its
own. In every round each is called `--calls` times and the fastest call counts; which of them begins
changes from round to round. The ratio is the old build's time over the new one's in the same round:
above 1 the new one is faster. The table shows its median and, in brackets, the 10th and 90th percentile.
Where the outputs of the two differ in a bit, it says so and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from measure import markdown, ratio, turn

WORKER = """
import hashlib, sys, time
import numpy as np
import mobilenetv2
name, threads, side, calls = sys.argv[1], *map(int, sys.argv[2:])
model = mobilenetv2.load(name, threads)
height, width = (side, side) if side else model.checkpoint.architecture.resolution
channels = model.checkpoint.architecture.in_channels
images = np.random.default_rng(0).integers(0, 256, (1, height, width, channels), np.uint8)
print(mobilenetv2.__file__, hashlib.sha256(model(images).tobytes()).hexdigest(), flush=True)
for _ in sys.stdin:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        model(images)
        seconds.append(time.perf_counter() - start)
    print(min(seconds), flush=True)
"""


class Worker:
    """A process that has a build loaded and waits for its turns.

    Args:
        build: Folder with the package.
        arguments: Of the worker: model, threads, side of the image or 0, calls.

    Attributes:
        output: Checksum of the output on fixed pixels.

    Raises:
        SystemExit: The build cannot be loaded or does not read the model.
    """

    def __init__(self, build: Path, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            env={**os.environ, "PYTHONPATH": str(build.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        file, _, self.output = self.answers.readline().strip().rpartition(" ")
        if not Path(file).resolve().is_relative_to(build.resolve()):
            self.end()
            raise SystemExit(f"{build}: no build of mobilenetv2 that reads the model")

    def seconds(self) -> float:
        """The fastest of some calls, in seconds."""
        self.requests.write("\n")
        self.requests.flush()
        return float(self.answers.readline())

    def end(self) -> None:
        """Ends the process."""
        self.process.communicate()


def compare(old: Path, new: Path, arguments: list[str], rounds: int) -> tuple[list[str], bool]:
    """A row of the table, and whether the outputs are the same bits."""
    workers = [Worker(build, arguments) for build in (old, new)]
    try:
        times: list[list[float]] = [[], []]
        for round_ in range(rounds):
            for index in turn([0, 1], round_):
                times[index].append(workers[index].seconds())
        same = workers[0].output == workers[1].output
        fastest = [f"{1e3 * min(each):.3f}" for each in times]
        median, low, high = ratio(*times)
        share = f"{median:.3f} ({low:.3f}-{high:.3f})"
        return [*fastest, share, "yes" if same else "no"], same
    finally:
        for worker in workers:
            worker.end()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--model", nargs="+", default=["cifar10", "cifar10-int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--resolution", type=int, default=0, help="the model's own by default")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=12)
    options = parser.parse_args(arguments)
    rows, all_same = [], True
    for model in options.model:
        for threads in options.threads:
            worker = [model, str(threads), str(options.resolution), str(options.calls)]
            cells, same = compare(options.old, options.new, worker, options.rounds)
            rows.append([Path(model).name, str(threads), *cells])
            all_same = all_same and same
    heads = ["model", "threads", "old, fastest ms", "new, fastest ms", "old / new", "same bits"]
    print(markdown(heads, rows))
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
