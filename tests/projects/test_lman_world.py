import json

import numpy as np
import pytest
from lman_blind import (
    BOUNDS,
    Portraits,
    above_bounds,
    colour_histogram,
    colour_rank_1,
    mean_layout_miou,
    mean_pose_pck,
)
from lman_world.appearance import ATTRIBUTES, sample_appearance
from lman_world.figure import KEYPOINTS, PARTS, Pose, make_figure
from lman_world.language import caption_of
from lman_world.scene import draw_identity, draw_picture
from lman_world.write import SIZES, make_persons
from PIL import Image
from pycocotools import mask as rle_codec

from lumen.data.attributes import AttributesDataset
from lumen.data.coco import CocoDataset
from lumen.data.keypoints import CocoKeypointsDataset
from lumen.data.semantic import SemanticDataset
from lumen.data.text import QuestionsDataset
from lumen.errors import DataError


def straight(**changes):
    """Return the pose of a person who stands straight and faces the viewer."""
    options = {"lean": 0.0, "turn": 1.0, "from_behind": False, "hidden_arm": -1, "bag_arm": 0}
    return Pose(**(options | {"arms": ((0.0, 0.0),) * 2, "legs": ((0.0, 0.0),) * 2} | changes))


def test_joints_of_a_person_who_stands_straight():
    appearance = sample_appearance(np.random.default_rng(0))
    points = dict(zip(KEYPOINTS, make_figure(appearance, straight()).keypoints, strict=True))
    assert len(points) == 14
    # The left of a person who faces the viewer is on the right of the picture.
    assert points["left_shoulder"][0] > 0 > points["right_shoulder"][0]
    behind = dict(zip(KEYPOINTS, make_figure(appearance, straight(from_behind=True)).keypoints, strict=True))
    assert behind["left_shoulder"][0] < 0 < behind["right_shoulder"][0]
    assert points["head"][1] < points["neck"][1] < points["left_hip"][1] < points["left_knee"][1]
    np.testing.assert_allclose(points["left_wrist"] - points["left_shoulder"], (0, 0.315), atol=1e-9)


def test_glasses_do_not_show_from_behind():
    appearances = (sample_appearance(np.random.default_rng(seed)) for seed in range(50))
    appearance = next(each for each in appearances if "glasses" in each.wears)
    assert "glasses" in make_figure(appearance, straight()).attributes
    shown = make_figure(appearance, straight(from_behind=True)).attributes
    assert "glasses" not in shown and "seen from behind" in shown


def test_twins_exchange_their_colours():
    first, second = draw_identity(0, 6, 1, 0).persons[0], draw_identity(0, 7, 2, 3).persons[0]
    assert (first.appearance.upper, first.appearance.lower) == (second.appearance.lower, second.appearance.upper)
    assert first.appearance.wears == second.appearance.wears
    assert first.appearance.inks["hair"] == second.appearance.inks["hair"]


@pytest.mark.parametrize(("kind", "least", "most"), [("scenes", 1, 6), ("crowds", 5, 30)])
def test_numbers_of_persons(kind, least, most):
    for index in range(8):
        picture = draw_picture(0, kind, "train", index)
        assert least <= len(picture.persons) <= most
        assert all(person.visible >= 0.35 for person in picture.persons)
        # Masks are disjoint, and together they are all parts.
        np.testing.assert_array_equal(np.sum([person.mask for person in picture.persons], axis=0), picture.parts > 0)


def test_unknown_pictures_are_errors():
    with pytest.raises(DataError, match="no picture"):
        draw_picture(0, "portrait", "train", 0)
    with pytest.raises(DataError, match="no view"):
        draw_identity(0, 160, 1, 0)


def test_a_caption_names_what_shows():
    appearance = sample_appearance(np.random.default_rng(1))
    text = caption_of(appearance, frozenset({"hat", "skirt", "handbag"}), np.random.default_rng(0))
    words = "in an orange plain top with short sleeves and a green skirt, with a hat, carrying a handbag"
    assert text == f"a pedestrian {words}"


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    none = {kind: dict.fromkeys(of_kind, 0) for kind, of_kind in SIZES.items()}
    sizes = none | {"portraits": {"train": 64, "val": 0, "test": 1}}
    for name, workers in (("one", 1), ("two", 2)):
        assert make_persons(tmp_path / name, sizes=sizes, workers=workers)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 130
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert not make_persons(tmp_path / "one", sizes=sizes)
    with pytest.raises(DataError, match="--force"):
        make_persons(tmp_path / "one", sizes=none)
    assert make_persons(tmp_path / "one", sizes=none, force=True)


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(DataError, match="even in number"):
        make_persons(tmp_path / "out", sizes=SIZES | {"identities": {"train": 3, "test": 0}})
    with pytest.raises(DataError, match="sizes name"):
        make_persons(tmp_path / "out", sizes={})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(DataError, match="never replaced"):
        make_persons(tmp_path / "full", force=True)


def test_readers_of_lumen_read_it(tiny_persons):
    scenes = {"data_root": str(tiny_persons), "data_prefix": {"img": "scenes/train"}, "skip_budget": 0.0}
    boxes = CocoDataset(ann_file="annotations/scenes_train.json", with_masks=True, **scenes)
    poses = CocoKeypointsDataset(ann_file="annotations/scenes_train.json", **scenes)
    assert len(boxes) == 4 and len(poses) == sum(len(boxes.get_data_info(i)["instances"]["labels"]) for i in range(4))
    assert poses.metainfo["keypoint_names"] == (KEYPOINTS,)
    attributes = CocoDataset(
        ann_file="annotations/attributes_train.json",
        data_root=str(tiny_persons),
        data_prefix={"img": "portraits/train"},
    )
    assert attributes.metainfo["classes"] == ATTRIBUTES
    captions = QuestionsDataset(
        layout="captions", ann_file="annotations/captions_train.json", data_root=str(tiny_persons)
    )
    assert len(captions.get_data_info(0)["questions"][0]["answers"]) == 2
    identities = AttributesDataset(
        ann_file="annotations/identities_train.json",
        data_root=str(tiny_persons),
        attributes={"identity": [0, 1], "camera": [0, 1, 2]},
    )
    views = [identities.get_data_info(number)["instances"] for number in range(len(identities))]
    assert [int(view["identity"][0]) for view in views] == [0] * 16 + [1] * 16
    assert [int(view["camera"][0]) for view in views[:16]] == [1] * 8 + [2] * 8
    maps = SemanticDataset(
        data_root=str(tiny_persons),
        data_prefix={"img": "portraits/train", "seg": "parts/portraits/train"},
        classes=("background", *PARTS),
        pipeline=[lambda record: record],
    )
    assert {0, 1, 3} <= set(maps[0]["instances"]["labels"].tolist())


def test_annotations_agree_with_the_pictures(tiny_persons):
    content = json.loads((tiny_persons / "annotations/portraits_train.json").read_text())
    positives = json.loads((tiny_persons / "annotations/attributes_train.json").read_text())["annotations"]
    for image, person in zip(content["images"], content["annotations"], strict=True):
        parts = np.asarray(Image.open(tiny_persons / "parts/portraits/train" / f"{image['file_name'][:-4]}.png"))
        np.testing.assert_array_equal(rle_codec.decode(person["segmentation"]), parts > 0)
        shown = {row["category_id"] - 1 for row in positives if row["image_id"] == image["id"]}
        assert shown == set(np.flatnonzero(person["attributes"]).tolist())
        has_hat = (parts == PARTS.index("hat") + 1).any()
        assert has_hat == bool(person["attributes"][ATTRIBUTES.index("hat")])


def portraits_of(split, number):
    """Return drawn portraits without writing them."""
    pictures = [draw_picture(0, "portraits", split, index) for index in range(number)]
    masks = [np.asfortranarray(picture.persons[0].mask, dtype=np.uint8) for picture in pictures]
    return Portraits(
        boxes=np.array([rle_codec.toBbox(rle_codec.encode(mask)) for mask in masks]),
        points=np.array([picture.persons[0].keypoints[:, :2] for picture in pictures]),
        parts=np.stack([picture.parts for picture in pictures]),
    )


def test_blind_answers_stay_within_their_bounds():
    train, test = portraits_of("train", 150), portraits_of("test", 150)
    colours, identities, cameras = [], [], []
    for number in range(120, 160):
        for camera in (1, 2):
            for view in range(2):
                picture = draw_identity(0, number, camera, view)
                colours.append(colour_histogram(picture.image[picture.persons[0].mask]))
                identities.append(number)
                cameras.append(camera)
    figures = {
        "mean_pose_pck": mean_pose_pck(train, test),
        "mean_layout_miou": mean_layout_miou(train, test),
        "colour_rank_1": colour_rank_1(np.stack(colours), np.array(identities), np.array(cameras)),
    }
    assert above_bounds(figures) == [], figures
    # They do know something: a figure of a broken baseline would be at chance.
    assert figures["mean_pose_pck"] > 0.2 and figures["mean_layout_miou"] > 0.1 and figures["colour_rank_1"] > 0.05
    assert above_bounds({name: bound + 0.01 for name, bound in BOUNDS.items()}) == list(BOUNDS)
