import json

import pytest
import torch
from mmengine.dataset import ConcatDataset, DefaultSampler, pseudo_collate
from mmengine.structures import InstanceData
from test_evaluation_meter import write_set
from toy import ToyData, ToyMetric, make_runner

from lumen.data.check import CUT
from lumen.data.coco import CocoDataset
from lumen.data.faults import datasets_with_images, find_faults, unusable
from lumen.data.mixture import MixedDataset
from lumen.data.transforms import AskClasses, LoadImage, PackSample, ResizeToInput
from lumen.engine.hooks import CheckImagesHook
from lumen.engine.loops import without_answers
from lumen.errors import DataError
from lumen.metrics.coco.metric import CocoMetric
from lumen.structures import PerceptionSample

PIPELINE = [LoadImage(), ResizeToInput(input_hw=(64, 96)), AskClasses(num_prompts=None, shuffle=False), PackSample()]


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path)
    return tmp_path


def coco(folder, **options):
    return CocoDataset(ann_file="a.json", data_root=str(folder), pipeline=PIPELINE, **options)


def loader_of(dataset):
    sampler = {"type": DefaultSampler, "shuffle": False}
    return {
        "dataset": dataset,
        "sampler": sampler,
        "collate_fn": {"type": pseudo_collate},
        "batch_size": 2,
        "num_workers": 0,
    }


def make_tester(folder, model, **changes):
    loader = loader_of(coco(folder, test_mode=True))
    options = {"test_dataloader": loader, "test_evaluator": [{"type": CocoMetric}], "test_cfg": {}}
    return make_runner(folder / "work", model=model, **(options | changes))


def test_a_picture_that_fails_in_an_evaluation_counts_without_answers_and_is_named(folder, tiny_lumen):
    sound = make_tester(folder, tiny_lumen).test()
    path = folder / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    figures = make_tester(folder, tiny_lumen).test()
    card = json.loads((folder / "work" / "protocol_test.json").read_text())
    assert [*card["unusable_images"]] == [str(path)]
    assert "2.png: cannot be read as an image" in card["unusable_images"][str(path)]
    assert card["num_images"] == 3
    assert figures.keys() == sound.keys()


def test_a_set_whose_images_are_all_missing_is_an_error_before_the_first_image(folder, tiny_lumen):
    for number in range(1, 4):
        (folder / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"image file is missing(.|\n)*3 of 3 images cannot be used"):
        make_tester(folder, tiny_lumen).test()


def test_training_stops_before_its_first_step_where_images_cannot_be_used(folder):
    (folder / "2.png").write_bytes(b"no image")
    runner = make_runner(folder / "work")
    hook, dataset = CheckImagesHook(), coco(folder)
    assert hook._look_at("train", coco(folder, skip_budget=0.4)) is None
    assert "1 of 3 images cannot be used, at most 0.100%" in hook._look_at("train", dataset)
    assert hook._look_at("val", dataset) is None
    runner.train_loop.dataloader.dataset.dataset = dataset
    with pytest.raises(DataError, match=r"2\.png"):
        runner.train()
    assert runner.iter == 0


def test_the_sets_of_images_are_found_within_others(folder):
    dataset = coco(folder)
    assert [*datasets_with_images(MixedDataset([ConcatDataset([dataset, dataset]), ToyData()]))] == [dataset] * 2


def test_a_file_of_several_records_is_checked_once(folder):
    checked = []

    def note(path, *rest, **options):
        checked.append(path)

    assert find_faults(coco(folder).get_subset([0, 1, 1, 0, 1]), problem_of=note) == {}
    assert sorted(checked) == [str(folder / "1.png"), str(folder / "2.png")]


def test_files_are_checked_by_their_bytes_when_asked(folder):
    dataset = coco(folder)
    assert find_faults(dataset) == {}
    broken = bytearray((folder / "3.png").read_bytes())
    broken[41:-12] = bytes(len(broken) - 53)
    (folder / "3.png").write_bytes(broken)
    assert find_faults(dataset) == {}
    assert unusable(find_faults(dataset, decode=True)) == [str(folder / "3.png")]
    assert unusable({CUT: ["a.jpg"], "image file is missing": ["b.jpg"]}) == ["b.jpg"]


def sample(fault=True, **answer):
    made = PerceptionSample(metainfo={"fault": "gone"} if fault else {})
    made.pred_instances = InstanceData(**answer)
    return made


def test_tables_with_a_row_for_every_prompt_keep_their_rows():
    boxes = {"bboxes": torch.ones(2, 4), "masks": ["a", "b"]}
    counts = {"counts": torch.ones(2), "scores": torch.ones(2), "prompt_index": torch.arange(2)}
    samples = [sample(**boxes), sample(fault=False, **boxes), sample(**counts), sample(texts=["a", "b"])]
    found = [one.pred_instances for one in without_answers([*samples, torch.zeros(())])[:4]]
    assert [len(table) for table in found] == [0, 2, 2, 2]
    assert (found[2].counts.tolist(), found[2].prompt_index.tolist()) == ([0, 0], [0, 1])
    assert found[3].texts == ["", ""]


class _Failing(ToyMetric):
    def compute_metrics(self, results):
        raise DataError("a figure cannot be computed")


def test_an_error_of_an_evaluation_tells_how_to_go_on(tmp_path):
    runner = make_runner(tmp_path, val=True, val_evaluator=[_Failing()])
    with pytest.raises(DataError, match="cannot be computed") as caught:
        runner.train()
    (note,) = caught.value.__notes__
    assert "failed after 2 iterations" in note and f"{tmp_path}/iter_2.pth" in note and "--resume" in note
    with pytest.raises(DataError) as caught:
        make_runner(tmp_path / "other", val=True, val_evaluator=[_Failing()]).val()
    assert not hasattr(caught.value, "__notes__")


def test_a_test_needs_no_training_data(folder, tiny_lumen):
    missing = loader_of({"type": CocoDataset, "ann_file": "gone.json", "data_root": str(folder)})
    runner = make_tester(folder, tiny_lumen, train_dataloader=missing)
    assert runner.test()
    assert (runner.iter, runner.epoch) == (0, 0)
