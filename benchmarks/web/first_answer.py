"""How long a page of `mobilenetv2 page` takes from its address to its first answer, in Chromium, from local disk.

    python benchmarks/web/first_answer.py MODEL [--rounds 10]

Every round is a new browser with an empty cache: the page, the runtime and the model are fetched from a server on
this machine, the model is opened in its worker, and a photo of 451 x 300 is decoded, resized and classified as soon
as the model is there. Milliseconds are the browser's own, from the start of the navigation.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from mobilenetv2.formats import open_checkpoint
from mobilenetv2.web import write_page
from tests.browser import find_browser, opened

PHOTO = Path(__file__).parents[2] / "examples" / "cat.jpg"
WAIT = """(() => {{
  const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0));
  const file = new File([bytes], "cat.jpg", {{ type: "image/jpeg" }});
  const ready = () => {{
    if (document.body?.dataset.ready !== "1") return setTimeout(ready, 1);
    window.readyAt = performance.now();
    const carried = new DataTransfer();
    carried.items.add(file);
    document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: carried, bubbles: true, cancelable: true }}));
    done();
  }};
  const done = () => {{
    if (document.querySelector("article")?.dataset.done !== "1") return setTimeout(done, 1);
    window.doneAt = performance.now();
  }};
  ready();
}})()"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves without a word."""

    def log_message(self, *arguments: object) -> None:
        """Nothing is printed."""


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=10, help="default: 10")
    options = parser.parse_args()
    browser = find_browser()
    if browser is None:
        raise SystemExit("Chromium is not installed")
    script = WAIT.format(data=base64.b64encode(PHOTO.read_bytes()).decode())
    ready, done = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_page([open_checkpoint(options.model)], Path(folder, "site"))
        handler = functools.partial(Quiet, directory=str(Path(folder, "site")))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for number in range(options.rounds):
                with opened(browser, Path(folder, f"profile{number}")) as page:
                    page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
                    page.open(f"http://127.0.0.1:{server.server_port}/", 800)
                    while not (at := page.value("window.doneAt")):
                        time.sleep(0.01)
                    ready.append(float(page.value("window.readyAt")))
                    done.append(float(at))
            server.shutdown()
    for name, values in (("model ready", ready), ("first answer", done)):
        low, median, high = np.percentile(values, (10, 50, 90))
        print(f"{name}: {median:.0f} ms ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
