"""A running server, and pictures to send."""

import threading
import time
from contextlib import contextmanager
from io import BytesIO

import httpx2 as httpx
import numpy as np
from PIL import Image

from lumen.serving.limits import Limits
from lumen.serving.server import make_server, open_port


def png_of(height=90, width=120, seed=0):
    """Return a PNG file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@contextmanager
def running(predictor, limits=None, **options):
    """Serve a model in a thread; yield the server and a client."""
    with open_port("127.0.0.1", 0) as opened:
        server = make_server(predictor, limits or Limits(), **options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            with httpx.Client(base_url=f"http://127.0.0.1:{opened.getsockname()[1]}", timeout=60) as client:
                yield server, client
        finally:
            server.should_exit = True
            thread.join(timeout=60)
    assert not thread.is_alive()
