"""Figures of a running server, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, apart from those of others in the process.

    Args:
        gauges: Functions that give a number when it is read, by name and help text.
    """

    def __init__(self, gauges: dict[tuple[str, str], Callable[[], float]]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "lumen_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "lumen_request_seconds",
            "Time from the first byte of a request to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram(
            "lumen_batch_questions", "Questions that were asked together.", buckets=_BATCHES, registry=self._registry
        )
        self.images = Counter(
            "lumen_images",
            "Images of questions by whether they were encoded already.",
            ("kept",),
            registry=self._registry,
        )
        self.gone = Counter("lumen_clients_gone", "Clients that left before their answer.", registry=self._registry)
        for (name, text), read in gauges.items():
            Gauge(name, text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)
