"""Every decoder keeps to the contract, and the check of the contract finds decoders that do not."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from lumen.decoders.base import Decoder
from lumen.decoders.contract import check_decoder, find_decoders, format_findings
from lumen.decoders.detection import DetectionDecoder
from lumen.errors import ConfigError
from lumen.lmm.sam_prompted import SamPrompted
from lumen.registry import DECODERS
from lumen.structures import Field, TaskSpec, gather_pairs, targets_per_pair

DECODERS.import_from_location()
PROJECTS = [kind for folder in sorted((Path(__file__).parents[2] / "projects").glob("*/")) for kind in
            (find_decoders(folder) if any(folder.glob("*_decoder.py")) else ())]  # fmt: skip
ALL = sorted({*DECODERS.module_dict.values(), *PROJECTS}, key=lambda kind: kind.__name__)


class NoMasks(nn.Module):
    """Stands for SAM."""

    def forward(self, images, image_index, points, boxes):
        return torch.zeros(len(points), 4, 6)


# What a decoder cannot be built without.
VECTORS = {"type": SamPrompted, "encoder": "shared", "sizes": {"num_attention_heads": 2, "mlp_dim": 32}}
OPTIONS = {
    "SamSegmentationDecoder": {"sam": NoMasks()},
    "SamReferringDecoder": {"sam": NoMasks()},
    "SlotMaskDecoder": {"sam": VECTORS},
    "UllavaDecoder": {"sam": VECTORS},
}


def problems_of(kind, **options):
    return {finding.check: finding.problem for finding in check_decoder(kind, options) if finding.problem}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_decoders_keep_to_the_contract(kind):
    findings = check_decoder(kind, OPTIONS.get(kind.__name__))
    assert len(findings) == 11 and not any(finding.problem for finding in findings), format_findings(kind, findings)


def test_projects_are_among_the_decoders():
    assert {"PointingDecoder", "ColourNamingDecoder", "UllavaDecoder"} <= {kind.__name__ for kind in ALL}


FIELDS = {"heading": Field("directions")}


class HeadingDecoder(Decoder):
    """Keeps to the contract, unless told which rule to break."""

    spec = TaskSpec(
        name="heading",
        targets=frozenset({"bboxes", "heading"}),
        predictions=frozenset({"heading", "scores", "labels", "prompt_index"}),
        headline="heading/error",
        losses={"loss_heading": "objects"},
        fields=FIELDS,
    )

    def __init__(self, channels, *, fault=""):
        super().__init__(channels)
        self.fault = fault
        self.head = nn.Linear(channels, 2)
        if fault == "unused":
            self.spare = nn.Linear(channels, 2)

    def forward(self, shared, pair):
        return self.head(shared.query[pair]).float()

    def loss(self, shared, samples):
        targets = targets_per_pair(samples, shared, fields=FIELDS)
        distance = (self(shared, targets.pair_index) - targets.heading).abs()
        if self.fault == "mean":
            return {"loss_heading": distance.mean()}
        if self.fault == "detached":
            return {"loss_heading": distance.sum().detach()}
        if self.fault == "counted":
            return {"loss_heading": distance.sum() + self.head.bias.square().sum()}
        return {"loss_other" if self.fault == "name" else "loss_heading": distance.sum()}

    def predict(self, shared, samples):
        pair = torch.arange(shared.num_pairs)
        heading = self(shared, pair)
        if self.fault == "shape":
            heading = heading[:, :1]
        if self.fault == "crash":
            heading = heading[shared.num_pairs]
        scores = torch.ones(len(pair))
        if self.fault == "field":
            return gather_pairs(InstanceData(heading=heading, pair_index=pair), samples, shared)
        answers = gather_pairs(InstanceData(heading=heading, scores=scores, pair_index=pair), samples, shared)
        return answers[:1] if self.fault == "missing" else answers


def test_the_example_of_these_tests_is_sound():
    assert problems_of(HeadingDecoder) == {}


@pytest.mark.parametrize(
    ("fault", "check", "problem"),
    [
        ("mean", "losses with no objects", "must be one finite number"),
        ("detached", "losses with no pairs", "must depend on what is trained"),
        ("counted", "losses with no objects", "of which there are none, so it must be 0"),
        ("unused", "losses with one object", r"do not depend on \['spare.weight', 'spare.bias'\]"),
        ("name", "losses with no pairs", r"loss returns \['loss_other'\], spec.losses names \['loss_heading'\]"),
        ("shape", "predictions with one object", r"heading has shape \(2, 1\).*declares \(2,\)"),
        ("field", "predictions with no pairs", "predict writes"),
        ("missing", "predictions with no pairs", "one table per sample, got 1 for 2"),
        ("crash", "predictions with one object", r"IndexError in test_contract.py, line \d+"),
    ],
)
def test_a_fault_is_found_and_named(fault, check, problem):
    found = problems_of(HeadingDecoder, fault=fault)
    assert re.search(problem, found[check]), found


def test_a_decoder_that_cannot_be_built_is_told_alone():
    (finding,) = check_decoder(HeadingDecoder, {"colour": "red"})
    assert "unexpected keyword argument 'colour'" in finding.problem
    assert "FAILED  it can be built" in format_findings(HeadingDecoder, [finding])


def test_decoders_are_found_in_files_and_folders_that_hold_other_things_too(tmp_path):
    source = Path(__file__).parents[2] / "projects" / "example_decoder" / "example_decoder.py"
    text = source.read_text().replace("class Pointing", "class Found")
    (tmp_path / "found_somewhere.py").write_text(text)
    (tmp_path / "a_config.py").write_text("raise RuntimeError('must not be run')\n")
    assert [kind.__name__ for kind in find_decoders(tmp_path)] == ["FoundDecoder"]
    assert find_decoders(tmp_path / "found_somewhere.py") == find_decoders(tmp_path)
    with pytest.raises(ConfigError, match="defines no decoder"):
        find_decoders(tmp_path / "a_config.py")
    with pytest.raises(ConfigError, match="there is no file or folder"):
        find_decoders(tmp_path / "nowhere")
    (tmp_path / "broken_elsewhere.py").write_text("import nothing_like_it\nclass A(Decoder):\n    pass\n")
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError"):
        find_decoders(tmp_path / "broken_elsewhere.py")
    (tmp_path / "json.py").write_text("class A(Decoder):\n    pass\n")
    with pytest.raises(ConfigError, match="has the name of another module"):
        find_decoders(tmp_path / "json.py")


def test_a_decoder_without_a_spec_is_refused():
    with pytest.raises(TypeError, match="Nameless must declare `spec = TaskSpec"):

        class Nameless(Decoder):
            pass


def test_a_decoder_from_another_one_is_refused():
    with pytest.raises(TypeError, match="must subclass Decoder directly"):

        class Heir(DetectionDecoder):
            spec = DetectionDecoder.spec


def test_a_decoder_from_another_one_and_from_decoder_is_refused():
    with pytest.raises(TypeError, match="must subclass Decoder directly"):

        class Heir(DetectionDecoder, Decoder):
            spec = DetectionDecoder.spec


def test_a_decoder_without_loss_and_predict_cannot_be_built():
    class Half(Decoder):
        spec = TaskSpec("half", frozenset(), frozenset(), "half/error", {})

        def predict(self, shared, samples):
            return [InstanceData() for _ in samples]

    with pytest.raises(TypeError, match="abstract"):
        Half(channels=8)
