import numpy as np
import pytest
import torch
from helpers import TINY, make_images
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from lumen.corner_words import CornerWords
from lumen.lmm.nano.model import NanoSizes, make_nano
from lumen.lmm.nano.tokenizer import build_tokenizer
from lumen.lmm.nano.vision import NanoVisionConfig, NanoVisionModel
from lumen.lmm.pixels import load_statistics


@pytest.fixture(scope="module")
def nano(tiny_nano):
    return AutoModelForImageTextToText.from_pretrained(tiny_nano).eval()


@pytest.fixture(scope="module")
def processor(tiny_nano):
    return AutoProcessor.from_pretrained(tiny_nano, backend="pil")


def test_nano_is_a_llava_for_transformers(nano):
    assert type(nano) is LlavaForConditionalGeneration
    assert nano.config.model_type == "llava"


def test_the_same_seed_gives_the_same_weights(nano, tmp_path):
    again = AutoModelForImageTextToText.from_pretrained(make_nano(tmp_path, sizes=TINY, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(nano.parameters(), again.parameters(), strict=True))


def test_another_seed_gives_other_weights(nano, tmp_path):
    other = AutoModelForImageTextToText.from_pretrained(make_nano(tmp_path, sizes=TINY, seed=1))
    assert not torch.equal(nano.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_making_nano_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make_nano(tmp_path, sizes=TINY, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_loading_gives_back_what_was_saved(nano, tmp_path):
    nano.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(nano.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("size_hw", [(16, 16), (32, 80), (160, 160), (208, 48)])
def test_any_multiple_of_16_is_an_image(nano, size_hw):
    with torch.no_grad():
        encoded = nano.model.get_image_features(make_images(2, size_hw).float())
    cells = (size_hw[0] // 16) * (size_hw[1] // 16)
    assert [tokens.shape for tokens in encoded.pooler_output] == [(cells, 32)] * 2
    assert [tuple(found.shape[-2:]) for found in encoded.feature_maps] == [
        (size_hw[0] // 4, size_hw[1] // 4),
        (size_hw[0] // 8, size_hw[1] // 8),
    ]


def test_other_sizes_are_refused(nano):
    with pytest.raises(ValueError, match="multiples of 16, got 40 x 32"):
        nano.model.get_image_features(torch.zeros(1, 3, 40, 32))


def test_nano_generates_text_about_an_image(nano, processor):
    side = nano.config.vision_config.image_size
    image = Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8))
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    out = nano.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4


def test_the_processor_marks_one_token_per_cell(nano, processor):
    side = nano.config.vision_config.image_size
    image = Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8))
    inputs = processor(images=image, text="<image>\nHi", return_tensors="pt")
    assert int((inputs["input_ids"] == nano.config.image_token_id).sum()) == (side // 16) ** 2


def test_the_statistics_give_the_processors_pixels(nano, processor, tiny_nano):
    side = nano.config.vision_config.image_size
    pixels = make_images(1, (side, side))
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    wanted = processor(images=image, text="<image>", return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(load_statistics(str(tiny_nano)).normalise(pixels), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["red circle", "a zebra left of the dog", "\u732b 42 \U0001f600", "tab\tand\nline"])
def test_any_text_survives_the_tokenizer(text):
    tokenizer = build_tokenizer(512)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_common_words_are_one_token():
    tokenizer = build_tokenizer(NanoSizes().vocabulary)
    assert [len(tokenizer(f" {word}")["input_ids"]) for word in ("circle", "red", "person", "left")] == [1, 1, 1, 1]


def test_a_seeing_nano_has_a_fine_level_and_words_for_boxes(tiny_seeing):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_seeing)
    tokenizer = AutoTokenizer.from_pretrained(tiny_seeing)
    words = CornerWords()
    ids = tokenizer(f" {words.encode([(0.0, 8.0, 16.0, 160.0)], (160, 160))}", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<x0_0>", "<y0_2>", "<x1_4>", "<y1_40>"]
    assert len(tokenizer("what is the star?", add_special_tokens=False)["input_ids"]) == 5
    assert not model.model.language_model.layers[0].mlp.down_proj.weight.any()
    images = torch.randn(2, 3, 32, 48)
    output = model.model.vision_tower(images)
    assert [tuple(each.shape) for each in output.feature_maps] == [(2, 16, 8, 12), (2, 16, 4, 6)]
    assert output.last_hidden_state.shape == (2, 6, 32)


def test_without_a_fine_level_the_tower_is_what_it_was():
    plain = NanoVisionModel(NanoVisionConfig())
    fine = NanoVisionModel(NanoVisionConfig(fine=True))
    added = fine.state_dict().keys() - plain.state_dict().keys()
    assert added and all(name.startswith("fine.") for name in added)


def test_positions_are_counted_unless_they_are_asked_to_be_interpolated():
    torch.manual_seed(0)
    tower = NanoVisionModel(NanoVisionConfig(image_size=32, hidden_size=32, stem_channels=(8, 8, 8))).eval()
    with torch.no_grad():
        for side, is_equal in ((32, True), (64, False)):
            pixels = torch.randn(1, 3, side, side)
            counted, spread = (
                tower(pixels, interpolate_pos_encoding=asked).last_hidden_state for asked in (False, True)
            )
            assert torch.equal(counted, spread) == is_equal
