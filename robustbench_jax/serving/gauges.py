"""What the server says of itself to Prometheus. No account's name is in it: those are in the log."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Gauges:
    """waiting: says how many images wait for the model."""

    def __init__(self, waiting: Callable[[], int]):
        self._registry = own = CollectorRegistry()
        self._requests = Counter("robustbench_requests", "Requests, by status.", ["path", "status"], registry=own)
        self._seconds = Histogram(
            "robustbench_request_seconds", "From the head of a request to its answer.", buckets=SECONDS, registry=own
        )
        self._images = Counter("robustbench_images", "Images that were answered.", registry=own)
        widths = [2**power for power in range(13)]
        self._batch = Histogram("robustbench_batch_images", "Images in one call.", buckets=widths, registry=own)
        self._alarms = Counter("robustbench_alarms", "Alarms, by monitor.", ["monitor"], registry=own)
        Gauge("robustbench_waiting_images", "Images that wait.", registry=own).set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, status).inc()
        self._seconds.observe(seconds)

    def answered(self, images: int) -> None:
        self._images.inc(images)

    def batch(self, images: int) -> None:
        self._batch.observe(images)

    def alarm(self, monitor: str) -> None:
        self._alarms.labels(monitor).inc()

    def page(self) -> bytes:
        return generate_latest(self._registry)
