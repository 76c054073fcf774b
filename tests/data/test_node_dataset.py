"""One process of a node reads an annotation file, the others map what it has read."""

import json

import numpy as np
import pytest
import torch
from helpers import joined

from lumen.data import coco
from lumen.data.coco import CocoDataset
from lumen.errors import DataError

CONTENT = {
    "images": [{"id": at, "file_name": f"{at}.png", "width": 40, "height": 30} for at in (1, 2, 3)],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 8, "image_id": 1, "category_id": 2, "bbox": [5, 6, 7, 8]},
        {"id": 9, "image_id": 3, "category_id": 2, "bbox": [0, 0, 9, 9]},
        {"id": 10, "image_id": 3, "category_id": 2, "bbox": [0, 0, 0, 9]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def make(folder, **options):
    return CocoDataset(ann_file=f"{folder}/a.json", skip_budget=0.5, test_mode=True, **options)


def records_of(dataset):
    return [
        {**record, "instances": {name: column.tolist() for name, column in record["instances"].items()}}
        for record in (dataset.get_data_info(index) for index in range(len(dataset)))
    ]


def rank_main(rank, folder):
    """Rank 1 cannot read the file itself, so what it has comes from rank 0."""
    with joined(rank, folder):
        if rank == 1:
            coco.read_coco = None
        dataset = make(folder, filter_empty=True)
        assert isinstance(dataset.data_bytes, np.memmap)
        with pytest.raises(DataError, match=r"classes must be different names.*'bird'"):
            make(folder, classes=["bird"])
        state = {"records": records_of(dataset), "metainfo": dataset.metainfo, "report": dataset.report}
        torch.save(state, f"{folder}/{rank}.pt")


def test_two_processes_hold_what_one_has_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    torch.multiprocessing.start_processes(rank_main, (str(tmp_path),), nprocs=2, start_method="fork")  # imports nothing
    alone = make(tmp_path, filter_empty=True)
    expected = {"records": records_of(alone), "metainfo": alone.metainfo, "report": alone.report}
    assert [record["img_id"] for record in expected["records"]] == [1, 3]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=False) == expected


def test_an_annotation_takes_few_bytes():
    """A box, a label, an id and a flag take 33 bytes; with 50 boxes an image the rest may double that."""
    rows = {"bboxes": np.zeros((50, 4), np.float32), "labels": np.zeros(50, np.int64)}
    rows |= {"is_ignored": np.zeros(50, bool), "ann_ids": np.zeros(50, np.int64)}
    record = {"img_path": "images/000000000001.jpg", "img_id": 1, "ori_hw": (480, 640), "instances": rows}

    class Records(CocoDataset):
        def load_data_list(self):
            return [record] * 20

    dataset = Records(ann_file="none.json")
    assert 33 < len(dataset.data_bytes) / 1000 < 66
