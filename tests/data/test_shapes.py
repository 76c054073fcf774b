"""The generated data set: statistics, files, sentences. Sentences are read anew here, not by their own code."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from lumen.data.shapes import CATEGORIES, COLOURS, KEYPOINTS, TEXTURES, ShapeObject, draw_scene, make_shapes
from lumen.data.shapes.language import balance_answers, describe_scene
from lumen.data.shapes.outlines import keypoints, outline
from lumen.data.shapes.phrases import Phrase, Query
from lumen.data.shapes.scene import IMAGE_SIZE, SIZE_BOUNDS
from lumen.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLE = 300
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}


@pytest.fixture(scope="module")
def sample() -> list[tuple[np.ndarray, tuple[ShapeObject, ...]]]:
    return [draw_scene(0, "train", index) for index in range(NUM_SAMPLE)]


@pytest.fixture(scope="module")
def shapes(sample) -> list[ShapeObject]:
    return [item for _, objects in sample for item in objects]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(out, num_train=66, num_val=20, num_test=12, seed=3, workers=1)
    return out


def make_object(category="star", colour="red", texture="plain", side=30.0, centre=(80.0, 80.0)) -> ShapeObject:
    size = "small" if side < 23 else "large" if side >= 42 else "medium"
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    return ShapeObject(category, colour, texture, size, side, tuple(map(float, centre)), mask, np.zeros((5, 3)), 1.0)


def visible_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, cols = np.nonzero(mask)
    return cols.min(), rows.min(), cols.max() + 1, rows.max() + 1


def read(folder: Path, kind: str, split: str = "train") -> dict:
    return json.loads((folder / "annotations" / f"{kind}_{split}.json").read_text())


# Statistics: what makes the set neither trivial nor impossible.


def test_images_hold_one_to_seven_shapes_and_about_four(sample):
    numbers = [len(objects) for _, objects in sample]
    assert min(numbers) >= 1 and max(numbers) <= 7
    assert 3.5 <= np.mean(numbers) <= 4


def test_sides_are_small(shapes):
    boxes = np.array([visible_box(item.mask) for item in shapes])
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert 22 <= np.median(sides) <= 32
    assert np.percentile(sides, 5) <= 18


def test_many_shapes_are_partly_covered_but_none_nearly_hidden(shapes):
    fractions = np.array([item.visible_fraction for item in shapes])
    assert (fractions < 0.98).mean() >= 0.15
    assert fractions.min() >= 0.4


@pytest.mark.parametrize(("field", "values"), [("category", CATEGORIES), ("colour", COLOURS), ("texture", TEXTURES)])
def test_every_look_is_common(shapes, field, values):
    counts = Counter(getattr(item, field) for item in shapes)
    assert set(counts) == set(values)
    assert min(counts.values()) >= 0.6 * len(shapes) / len(values)


def test_nearly_all_shapes_stand_out_from_their_surroundings(sample):
    contrasts = []
    for image, objects in sample[:100]:
        free = image[~np.any([item.mask for item in objects], axis=0)]
        contrasts += [np.abs(image[item.mask].mean(0) - free.mean(0)).max() for item in objects]
    assert np.percentile(contrasts, 2) > 30


# Scenes.


def test_a_scene_depends_on_seed_split_and_index_only(sample):
    again, objects = draw_scene(0, "train", 5)
    assert np.array_equal(again, sample[5][0])
    assert [item.category for item in objects] == [item.category for item in sample[5][1]]
    for other in ((1, "train", 5), (0, "val", 5), (0, "test", 5), (0, "train", 6)):
        assert not np.array_equal(again, draw_scene(*other)[0])


def test_masks_do_not_overlap(sample):
    for _, objects in sample[:50]:
        assert np.sum([item.mask for item in objects], axis=0).max() <= 1


def test_a_keypoint_is_covered_exactly_where_a_shape_in_front_lies(sample):
    for _, objects in sample[:50]:
        for number, item in enumerate(objects):
            front = np.any([np.zeros_like(item.mask), *(other.mask for other in objects[number + 1 :])], axis=0)
            cells = item.keypoints[:, :2].astype(int).clip(0, IMAGE_SIZE - 1)
            assert np.array_equal(item.keypoints[:, 2] == 1, front[cells[:, 1], cells[:, 0]])


def test_round_shapes_have_their_keypoints_on_the_edges_of_the_box(shapes):
    for item in shapes:
        if item.category in ("circle", "ring") and item.visible_fraction == 1:
            x1, y1, x2, y2 = visible_box(item.mask)
            _, top, right, bottom, left = item.keypoints
            assert np.allclose((left[0], top[1], right[0], bottom[1]), (x1, y1, x2, y2), atol=1.2)


def test_visible_keypoints_lie_on_the_shape(shapes):
    for item in shapes:
        rows, cols = np.nonzero(item.mask)
        if item.category == "ring" or item.visible_fraction < 1:
            continue
        for x, y, _ in item.keypoints:
            assert np.hypot(cols + 0.5 - x, rows + 0.5 - y).min() < 2.5


def test_the_top_corner_is_the_highest_keypoint_of_a_triangle(shapes):
    for item in shapes:
        if item.category == "triangle":
            assert item.keypoints[1, 1] < item.keypoints[2:, 1].min()


def test_a_quarter_turn_moves_the_corners_of_a_square_but_not_the_extremes_of_a_circle():
    turn = np.array([(0.0, -1.0), (1.0, 0.0)])  # the top goes to the right
    assert np.allclose(keypoints("square", turn)[1], (0.9, -0.9))
    assert np.allclose(keypoints("circle", turn)[1], (0, -1))


def test_an_unknown_category_or_split_is_an_error():
    with pytest.raises(ValueError, match="unknown category 'cube'"):
        outline("cube")
    with pytest.raises(ValueError, match="split must be one of"):
        draw_scene(0, "rest", 0)
    with pytest.raises(ValueError, match="must not be negative"):
        draw_scene(0, "train", -1)


# Files.


# pycocotools 2.0.11 decodes masks in a way that numpy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_annotations_agree_with_masks_and_images(folder):
    coco = COCO(folder / "annotations" / "instances_train.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
    assert len(coco.getImgIds()) == 66
    for record in coco.loadAnns(coco.getAnnIds()):
        x1, y1, x2, y2 = visible_box(coco.annToMask(record))
        assert record["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert record["area"] == coco.annToMask(record).sum()
        assert len(record["keypoints"]) == 15 and record["num_keypoints"] == 5
    first = coco.loadImgs(coco.getImgIds()[0])[0]
    with Image.open(folder / "train" / first["file_name"]) as image:
        assert image.size == (first["width"], first["height"]) == (160, 160)


def test_categories_name_five_keypoints_each(folder):
    for category in read(folder, "instances")["categories"]:
        assert tuple(category["keypoints"]) == KEYPOINTS[category["name"]]
        assert len(set(category["keypoints"])) == 5


def test_counts_of_an_image_are_those_of_its_annotations(folder):
    content = read(folder, "instances")
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image in content["images"]:
        own = Counter(names[a["category_id"]] for a in content["annotations"] if a["image_id"] == image["id"])
        assert image["counts"] == dict(own)


def test_ids_are_unique_over_all_splits(folder):
    for kind, key in (("instances", "images"), ("instances", "annotations")):
        ids = [record["id"] for split in ("train", "val", "test") for record in read(folder, kind, split)[key]]
        assert len(set(ids)) == len(ids)


def test_two_workers_write_the_same_bytes_as_one(folder, tmp_path):
    make_shapes(tmp_path / "again", num_train=66, num_val=20, num_test=12, seed=3, workers=2)
    ours = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert again == set(ours)
    assert all((tmp_path / "again" / path).read_bytes() == content for path, content in ours.items())


def test_a_test_split_changes_nothing_of_the_other_splits(folder, tmp_path):
    make_shapes(tmp_path / "without", num_train=66, num_val=20, num_test=0, seed=3, workers=1)
    for path in tmp_path.glob("without/**/*"):
        if path.is_file() and path.name != "shapes.json" and not path.stem.endswith("_test"):
            assert path.read_bytes() == (folder / path.relative_to(tmp_path / "without")).read_bytes()
    assert len(list((folder / "test").iterdir())) == 12


@pytest.mark.parametrize(
    ("split", "first"),
    [
        ("train", ("cross", "yellow", (97.0, 86.0))),
        ("val", ("arrow", "cyan", (13.5, 111.0))),
        ("test", ("triangle", "green", (23.0, 77.0))),
    ],
)
def test_the_scenes_of_a_split_stay_what_they_are(split, first):
    _, (item, *_) = draw_scene(0, split, 0)
    assert (item.category, item.colour, item.centre) == first


def test_every_split_has_the_same_files(folder):
    kinds = {split: {path.name for path in folder.glob(f"annotations/*_{split}.json")} for split in ("train", "test")}
    assert {name.replace("_train", "_test") for name in kinds["train"]} == kinds["test"]
    assert read(folder, "refs", "test")["refs"] and read(folder, "questions", "test")["questions"]
    assert read(folder, "instances", "test")["annotations"][0]["segmentation"]


def test_the_same_set_is_not_made_twice_and_another_needs_force(tmp_path):
    out = tmp_path / "shapes"
    assert make_shapes(out, 2, 1, num_test=1, workers=1)
    assert not make_shapes(out, 2, 1, num_test=1, workers=1)
    with pytest.raises(DataError, match="--force"):
        make_shapes(out, 3, 1, num_test=1, workers=1)
    assert make_shapes(out, 3, 1, num_test=1, workers=1, force=True)
    assert make_shapes(out, 3, 1, num_test=1, workers=1, force=True)
    assert len(list((out / "train").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("marker", [None, "not json", "[]", '{"format": "other"}'])
def test_a_foreign_folder_is_never_replaced(tmp_path, marker):
    (tmp_path / "thesis.txt").write_text("years of work")
    if marker is not None:
        (tmp_path / "shapes.json").write_text(marker)
    with pytest.raises(DataError, match="not a shapes data set"):
        make_shapes(tmp_path, 2, 1, workers=1, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("arguments", [{"num_train": -1}, {"seed": -1}, {"workers": 0}])
def test_numbers_out_of_range_are_errors(tmp_path, arguments):
    with pytest.raises(DataError, match="must"):
        make_shapes(tmp_path / "shapes", **arguments)


def test_an_empty_split_gives_empty_files(tmp_path):
    make_shapes(tmp_path / "shapes", num_train=0, num_val=0, num_test=0, workers=1)
    assert read(tmp_path / "shapes", "instances")["annotations"] == []


def test_the_tool_runs_from_any_folder_and_reports_errors_in_a_line(tmp_path):
    tool = [
        sys.executable,
        str(ROOT / "tools" / "make_shapes.py"),
        "--out",
        "set",
        "--num-train",
        "2",
        "--num-val",
        "1",
        "--num-test",
        "1",
    ]
    first = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, check=True)
    second = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, check=True)
    third = subprocess.run([*tool, "--seed", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert "wrote 2 + 1 + 1 images" in first.stdout
    assert "nothing to do" in second.stdout
    assert third.returncode == 1 and third.stderr.startswith("error: ") and len(third.stderr.splitlines()) == 1


# Language. ``parse`` and ``meant`` are a second, independent reading of the sentences.


def parse(sentence: str) -> tuple[set[str], str | None, set[str]]:
    """Split a sentence into the words of the description, the relation and the words of the anchor."""
    relation = next((r for r in (*SIDES, *EXTREMES, "largest", "smallest") if re.search(rf"\b{r}\b", sentence)), None)
    first, _, second = sentence.partition(f" {relation} ") if relation in SIDES else (sentence, "", "")
    return set(first.split()) - {"the", relation}, relation, set(second.split()) - {"the"}


def described(words: set[str], objects) -> list[int]:
    looks = [{item.category, item.colour, item.texture, item.size} for item in objects]
    return [number for number, look in enumerate(looks) if words <= look]


def meant(sentence: str, objects) -> list[int]:
    words, relation, anchor_words = parse(sentence)
    fits = described(words, objects)
    if relation is None:
        return fits
    if relation in ("largest", "smallest"):
        best = (max if relation == "largest" else min)(objects[number].side for number in fits)
        return [number for number in fits if objects[number].side == best]
    axis, sign = (SIDES | EXTREMES)[relation]
    places = {number: sign * objects[number].centre[axis] for number in fits}
    if relation in EXTREMES:
        return [number for number, place in places.items() if place == max(places.values())]
    (anchor,) = described(anchor_words, objects)
    origin = sign * objects[anchor].centre[axis]
    return [number for number, place in places.items() if number != anchor and place > origin]


@pytest.fixture(scope="module")
def refs(sample) -> list[tuple[dict, tuple[ShapeObject, ...]]]:
    """Sentences with their scenes. The annotation id is ten times the image id plus the position of the shape."""
    scenes = [(describe_scene(objects, image_id, 0), objects) for image_id, (_, objects) in enumerate(sample)]
    return [(ref, objects) for language, objects in scenes for ref in language.refs]


def test_sentences_mean_exactly_their_target(refs):
    for ref, objects in refs:
        assert meant(ref["sentence"], objects) == [ann_id % 10 for ann_id in ref["ann_ids"]]
        assert ref["no_target"] == (not ref["ann_ids"])
        assert (ref["kind"] == "relation") == (parse(ref["sentence"])[1] is not None)


def test_relations_are_needed(refs):
    for ref, objects in refs:
        words, relation, anchor_words = parse(ref["sentence"])
        if relation and ref["ann_ids"]:
            anchors = described(anchor_words, objects) if anchor_words else []
            assert len(set(described(words, objects)) - set(anchors)) >= 2


def test_most_sentences_need_a_relation_and_name_a_noun_with_a_distractor(refs):
    targets = [(ref, objects) for ref, objects in refs if ref["ann_ids"]]
    assert len(targets) > NUM_SAMPLE
    assert np.mean([ref["kind"] == "relation" for ref, _ in targets]) >= 0.5
    twins = [
        Counter(item.category for item in objects)[objects[ref["ann_ids"][0] % 10].category] > 1
        for ref, objects in targets
    ]
    assert np.mean(twins) >= 0.9


def test_some_sentences_of_both_kinds_have_no_target_although_their_noun_is_there(refs):
    absent = [(ref, objects) for ref, objects in refs if ref["no_target"]]
    assert {ref["kind"] for ref, _ in absent} == {"attribute", "relation"}
    for ref, objects in absent:
        assert parse(ref["sentence"])[0] & {item.category for item in objects}


def test_groups_name_every_shape_of_a_look_and_some_looks_that_are_absent(folder):
    content = read(folder, "instances")
    names = {category["id"]: category["name"] for category in content["categories"]}
    groups = read(folder, "refs")["groups"]
    for image in content["images"]:
        own = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        mine = [group for group in groups if group["image_id"] == image["id"]]
        assert any(not group["ann_ids"] for group in mine)
        for group in mine:
            the, look, plural = group["sentence"].split()
            noun = None if plural == "shapes" else plural.removesuffix("es" if plural == "crosses" else "s")
            fits = [
                item["id"]
                for item in own
                if look in (item["colour"], item["texture"]) and noun in (None, names[item["category_id"]])
            ]
            assert (the, group["ann_ids"], group["no_target"]) == ("the", fits, not fits)


def test_directions_compare_centres():
    scene = [make_object(centre=(20, 80)), make_object(centre=(120, 80)), make_object("ring", centre=(60, 60))]
    assert Query(Phrase("star"), "left of", Phrase("ring")).find(scene) == [0]
    assert Query(Phrase("star"), "right of", Phrase("ring")).find(scene) == [1]
    assert Query(Phrase("star"), "below", Phrase("ring")).find(scene) == [0, 1]
    assert Query(Phrase("star"), "above", Phrase("ring")).find(scene) == []
    assert Query(Phrase("star"), "rightmost").find(scene) == [1]


def test_close_calls_are_left_open():
    scene = [make_object(centre=(20, 80)), make_object(centre=(24, 20)), make_object("ring", centre=(22, 60))]
    assert Query(Phrase("star"), "leftmost").find(scene) is None
    assert Query(Phrase("star"), "largest").find(scene) is None
    assert Query(Phrase("star"), "left of", Phrase("ring")).find(scene) is None
    assert Query(Phrase("ring"), "left of", Phrase("star")).find(scene) is None
    assert Phrase("star", size="small").find([make_object(side=SIZE_BOUNDS[0] - 0.1)]) is None


def test_nothing_is_said_of_an_empty_scene():
    language = describe_scene([], 1, 0)
    assert (language.refs, language.captions, language.questions) == ([], [], [])


def test_answers_are_balanced_in_every_form(folder):
    forms = defaultdict(Counter)
    for question in read(folder, "questions")["questions"]:
        forms[question["form"]][question["answer"]] += 1
    assert set(forms) == {"colour", "count", "existence", "relation"}
    assert all(len(set(answers.values())) == 1 for answers in forms.values())


def test_balancing_keeps_the_rarest_and_spreads_the_rest():
    questions = [{"form": "count", "answer": answer, "id": n} for n, answer in enumerate("0000001100")]
    assert [question["id"] for question in balance_answers(questions)] == [3, 6, 7, 9]
    assert balance_answers([]) == []


def test_answers_are_true(sample):
    for image_id, (_, objects) in enumerate(sample):
        for question in describe_scene(objects, image_id, 0).questions:
            words = question["question"].rstrip("?").split()
            if question["form"] == "existence":
                assert (question["answer"] == "yes") == bool(described(set(words[3:]), objects))
            elif question["form"] == "count" and words[3] == "shapes":
                assert int(question["answer"]) == len(described({words[2]}, objects))
            elif question["form"] == "count":
                singular = {"crosses": "cross"}.get(words[2], words[2].removesuffix("s"))
                assert int(question["answer"]) == len(described({singular}, objects))
            elif question["form"] == "colour":
                (target,) = described(set(words[4:]), objects)
                assert objects[target].colour == question["answer"]
            else:
                sentence = " ".join(words[1:])
                assert (question["answer"] == "yes") == bool(meant(sentence, objects))


def test_captions_count_and_colour_the_shapes():
    scene = [make_object("cross"), make_object("cross", "orange"), make_object("arrow", "blue")]
    captions = [record["caption"] for record in describe_scene(scene, 4, 0).captions]
    assert captions == [
        "A picture of two crosses and an arrow.",
        "There is a red cross, an orange cross and a blue arrow.",
    ]
