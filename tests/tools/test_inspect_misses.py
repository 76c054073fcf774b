import csv
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from helpers import make_images, make_sample, make_shared
from pages import load_tool
from torch import nn

from lumen.decoders.counting import CountingDecoder
from lumen.decoders.detection_paper import PaperDetectionDecoder
from lumen.errors import ConfigError, DataError
from lumen.structures import Prompt
from lumen.visualization import Verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    return load_tool("inspect_misses")


def noisy(shared):
    generator = torch.Generator().manual_seed(0)
    names = ("heat_logits", "presence_logits", "dense", "maps")
    noise = {name: torch.randn(getattr(shared, name).shape, generator=generator) for name in names}
    return dataclasses.replace(shared, **noise)


def _packed(img_id=7):
    sample = make_sample(["cat", "dog"], [[4, 8, 40, 60], [50, 8, 90, 60]], [1, 1])
    sample.set_metainfo({"img_id": img_id})
    return {"inputs": make_images(1)[0], "data_samples": sample}


def test_only_phrases_with_objects_are_judged(tool, tiny_lumen):
    (phrase,) = tool.phrases_of(tiny_lumen, tool.box_decoder(tiny_lumen), _packed())
    assert phrase.prompt_index == 1 and len(phrase.truth) == 2
    assert phrase.heat.shape == (8, 12) and phrase.stride == 8
    scores = phrase.candidates.scores
    assert torch.allclose(scores, phrase.candidates.peak_scores * phrase.presence, atol=1e-6)


def test_what_is_kept_is_what_the_decoder_answers(tool, tiny_lumen):
    (phrase,) = tool.phrases_of(tiny_lumen, tool.box_decoder(tiny_lumen), _packed())
    packed = _packed()
    with torch.inference_mode():
        (sample,) = tiny_lumen([packed["inputs"]], [packed["data_samples"]], mode="predict")
    answers = sample.pred_instances[sample.pred_instances.prompt_index == 1]
    assert 0 < len(answers) == int(phrase.candidates.is_kept.sum())
    kept = phrase.candidates.scores[phrase.candidates.is_kept].sort(descending=True).values
    assert torch.allclose(kept, answers.scores.sort(descending=True).values, atol=1e-5)


@pytest.mark.parametrize("kind", ["colour", "paper"])
def test_decoders_of_plug_ins_and_without_a_box_head_are_inspected(tool, kind):
    sys.path.append(str(ROOT / "projects" / "colour_naming"))
    from colour_decoder import ColourNamingDecoder

    decoder = {"colour": ColourNamingDecoder, "paper": PaperDetectionDecoder}[kind](32).eval()
    shared = noisy(make_shared([0, 0], [0, 1], num_maps=decoder.spec.map_queries))
    sample = make_sample([Prompt("cat", decoder.spec.name), Prompt("dog", decoder.spec.name)])
    with torch.inference_mode():
        table, num_answers = tool.candidates_of(decoder, shared, sample)
        (answer,) = decoder.predict(shared, [sample])
    assert num_answers == len(answer) == int(table.is_kept.sum()) > 0
    assert len(table) == num_answers if kind == "paper" else len(table) >= num_answers
    scores = table.scores[table.is_kept].sort().values
    torch.testing.assert_close(scores, answer.scores.sort().values)


def test_misses_are_written_worst_first_with_a_table_of_reasons(tool, tiny_lumen, tmp_path):
    dataset = [_packed(3), _packed(4)]
    limits = {"threshold": 0.999, "min_iou": 0.5}  # nothing scores that much: presence is low
    decoder = tool.box_decoder(tiny_lumen)
    misses, num_objects = tool.find_misses(tiny_lumen, decoder, dataset, [0, 1], **limits)
    assert num_objects == 4 and [miss.verdict.reason for miss in misses] == ["presence"] * 4
    assert [miss.verdict.score for miss in misses] == sorted(miss.verdict.score for miss in misses)
    tool.write_table(tmp_path / "misses.csv", misses)
    rows = list(csv.DictReader((tmp_path / "misses.csv").read_text().splitlines()))
    assert {row["img_id"] for row in rows} == {"3", "4"} and {row["phrase"] for row in rows} == {"dog"}
    (phrase,) = tool.phrases_of(tiny_lumen, decoder, dataset[0])
    assert tool.draw_phrase(dataset[0], phrase, "ttfnet", **limits).shape[1] == 4 * 488 + 8


def test_the_commonest_reason_comes_first(tool):
    reasons = ["box", "weak", "weak"]
    misses = [tool.Miss(0, 1, 0, "cat", (0.0, 0.0, 9.0, 9.0), Verdict(reason, "", 0.0)) for reason in reasons]
    lines = tool.summary(misses, 10).splitlines()
    assert lines[0] == "3 of 10 objects missed"
    assert lines[2].split()[:2] == ["2", "66.7%"] and lines[3].endswith("does not fit")
    assert tool.summary([], 10).startswith("0 of 10")


def test_models_and_images_that_do_not_fit_are_told(tool):
    class Files:
        def __len__(self):
            return 2

        def get_data_info(self, index):
            return {"img_id": 10 + index}

    assert tool.chosen_indices(Files(), None, 1) == [0]
    assert tool.chosen_indices(Files(), [11], None) == [1]
    with pytest.raises(DataError, match=r"no images \[5\]; its ids are 10 to 11"):
        tool.chosen_indices(Files(), [5], None)
    model = nn.Module()
    model.decoders = nn.ModuleDict({"counting": CountingDecoder(8)})
    with pytest.raises(ConfigError, match=r"this model has \['CountingDecoder'\]"):
        tool.box_decoder(model)
