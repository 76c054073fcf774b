import numpy as np
import pytest
import torch
from PIL import Image

from lumen.data.semantic import SemanticDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.ops.masks import decode_masks
from lumen.registry import DATASETS

CLASSES = ("wall", "sky", "tree")
# Left half 0, then one column of 2, one pixel of 1, the rest is not labelled.
LABELS = np.full((4, 8), 255, dtype=np.uint8)
LABELS[:, :4] = 0
LABELS[:, 4] = 2
LABELS[3, 7] = 1


def write(root, label_map=LABELS, name="a", image_hw=None):
    for folder in ("images/training", "annotations/training"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*(image_hw or label_map.shape[:2]), 3), np.uint8)).save(
        root / f"images/training/{name}.jpg"
    )
    Image.fromarray(label_map).save(root / f"annotations/training/{name}.png")
    return root


def build(root, *, input_hw=(4, 8), **kwargs):
    pipeline = [LoadImage(), ResizeToInput(input_hw=input_hw, min_visible=0.0)]
    pipeline += [AskClasses(task="semantic_segmentation", num_prompts=None, shuffle=False), PackSample()]
    prefix = {"img": "images/training", "seg": "annotations/training"}
    options = {"data_root": str(root), "data_prefix": prefix, "classes": CLASSES, "pipeline": pipeline}
    return SemanticDataset(**(options | kwargs))


def test_a_class_is_one_instance_with_its_pixels_and_a_tight_box(tmp_path):
    dataset = build(write(tmp_path))
    sample = dataset[0]["data_samples"]
    table = sample.gt_instances
    assert [sample.prompts[at].text for at in table.prompt_index.tolist()] == ["wall", "sky", "tree"]
    assert table.labels.tolist() == [0, 1, 2]
    assert table.bboxes.tolist() == [[0, 0, 4, 4], [7, 3, 8, 4], [4, 0, 5, 4]]
    for label, mask in enumerate(table.masks):
        assert torch.equal(mask, torch.from_numpy(label == LABELS))
    assert (sample.img_id, sample.ori_shape) == (0, (4, 8))
    assert sample.label_map_path.endswith("annotations/training/a.png")
    assert dataset.metainfo["reduce_zero_label"] is False and dataset.metainfo["classes"] == CLASSES


def test_pixels_without_a_class_come_along_with_the_view(tmp_path):
    dataset = build(write(tmp_path), input_hw=(4, 16))
    dataset.pipeline.transforms[1] = ResizeToInput(input_hw=(4, 16), flip_probability=1.0, min_visible=0.0)
    sample = dataset[0]["data_samples"]
    shown = sample.frame.boxes_to_input(torch.tensor([[0.0, 0.0, 8.0, 4.0]]))[0].round().int().tolist()
    masks = sample.unlabelled.masks
    assert masks.shape == (1, 4, 16)
    assert torch.equal(masks[0, :, shown[0] : shown[2]], torch.from_numpy(LABELS == 255).flip(1))
    assert masks.sum() == (LABELS == 255).sum()


def test_zero_can_stand_for_no_class(tmp_path):
    # As in ADE20K: 0 is no class, 1 is the first one.
    values = np.array([[0, 1, 1], [3, 3, 255]], dtype=np.uint8)
    sample = build(write(tmp_path, values), input_hw=(2, 3), reduce_zero_label=True)[0]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [0, 2]
    assert sample.gt_instances.masks.int().tolist() == [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0]]]


def test_an_image_without_any_class_has_no_instances(tmp_path):
    sample = build(write(tmp_path, np.full((4, 8), 255, dtype=np.uint8)))[0]["data_samples"]
    assert len(sample.prompts) == 3 and sample.gt_instances.masks.shape == (0, 4, 8)


def test_masks_are_flipped_with_the_image(tmp_path):
    dataset = build(write(tmp_path))
    dataset.pipeline.transforms[1] = ResizeToInput(input_hw=(4, 8), flip_probability=1.0, min_visible=0.0)
    table = dataset[0]["data_samples"].gt_instances
    assert torch.equal(table.masks[2], torch.from_numpy(LABELS == 2).flip(1))


def test_files_are_found_in_order_with_their_suffix_and_by_name(tmp_path):
    for name in ("b", "a"):
        write(tmp_path, name=name)
    folder = tmp_path / "annotations/training"
    for path in list(folder.iterdir()):
        path.rename(folder / f"{path.stem}_labelTrainIds.png")
    config = {"type": "SemanticDataset", "data_root": str(tmp_path), "classes": CLASSES}
    config |= {"data_prefix": {"img": "images", "seg": "annotations"}, "seg_suffix": "_labelTrainIds.png"}
    dataset = DATASETS.build(config)
    assert [dataset.get_data_info(at)["img_path"][-5:] for at in range(2)] == ["a.jpg", "b.jpg"]
    record = dataset[0]
    assert decode_masks(list(record["instances"]["segmentations"]), (4, 8)).sum() == 16 + 4 + 1


def test_what_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="different names"):
        build(tmp_path, classes=["sky", "sky"])
    with pytest.raises(DataError, match="holds no file that ends in"):
        build(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match="class number 2, but there are 2 classes"):
        build(tmp_path, classes=CLASSES[:2])[0]
    write(tmp_path, image_hw=(5, 8))
    with pytest.raises(DataError, match="5, 8"):
        build(tmp_path)[0]
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "annotations/training/a.png")
    with pytest.raises(DataError, match="one number per pixel"):
        build(tmp_path)[0]
    (tmp_path / "annotations/training/a.png").write_bytes(b"no map")
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        build(tmp_path)[0]
    (tmp_path / "annotations/training/a.png").unlink()
    with pytest.raises(DataError, match="1 of 1 label maps are missing"):
        build(tmp_path)


def test_a_label_map_may_not_be_a_link_to_the_outside(tmp_path):
    write(tmp_path)
    path = tmp_path / "annotations/training/a.png"
    path.rename(tmp_path / "a.png")
    path.symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match="leaves the folder"):
        build(tmp_path)[0]
