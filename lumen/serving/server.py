"""A server in this process: its port, its start and its end."""

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lumen.errors import ConfigError
from lumen.serving.limits import Limits

if TYPE_CHECKING:
    import uvicorn

    from lumen.inference.predictor import LumenPredictor

_BACKLOG = 2048


def require_packages() -> None:
    """Raise ConfigError where the packages of the extra ``serve`` are missing."""
    try:
        import fastapi  # noqa: F401 - asked for before a model loads
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"lumen serve needs the extra 'serve', of which {error.name} is missing: pip install "
            "'lumen-perception[serve]'"
        ) from error


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 chooses a free one.

    Raises:
        ConfigError: The port is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(_BACKLOG)
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a host that is not text
        opened.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is taken: choose another one with --port, 0 for a free one"
            ) from (error)
        raise ConfigError(f"the server cannot listen at port {port} of {host!r}: {error}") from error
    return opened


def make_server(predictor: "LumenPredictor", limits: Limits, *, images: Path | None = None) -> "uvicorn.Server":
    """Return a server for a model; ``run(sockets=[open_port(...)])`` runs it until SIGTERM or SIGINT.

    Then it takes no further connections, answers the requests that are under way, and ends.
    """
    import uvicorn

    from lumen.serving.app import make_app

    config = uvicorn.Config(
        make_app(predictor, limits, images=images),
        log_level="warning",
        access_log=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.stop_seconds),
        http="h11",
        loop="asyncio",
        ws="none",
    )
    return uvicorn.Server(config)


def serve(
    load: Callable[[], "LumenPredictor"], limits: Limits, *, host: str, port: int, images: Path | None = None
) -> None:
    """Load a model and serve it until SIGTERM or SIGINT.

    Args:
        load: Loads it; called once the port is open.
        limits: Bounds of the server.
        host: Address to listen at.
        port: Port; 0 chooses a free one.
        images: Folder of the files that tasks of Label Studio may name; None for none.

    Raises:
        ConfigError: A package is missing, or the port is taken.
    """
    require_packages()
    with open_port(host, port) as opened:
        server = make_server(load(), limits, images=images)
        name = f"[{host}]" if ":" in host else host
        print(f"serving at http://{name}:{opened.getsockname()[1]}", flush=True)
        server.run(sockets=[opened])
