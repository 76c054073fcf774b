import numpy as np
import pytest
from PIL import Image

from lumen.visualization import (
    contact_sheet,
    draw_boxes,
    draw_heatmap,
    heat_colours,
    legend,
    magnification,
    phrase_colour,
    save_png,
)


def _grey(height, width):
    return np.full((height, width, 3), 100, np.uint8)


def _pixels_of(picture, colour):
    rows, cols = (picture == np.array(colour)).all(-1).nonzero()
    return rows, cols


def test_a_box_is_drawn_where_it_lies_in_the_image():
    # 640 pixels wide: not magnified. The label lies above the box.
    picture = draw_boxes(_grey(400, 640), np.array([[100, 200, 300, 350]], np.float32), [0], ["star"], [0.5])
    rows, cols = _pixels_of(picture, phrase_colour(0))
    assert picture.shape == (400, 640, 3)
    assert (cols.min(), cols.max()) == (100, 299)
    assert rows.max() == 349
    assert 160 < rows.min() < 200


def test_a_small_image_is_magnified_with_its_boxes():
    picture = draw_boxes(_grey(80, 160), np.array([[40, 40, 80, 60]], np.float32), [0], ["star"])
    rows, cols = _pixels_of(picture, phrase_colour(0))
    assert picture.shape == (320, 640, 3)
    assert cols.min() == 160 and rows.max() == 239
    assert magnification((80, 160)) == 4 and magnification((3000, 100)) == 1


def test_a_label_stays_inside_the_picture():
    boxes = np.array([[0, 0, 50, 50], [600, 380, 640, 400], [-20, -20, 700, 500]], np.float32)
    picture = draw_boxes(_grey(400, 640), boxes, [0, 1, 2], ["star", "ring " * 50, "cat"], [0.1, 0.2, 0.3])
    assert picture.shape == (400, 640, 3)
    for label in range(3):
        assert len(_pixels_of(picture, phrase_colour(label))[0]) > 100


def test_the_best_box_lies_on_top():
    boxes = np.array([[100, 100, 300, 300]] * 2, np.float32)
    picture = draw_boxes(_grey(400, 640), boxes, [0, 1], ["a", "b"], [0.9, 0.2])
    assert tuple(picture[200, 100]) == phrase_colour(0)


def test_no_boxes_leave_the_image_as_it_is():
    image = _grey(640, 640)
    assert np.array_equal(draw_boxes(image, np.zeros((0, 4), np.float32), [], []), image)


def test_the_image_given_is_not_changed():
    image = _grey(640, 640)
    draw_boxes(image, np.array([[0, 0, 600, 600]], np.float32), [0], ["a"])
    draw_heatmap(image, np.ones((640, 640), np.float32), "a")
    assert (image == 100).all()


def test_colours_of_neighbours_differ():
    colours = np.array([phrase_colour(index) for index in range(80)], dtype=float)
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 90
    assert len({tuple(colour) for colour in colours}) == 80


def test_boxes_without_labels_are_an_error():
    with pytest.raises(ValueError, match="1 boxes, 0 labels, no scores"):
        draw_boxes(_grey(10, 10), np.zeros((1, 4), np.float32), [], ["a"])


def test_heat_is_bright_where_it_is_high_and_grey_where_it_is_zero():
    heat = np.zeros((640, 640), np.float32)
    heat[:320] = 1.0
    picture = draw_heatmap(_grey(640, 640), heat)
    assert picture[:300].astype(float).mean() > picture[340:].astype(float).mean() + 80
    assert (picture[400] == 60).all(), "the picture itself, darkened to 60 percent"


def test_a_title_goes_below_the_heatmap():
    picture = draw_heatmap(_grey(640, 640), np.zeros((640, 640), np.float32), "red ring")
    assert picture.shape[0] > 640 and picture.shape[1] == 640


def test_heat_colours_grow_in_lightness():
    lightness = heat_colours(np.linspace(0, 1, 50, dtype=np.float32)[None])[0] @ np.array([0.3, 0.59, 0.11])
    assert (np.diff(lightness) > 0).all()


def test_a_heatmap_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="covers"):
        draw_heatmap(_grey(10, 10), np.zeros((5, 5), np.float32))


def test_a_sheet_holds_pictures_of_any_size():
    sheet = contact_sheet(
        [_grey(10, 20), _grey(500, 30), _grey(7, 7)], ["a", "b" * 200, ""], columns=2, cell_wh=(100, 80)
    )
    assert sheet.shape == (2 * (80 + 26 + 8) + 8, 2 * 108 + 8, 3)


def test_a_sheet_without_pictures_is_an_error():
    with pytest.raises(ValueError, match="got 0 and 0"):
        contact_sheet([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        contact_sheet([_grey(4, 4)], ["a", "b"])


def test_a_legend_shows_each_colour():
    picture = legend(["star", "a phrase that is far too long for its column"], ["x 2", "(absent)"], width=120)
    for label in range(2):
        assert len(_pixels_of(picture, phrase_colour(label))[0]) > 200


def test_a_picture_is_saved_as_it_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)
