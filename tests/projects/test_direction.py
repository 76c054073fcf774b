"""A plug-in with a direction per object, from its annotations to its answers, under flips."""

import json

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from PIL import Image
from torch import nn

from lumen.aligners.dense import DenseAligner
from lumen.data.annotations import load_json
from lumen.data.coco import CocoDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.decoders.base import Decoder
from lumen.decoders.boxes import BoxHead, box_loss, boxes_at
from lumen.decoders.contract import check_decoder
from lumen.decoders.peaks import BoxLimits, best_boxes, pick_peaks
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.structures import Field, TaskSpec, targets_per_pair

FIELDS = {"heading": Field("directions")}
IMAGE_HW = (64, 128)


class HeadingDataset(CocoDataset):
    fields = FIELDS

    def load_data_list(self):
        records = super().load_data_list()
        heading_of = {entry["id"]: entry["heading"] for entry in load_json(self.ann_file)["annotations"]}
        for instances in (record["instances"] for record in records):
            rows = [heading_of[number] for number in instances["ann_ids"].tolist()]
            instances["heading"] = np.array(rows, dtype=np.float32).reshape(-1, 2)
        return records


class SilentDataset(HeadingDataset):
    """The same without the declaration."""

    fields = {}  # noqa: RUF012 - as a plug-in would write it


class HeadingDecoder(Decoder):
    """Boxes as in detection, and the direction of each object."""

    spec = TaskSpec(
        name="heading",
        targets=frozenset({"bboxes", "heading"}),
        predictions=frozenset({"bboxes", "heading", "scores", "labels", "prompt_index"}),
        headline="heading/error",
        losses={"loss_box": "objects", "loss_heading": "objects"},
        fields=FIELDS,
    )

    def __init__(self, channels):
        super().__init__(channels)
        self.head = BoxHead(channels)
        self.heading = nn.Linear(channels, 2)

    def forward(self, shared, pair, cells_xy):
        read = self.heading(shared.dense[shared.image_index[pair], :, cells_xy[:, 1], cells_xy[:, 0]]).float()
        return nn.functional.normalize(read, dim=1)

    def loss(self, shared, samples):
        targets = targets_per_pair(samples, shared, fields=FIELDS)
        cells_xy = ((targets.bboxes[:, :2] + targets.bboxes[:, 2:]) / (2 * shared.stride)).long()
        heading = self(shared, targets.pair_index, cells_xy)
        return {
            "loss_box": box_loss(self.head(shared), targets, shared),
            "loss_heading": (1 - (heading * targets.heading).sum(1)).sum(),
        }

    def predict(self, shared, samples):
        pair, cells_xy, scores, _ = pick_peaks(shared, num_peaks=5, min_score=0.0)
        boxes = boxes_at(self.head(shared), shared.image_index[pair], cells_xy, shared.stride)
        heading = self(shared, pair, cells_xy)
        table = InstanceData(bboxes=boxes, heading=heading, scores=scores, pair_index=pair)
        return best_boxes(table, samples, shared, BoxLimits(max_per_image=10))


@pytest.fixture(scope="module")
def ann_file(tmp_path_factory):
    """Return a file with two images; an object in each, that points to the right, and down to the left."""
    folder = tmp_path_factory.mktemp("headings")
    rows = [([16, 16, 32, 32], [1.0, 0.0]), ([80, 8, 32, 32], [-0.6, 0.8])]
    for number in (1, 2):
        Image.new("RGB", IMAGE_HW[::-1], (40 * number, 90, 90)).save(folder / f"{number}.png")
    images = [
        {"id": number, "file_name": f"{number}.png", "height": IMAGE_HW[0], "width": IMAGE_HW[1]} for number in (1, 2)
    ]
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "arrow"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0, "heading": heading}
            for number, (box, heading) in enumerate(rows, 1)
        ],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def build(kind, ann_file, *, flip):
    return kind(
        ann_file=str(ann_file),
        data_prefix={"img": str(ann_file.parent)},
        pipeline=[
            LoadImage(),
            ResizeToInput(input_hw=(64, 96), mode="stretch", flip_probability=flip),
            AskClasses(task="heading"),
            PackSample(),
        ],
    )


@pytest.fixture(scope="module")
def model(tiny_nano):
    torch.manual_seed(0)
    lmm = {
        "type": HFAdapter,
        "name_or_path": str(tiny_nano),
        "base": {"attention": "eager"},
        "tasks": [{"name": "heading", "answer_format": "boxes", "routing_token": "[DET]"}],
    }
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return Lumen(lmm, aligner, [{"type": HeadingDecoder}])


def test_the_decoder_keeps_to_the_contract():
    assert [finding.problem for finding in check_decoder(HeadingDecoder) if finding.problem] == []


def test_targets_turn_with_the_image(ann_file):
    plain = [build(HeadingDataset, ann_file, flip=0.0)[index]["data_samples"] for index in range(2)]
    flipped = [build(HeadingDataset, ann_file, flip=1.0)[index]["data_samples"] for index in range(2)]
    # the input is 0.75 times as wide: (-0.6, 0.8) becomes (-0.45, 0.8), and has length 1 again
    down_left = torch.tensor([-0.45, 0.8]) / (0.45**2 + 0.8**2) ** 0.5
    torch.testing.assert_close(plain[0].gt_instances.heading, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(plain[1].gt_instances.heading, down_left[None])
    torch.testing.assert_close(flipped[0].gt_instances.heading, torch.tensor([[-1.0, 0.0]]))
    torch.testing.assert_close(flipped[1].gt_instances.heading, down_left[None] * torch.tensor([-1.0, 1.0]))


def test_it_trains_with_flips_and_answers_in_original_pixels(ann_file, model):
    np.random.seed(0)
    dataset = build(HeadingDataset, ann_file, flip=0.5)
    wrapper = OptimWrapper(torch.optim.SGD(model.decoders.parameters(), lr=0.01))
    signs = set()
    for _ in range(6):
        batch = pseudo_collate([dataset[0], dataset[1]])
        signs.add(float(batch["data_samples"][0].gt_instances.heading[0, 0]))
        logged = model.train().train_step(batch, wrapper)
        assert bool(logged["heading/loss_heading"].isfinite())
    assert signs == {-1.0, 1.0}, "both views were trained"
    with torch.no_grad():
        # a decoder that always answers (0.45, 0.8) in input pixels, which are 0.75 times as wide
        model.decoders["heading"].heading.weight.zero_()
        model.decoders["heading"].heading.bias.copy_(torch.tensor([0.45, 0.8]))
        for flip, wanted in (0.0, [0.6, 0.8]), (1.0, [-0.6, 0.8]):
            packed = build(HeadingDataset, ann_file, flip=flip)[0]
            batch = model.eval().data_preprocessor(pseudo_collate([packed]), False)
            answer = model(**batch, mode="predict")[0].pred_instances
            assert len(answer)
            torch.testing.assert_close(answer.heading, torch.tensor([wanted]).expand(len(answer), 2))


def test_a_data_set_that_does_not_declare_it_is_refused_at_the_first_sample(ann_file):
    with pytest.raises(ConfigError, match=r"instances hold \['heading'\]"):
        build(SilentDataset, ann_file, flip=0.0)[0]
