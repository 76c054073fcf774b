import pytest
from torch.utils.data import Dataset

from lumen.data.mixture import JoinedDataset
from lumen.errors import ConfigError, DataError
from lumen.registry import DATASETS


@DATASETS.register_module(force=True)
class Records(Dataset):
    def __init__(self, records, pipeline=()):
        self.records = records

    def __len__(self):
        return len(self.records)

    def get_data_info(self, index):
        return dict(self.records[index])

    def __getitem__(self, index):
        return self.get_data_info(index)


BASE = {"type": Records, "records": [{"img_id": 3, "boxes": 1}, {"img_id": 5, "boxes": 2}]}


def further(records, key="questions"):
    return {"dataset": {"type": Records, "records": records}, "key": key}


def test_records_are_joined_by_image_whatever_their_order():
    texts = further([{"img_id": 5, "questions": ("five?",)}, {"img_id": 9, "questions": ("nine?",)}])
    joined = JoinedDataset(base=BASE, further={"asked": texts}, pipeline=[])
    assert len(joined) == 2
    assert joined[0] == {"img_id": 3, "boxes": 1, "asked": ()}
    assert joined[1] == {"img_id": 5, "boxes": 2, "asked": ("five?",)}


def test_the_pipeline_sees_the_joined_record():
    texts = further([{"img_id": 3, "questions": ("three?",)}])
    joined = JoinedDataset(base=BASE, further={"asked": texts}, pipeline=[lambda record: len(record["asked"])])
    assert [joined[0], joined[1]] == [1, 0]


def test_nothing_in_common_is_an_error():
    with pytest.raises(DataError, match="no image"):
        JoinedDataset(base=BASE, further={"asked": further([{"img_id": 9, "questions": ()}])}, pipeline=[])


def test_a_key_that_no_record_has_is_an_error():
    with pytest.raises(ConfigError, match="'answers'"):
        JoinedDataset(base=BASE, further={"a": further([{"img_id": 3, "questions": ()}], "answers")}, pipeline=[])


def test_joined_data_sets_have_no_pipelines_of_their_own():
    with pytest.raises(ConfigError, match="pipeline"):
        JoinedDataset(base=dict(BASE, pipeline=[len]), further={}, pipeline=[])
