"""What Prometheus scrapes. Labels are routes, codes, classes and versions: never anything a client wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from serving.live import Live, Loaded
from serving.session import BUCKETS

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TENTHS = tuple(round(0.1 * step, 1) for step in range(1, 11))


class Metrics:
    """The figures of one server process. Each method is safe from any thread."""

    def __init__(self) -> None:
        here = self._registry = CollectorRegistry()
        self._requests = Counter("thaw_requests", "Requests answered", ["route", "status"], registry=here)
        self._rejections = Counter("thaw_rejections", "Requests and batch items refused", ["reason"], registry=here)
        self._phases = Histogram(
            "thaw_phase_seconds", "Seconds a phase took", ["phase"], buckets=_SECONDS, registry=here
        )
        self._batches = Histogram("thaw_batch_size", "Pictures run together", buckets=BUCKETS, registry=here)
        self._predictions = Counter("thaw_predictions", "Decisions", ["name", "version", "label"], registry=here)
        self._scores = Histogram(
            "thaw_probability", "Of the decided class", ["name", "label"], buckets=_TENTHS, registry=here
        )

    def answered(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def rejected(self, code: str) -> None:
        self._rejections.labels(code).inc()

    def phase(self, phase: str, seconds: float) -> None:
        """`phase` is read, decode, queue or infer."""
        self._phases.labels(phase).observe(seconds)

    def batch_size(self, size: int) -> None:
        self._batches.observe(size)

    def decided(self, loaded: Loaded, label: str, probability: float) -> None:
        self._predictions.labels(loaded.name, str(loaded.version), label).inc()
        self._scores.labels(loaded.name, label).observe(probability)

    def watch(self, live: Live, admitted: Callable[[], int], buffered: Callable[[], int]) -> None:
        """Shows this state, as it is at each scrape."""
        self._registry.register(_State(live, admitted, buffered))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is read when somebody asks, instead of counted when it happens."""

    def __init__(self, live: Live, admitted: Callable[[], int], buffered: Callable[[], int]) -> None:
        self._live, self._admitted, self._buffered = live, admitted, buffered

    def collect(self) -> Iterator[Metric]:
        loaded = self._live.current
        told = ["name", "version", "digest", "provider", "device"]
        model = GaugeMetricFamily("thaw_model", "1 for what answers now", labels=told)
        if loaded is not None:
            artifact, predictor = loaded.artifact, loaded.predictor
            identity = [loaded.name, str(loaded.version), artifact.digest, predictor.provider, predictor.device]
            model.add_metric(identity, 1)
        yield model
        generation = loaded.generation if loaded else 0
        yield GaugeMetricFamily("thaw_model_generation", "The champion's; 0 before the first", generation)
        swaps = CounterMetricFamily("thaw_swaps", "Champions loaded, and attempts that failed", labels=["result"])
        swaps.add_metric(["loaded"], self._live.swaps)
        swaps.add_metric(["failed"], self._live.failures)
        yield swaps
        yield GaugeMetricFamily("thaw_pictures_admitted", "Decoding, waiting or predicting", self._admitted())
        yield GaugeMetricFamily("thaw_buffered_bytes", "Of request bodies in memory", self._buffered())
