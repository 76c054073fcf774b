import copy
import itertools
import math

import pytest
import torch
from helpers import adapter_options, joined, make_images, make_instances, make_sample, relative_difference
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import nn

from lumen.aligners.dense import DenseAligner
from lumen.data.pipelines import ModelInputs
from lumen.decoders.base import Decoder
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.detection_paper import PaperDetectionDecoder
from lumen.errors import ConfigError, DataError, PromptError
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen
from lumen.ops.geometry import InputTransform
from lumen.structures import Prompt, TaskSpec, targets_per_pair


class CountingDecoder(Decoder):
    """Say how many objects a pair has: a second task, with fields of its own."""

    spec = TaskSpec(
        name="grounding",
        targets=frozenset({"bboxes"}),
        predictions=frozenset({"counts", "prompt_index"}),
        headline="count/error",
        losses={"loss_count": "pairs"},
        map_queries=1,
    )

    def forward(self, shared):
        return shared.maps.mean((1, 2, 3))

    def loss(self, shared, samples):
        index = targets_per_pair(samples, shared).pair_index
        counts = torch.zeros(shared.num_pairs).index_add(0, index, torch.ones(len(index)))
        return {"loss_count": (self(shared) - counts).square().sum()}

    def predict(self, shared, samples):
        counts = self(shared)
        chosen = [shared.image_index == image for image in range(len(samples))]
        return [InstanceData(counts=counts[own], prompt_index=shared.prompt_index[own]) for own in chosen]


def make_model(folder, decoders=(DetectionDecoder,), *, lmm=None, aligner=None, **options):
    torch.manual_seed(0)
    adapter = {"type": HFAdapter, "name_or_path": str(folder), **adapter_options(attention="eager", **(lmm or {}))}
    sizes = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64} | (aligner or {})
    return Lumen(adapter, sizes, [{"type": kind} for kind in decoders], **options).eval()


@pytest.fixture
def make(tiny_nano):
    return lambda *args, **options: make_model(tiny_nano, *args, **options)


def some_samples():
    """Three samples with 2, 0 and 3 prompts; 2, 0 and 1 objects."""
    return [
        make_sample(["red circle", "cat"], [[0, 0, 40, 30], [50, 30, 90, 60]], [0, 1]),
        make_sample(),
        make_sample(["dog", "a blue star", "cross"], [[10, 10, 70, 50]], [1]),
    ]


def gradients(model, losses):
    model.zero_grad()
    sum(losses.values()).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


# --- losses -----------------------------------------------------------------------------------------------------------


def test_counts_are_those_counted_by_hand(make):
    model = make((DetectionDecoder, CountingDecoder), lmm={"template": "paper"})
    samples = [
        *some_samples(),
        make_sample([Prompt("a thing", task="grounding")], [[0, 0, 9, 9], [9, 9, 20, 20]], [0, 0]),
    ]
    counts = {name: value.item() for name, value in model.count(samples).items()}
    suffixes = [model.lmm.encoder.suffix(p.text, p.task) for sample in samples for p in sample.prompts]
    assert counts == {
        "answer_tokens": sum(suffix.num_answer_tokens for suffix in suffixes),
        "pairs": 6,
        "objects": 5,
        "detection/objects": 3,
        "grounding/pairs": 1,
    }


def test_counts_of_nothing_are_one(make):
    assert {value.item() for value in make().count([make_sample()]).values()} == {1}


@pytest.mark.parametrize("template", ["paper", "compact"])
def test_losses_of_a_batch_are_the_sum_of_its_samples_with_one_count(make, template):
    model = make((DetectionDecoder, CountingDecoder), lmm={"template": template, "phrase_reconstruction": True})
    images, samples = make_images(3), some_samples()
    counts = model.count(samples)
    whole = model(images, samples, mode="loss")
    alone = [model(images[at : at + 1], samples[at : at + 1], mode="loss", counts=counts) for at in range(3)]
    assert set(whole) <= set(model.loss_counts)
    for name, loss in whole.items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_micro_batches", [2, 3, 7])
def test_micro_batches_step_as_the_whole_batch(make, num_micro_batches):
    images, samples = make_images(3), some_samples()
    after = []
    for pieces in (1, num_micro_batches):
        model = make(lmm={"phrase_reconstruction": True}, aligner={"fine_levels": 1})
        model.num_micro_batches = pieces
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        seen = {}

        def keep(*_, model=model, seen=seen):
            seen.update({name: value.grad.clone() for name, value in model.named_parameters()})

        optimizer.register_step_pre_hook(keep)
        logged = model.train_step({"inputs": list(images), "data_samples": samples}, OptimWrapper(optimizer))
        after.append((seen, logged))
    (whole, logged), (pieces, logged_in_pieces) = after
    largest = max(float(value.abs().max()) for value in whole.values() if value.numel())
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-5 * largest)
    assert logged_in_pieces.keys() == logged.keys()
    for name, value in logged.items():
        torch.testing.assert_close(logged_in_pieces[name], value, rtol=1e-4, atol=1e-5)


def test_a_step_changes_the_weights_and_clears_the_gradients(make):
    model = make().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step({"inputs": list(make_images(3)), "data_samples": some_samples()}, optimizer)
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("samples", [some_samples(), [make_sample()] * 3], ids=["some", "no prompts"])
@pytest.mark.parametrize("decoders", [(DetectionDecoder,), (PaperDetectionDecoder, CountingDecoder)])
def test_every_batch_gives_every_loss_and_touches_every_parameter(make, decoders, samples):
    model = make(
        decoders, lmm={"template": "paper", "phrase_reconstruction": True, "name_tokens": 3}, aligner={"fine_levels": 2}
    )
    losses = model(make_images(3), samples, mode="loss")
    assert set(losses) == set(model.loss_counts) - {"lmm/loss_proposals"}  # that of an ObjectConnector
    assert all(bool(loss.isfinite()) for loss in losses.values())
    found = gradients(model, losses)
    assert [name for name, _ in model.named_parameters() if name not in found] == []
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_tasks_with_different_fields_mix_in_a_batch(make):
    model = make((DetectionDecoder, CountingDecoder))
    counted = make_sample([Prompt("a thing", task="grounding")], [[0, 0, 9, 9]], [0])
    counted.gt_instances = make_instances([[0, 0, 9, 9]], [0], keypoints=torch.ones(1, 3, 2))
    losses = model(make_images(2), [some_samples()[0], counted], mode="loss")
    assert losses["grounding/loss_count"].item() > 0
    assert losses["detection/loss_box"].item() > 0


def test_loss_weights_scale_their_loss(make):
    images, samples = make_images(3), some_samples()
    plain = make()(images, samples, mode="loss")
    weighted = make(loss_weights={"detection/loss_box": 2.5})(images, samples, mode="loss")
    assert weighted["detection/loss_box"].item() == pytest.approx(2.5 * plain["detection/loss_box"].item(), rel=1e-5)
    assert weighted["aligner/loss_heat"].item() == pytest.approx(plain["aligner/loss_heat"].item(), rel=1e-5)


def test_an_unknown_loss_weight_is_refused_with_the_known_ones(make):
    with pytest.raises(ConfigError, match=r"unknown losses \['detection/loss_bbox'\]; known are \['aligner/loss_heat'"):
        make(loss_weights={"detection/loss_bbox": 1.0})


def test_two_decoders_of_one_task_are_refused(make):
    with pytest.raises(ConfigError, match="one decoder per task"):
        make((DetectionDecoder, PaperDetectionDecoder))


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, (448, 448)), ({"max_pixels": 100 * 100}, (96, 96)), ({"input_hw": (32, 64)}, (32, 64))],
)
def test_a_model_says_what_its_data_should_be(make, options, size):
    model = make(**options)
    assert model.inputs == ModelInputs(size, "detection" if len(model.decoders) == 1 else None)


def test_a_size_that_the_lmm_does_not_take_is_refused(make):
    with pytest.raises(ConfigError, match="takes images of multiples of"):
        make(input_hw=(33, 64))


@pytest.mark.parametrize("mode", ["loss", "predict", "tensor"])
def test_a_task_without_a_decoder_is_refused(make, mode):
    sample = make_sample([Prompt("a thing", task="pose")])
    with pytest.raises(PromptError, match=r"no decoder for tasks \['pose'\]; this model has \['detection'\]"):
        make()(make_images(), [sample], mode=mode)


def test_an_unknown_mode_is_refused(make):
    with pytest.raises(ValueError, match="mode must be"):
        make()(make_images(), [make_sample(["cat"])], mode="train")


# --- plug-ins ---------------------------------------------------------------------------------------------------------


def test_a_plugged_decoder_leaves_the_others_alone(make):
    images, samples = make_images(2), some_samples()[::2]
    alone = make((PaperDetectionDecoder,))
    both = make((CountingDecoder, PaperDetectionDecoder))
    both.load_state_dict(alone.state_dict(), strict=False)
    with torch.no_grad():
        first, second = alone(images, samples), both(images, samples)
        assert torch.equal(first.heat_logits, second.heat_logits)
        for one, other in zip(alone(images, samples, "predict"), both(images, samples, "predict"), strict=True):
            torch.testing.assert_close(other.pred_instances.bboxes, one.pred_instances.bboxes, rtol=1e-4, atol=1e-3)


def test_a_decoder_that_gives_other_losses_than_its_spec_is_refused(make, monkeypatch):
    monkeypatch.setattr(DetectionDecoder, "loss", lambda *_: {"loss_boxes": torch.zeros(())})
    with pytest.raises(ConfigError, match=r"returned \['loss_boxes'\], its spec names \['loss_box'\]"):
        make()(make_images(), [make_sample(["cat"])], mode="loss")


def test_a_decoder_that_writes_other_fields_than_its_spec_is_refused(make, monkeypatch):
    monkeypatch.setattr(DetectionDecoder, "predict", lambda *_: [InstanceData(boxes=torch.zeros(0, 4))])
    with pytest.raises(ConfigError, match=r"predict wrote \['boxes'\]"):
        make()(make_images(), [make_sample(["cat"])], mode="predict")


# --- predictions ------------------------------------------------------------------------------------------------------


def best(model, images, samples):
    with torch.no_grad():
        return [sample.pred_instances for sample in model(images, samples, mode="predict")]


def test_boxes_are_written_in_original_pixels(make):
    model, image = make(), make_images(1, (64, 96))
    frames = {
        "input": InputTransform.stretch((64, 96), (64, 96)),
        "letterbox": InputTransform.letterbox((100, 300), (64, 96)),
        "flip": InputTransform.letterbox((100, 300), (64, 96)).flip_horizontal(),
    }
    found = {
        name: best(model, image, [make_sample(["red circle", "cat"], frame=frame)])[0] for name, frame in frames.items()
    }
    scale = 96 / 300  # the image fills the width, 32 of the 64 rows
    bound = torch.tensor([300.0, 100, 300, 100])
    wanted = torch.minimum((found["input"].bboxes / scale).clamp(min=0), bound)
    # clipping at the border of the input and of the image are two things: compare what lies inside of both
    inside = (found["input"].bboxes > 0).all(1) & (found["input"].bboxes < torch.tensor([96.0, 32, 96, 32])).all(1)
    torch.testing.assert_close(found["letterbox"].bboxes[inside], wanted[inside], rtol=1e-5, atol=1e-3)
    mirrored = found["letterbox"].bboxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor(
        [300.0, 0, 300, 0]
    )
    torch.testing.assert_close(found["flip"].bboxes, mirrored, rtol=1e-5, atol=1e-3)
    assert len(found["input"]) > 0


def test_a_batch_predicts_what_its_images_do_alone(make):
    model, images, samples = make(aligner={"fine_levels": 1}), make_images(3), some_samples()
    whole = best(model, images, samples)
    for at in range(3):
        (alone,) = best(model, images[at : at + 1], [samples[at]])
        torch.testing.assert_close(alone.scores, whole[at].scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone.bboxes, whole[at].bboxes, rtol=1e-4, atol=1e-2)
        assert torch.equal(alone.labels, whole[at].labels)


def test_prompts_in_any_order_with_synonyms_give_the_same_detections(make):
    model, image = make(aligner={"fine_levels": 1}), make_images()
    prompts = [Prompt("cat", label=0), Prompt("dog", label=1), Prompt("red circle", label=2), Prompt("star", label=3)]
    (wanted,) = best(model, image, [make_sample(prompts)])
    assert set(wanted.labels.tolist()) == {0, 1, 2, 3}
    for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 7):
        asked = [prompts[at] for at in order]
        (found,) = best(model, image, [make_sample([*asked, asked[0], asked[2]])])
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.bboxes, wanted.bboxes, rtol=1e-4, atol=1e-2)
        assert torch.equal(found.labels, wanted.labels)


def test_an_image_without_prompts_has_an_empty_answer(make):
    (answer,) = best(make(), make_images(), [make_sample()])
    assert set(answer.keys()) == DetectionDecoder.spec.predictions
    assert answer.bboxes.shape == (0, 4)


def test_two_samples_of_two_tasks_get_the_fields_of_their_task(make):
    model = make((DetectionDecoder, CountingDecoder))
    boxes, counts = best(
        model, make_images(2), [make_sample(["cat"]), make_sample([Prompt("a", task="grounding")] * 2)]
    )
    assert set(boxes.keys()) == DetectionDecoder.spec.predictions
    assert counts.prompt_index.tolist() == [0, 1]


def test_one_sample_of_two_tasks_is_refused(make):
    sample = make_sample([Prompt("a", task="grounding"), Prompt("b")])
    with pytest.raises(DataError, match="one task at a time"):
        best(make((DetectionDecoder, CountingDecoder)), make_images(), [sample])


def test_at_most_100_boxes_leave_an_image(make):
    (answer,) = best(
        make(aligner={"fine_levels": 2}), make_images(), [make_sample([f"thing {at}" for at in range(40)])]
    )
    assert len(answer) == 100


@pytest.mark.parametrize("mode", ["loss", "predict"])
def test_autocast_runs(make, mode):
    model = make(lmm={"template": "paper"}, aligner={"fine_levels": 1})
    with torch.autocast("cpu", torch.bfloat16):
        result = model(make_images(3), some_samples(), mode=mode)
    if mode == "loss":
        assert all(bool(loss.isfinite()) for loss in result.values())
        sum(result.values()).backward()
    else:
        assert all(bool(sample.pred_instances.bboxes.isfinite().all()) for sample in result)


def test_a_model_whose_lmm_is_bf16_runs(make):
    model, images = make(aligner={"fine_levels": 1}), make_images(3)
    wanted = model(images, some_samples()).heat_logits.detach()
    model.lmm.base_model.to(torch.bfloat16)
    losses = model(images, some_samples(), mode="loss")
    assert all(bool(loss.isfinite()) for loss in losses.values())
    with torch.no_grad():
        assert relative_difference(model(images, some_samples()).heat_logits, wanted) < 0.1


def test_weights_come_back_from_a_state_dict(tiny_lumen, make):
    images, samples = make_images(3), some_samples()
    other = make(lmm={"add_phrase_state": True}, aligner={"fine_levels": 1})
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    other.load_state_dict(tiny_lumen.state_dict())
    with torch.no_grad():
        assert torch.equal(other(images, samples).heat_logits, tiny_lumen(images, samples).heat_logits)


def test_a_model_says_what_a_checkpoint_must_agree_with(tiny_lumen):
    assert tiny_lumen.describe() == {
        "base_model": "llava/lumen_nano_vision",
        "template": "compact",
        "position": "loc",
        "special_tokens": "[LOC] [DET] [SEG] [POINT] [GROUND] [REFSEG]",
        "tasks": "detection",
    }


def test_five_seeded_steps_lower_the_loss(make):
    model = make(lmm={"phrase_reconstruction": True}, aligner={"fine_levels": 1}).train()
    data = {"inputs": list(make_images(3)), "data_samples": some_samples()}
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-3))
    losses = [model.train_step(data, optimizer)["loss"].item() for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


# --- two processes ----------------------------------------------------------------------------------------------------


def rank_main(rank, folder, nano):
    """Train one step on a rank's share of the batch, as MMEngine's wrapper does it, and save what came out."""
    from mmengine.model import MMDistributedDataParallel

    with joined(rank, folder):
        model = MMDistributedDataParallel(make_model(nano, lmm={"template": "paper"}, aligner={"fine_levels": 1}))
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
        share = slice(0, 2) if rank == 0 else slice(2, 3)
        for _ in range(2):
            data = {"inputs": list(make_images(3)[share]), "data_samples": some_samples()[share]}
            logged = model.train_step(data, optimizer)
        # one rank without any prompt must not hang the other
        samples = [make_sample()] if rank else some_samples()[share]
        model.train_step({"inputs": list(make_images(3)[share]), "data_samples": samples}, optimizer)
        if rank == 0:
            torch.save({"weights": model.module.state_dict(), "loss": logged["loss"]}, f"{folder}/out.pth")


@pytest.mark.slow
def test_two_ranks_step_as_one_process(tiny_nano, tmp_path):
    torch.multiprocessing.spawn(rank_main, (str(tmp_path), str(tiny_nano)), nprocs=2)
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    model = make_model(tiny_nano, lmm={"template": "paper"}, aligner={"fine_levels": 1})
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    samples = some_samples()
    for data in (samples, samples, [*samples[:2], make_sample()]):
        model.train_step({"inputs": list(make_images(3)), "data_samples": data}, optimizer)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-4, atol=1e-5)


def test_the_model_is_a_module_with_one_name_per_part(tiny_lumen):
    assert [name for name, _ in tiny_lumen.named_children()] == ["data_preprocessor", "lmm", "aligner", "decoders"]
    assert isinstance(tiny_lumen.decoders, nn.ModuleDict)


def test_a_target_that_the_pipeline_did_not_pack_is_named(tiny_lumen):
    sample = make_sample(["cat"], [[0, 0, 9, 9]], [0])
    sample.gt_instances.pop("labels")
    with pytest.raises(DataError, match=r"needs gt_instances.\['labels'\]"):
        tiny_lumen(make_images(1), [sample], mode="loss")
