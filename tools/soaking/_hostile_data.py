"""Hostile data sets: pickles, images, annotation files, sources of pictures."""

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumen.data.check import check_coco, image_problem
from lumen.data.check_other import check_data
from lumen.data.clips import clip_problem, read_clip
from lumen.data.coco import CocoDataset
from lumen.data.image import read_image
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.refer_files import read_refer
from lumen.data.text import QuestionsDataset
from lumen.inference.labelling.pictures import list_pictures
from lumen.metrics.coco.ground_truth import read_ground_truth
from lumen.metrics.pose_ground_truth import read_pose_truth
from lumen.ops.masks import read_label_map
from soaking._hostile import CANARY, Hostile
from soaking._readers_data import IMAGES, KEYPOINTS, LVIS, TEXTS


class Payload:
    """Makes the canary when a pickle with it is loaded."""

    def __init__(self, folder: Path, call: Callable[..., Any] = os.system) -> None:
        self._call = call
        self._argument = f"touch {folder / CANARY}" if call is os.system else f"open({str(folder / CANARY)!r}, 'w')"

    def __reduce__(self) -> tuple:
        return self._call, (self._argument,)


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """Return what writes a file with a content."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def made(name: str, make: Callable[[], bytes]) -> Callable[[Path], Path]:
    """Return what writes a file whose content takes seconds to make."""
    return lambda folder: written(name, make())(folder)


def linked(name: str, target: str) -> Callable[[Path], Path]:
    """Return what makes a link."""

    def build(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return build


def pipe(name: str) -> Callable[[Path], Path]:
    """Return what makes a pipe, into which nobody writes."""

    def build(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return build


def pickle_files() -> list[Hostile]:
    """Return pickles in the place of RefCOCO's."""

    def read(path: Path) -> Any:
        (path.parent / "whole.json").write_text(json.dumps(KEYPOINTS))
        return read_refer(path, layout="refer", split="val", instances_file=path.parent / "whole.json")

    def runs(protocol: int, call: Callable[..., Any]) -> Callable[[Path], Path]:
        return lambda folder: written("refs.p", pickle.dumps([Payload(folder, call)], protocol))(folder)

    laughs: list[Any] = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    row = {"split": "val", "sentences": [{"sent": "a"}] * 3000, "image_id": 1, "ann_id": 5}
    sizes = {
        "a place of the memo far beyond its end": b"\x80\x02Kar\xff\xff\xff\x1f.",
        "a frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
        "a byte array of 5 GB": b"\x80\x05\x96" + struct.pack("<Q", 5 * 2**30) + b".",
        "a number of 2 GB": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
        "the extension registry": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02Pabc\n.",
        "lists in lists, 200,000 deep": deep,
        "a list that doubles 40 times": pickle.dumps(laughs),
        "nine million sentences in 40 KB": pickle.dumps([row] * 3000),
        "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    }
    files = [
        Hostile(f"pickle, calls os.system, protocol {number}", runs(number, os.system), read) for number in range(6)
    ]
    files += [Hostile(f"pickle, calls {call.__name__}", runs(2, call), read) for call in (eval, exec)]
    return files + [Hostile(f"pickle, {name}", written("refs.p", content), read) for name, content in sizes.items()]


def image_files() -> list[Hostile]:
    """Return images, and what has the name of one."""
    contents = {
        "PNG that states 60,000 x 60,000": _png(60_000, 60_000, zlib.compress(b"\0" * 1000)),
        "PNG of 8,000 x 7,000 in 1 bit": _saved(Image.new("1", (8000, 7000)), "PNG"),
        "JPEG that states 65,500 x 65,500": _jpeg_size(65_500, 65_500),
        "BMP that states 2^31 x 2^31": _bmp_size(2**31 - 1, 2**31 - 1),
        "TIFF whose directories follow each other in a circle": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "TIFF with a tag of 2^32 values": b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0" + b"\xff" * 4 + bytes(8),
        "EPS, which Pillow hands to Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n(x)run\n",
        "SVG with an entity": b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "ICO that states 10,000 pictures": b"\0\0\x01\0\x10\x27" + bytes(16),
        "nothing": b"",
    }  # fmt: skip
    files = [Hostile(f"image, {name}", written("a.png", content), read_image) for name, content in contents.items()]
    kinds: dict[str, Callable[[Path], Path]] = {
        "pipe": pipe("a.png"),
        "link to /dev/zero": linked("a.png", "/dev/zero"),
        "link to itself": linked("a.png", "a.png"),
        "link out of the folder": linked("a.png", "/etc/passwd"),
    }
    text, profile = (partial(_png_with, part) for part in ("text", "profile"))
    files.append(Hostile("image, PNG with 1 GB of text in 5 MB", made("a.png", text), read_image))
    files.append(Hostile("image, PNG with a colour profile of 1 GB", made("a.png", profile), read_image))
    inside = partial(_inside, read_image)
    files += [Hostile(f"image, {name}", build, inside) for name, build in kinds.items()]
    files += [Hostile(f"image, {name}, check-data", build, _problem) for name, build in kinds.items()]
    maps = {"of 60,000 x 60,000": written("a.png", _png(60_000, 60_000, b"")), "pipe": pipe("a.png")}
    files += [Hostile(f"label map, {name}", build, read_label_map) for name, build in maps.items()]
    return files + _clip_files()


def _clip_files() -> list[Hostile]:
    frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
    contents = {
        "GIF of a million frames": head + frame * 1_000_000 + b"\x3b",
        "GIF of 65,535 x 65,535": b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff" + frame * 3 + b"\x3b",
        "GIF that is shown for ages": head + (b"\x21\xf9\x04\0\xff\xff\0\0" + frame) * 50_000 + b"\x3b",
    }
    files = []
    for name, content in contents.items():
        build = written("a.gif", content)
        files.append(Hostile(f"clip, {name}", build, lambda path: read_clip(path, 4)))
        files.append(Hostile(f"clip, {name}, check-data", build, partial(_problem, problem_of=clip_problem)))
    return files


def json_files() -> list[Hostile]:
    """Return annotation files."""
    huge = {**KEYPOINTS, "images": [{**IMAGES[0], "height": 2**30, "width": 2**30}, IMAGES[1]]}
    many = {**KEYPOINTS, "categories": [{"id": number, "name": f"n{number}"} for number in range(200_000)]}
    contents = {
        "lists in lists, 500,000 deep": b"[" * 500_000 + b"]" * 500_000,
        "objects in objects, 200,000 deep": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        "a number of 2 million digits": b'{"images": ' + b"9" * 2_000_000 + b"}",
        "bytes that are no text": b"\xff\xfe{\0" + b"\xff" * 1000,
        "an image of 2^30 x 2^30": json.dumps(huge).encode(),
        "200,000 categories": json.dumps(many).encode(),
        "a mask of 10^9 runs": _with_mask({"size": [8, 8], "counts": "o" * 2_000_000}),
        "a mask of 46,000 x 46,000": _with_mask({"size": [46_000, 46_000], "counts": [46_000 * 46_000]}),
        "a mask with negative runs": _with_mask({"size": [8, 8], "counts": [-(2**31), 2**31, 64]}),
        "a polygon of a million points": _with_mask([[1.0, 2.0] * 1_000_000]),
        "a polygon whose edges are 4 10^8 pixels long": _with_mask([[-1e5, -1e5, 1e5, 1e5] * 1000]),
        "a polygon with corners at 1e300": _with_mask([[1e300, -1e300, 1e300, 1e300, -1e300, 0.0]]),
    }
    files = [Hostile(f"COCO, {name}", written("a.json", content), _read_coco) for name, content in contents.items()]
    lvis = {**LVIS, "images": [{**LVIS["images"][0], "height": 46_000, "width": 46_000}]}
    texts = [{**TEXTS["conversations"][0], "conversations": TEXTS["conversations"][0]["conversations"] * 100_000}]
    path_out = {**KEYPOINTS, "images": [{**IMAGES[0], "file_name": "../" * 40 + "etc/passwd"}, IMAGES[1]]}
    readers = {"COCO": _read_coco, "ground truth": read_ground_truth, "keypoint truth": read_pose_truth}
    readers["detections"] = _read_detections
    return [
        *files,
        *(Hostile(f"{name}, pipe", pipe("a.json"), read) for name, read in readers.items()),
        Hostile("COCO, file that leaves the folder", written("a.json", json.dumps(path_out).encode()), _read_coco),
        Hostile(
            "COCO, check-data, a mask of 46,000 x 46,000",
            written("a.json", contents["a mask of 46,000 x 46,000"]),
            check_coco,
        ),
        Hostile("LVIS, an image of 46,000 x 46,000", written("a.json", json.dumps(lvis).encode()), _read_lvis),
        Hostile("texts, a conversation of 200,000 turns", written("a.json", json.dumps(texts).encode()), _read_texts),
        Hostile(
            "texts, check-data, lists in lists", written("a.json", contents["lists in lists, 500,000 deep"]), check_data
        ),
    ]


def label_files() -> list[Hostile]:
    """Return sources of pictures for ``lumen label``."""

    def read(path: Path) -> Any:
        return [picture.read() for picture in list_pictures(path)]

    members = {
        "a member outside": _tar(name="../../a.png"),
        "a member with an absolute path": _tar(name="/etc/passwd.png"),
        "a link": _tar(name="a.png", kind=tarfile.SYMTYPE, target="/etc/passwd"),
        "a hard link": _tar(name="a.png", kind=tarfile.LNKTYPE, target="/etc/passwd"),
        "a pipe": _tar(name="a.png", kind=tarfile.FIFOTYPE),
        "a member of 8 GB that is not there": _tar(name="a.png", size=8 * 2**30),
        "a name of 8 GB that is not there": _tar(name="a.png", kind=tarfile.GNUTYPE_LONGNAME, size=8 * 2**30),
    }
    files = [Hostile(f"tar, {name}", written("a.tar", content), read) for name, content in members.items()]
    return [
        *files,
        Hostile("tar, compressed bomb", made("a.tar.gz", lambda: zlib.compress(bytes(2**28), 1)), read),
        Hostile("list, path that leaves the folder", written("a.txt", b"../../../etc/passwd.png\n"), read),
        Hostile("list, a line of 50 MB", written("a.txt", b"a" * 50_000_000 + b".png"), read),
        Hostile("list, pipe", pipe("a.txt"), read),
    ]


def _read_coco(path: Path) -> Any:
    dataset = CocoDataset(ann_file=str(path), with_masks=True, data_prefix={"img": str(path.parent)})
    return [dataset.get_data_info(index) for index in range(len(dataset))], CocoKeypointsDataset(ann_file=str(path))


def _read_lvis(path: Path) -> Any:
    dataset = CocoDataset(ann_file=str(path), federated=True, skip_budget=1.0)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def _read_detections(path: Path) -> Any:
    (path.parent / "whole.json").write_text(json.dumps(KEYPOINTS))
    files = {"ann_file": str(path.parent / "whole.json"), "detections": str(path)}
    return len(CocoKeypointsDataset(**files, skip_budget=1.0, test_mode=True))


def _read_texts(path: Path) -> Any:
    return QuestionsDataset(ann_file=str(path), layout="conversations", skip_budget=1.0).get_data_info(0)


def _inside(read: Callable[..., Any], path: Path) -> Any:
    return read(path, root=path.parent)


def _problem(path: Path, problem_of: Callable[..., str | None] = image_problem) -> Any:
    return problem_of(path, path.parent, (8, 8), decode=True)


def _with_mask(mask: Any) -> bytes:
    annotation = {**KEYPOINTS["annotations"][0], "segmentation": mask}
    return json.dumps({**KEYPOINTS, "annotations": [annotation]}).encode()


def _saved(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _png(width: int, height: int, pixels: bytes, *, text: bytes = b"", profile: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [chunk(b"zTXt", b"a\0\0" + text)] if text else []
    parts += [chunk(b"iCCP", b"a\0\0" + profile)] if profile else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


def _png_with(part: str) -> bytes:
    bomb = {part: zlib.compress(bytes(2**30), 1)}
    return _png(4, 4, zlib.compress(bytes(52)), **bomb)


def _jpeg_size(width: int, height: int) -> bytes:
    content = bytearray(_saved(Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)), "JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _bmp_size(width: int, height: int) -> bytes:
    return b"BM" + bytes(8) + struct.pack("<IIiiHH", 54, 40, width, height, 1, 24) + bytes(24)


def _tar(*, name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, target, size
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
