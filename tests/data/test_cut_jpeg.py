import concurrent.futures
import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from lumen.data.check import CUT, UNREADABLE, image_problem
from lumen.data.image import read_header, read_image, read_image_file
from lumen.errors import DataError


def texture(height=320, width=96):
    """Noise on a slope, so that no row is grey."""
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return (noise + np.linspace(0, 190, height)[:, None, None]).astype(np.uint8)


def jpeg(image=None, **options):
    data = io.BytesIO()
    (Image.fromarray(texture()) if image is None else image).save(data, "JPEG", quality=90, **options)
    return data.getvalue()


def write(folder, content, name="a.jpg"):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_twenty_missing_bytes_cost_at_most_the_last_blocks(tmp_path, options):
    whole = read_image(write(tmp_path, jpeg(**options), "whole.jpg"))
    read = read_image_file(write(tmp_path, jpeg(**options)[:-20]))
    assert read.is_cut and 0 <= read.missing < 0.01
    np.testing.assert_array_equal(read.pixels[:300], whole[:300])
    assert read.pixels.flags.writeable


def test_what_is_missing_is_grey_and_counted(tmp_path):
    read = read_image_file(write(tmp_path, jpeg()[:-500]))
    is_grey = (read.pixels == 128).all(2)
    assert read.missing == pytest.approx(is_grey.mean(), abs=1e-3)
    assert 0.005 < read.missing < 0.05
    assert not is_grey[:-32].all(1).any() and is_grey[-1, -1]


def test_a_grey_image_is_read_too(tmp_path):
    read = read_image_file(write(tmp_path, jpeg(Image.fromarray(texture()).convert("L"))[:-20]))
    assert read.is_cut and read.pixels.shape == (320, 96, 3)


def test_too_much_is_too_much(tmp_path):
    with pytest.raises(DataError, match=r"cut off: [34]\d% of its pixels are missing, the limit is 5%"):
        read_image(write(tmp_path, jpeg()[: len(jpeg()) * 6 // 10]))
    with pytest.raises(DataError, match="with whole components or passes"):
        read_image(write(tmp_path, jpeg(progressive=True)[: len(jpeg(progressive=True)) // 3]))
    with pytest.raises(DataError, match="CMYK"):
        read_image(write(tmp_path, jpeg(Image.fromarray(texture()).convert("CMYK"))[:-20]))
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(write(tmp_path, jpeg()[:300]))


def test_a_file_of_another_format_is_not_completed(tmp_path):
    data = io.BytesIO()
    Image.fromarray(texture()).save(data, "PNG")
    with pytest.raises(DataError):
        read_image(write(tmp_path, data.getvalue()[:-2000], "a.png"))


def test_the_header_tells_size_and_end(tmp_path):
    assert read_header(write(tmp_path, jpeg())) == ((320, 96), True)
    assert read_header(write(tmp_path, jpeg() + b"\0" * 40)) == ((320, 96), True)
    assert read_header(write(tmp_path, jpeg()[:-1])) == ((320, 96), False)
    data = io.BytesIO()
    Image.fromarray(texture()).save(data, "PNG")
    assert read_header(write(tmp_path, data.getvalue(), "a.png")) == ((320, 96), True)
    assert read_header(write(tmp_path, data.getvalue()[:-12], "b.png")) == ((320, 96), False)
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_header(write(tmp_path, b"no image"))


def test_a_check_sees_a_missing_end_without_decoding_the_whole_files(tmp_path):
    path = write(tmp_path, jpeg()[:-20])
    assert image_problem(path, tmp_path, (320, 96)) == CUT
    assert image_problem(write(tmp_path, jpeg()[:3000]), tmp_path, (320, 96)) == UNREADABLE
    broken = bytearray(jpeg())
    broken[2000:2600] = b"\xff\xc4" * 300
    path = write(tmp_path, bytes(broken))
    assert image_problem(path, tmp_path, (320, 96)) is None
    assert image_problem(path, tmp_path, (320, 96), decode=True) == UNREADABLE


def test_threads_read_cut_files_while_others_stay_strict(tmp_path):
    cut = write(tmp_path, jpeg()[:-20])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(read_image_file, cut) for _ in range(16)]
        for _ in range(8):
            with pytest.raises(OSError), Image.open(cut) as image:
                image.load()
    assert all(future.result().is_cut for future in futures)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
