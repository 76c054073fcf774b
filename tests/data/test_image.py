import contextlib

import numpy as np
import pytest
from helpers import content_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lumen.data import image as image_module
from lumen.data.image import read_image, render_image
from lumen.errors import DataError
from lumen.ops.geometry import InputTransform


def save(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_files_come_back_as_they_were(tmp_path, suffix):
    pixels = noise(7, 9)
    read = read_image(save(tmp_path / f"a.{suffix}", pixels))
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_files_come_back_nearly(tmp_path, suffix):
    read = read_image(save(tmp_path / f"a.{suffix}", np.full((8, 8, 3), 100, np.uint8)))
    assert np.abs(read.astype(int) - 100).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tiff" if mode in ("CMYK", "YCbCr", "HSV") else "png"
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode if mode != "HSV" else "L")
    read = read_image(save(tmp_path / f"a.{suffix}", image))
    assert read.shape == (4, 6, 3)
    assert read.min() >= 250


def test_transparent_pixels_become_white(tmp_path):
    read = read_image(save(tmp_path / "a.png", Image.new("RGBA", (2, 2), (10, 20, 30, 0))))
    assert (read == 255).all()


def test_sixteen_bit_grey_keeps_its_highest_bits(tmp_path):
    save(tmp_path / "a.png", np.array([[0, 256, 65535]], dtype=np.uint16))
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 255]


def test_orientation_tags_are_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    save(tmp_path / "a.jpg", noise(8, 16), exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 16, 3)


def test_missing_broken_and_foreign_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    save(tmp_path / "a.gif", noise(4, 4))
    for name in ("missing.png", "text.png", "a.gif", "."):
        with pytest.raises(DataError, match="cannot be read"):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_files_that_lack_much_are_an_error(tmp_path, suffix):
    whole = save(tmp_path / f"a.{suffix}", noise(64, 64)).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=f"cut.{suffix}"):
            read_image(tmp_path / f"cut.{suffix}")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_flipped_bytes_give_an_image_or_a_data_error(tmp_path_factory, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"a.{suffix}"
    whole = bytearray(save(path, noise(12, 12)).read_bytes())

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=6))
    def check(edits):
        mutant = bytearray(whole)
        for position, value in edits:
            mutant[position] = value
        path.write_bytes(mutant)
        with contextlib.suppress(DataError):
            assert read_image(path).shape[2] == 3

    check()


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", Image.new("1", (8000, 7000)))
    with pytest.raises(DataError, match="8000 x 7000 pixels"):
        read_image(tmp_path / "bomb.png")
    monkeypatch.setattr(image_module, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="the limit is 10"):
        read_image(tmp_path / "bomb.png")


def test_files_outside_the_root_are_refused_through_links_too(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    save(tmp_path / "outside.png", noise(4, 4))
    save(root / "inside.png", noise(4, 4))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "root2").symlink_to(root)
    assert read_image(tmp_path / "root2" / "inside.png", root=root).shape == (4, 4, 3)
    for path in (root / "link.png", root / ".." / "outside.png", tmp_path / "outside.png", "/etc/passwd"):
        with pytest.raises(DataError, match="leaves the folder"):
            read_image(path, root=root)


def test_drawing_without_change_is_exact():
    pixels = noise(10, 14)
    drawn = render_image(pixels, InputTransform.stretch((10, 14), (10, 14)))
    np.testing.assert_array_equal(drawn, pixels)
    assert not np.shares_memory(drawn, pixels)


def test_drawing_a_flip_is_exact():
    pixels = noise(10, 14)
    drawn = render_image(pixels, InputTransform.stretch((10, 14), (10, 14)).flip_horizontal())
    np.testing.assert_array_equal(drawn, pixels[:, ::-1])


def test_letterbox_pads_beside_the_image():
    drawn = render_image(np.full((10, 20, 3), 7, np.uint8), InputTransform.letterbox((10, 20), (20, 20)), pad_value=200)
    assert (drawn[:10] == 7).all() and (drawn[10:] == 200).all()


def test_an_image_of_another_size_is_refused():
    with pytest.raises(DataError, match="drawn with a frame"):
        render_image(noise(10, 14), InputTransform.stretch((14, 10), (8, 8)))


def test_a_view_beside_the_image_is_all_padding():
    frame = InputTransform((10, 10), (8, 8), (1.0, 1.0), (-50.0, 0.0))
    assert (render_image(noise(10, 10), frame, pad_value=9) == 9).all()


FRAMES = {
    "letterbox": InputTransform.letterbox((100, 200), (112, 112)),
    "stretch": InputTransform.stretch((100, 200), (96, 64)),
    "enlarged": InputTransform.stretch((100, 200), (230, 410)),
    "crop": InputTransform.crop((100, 200), (5.3, 2.1, 196.2, 99.4), (128, 128)),
    "offset": InputTransform((100, 200), (90, 150), (0.61, 0.67), (11.3, 7.9)),
}


def test_drawing_a_vertical_flip_is_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    drawn = render_image(pixels, InputTransform.stretch((10, 14), (10, 14)).flip_vertical())
    assert np.array_equal(drawn, pixels[::-1])


@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("name", FRAMES)
def test_marks_in_the_corners_are_drawn_where_the_frame_says(name, is_flipped):
    frame = FRAMES[name].flip_horizontal() if is_flipped else FRAMES[name]
    for x, y in ((12, 9), (188, 9), (12, 91), (188, 91)):
        marked = np.zeros((100, 200, 3), np.uint8)
        marked[y - 4 : y + 4, x - 4 : x + 4] = 255  # centred on (x, y) in continuous coordinates
        drawn = render_image(marked, frame, pad_value=0)[..., 0].astype(float)
        rows, cols = np.indices(drawn.shape) + 0.5
        found = np.array([(drawn * cols).sum(), (drawn * rows).sum()]) / drawn.sum()
        expected = np.array(frame.scale_xy) * (x, y) + frame.shift_xy
        np.testing.assert_allclose(found, expected, atol=0.06)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.05, 4),
    st.floats(0.05, 4),
    st.floats(-60, 60),
    st.floats(-60, 60),
    st.booleans(),
)
def test_drawing_never_fails_and_never_shows_padding_inside(ori_hw, input_hw, scale_x, scale_y, shift_x, shift_y, flip):
    frame = InputTransform(ori_hw, input_hw, (scale_x, scale_y), (shift_x, shift_y))
    frame = frame.flip_horizontal() if flip else frame
    drawn = render_image(np.full((*ori_hw, 3), 50, np.uint8), frame, pad_value=200)
    assert drawn.shape == (*input_hw, 3)
    x1, y1, x2, y2 = content_of(frame)
    inside = drawn[int(np.ceil(y1)) : int(y2), int(np.ceil(x1)) : int(x2)]
    assert (inside == 50).all()
    assert set(np.unique(drawn)) <= {50, 200}
