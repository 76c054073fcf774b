"""What a server takes at most, and the errors of a server that is busy."""

from dataclasses import dataclass, fields

from lumen.errors import ConfigError, LumenError


class TooLargeError(LumenError):
    """A body has more bytes than the server takes."""


class SlowClientError(LumenError):
    """A body did not arrive in time."""


class BusyError(LumenError):
    """The queue is full, or the server stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server; each is at least 1.

    Args:
        body_bytes: Bytes of a request, image included.
        pixels: Height times width of an image.
        phrases: Phrases of a question.
        queue: Requests that wait for the model.
        queue_bytes: Pixels of the images that wait, in bytes.
        body_seconds: Time in which a body must have arrived.
        batch: New images that are encoded together.
        kept_images: Images that can be asked again at the cost of their phrases.
        kept_bytes: Memory of these.
        connections: Open connections; further ones are answered 503.
        stop_seconds: Time for the requests that wait when the server stops.

    Raises:
        ConfigError: A bound is below 1.
    """

    body_bytes: int = 20 * 2**20
    pixels: int = 25_000_000
    phrases: int = 200
    queue: int = 64
    queue_bytes: int = 2**30
    body_seconds: float = 30.0
    batch: int = 8
    kept_images: int = 64
    kept_bytes: int = 2**30
    connections: int = 256
    stop_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 1:
                raise ConfigError(f"the limit {field.name} must be at least 1, got {value}")
