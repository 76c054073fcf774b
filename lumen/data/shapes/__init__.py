"""A generated COCO-format data set of coloured shapes: boxes, masks, keypoints, phrases, captions, questions."""

from lumen.data.shapes.outlines import CATEGORIES, KEYPOINTS
from lumen.data.shapes.render import draw_scene
from lumen.data.shapes.scene import COLOURS, IMAGE_SIZE, TEXTURES, ShapeObject
from lumen.data.shapes.write import make_shapes

__all__ = [
    "CATEGORIES",
    "COLOURS",
    "IMAGE_SIZE",
    "KEYPOINTS",
    "TEXTURES",
    "ShapeObject",
    "draw_scene",
    "make_shapes",
]
