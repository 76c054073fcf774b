from itertools import islice

import numpy as np
import pytest
from torch.utils.data import Dataset

import lumen.data.mixture
from lumen.data.coco import CocoDataset
from lumen.data.mixture import MixedDataset, MixtureSampler
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.errors import ConfigError, DataError
from lumen.registry import DATA_SAMPLERS, DATASETS


class Numbers(Dataset):
    """Pairs of a name and a number."""

    def __init__(self, name, size):
        self.name = name
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.name, range(self.size)[index]


def mixture(sizes=(10, 700, 33), weights=(1, 3, 6)):
    return MixedDataset([Numbers(name, size) for name, size in zip("abc", sizes, strict=False)], weights)


def draw(dataset, number, **kwargs):
    return list(islice(MixtureSampler(dataset, **({"seed": 0} | kwargs)), number))


def ratio(dataset, indices):
    counts = np.bincount([dataset.source_of(index) for index in indices], minlength=len(dataset.sizes))
    return counts / counts.sum()


def rank(monkeypatch, number, world_size):
    monkeypatch.setattr(lumen.data.mixture, "get_dist_info", lambda: (number, world_size))


def test_indices_run_through_the_sets_one_after_the_other():
    dataset = mixture((2, 3), None)
    assert [dataset[index] for index in range(len(dataset))] == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    with pytest.raises(IndexError, match="5 of a mixture of 5"):
        dataset[5]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weights", [(1, 3, 6), (0.5, 0.5, 1e-2), (1, 1, 1)])
def test_the_ratio_holds_in_short_runs_too(seed, weights):
    dataset = mixture(weights=weights)
    for number, tolerance in ((100, 0.06), (3000, 0.002)):
        np.testing.assert_allclose(
            ratio(dataset, draw(dataset, number, seed=seed)), np.array(weights) / sum(weights), atol=tolerance
        )


def test_without_weights_all_samples_come_equally_often():
    dataset = mixture((10, 20, 70), None)
    np.testing.assert_allclose(ratio(dataset, draw(dataset, 3000)), [0.1, 0.2, 0.7], atol=0.002)


def test_batches_mix_the_sets():
    dataset = mixture((50, 50), (1, 1))
    sources = np.array([dataset.source_of(index) for index in draw(dataset, 8 * 500)]).reshape(500, 8)
    is_mixed = sources.any(1) & ~sources.all(1)
    assert is_mixed.mean() > 0.97


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_comes_once_before_one_comes_twice(shuffle):
    dataset = mixture((7, 11), (1, 2))
    drawn = [index for index in draw(dataset, 300, shuffle=shuffle) if index >= 7][: 11 * 9]
    rounds = [drawn[at : at + 11] for at in range(0, len(drawn), 11)]
    assert all(sorted(one) == list(range(7, 18)) for one in rounds)
    assert (len({tuple(one) for one in rounds}) > 1) == shuffle


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_ranks_share_one_stream(monkeypatch, world_size):
    dataset = mixture((50, 50), (1, 2))
    whole = draw(dataset, 960)
    for number in range(world_size):
        rank(monkeypatch, number, world_size)
        part = draw(dataset, 960 // world_size)
        assert part == whole[number::world_size]
        assert abs(ratio(dataset, part)[1] - 2 / 3) < 0.08


@pytest.mark.parametrize("place", [(0, 1), (1, 3)])
def test_skipping_goes_on_where_the_stream_was(monkeypatch, place):
    rank(monkeypatch, *place)
    dataset = mixture()
    sampler = MixtureSampler(dataset, seed=4)
    sampler.skip(77)
    assert list(islice(sampler, 50)) == draw(dataset, 127, seed=4)[77:]
    with pytest.raises(ValueError, match="not be negative"):
        sampler.skip(-1)


def test_the_seed_sets_the_order():
    assert draw(mixture(), 50) == draw(mixture(), 50) != draw(mixture(), 50, seed=1)
    assert draw(mixture(), 50, shuffle=False, seed=0) == draw(mixture(), 50, shuffle=False, seed=1)


def test_samples_keep_the_classes_and_the_task_of_their_set(make_coco):
    root = make_coco()

    def config(task, classes):
        pipeline = [LoadImage(), ResizeToInput(input_hw=(16, 32)), AskClasses(task=task), PackSample()]
        return {
            "type": CocoDataset,
            "ann_file": str(root / "ann.json"),
            "data_prefix": {"img": str(root / "img")},
            "classes": classes,
            "pipeline": pipeline,
        }

    configs = [config("detection", None), config("counting", ["cat", "dog"])]
    dataset = DATASETS.build({"type": "MixedDataset", "datasets": configs, "weights": [1, 1]})
    sampler = DATA_SAMPLERS.build({"type": "MixtureSampler", "dataset": dataset, "seed": 0})
    seen = {
        (prompt.task, len(sample.classes))
        for sample in (dataset[index]["data_samples"] for index in islice(sampler, 12))
        for prompt in sample.prompts
    }
    assert seen == {("detection", 3), ("counting", 2)}


@pytest.mark.parametrize("weights", [(1, 2), (1, 2, 0), (1, 2, -1), (1, 2, float("nan"))])
def test_weights_must_fit_the_sets(weights):
    with pytest.raises(ConfigError, match="3 positive numbers"):
        mixture(weights=weights)


def test_empty_mixtures_and_foreign_sets_are_errors():
    with pytest.raises(ConfigError, match="at least one"):
        MixedDataset([])
    with pytest.raises(DataError, match="data set 1 of the mixture is empty"):
        mixture((3, 0), None)
    with pytest.raises(ConfigError, match="got Numbers"):
        MixtureSampler(Numbers("a", 3))


@pytest.mark.parametrize("number", [0, 1])
def test_runs_give_every_rank_batches_of_one_set(monkeypatch, number):
    dataset, batch, ranks = mixture((6, 9), (1, 2)), 4, 2
    rank(monkeypatch, number, ranks)
    drawn = [dataset.source_of(index) for index in draw(dataset, 60 * batch, run=batch * ranks)]
    batches = [set(drawn[start : start + batch]) for start in range(0, len(drawn), batch)]
    assert all(len(of_batch) == 1 for of_batch in batches)
    assert abs(sum(1 in of_batch for of_batch in batches) / 60 - 2 / 3) < 0.06
    later = MixtureSampler(dataset, seed=0, run=batch * ranks)
    later.skip(5 * batch)
    assert [dataset.source_of(index) for index in islice(later, 20)] == drawn[20:40]


def test_a_run_is_a_whole_number_of_at_least_one():
    with pytest.raises(ConfigError, match=r"MixtureSampler\.run"):
        draw(mixture(), 1, run=0)
