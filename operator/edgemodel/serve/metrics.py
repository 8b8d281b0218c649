"""What Prometheus hears of a front, whatever the engine: one set of names."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Metrics:
    """The metrics that every front has, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "edgemodel_serve_requests", "Requests by how they ended", ["endpoint", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "edgemodel_serve_request_seconds",
            "How long a request took, its whole answer included",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "edgemodel_serve_prompt_tokens", "Tokens of prompts, or of texts to embed", registry=self.registry
        )
        self._waiting = Gauge("edgemodel_serve_waiting", "Requests that wait for their turn", registry=self.registry)
        self._running = Gauge("edgemodel_serve_running", "Requests that the engine has", registry=self.registry)

    def watch(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Where the numbers of requests come from."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)


class TextMetrics(Metrics):
    """Those of a front that generates text."""

    def __init__(self) -> None:
        super().__init__()
        self.first_token = Histogram(
            "edgemodel_serve_time_to_first_token_seconds",
            "From a request to the first token of its answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.speed = Histogram(
            "edgemodel_serve_tokens_per_second",
            "Tokens a second of an answer, after its first",
            buckets=_SPEEDS,
            registry=self.registry,
        )
        self.tokens = Counter("edgemodel_serve_tokens", "Tokens of answers", registry=self.registry)
