import numpy as np
import pytest
import torch

from lumen.data.attributes import AttributesDataset
from lumen.data.cells import KeepObjects, LabelCells
from lumen.data.shapes import make_shapes
from lumen.data.shapes.asking import AskRelations, ListShapes, shapes_of
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.ops.geometry import InputTransform
from lumen.structures import Field

ATTRIBUTES = {
    "colour": ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"],
    "texture": ["plain", "striped", "dotted"],
    "size": ["small", "medium", "large"],
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    make_shapes(root, num_train=4, num_val=2, num_test=0, seed=3, workers=1)
    return str(root)


def dataset_of(root, **options):
    return AttributesDataset(
        **{"attributes": ATTRIBUTES, "with_masks": True, "ann_file": "annotations/instances_train.json"} | options,
        data_root=root,
        data_prefix={"img": "train"},
    )


def instances(masks, *, ignored=()):
    count = len(masks)
    return {
        "bboxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]] * count),
        "labels": np.arange(count),
        "is_ignored": np.array([number in ignored for number in range(count)], dtype=bool),
        "masks": torch.stack(masks) if masks else torch.zeros(0, 8, 16, dtype=torch.bool),
        "colour": torch.arange(count) + 5,
    }


def mask(*slices):
    drawn = torch.zeros(8, 16, dtype=torch.bool)
    for rows, columns in slices:
        drawn[rows, columns] = True
    return drawn


def test_a_cell_shows_the_object_that_covers_most_of_it():
    # Cells of 4: the first object covers a whole cell and 1 / 8 of the next; the second 1 / 2 of another.
    first = mask((slice(0, 4), slice(0, 4)), (slice(0, 2), slice(4, 5)))
    second = mask((slice(4, 8), slice(8, 10)))
    results = {"instances": instances([first, second])}
    numbers = LabelCells(stride=4)(results)["cells"]["numbers"]
    assert numbers.tolist() == [[[0, -2, -1, -1], [-1, -1, 1, -1]]]


def test_ignored_objects_are_unsure_cells_and_no_objects():
    results = {
        "instances": instances([mask((slice(0, 8), slice(0, 8))), mask((slice(0, 8), slice(8, 16)))], ignored=(0,))
    }
    results["fields"] = {"colour": Field("classes")}
    results = LabelCells(stride=8)(KeepObjects()(results))
    assert results["cells"]["numbers"].tolist() == [[[-2, 0]]]
    assert results["objects"]["labels"].tolist() == [1] and results["objects"]["colour"].tolist() == [6]
    assert results["prompts"] == ()


def test_an_image_without_objects_is_background():
    assert LabelCells(stride=8)({"instances": instances([])})["cells"]["numbers"].tolist() == [[[-1, -1]]]


def test_cells_need_masks():
    with pytest.raises(ConfigError, match="with_masks=True"):
        LabelCells()({"instances": {}})


def test_attributes_become_fields(shapes):
    record = dataset_of(shapes)[0]
    assert {"colour", "texture", "size"} <= set(record["instances"])
    assert record["fields"]["colour"].kind == "classes"


def test_an_unknown_attribute_is_named(shapes):
    with pytest.raises(DataError, match="has texture='"):
        dataset_of(shapes, attributes={"texture": ["checked"]})


def test_a_mirrored_view_packs_the_same_objects_at_mirrored_cells(shapes):
    def packed(flip):
        steps = [LoadImage(), ResizeToInput(input_hw=(160, 160), flip_probability=flip), KeepObjects(), LabelCells()]
        record = dataset_of(shapes)[1]
        for step in (*steps, PackSample()):
            record = step(record)
        return record["data_samples"]

    plain, mirrored = packed(0.0), packed(1.0)
    assert torch.equal(plain.cells.numbers.flip(-1), mirrored.cells.numbers)
    assert torch.equal(plain.objects.colour, mirrored.objects.colour)
    assert torch.equal(160 - plain.objects.bboxes[:, [2, 0]], mirrored.objects.bboxes[:, [0, 2]])


def objects(*rows):
    """Return objects from (class, colour, box)."""
    labels, colours, boxes = zip(*rows, strict=True)
    flat = torch.zeros(len(rows), dtype=torch.long)
    fields = {"labels": torch.tensor(labels), "colour": torch.tensor(colours), "texture": flat, "size": flat + 1}
    return {**fields, "bboxes": torch.tensor(boxes, dtype=torch.float32)}


TWO = objects((0, 0, (10, 10, 30, 30)), (3, 5, (100, 60, 130, 80)))


def test_relations_agree_with_the_boxes():
    np.random.seed(0)
    seen = set()
    for _ in range(20):
        for prompt in AskRelations(num_prompts=2, weight=1.5)({"objects": TWO, "prompts": ()})["prompts"]:
            subject_is_circle = prompt.text.startswith("is the circle")
            is_true = any(word in prompt.text for word in ("left of", "above")) == subject_is_circle
            assert prompt.answer == ("yes" if is_true else "no") and prompt.weight == 1.5
            seen.add(prompt.text)
    assert len(seen) == 8


def test_a_list_names_all_shapes_row_by_row():
    frame = InputTransform.letterbox((160, 160), (160, 160))
    results = {"objects": TWO, "frame": frame, "prompts": ()}
    caption = ListShapes(caption_share=1.0)(dict(results))["prompts"][0]
    assert caption.answer == "There is a red circle and a blue star." and caption.task == "caption"
    boxes = ListShapes(caption_share=0.0)(dict(results))["prompts"][0]
    assert boxes.answer == ("plain red circle<x0_2><y0_2><x1_8><y1_8>, plain blue star<x0_25><y0_15><x1_32><y1_20>")
    nothing = {name: column[:0] for name, column in TWO.items()}
    assert ListShapes()({**results, "objects": nothing})["prompts"] == ()


def test_shapes_are_read_from_objects():
    shape = shapes_of(TWO)[1]
    assert (shape.category, shape.colour, shape.size, shape.centre) == ("star", "blue", "medium", (115.0, 70.0))
