"""The counters that Prometheus reads at /metrics. No label ever has a value that a client sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.routing import BaseRoute, Match, Route

from .limits import App, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one service, in a registry of their own.

    Attributes:
        audio: seconds of audio made, by route template; ``audio.labels("/v1/decode").inc(8.4)``.
        compute: seconds spent computing one answer, by route.
        loads: attempts to load a model, by the name the operator gave it and the result, "ok" or "failed".
        streams: open WebSocket streams; ``streams.set_function`` sets the function that counts them.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, CPU seconds, open files
        self._requests = self._counter("requests", "Requests that were answered", ("method", "route", "status"))
        self._seconds = self._histogram("request_seconds", "From the whole body to the end of the answer", ("route",))
        self.compute = self._histogram("compute_seconds", "Computing for one answer", ("route",))
        self.audio = self._counter("audio_seconds", "Audio that was made, in seconds", ("route",))
        self.loads = self._counter("model_loads", "Models that were loaded, or could not be", ("model", "result"))
        self.streams = self.gauge("streams_open", "WebSocket streams that are open")

    def gauge(self, name: str, text: str, value: Callable[[], float] | None = None) -> Gauge:
        """Adds a gauge. If ``value`` is given, it is called whenever the gauge is read."""
        made = Gauge(f"vocos_{name}", text, registry=self._registry)
        if value is not None:
            made.set_function(value)
        return made

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        return Counter(f"vocos_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: Sequence[str]) -> Histogram:
        return Histogram(f"vocos_{name}", text, labels, registry=self._registry, buckets=_SECONDS)

    def exposition(self) -> tuple[bytes, str]:
        """Returns the text that Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def layer(self, routes: Sequence[BaseRoute]) -> Callable[[App], App]:
        """Returns middleware that counts the answers, refusals included, of an application with these routes."""

        def around(app: App) -> App:
            async def counted(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["type"] != "http":
                    await app(scope, receive, send)
                    return
                status, begun = "none", time.perf_counter()  # none: the client disconnected before the answer

                async def noting(message: Message) -> None:
                    nonlocal status
                    if message["type"] == "http.response.start":
                        status = str(message["status"])
                    await send(message)

                try:
                    await app(scope, receive, noting)
                finally:
                    route = template(scope, routes)
                    method = scope["method"] if scope["method"] in METHODS else "other"
                    self._requests.labels(method, route, status).inc()
                    self._seconds.labels(route).observe(time.perf_counter() - begun)

            return counted

        return around


def template(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """Returns the path of the matching route, with parameters as {name}, or "other" if no route matches."""
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
            return route.path
    return "other"
