import pytest
import torch
from helpers import make_images
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lumen.errors import ConfigError
from lumen.lmm.encoded import show_tokens
from lumen.pretraining import choose_tokens
from lumen.structures import Prompt

QUESTIONS = [[Prompt("is there a star?", "vqa", answer="yes"), Prompt("what colour?", "vqa", answer="red")]]


def text_loss(adapter, encoded):
    losses = adapter.ask(encoded, QUESTIONS, extras=frozenset({"texts"})).text_losses
    return losses["loss_text"].item()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_tokens_shown_are_all_tokens(make_adapter, attention):
    adapter = make_adapter(attention=attention)
    encoded = adapter.encode_images(make_images(1, (32, 48)))
    shown = show_tokens(encoded, torch.arange(6)[None], adapter.image_text((1, 6)))
    assert text_loss(adapter, shown) == pytest.approx(text_loss(adapter, encoded), rel=1e-6)


def test_a_shown_token_keeps_its_position(make_adapter):
    adapter = make_adapter()
    encoded = adapter.encode_images(make_images(1, (32, 48)))
    numbers = torch.tensor([[1, 4]])
    found = text_loss(adapter, show_tokens(encoded, numbers, adapter.image_text((1, 2))))
    # By hand: one question at a time, through the model's own forward pass, without the hidden tokens' columns.
    model, expected = adapter.base_model, 0.0
    prefix = torch.tensor(adapter.text.prefix(encoded.image_text))
    is_image = prefix == adapter.config.image_token_id
    hidden = is_image.nonzero()[:, 0][[0, 2, 3, 5]]
    for prompt in QUESTIONS[0]:
        suffix = adapter.text.suffix(prompt)
        ids = torch.cat([prefix, torch.tensor(suffix.ids)])
        kept = torch.ones(len(ids), dtype=torch.bool)
        kept[hidden] = False
        states = {"image": BaseModelOutputWithPooling(pooler_output=None)}
        states["image"].pooler_output = [encoded.states.pooler_output[0][numbers[0]]]
        output = model(
            input_ids=ids[kept][None], position_ids=torch.arange(len(ids))[kept][None], mm_encoder_outputs=states
        )
        answer = len(suffix.ids) - suffix.answer
        logs = output.logits[0, -answer - 1 : -1].log_softmax(-1)
        expected -= logs.gather(1, ids[-answer:, None]).sum().item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_tokens_of_objects_are_chosen_first():
    torch.manual_seed(0)
    image, place = torch.tensor([0, 0, 1]), torch.tensor([7, 3, 0])
    chosen = choose_tokens(image, place, (2, 9), 4)
    assert chosen.shape == (2, 4) and torch.equal(chosen, chosen.sort(1).values)
    assert {3, 7} <= set(chosen[0].tolist()) and 0 in chosen[1].tolist()
    assert choose_tokens(image, place, (2, 9), 1)[0, 0] in (3, 7)
    with pytest.raises(ConfigError, match="from 1 to 9"):
        choose_tokens(image, place, (2, 9), 10)
