"""Data sets of mmdet as sources, each with a small file in its real layout."""

import sys

import numpy as np
import pytest
from mmdet_layouts import (
    BOX,
    CROWD,
    SECOND,
    annotation,
    coco,
    make_coco,
    make_crowdhuman,
    make_lvis,
    make_objects365,
    make_odvg,
    make_openimages,
    make_voc,
    make_wider_face,
    write,
)
from mmengine.registry import DefaultScope

from lumen.data.pipelines import ModelInputs, fill_pipelines
from lumen.data.refer import AskSentences
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.interop.mmdet.dataset import MMDetDataset
from lumen.registry import DATASETS

pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")

CLASSES = {"metainfo": {"classes": ("cat", "dog")}}


def corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def steps(ask=None):
    # The input has the size of the picture, so that boxes stay where they are.
    return [
        LoadImage(),
        ResizeToInput(input_hw=(40, 60)),
        ask or AskClasses(num_prompts=None, shuffle=False),
        PackSample(),
    ]


def open_data(kind, files, *, test=False, ask=None, **options):
    settings = {"type": kind, **files, **({"test_mode": True} if test else {})}
    return MMDetDataset(dataset=settings, pipeline=steps(ask), **options)


def sample_of(data, place=0):
    return data[place]["data_samples"]


def rows(table, names):
    """Return (name, box) of each row."""
    return [(names[label], box) for label, box in zip(table.labels.tolist(), table.bboxes.tolist(), strict=True)]


@pytest.mark.parametrize("test", [False, True])
def test_coco(tmp_path, test):
    data = open_data("CocoDataset", make_coco(tmp_path) | CLASSES, test=test, with_masks=True)
    # The file has the dog first: mmdet alone would call it a cat.
    assert data.metainfo["classes"] == ("cat", "dog") and data.metainfo["cat_ids"] == (2, 1)
    assert data.test_mode is test and ("ann_file" in data.metainfo) is test and len(data) == 2
    sample = sample_of(data)
    assert [prompt.text for prompt in sample.prompts] == ["cat", "dog"]
    assert rows(sample.gt_instances, data.metainfo["classes"]) == [("dog", corners(BOX))]
    assert rows(sample.ignored_instances, data.metainfo["classes"]) == [("cat", corners(CROWD))]
    assert sample.gt_instances.masks.shape == (1, 40, 60) and sample.gt_instances.masks.sum() == BOX[2] * BOX[3]
    assert ("annotation" in sample) is test
    assert len(sample_of(data, 1).gt_instances) == 0


def test_training_samples_and_roles_are_those_of_the_own_reader(tmp_path):
    from lumen.data.coco import CocoDataset

    files = make_coco(tmp_path)
    ours = CocoDataset(**files, pipeline=steps(), classes=["cat", "dog"])
    theirs = open_data("CocoDataset", files | CLASSES)
    for one, other in zip(
        (sample_of(ours, at) for at in range(2)), (sample_of(theirs, at) for at in range(2)), strict=True
    ):
        assert one.prompts == other.prompts and one.img_id == other.img_id and one.img_path == other.img_path
        for name in ("gt_instances", "ignored_instances"):
            assert all(np.array_equal(one.get(name)[key], other.get(name)[key]) for key in ("bboxes", "labels"))


@pytest.mark.parametrize("version", [1, 2])
def test_objects365(tmp_path, version):
    from mmdet.datasets import Objects365V1Dataset, Objects365V2Dataset

    names = {1: Objects365V1Dataset, 2: Objects365V2Dataset}[version].METAINFO["classes"]
    data = open_data(f"Objects365V{version}Dataset", make_objects365(tmp_path, version, names), test=True)
    assert data.metainfo["classes"] == names and len(names) == 365
    sample = sample_of(data)
    assert rows(sample.gt_instances, names) == [(names[2], corners(BOX))]
    assert rows(sample.ignored_instances, names) == [(names[0], corners(CROWD))]
    assert "fault" not in sample


def test_lvis_states_what_is_absent(tmp_path):
    pytest.importorskip("lvis")
    from mmdet.datasets import LVISV1Dataset

    names = LVISV1Dataset.METAINFO["classes"]
    data = open_data("LVISV1Dataset", make_lvis(tmp_path, names), ask=AskClasses(num_prompts=8, shuffle=False))
    sample = sample_of(data)
    # The class with a box and the one that is verified absent; 1,201 others are unknown.
    assert [prompt.text for prompt in sample.prompts] == [names[0], names[2]]
    assert rows(sample.gt_instances, names) == [(names[0], corners(BOX))]
    # Further objects of the first class may be there without a box.
    assert rows(sample.ignored_instances, names) == [(names[0], [0, 0, 60, 40])]


def test_lvis_without_its_package_names_it(tmp_path, monkeypatch):
    from mmdet.datasets import LVISV1Dataset

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps lvis"):
        open_data("LVISV1Dataset", make_lvis(tmp_path, LVISV1Dataset.METAINFO["classes"]))


def test_crowdhuman(tmp_path, capsys):
    data = open_data("CrowdHumanDataset", make_crowdhuman(tmp_path), test=True)
    sample = sample_of(data)
    assert rows(sample.gt_instances, ["person"]) == [("person", corners(BOX))]
    assert rows(sample.ignored_instances, ["person"]) == [("person", corners(CROWD))]
    assert sample.img_id == "273271,c9db000d5146c15" and "fault" not in sample


@pytest.mark.parametrize("test", [False, True])
def test_voc(tmp_path, test):
    data = open_data("VOCDataset", make_voc(tmp_path), test=test)
    names = data.metainfo["classes"]
    sample = sample_of(data)
    # Counted from 1 in the file; mmdet subtracts 1 from all four.
    assert rows(sample.gt_instances, names) == [("dog", [4, 6, 24, 30])]
    assert rows(sample.ignored_instances, names) == [("cat", [30, 2, 40, 12])]  # difficult
    assert data.metainfo["dataset_type"] == "VOC2007" and len(names) == 20


def test_wider_face(tmp_path, capsys):
    sample = sample_of(open_data("WIDERFaceDataset", make_wider_face(tmp_path), test=True))
    assert rows(sample.gt_instances, ["face"]) == [("face", corners(BOX))] and "fault" not in sample


def test_openimages_states_what_is_absent(tmp_path):
    data = open_data("OpenImagesDataset", make_openimages(tmp_path), ask=AskClasses(num_prompts=8, shuffle=False))
    names = data.metainfo["classes"]
    sample = sample_of(data)
    # A car is verified absent; of animals nothing is stated.
    assert [prompt.text for prompt in sample.prompts] == ["Dog", "Car"]
    (name, box), *others = rows(sample.gt_instances, names)
    assert name == "Dog" and box == pytest.approx([6, 6, 24, 30]) and not others
    group = data.get_data_info(0)["instances"]
    assert group["is_ignored"].tolist() == [False, True] and names[group["labels"][1]] == "Cat"


def test_odvg_with_names(tmp_path):
    data = open_data("ODVGDataset", make_odvg(tmp_path, with_names=True))
    assert data.metainfo["classes"] == ("dog", "cat")
    assert rows(sample_of(data).gt_instances, ("dog", "cat")) == [("cat", corners(BOX))]


def test_odvg_with_phrases(tmp_path):
    data = open_data("ODVGDataset", make_odvg(tmp_path, with_names=False), ask=AskSentences(shuffle=False))
    sample = sample_of(data)
    assert [prompt.text for prompt in sample.prompts] == ["A wizard", "two red hats"]
    assert sample.gt_instances.prompt_index.tolist() == [0, 1, 1] and sample.gt_instances.labels.tolist() == [-1] * 3
    assert sample.gt_instances.bboxes.tolist() == [corners(BOX), corners(BOX), corners(SECOND)]


def test_wrappers_are_those_of_mmdet(tmp_path):
    part = {"type": "CocoDataset", **make_coco(tmp_path), **CLASSES, "pipeline": [{"type": "PackDetInputs"}]}
    whole = {"type": "RepeatDataset", "times": 3, "dataset": {"type": "ConcatDataset", "datasets": [part, part]}}
    data = MMDetDataset(dataset=whole, pipeline=steps())
    assert len(data) == 12
    assert len(sample_of(data, 10).gt_instances) == 1 and len(sample_of(data, 11).gt_instances) == 0


def test_settings_of_mmdet_are_not_filled_in_by_lumen():
    inner = {"type": "CocoDataset", "pipeline": [{"type": "LoadAnnotations"}]}
    for kind in (MMDetDataset, "MMDetDataset"):
        node = {"dataset": {"type": kind, "dataset": inner, "pipeline": [{"type": ResizeToInput}]}}
        filled = fill_pipelines(node, ModelInputs(input_hw=(8, 8)))["dataset"]
        assert filled["dataset"] == inner and filled["pipeline"][0]["input_hw"] == (8, 8)


def test_the_scope_of_names_stays(tmp_path):
    files = make_coco(tmp_path) | CLASSES
    with DefaultScope.overwrite_default_scope("lumen"):
        DATASETS.build({"type": "MMDetDataset", "dataset": {"type": "CocoDataset", **files}})
        assert DefaultScope.get_current_instance().scope_name == "lumen"
        with pytest.raises(DataError):
            open_data("CocoDataset", files | {"metainfo": {"classes": ("horse",)}})
        assert DefaultScope.get_current_instance().scope_name == "lumen"
    assert DefaultScope.get_current_instance() is None


# ---- what is refused


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(ConfigError, match=r"lumen-perception\[mmdet\]"):
        open_data("CocoDataset", make_coco(tmp_path))


def test_an_unknown_class_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no data set 'CocoDatset'; the nearest are .*'CocoDataset'"):
        open_data("CocoDatset", make_coco(tmp_path))


def test_settings_that_a_class_does_not_take_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"CocoDataset of mmdet cannot be made .*annfile"):
        open_data("CocoDataset", make_coco(tmp_path) | {"annfile": "x"})


@pytest.mark.parametrize("options", [{}, {"dataset": {"type": "CocoDataset"}, "config": "x.py"}])
def test_settings_or_a_file_are_needed(options):
    with pytest.raises(ConfigError, match=r"takes dataset, .* or config"):
        MMDetDataset(**options)


def test_a_set_that_mixes_images_is_refused(tmp_path):
    mix = {"type": "MultiImageMixDataset", "pipeline": [], "dataset": {"type": "CocoDataset", **make_coco(tmp_path)}}
    with pytest.raises(ConfigError, match="MultiImageMixDataset of mmdet mixes images"):
        MMDetDataset(dataset=mix)


def test_parts_of_different_roles_are_refused(tmp_path):
    part = {"type": "CocoDataset", **make_coco(tmp_path), **CLASSES}
    with pytest.raises(ConfigError, match="all have test_mode=True, or none"):
        MMDetDataset(dataset={"type": "ConcatDataset", "datasets": [part, part | {"test_mode": True}]})


def test_a_set_without_names_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="metainfo=dict\\(classes="):
        open_data("XMLDataset", {"data_root": str(tmp_path), "ann_file": "empty.txt"})
    with pytest.raises(DataError, match="names no classes"):
        open_data("CocoDataset", make_coco(tmp_path) | {"metainfo": {"classes": ()}})


def test_names_that_the_file_lacks_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"not among them: \['person'"):
        open_data("CocoDataset", make_coco(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"CocoDataset of mmdet cannot read .*none\.json"):
        open_data("CocoDataset", make_coco(tmp_path) | CLASSES | {"ann_file": "none.json"})


def test_a_set_without_boxes_is_refused(tmp_path):
    files = {"data_root": make_voc(tmp_path)["data_root"], "ann_file": "VOC2007/ImageSets/Main/test.txt"}
    with pytest.raises(DataError, match=r"no \['height', 'width', 'instances'\]"):
        open_data("ADE20KSegDataset", files | {"data_prefix": {"img_path": "VOC2007/JPEGImages"}})


@pytest.mark.parametrize(
    ("box", "message"),
    [([1, 2, 3, 4, 0.5], "boxes of four finite numbers"), ([1, 2, float("nan"), 4], "boxes of four finite numbers")],
)
def test_boxes_of_other_shapes_are_refused(box, message):
    from lumen.interop.mmdet.records import RecordReader

    info = {"img_path": "a.jpg", "height": 40, "width": 60, "instances": [{"bbox": box, "bbox_label": 0}]}
    with pytest.raises(DataError, match=message):
        RecordReader(["dog"], with_masks=False, federated=False).read(info, 0)


@pytest.mark.parametrize(("label", "flag"), [(1, 0), (-1, 0), (-2, 1)])
def test_labels_without_a_name_are_refused(label, flag):
    from lumen.interop.mmdet.records import RecordReader

    instances = [{"bbox": [1, 2, 3, 4], "bbox_label": label, "ignore_flag": flag}]
    info = {"img_path": "a.jpg", "height": 40, "width": 60, "instances": instances}
    with pytest.raises(DataError, match="do not fit the 1 classes"):
        RecordReader(["dog"], with_masks=False, federated=False).read(info, 0)


def test_objects_that_cannot_be_used_have_a_budget(tmp_path):
    files = make_coco(tmp_path)
    beside = annotation(8, 1, 1, SECOND, segmentation=[[1, 2]])
    write(tmp_path / "annotations.json", coco(("dog", "cat"), [annotation(7, 1, 1, BOX), beside]))
    with pytest.raises(DataError, match="1 of 2 would be skipped"):
        open_data("CocoDataset", files | CLASSES, with_masks=True)
    data = open_data("CocoDataset", files | CLASSES, with_masks=True, skip_budget=0.5)
    assert data.report == {"mask is missing, broken or of another size": [2]}
    assert len(sample_of(data).gt_instances) == 1
