import pytest
from mmengine.structures import InstanceData

PHRASES = (("circle", "a red square", "the star"), ("ring",))


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    from lumen.lmm.nano.model import NanoSizes, make_nano

    sizes = NanoSizes(width=32, llm_layers=2, vision_layers=1, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1))
    return make_nano(tmp_path_factory.mktemp("nano"), sizes=sizes)


@pytest.mark.parametrize("template", ["compact", "paper"])
def test_packed_prompts_equal_prompts_one_by_one_in_every_kind(load_benchmark, nano, template):
    bench = load_benchmark("packing_equality")
    model = bench.build_model(nano, template, channels=16).double()
    images, samples = bench.make_batch((64, 64), PHRASES)
    found = bench.compare(model, images, samples)
    assert {"states", "heat logits", "losses", "gradients, own scale"} < set(found)
    assert ("lmm/loss_answer" in found["losses"]) == (template == "paper")
    assert {kind: bench.worst(values) for kind, values in found.items() if not max(values.values()) <= 1e-5} == {}


def test_both_faults_are_seen(load_benchmark, nano):
    bench = load_benchmark("packing_equality")
    model = bench.build_model(nano, "compact", channels=16)
    images, samples = bench.make_batch((64, 64), PHRASES)
    faults = bench.compare_faults(model.lmm, images, samples)
    assert len(faults) == 2
    assert min(faults.values()) > 1e-2


def test_a_model_that_does_not_pack_is_refused(load_benchmark, nano, monkeypatch):
    bench = load_benchmark("packing_equality")
    monkeypatch.setattr("lumen.lmm.adapter.mode_that_works", lambda *_: "separate")
    with pytest.raises(ValueError, match="does not pack"):
        bench.build_model(nano, "compact", channels=16)


def test_each_prompt_takes_its_own_targets_along(load_benchmark):
    bench = load_benchmark("packing_equality")
    images, samples = bench.make_batch((64, 64), PHRASES)
    singles = [sample for _, sample in bench.split(images, samples)]
    assert [sample.prompts[0].text for sample in singles] == [text for own in PHRASES for text in own]
    assert [len(sample.gt_instances) for sample in singles] == [0, 1, 2, 0]
    assert all(isinstance(sample.gt_instances, InstanceData) for sample in singles)
    assert singles[2].gt_instances.prompt_index.tolist() == [0, 0]
