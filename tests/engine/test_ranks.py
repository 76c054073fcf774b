"""Two ranks on the CPU with unequal batches: calls of a sharded LLM agree, and accumulated pieces equal the whole."""

import pytest
import torch
from helpers import TINY, adapter_options, joined, make_images, make_sample
from torch import nn

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.decoders.text import CaptionDecoder
from lumen.engine.ddp import LumenDDP
from lumen.engine.fsdp import FSDP2
from lumen.engine.hooks.freeze import freeze_parameters
from lumen.engine.optim import LumenOptimWrapper
from lumen.engine.precision import widen_trained
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.nano.model import make_nano
from lumen.model import Lumen
from lumen.serialization.sharding import whole
from lumen.structures import Prompt

BOX = [[4, 8, 40, 60]]
STEPS = 2


def caption(text="a cat and a dog"):
    return Prompt("describe it", task="caption", answer=text)


def located(*names):
    return make_sample(names, BOX, [0])


SAMPLES = [
    make_sample([caption()]),  # text alone
    make_sample([caption("two dogs that run")]),
    located("cat", "dog"),
    make_sample([Prompt("cat", label=0), caption()], BOX, [0]),
    located("a white cat"),
    make_sample([Prompt("cat", label=0)]),
    make_sample([caption("no")]),
    located("dog"),
]
"""The first two have text alone, so one of two ranks with two samples each has no pair."""


def make_lumen(folder, **options):
    torch.manual_seed(0)
    model = Lumen(
        lmm={"type": HFAdapter, "name_or_path": f"{folder}/nano", **adapter_options(attention="sdpa", **options)},
        aligner={"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        decoders=[{"type": DetectionDecoder}, {"type": CaptionDecoder}],
    )
    return model.eval()  # running statistics would differ between the ranks


def make_mixed(folder):
    """Return a model as in the paper: a frozen base in bfloat16; LoRA, output layer and new tokens in float32."""
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    model = make_lumen(folder, dtype="bfloat16", lora=lora, new_tokens="learn", template="paper")
    freeze_parameters(model, ["lmm.*vision_tower.*", "lmm.*multi_modal_projector.*"])
    widen_trained(model)
    return model


def batch(numbers):
    images = list(make_images(len(SAMPLES)))
    return {"inputs": [images[number] for number in numbers], "data_samples": [SAMPLES[n] for n in numbers]}


def train(model, numbers, pieces=1, dtype="float32"):
    """Take steps with the samples of these numbers; return the losses and the weights."""
    inner = model if isinstance(model, Lumen) else model.module
    inner.num_micro_batches = pieces
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = LumenOptimWrapper(torch.optim.SGD(trained, lr=0.05), clip_grad={"max_norm": 1.0}, dtype=dtype)
    losses = [model.train_step(batch(numbers), optimizer)["loss"].detach() for _ in range(STEPS)]
    weights = {name: whole(value.detach()).clone() for name, value in inner.named_parameters() if value.requires_grad}
    return {"losses": torch.stack(losses), "weights": weights}


def answers(model, numbers):
    """Return the captions and the boxes of the samples of these numbers."""
    data = batch(numbers)
    for number, sample in enumerate(data["data_samples"]):
        data["data_samples"][number] = make_sample(sample.prompts[:1])
    with torch.no_grad():
        found = [sample.pred_instances for sample in model.val_step(data)]
    return [table.get("texts", table.get("bboxes")) for table in found]


def rank_main(rank, folder):
    with joined(rank, folder):
        mine = range(4 * rank, 4 * rank + 4)
        few = [[0, 1], [2, 3]][rank]
        found = {
            "unequal": train(FSDP2(make_lumen(folder, gradient_checkpointing=True)), few),
            "fsdp": train(FSDP2(make_lumen(folder)), mine, pieces=2),
            "ddp": train(LumenDDP(make_lumen(folder)), mine, pieces=2),
        }
        found["mixed"] = train(FSDP2(make_mixed(folder)), few, dtype="bfloat16")
        sharded = FSDP2(make_lumen(folder, max_pass_tokens=1))  # a pass for each row
        found["answers"] = answers(sharded, [[0, 2, 4, 5, 7], [1]][rank])
        torch.save(found, f"{folder}/{rank}.pth")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Return the folder of the model, and what each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    make_nano(folder / "nano", sizes=TINY, seed=0)
    torch.multiprocessing.spawn(rank_main, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


def check_equal(ranks, kind, alone):
    """Compare what two ranks trained with what one process trained on all of their samples at once."""
    torch.testing.assert_close(
        (ranks[0][kind]["losses"] + ranks[1][kind]["losses"]) / 2, alone["losses"], rtol=1e-5, atol=1e-6
    )
    for rank in ranks:
        for name, value in alone["weights"].items():
            torch.testing.assert_close(rank[kind]["weights"][name], value, rtol=1e-5, atol=1e-6)


def test_a_rank_with_text_alone_keeps_up_with_a_sharded_llm(two_ranks):
    folder, ranks = two_ranks
    check_equal(ranks, "unequal", train(make_lumen(folder), range(4)))


def test_two_ranks_of_two_pieces_step_as_one_process_with_the_whole_batch(two_ranks):
    folder, ranks = two_ranks
    alone = train(make_lumen(folder), range(8))
    check_equal(ranks, "ddp", alone)
    check_equal(ranks, "fsdp", alone)


def test_lora_in_float32_beside_a_base_in_bfloat16_is_sharded(two_ranks):
    folder, ranks = two_ranks
    model = make_mixed(folder)
    kinds = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert kinds == {torch.bfloat16}
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    alone = train(model, range(4), dtype="bfloat16")
    mean = (ranks[0]["mixed"]["losses"] + ranks[1]["mixed"]["losses"]) / 2
    torch.testing.assert_close(mean, alone["losses"], rtol=0.02, atol=0.02)
    assert any("lora_A" in name for name in start) and any("lm_head" in name for name in start)
    # Steps in bfloat16 are noisy: two ranks may be as far from steps in float32 as one process is, times two.
    exact = train(make_mixed(folder).float(), range(4))["weights"]
    for name, value in alone["weights"].items():
        first, second = (rank["mixed"]["weights"][name] for rank in ranks)
        assert first.dtype == torch.float32 and torch.equal(first, second)
        noise, step = (value - exact[name]).norm(), (exact[name] - start[name]).norm()
        assert (first - exact[name]).norm() <= 2 * noise + 0.05 * step + 1e-6, name


def test_a_parameter_without_a_loss_is_named_before_ranks_wait_for_it(two_ranks):
    model = make_lumen(two_ranks[0])
    model.idle = nn.Linear(2, 2)
    optimizer = LumenOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    with pytest.raises(ConfigError, match=r"2 trained parameters have no part in any loss, such as \['idle.weight'"):
        model.train_step(batch([2]), optimizer, wrapper=model)


def test_ranks_with_other_numbers_of_images_and_words_answer_as_one_process(two_ranks):
    folder, ranks = two_ranks
    alone = answers(make_lumen(folder, max_pass_tokens=1), [0, 2, 4, 5, 7, 1])
    for found, wanted in zip(ranks[0]["answers"] + ranks[1]["answers"], alone, strict=True):
        if isinstance(wanted, list):
            assert found == wanted
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
