"""False alarms on names of things that an image does not show."""

import dataclasses

import pytest
import torch
from helpers import make_images, make_sample
from mmengine.structures import InstanceData

from lumen.engine.foreign import ForeignNames
from lumen.errors import ConfigError


@pytest.fixture
def batch():
    samples = [make_sample(["cat"], [[0, 0, 40, 30]], [0]), make_sample(["cat"])]
    return {"inputs": list(make_images(2)), "data_samples": samples}


def test_every_name_is_asked_of_every_image_and_the_batch_stays_as_it_is(tiny_lumen, batch):
    foreign = ForeignNames(tiny_lumen, number=5, classes=("ant",))
    assert foreign.names == ("alligator", "ambulance", "apron", "aquarium")
    before = dataclasses.replace(tiny_lumen.lmm.usage)
    tiny_lumen.lmm.answer_report.count(has_loc=False, is_named=True)
    written = dataclasses.replace(tiny_lumen.lmm.answer_report)
    with torch.no_grad():
        foreign.ask(batch)
        foreign.ask(batch)
    figures = foreign.figures(num_images=4)
    assert figures["foreign/names"] == 4
    assert 0 <= figures["foreign/false_alarms"] <= 1 and 0 < figures["foreign/mean_score"] < 1
    assert tiny_lumen.lmm.usage == before and tiny_lumen.lmm.answer_report == written
    assert [len(sample.prompts) for sample in batch["data_samples"]] == [1, 1]
    assert "pred_instances" not in batch["data_samples"][0]


def test_the_best_score_of_a_name_counts_once(tiny_lumen, batch, monkeypatch):
    """Two images, two names: of four answers one is an alarm; the best scores are .9, 0, .4 and .2."""
    answers = [
        InstanceData(prompt_index=[0, 0], scores=[0.9, 0.6]),
        InstanceData(prompt_index=[0, 1], scores=[0.4, 0.2]),
    ]

    def predict(data):
        for sample, answer in zip(data["data_samples"], answers, strict=True):
            assert [prompt.label for prompt in sample.prompts] == [-1, -1] and len(sample.gt_instances) == 0
            fields = {"prompt_index": torch.tensor(answer.prompt_index), "scores": torch.tensor(answer.scores)}
            sample.pred_instances = InstanceData(**fields)
        return data["data_samples"]

    monkeypatch.setattr(tiny_lumen, "test_step", predict)
    foreign = ForeignNames(tiny_lumen, number=2, classes=())
    foreign.ask(batch)
    assert foreign.figures(num_images=2) == pytest.approx(
        {"foreign/names": 2, "foreign/false_alarms": 1 / 4, "foreign/mean_score": 1.5 / 4}
    )


def test_impossible_numbers_are_refused(tiny_lumen):
    for number in (-1, 101):
        with pytest.raises(ConfigError, match=r"0\.\.100"):
            ForeignNames(tiny_lumen, number=number, classes=())
    with pytest.raises(ConfigError, match="a Lumen that reads images"):
        ForeignNames(torch.nn.Linear(1, 1), number=1, classes=())
