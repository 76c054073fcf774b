import numpy as np
import pytest
import torch
from helpers import make_instances
from mmengine.structures import InstanceData

from lumen.ops.fields import answer_to_input
from lumen.ops.geometry import InputTransform
from lumen.ops.masks import decode_masks, encode_masks
from lumen.structures import Prompt
from lumen.visualization import draw_answer, draw_arrows, draw_boxes, draw_points, draw_texts, draw_truth, phrase_colour

IMAGE = np.full((640, 640, 3), 100, np.uint8)
PROMPTS = (Prompt("cat"), Prompt("dog"))


def _has(picture, label):
    return bool((picture == np.array(phrase_colour(label))).all(-1).any())


def test_boxes_below_the_score_are_left_out_and_colours_name_prompts():
    answer = make_instances([[10, 100, 90, 200], [300, 100, 400, 200]], [1, 0], scores=torch.tensor([0.9, 0.2]))
    picture = draw_answer(IMAGE, PROMPTS, answer)
    assert _has(picture, 1) and not _has(picture, 0)
    assert np.array_equal(draw_answer(IMAGE, PROMPTS, answer[:0]), IMAGE)


@pytest.mark.parametrize("with_boxes", [True, False])
def test_masks_are_drawn_with_or_without_boxes(with_boxes):
    mask = torch.zeros(1, 640, 640, dtype=torch.bool)
    mask[:, 100:200, 100:200] = True
    answer = make_instances([[100, 100, 200, 200]], [1], scores=torch.ones(1), masks=encode_masks(mask))
    if not with_boxes:
        answer.pop("bboxes")
    picture = draw_answer(IMAGE, PROMPTS, answer)
    assert tuple(picture[150, 150]) not in {(100, 100, 100), phrase_colour(1)}
    assert (picture.shape[0] > 640) == (not with_boxes), "a legend where no box has a text"


def test_keypoints_counts_and_texts_are_drawn():
    points = InstanceData(
        keypoints=torch.tensor([[[50.0, 50.0], [90.0, 90.0]]]), keypoint_scores=torch.ones(1, 2), scores=torch.ones(1)
    )
    assert tuple(draw_answer(IMAGE, PROMPTS, points, edges=[(0, 1)])[70, 70]) == phrase_colour(1)
    counts = InstanceData(counts=torch.tensor([2.0, 0.0]), scores=torch.ones(2), prompt_index=torch.tensor([0, 1]))
    assert draw_answer(IMAGE, PROMPTS, counts).shape[0] > 640
    texts = InstanceData(texts=["yes"], prompt_index=torch.tensor([1]))
    assert draw_answer(IMAGE, PROMPTS, texts).shape[0] > 640


def test_truth_shows_boxes_and_points_and_the_answers_to_learn():
    targets = make_instances([[100, 200, 300, 350], [500, 500, 500, 500]], [0, 1])
    picture = draw_truth(IMAGE, PROMPTS, targets)
    assert tuple(picture[500, 500]) == phrase_colour(1)
    assert np.array_equal(
        picture[:450, :450], draw_boxes(IMAGE, np.array([[100, 200, 300, 350]], np.float32), [0], ["cat"])[:450, :450]
    )
    told = draw_truth(IMAGE, (Prompt("", "caption", answer="two cats"),), make_instances())
    assert np.array_equal(told[:640], IMAGE) and told.shape[0] > 640


def test_earlier_turns_stand_above_the_question():
    alone = draw_texts(IMAGE, [Prompt("and now?", "chat")], ["no"])
    later = draw_texts(IMAGE, [Prompt("and now?", "chat", history=(("is it?", "yes"),))], ["no"])
    assert later.shape[0] > alone.shape[0]
    with pytest.raises(ValueError, match="1 questions, 0 answers"):
        draw_texts(IMAGE, [Prompt("a", "vqa")], [])


def test_an_answer_goes_back_to_input_pixels():
    frame = InputTransform.stretch((20, 40), (40, 40))  # twice as high
    mask = torch.zeros(1, 20, 40, dtype=torch.bool)
    mask[:, 5:10, 8:16] = True
    answer = InstanceData(
        bboxes=torch.tensor([[8.0, 5.0, 16.0, 10.0]]), keypoints=torch.tensor([[[8.0, 5.0]]]), masks=encode_masks(mask)
    )
    moved = answer_to_input(answer, frame, {})
    assert moved.bboxes.tolist() == [[8, 10, 16, 20]] and moved.keypoints.tolist() == [[[8, 10]]]
    rows, cols = decode_masks(moved.masks, (40, 40))[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (10, 19, 8, 15)
    assert answer.bboxes.tolist() == [[8, 5, 16, 10]], "the answer given stays"


KINDS = {"tips": "points", "heading": "directions", "turn": "angles", "colours": "classes"}


def declared(**changes):
    """Return an object in the middle of the image, whose arrows go right and down."""
    fields = {
        "tips": torch.tensor([[[100.0, 500.0], [120.0, 540.0]]]),
        "heading": torch.tensor([[2.0, 0.0]]),
        "turn": torch.tensor([np.pi / 2], dtype=torch.float32),
        "colours": torch.tensor([3]),
    }
    return make_instances([[280, 300, 360, 340]], [1], **(fields | changes))


def test_points_and_directions_of_a_plug_in_are_drawn_and_classes_written():
    plain, picture = (draw_truth(IMAGE, PROMPTS, declared(), kinds) for kinds in (None, KINDS))
    colour = phrase_colour(1)
    assert tuple(picture[500, 100]) == colour and tuple(picture[540, 120]) == colour
    # arrows start at (320, 320) and are 640 / 12 pixels long
    assert tuple(picture[320, 345]) == colour and tuple(picture[345, 320]) == colour
    assert tuple(plain[320, 345]) == tuple(plain[345, 320]) == tuple(plain[500, 100]) == (100, 100, 100)
    noted = draw_boxes(IMAGE, np.array([[280, 300, 360, 340]], np.float32), [1], ["cat", "dog"], notes=["colours 3"])
    assert np.array_equal(picture[260:300], noted[260:300]), "the class stands beside the phrase"
    answer = declared(scores=torch.ones(1))
    assert tuple(draw_answer(IMAGE, PROMPTS, answer, kinds=KINDS)[320, 345]) == colour
    assert np.array_equal(draw_answer(IMAGE, PROMPTS, answer[:0], kinds=KINDS), IMAGE)


def test_a_small_image_is_magnified_once():
    small = np.full((64, 64, 3), 100, np.uint8)
    targets = make_instances([[28, 30, 36, 34]], [1], tips=torch.tensor([[10.0, 50.0]]))
    picture = draw_truth(small, PROMPTS, targets, {"tips": "points"})
    assert picture.shape == (640, 640, 3) and tuple(picture[500, 100]) == phrase_colour(1)


def test_values_without_a_box_stand_below_the_picture():
    answer = declared(scores=torch.ones(1))
    answer.pop("bboxes")
    picture = draw_answer(IMAGE, PROMPTS, answer, kinds=KINDS)
    assert picture.shape[0] > 640 and tuple(picture[500, 100]) == phrase_colour(1)


def test_a_direction_without_length_is_left_out_and_numbers_must_fit():
    nothing = np.zeros((1, 2))
    assert np.array_equal(draw_arrows(IMAGE, nothing, nothing, [0]), IMAGE)
    with pytest.raises(ValueError, match="1 starts, 1 directions, 0 labels"):
        draw_arrows(IMAGE, nothing, nothing, [])
    with pytest.raises(ValueError, match="1 points, 0 labels"):
        draw_points(IMAGE, nothing, [])
