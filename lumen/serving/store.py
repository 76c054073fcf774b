"""Images that were asked about, kept by the hash of their file, so that the next question costs its phrases alone."""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumen.inference.asked_image import AskedImage


class ImageStore:
    """The images that were used last, bounded in number and in memory. One thread changes it.

    Args:
        max_images: How many.
        max_bytes: What they may take together; an image that alone takes more is not kept.
    """

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[AskedImage, int]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        """Return whether an image is kept; any thread may ask."""
        return key in self._kept

    def get(self, key: str) -> "AskedImage | None":
        """Return an image and note its use; None where it is not kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: str, image: "AskedImage") -> None:
        """Keep an image, or note how much it takes now: a question in words keeps a prefix of its own."""
        self._drop(key)
        self._kept[key] = (image, image.num_bytes)
        self.num_bytes += self._kept[key][1]
        while len(self._kept) > self._max_images or self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        if key in self._kept:
            self.num_bytes -= self._kept.pop(key)[1]
