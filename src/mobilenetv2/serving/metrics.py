"""Counts what a service does, and writes it as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of a service. They are changed on the event loop alone.

    Args:
        model: Its name.
        task: What it does.
    """

    def __init__(self, model: str, task: str) -> None:
        self._model, self._task = model, task
        self._requests: Counter[tuple[str, int]] = Counter()
        self._images: Counter[str] = Counter({"answered": 0, "refused": 0})
        self._seconds: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self.in_flight = 0

    def add_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self._requests[route, status] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]
        buckets = self._buckets.setdefault(route, [0] * (len(BUCKETS) + 1))
        buckets[bisect_left(BUCKETS, seconds)] += 1

    def add_images(self, answered: int, refused: int) -> None:
        """Counts images: with an answer, and with an error."""
        self._images["answered"] += answered
        self._images["refused"] += refused

    def text(self, pending: int) -> str:
        """All numbers.

        Args:
            pending: Images that wait or are worked on.
        """
        lines = [
            *_head("model_info", "gauge", "The model that is served."),
            f'mobilenetv2_model_info{{model="{self._model}",task="{self._task}"}} 1',
            *_head("requests_in_flight", "gauge", "Requests that are not answered yet."),
            f"mobilenetv2_requests_in_flight {self.in_flight}",
            *_head("images_pending", "gauge", "Images that wait or are worked on."),
            f"mobilenetv2_images_pending {pending}",
            *_head("images_total", "counter", "Images, by outcome."),
            *(f'mobilenetv2_images_total{{outcome="{k}"}} {n}' for k, n in self._images.items()),
            *_head("requests_total", "counter", "Requests that were answered."),
        ]
        for (route, status), count in sorted(self._requests.items()):
            labels = f'route="{route}",status="{status}"'
            lines.append(f"mobilenetv2_requests_total{{{labels}}} {count}")
        lines += _head("request_seconds", "histogram", "From the head of a request to its answer.")
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for limit, count in zip((*BUCKETS, "+Inf"), buckets):
                total += count
                labels = f'route="{route}",le="{limit}"'
                lines.append(f"mobilenetv2_request_seconds_bucket{{{labels}}} {total}")
            lines.append(
                f'mobilenetv2_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}'
            )
            lines.append(f'mobilenetv2_request_seconds_count{{route="{route}"}} {total}')
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, help_: str) -> list[str]:
    return [f"# HELP mobilenetv2_{name} {help_}", f"# TYPE mobilenetv2_{name} {kind}"]
