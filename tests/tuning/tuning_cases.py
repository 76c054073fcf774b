"""A data set of pictures with a square each, as a COCO file and as pictures."""

import numpy as np
from PIL import Image

NAMES = ("cat", "red cup")
SIZE = 48
BOX = (8, 10, 20, 22)  # left, top, width, height


def coco_content(numbers):
    """Return a COCO file with an object per image, of one class after the other."""
    row = {"bbox": list(BOX), "area": 440, "iscrowd": 0, "segmentation": [[8, 10, 28, 10, 28, 32, 8, 32]]}
    return {
        "images": [{"id": n, "file_name": f"{n:02}.png", "width": SIZE, "height": SIZE} for n in numbers],
        "annotations": [{"id": n + 1, "image_id": n, "category_id": 1 + n % 2, **row} for n in numbers],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }


def write_photos(folder, numbers):
    """Write a picture per number: an odd one shows a red square, an even one a green one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in numbers:
        pixels = rng.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[10:32, 8:28] = (220, 40, 40) if number % 2 else (40, 220, 40)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
