import json
import math
import shutil

import pytest
import torch
from helpers import make_images
from safetensors.torch import load_file, save_file
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from lumen.errors import CheckpointError, ConfigError
from lumen.lmm.sam import SamMasks

SIDE = 64


def tiny_sam():
    return SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=16,
                output_channels=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=SIDE,
                patch_size=16,
                window_size=2,
                global_attn_indexes=[1],
                num_pos_feats=8,
                mlp_dim=32,
                initializer_range=0.2,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=16),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
            ),
            initializer_range=0.2,
        )
    )


def tiny_sam2():
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
        initializer_range=0.2,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
        initializer_range=0.2,
    )
    return Sam2Model(
        Sam2Config(
            vision_config=vision,
            prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=16),
            mask_decoder_config=Sam2MaskDecoderConfig(
                hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
            ),
            initializer_range=0.2,
        )
    )


@pytest.fixture(scope="module", params=[tiny_sam, tiny_sam2], ids=["sam", "sam2"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam")
    request.param().save_pretrained(path)
    return path


@pytest.fixture
def sam(folder):
    return SamMasks(str(folder))


def ask(sam, images, image_index, boxes):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return sam(images, torch.tensor(image_index, dtype=torch.long), (boxes[:, :2] + boxes[:, 2:]) / 2, boxes)


BOXES = [[4.0, 4.0, 30.0, 40.0], [20.0, 10.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0]]


def test_a_mask_is_a_probability_over_the_input(sam):
    masks = ask(sam, make_images(2, (64, 64)), [1, 0, 1], BOXES)
    assert masks.shape == (3, 16, 16)
    assert bool((masks >= 0).all() and (masks <= 1).all())
    assert not torch.equal(masks[0], masks[2])


def test_no_objects_give_no_masks(sam):
    assert ask(sam, make_images(2, (64, 64)), [], []).shape == (0, 16, 16)


def test_a_batch_equals_single_objects_and_images(sam, folder):
    images = make_images(2, (64, 64))
    together = ask(sam, images, [1, 0, 1], BOXES)
    for place, (image, box) in enumerate(zip([1, 0, 1], BOXES, strict=True)):
        torch.testing.assert_close(
            ask(sam, images[image : image + 1], [0], [box])[0], together[place], atol=1e-5, rtol=1e-5
        )
    pieces = ask(SamMasks(str(folder), objects_at_once=1), images, [1, 0, 1], BOXES)
    torch.testing.assert_close(pieces, together, atol=1e-5, rtol=1e-5)


def test_it_is_the_model_of_transformers(sam, folder):
    image = make_images(1, (64, 64))
    box = torch.tensor([[BOXES[0]]])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    kind = Sam2Model if sam.view.is_stretched else SamModel
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(
            pixel_values=(image / 255 - mean) / std,
            input_points=(box[..., :2] + box[..., 2:]).unsqueeze(1) / 2 - 0.5,
            input_boxes=box - 0.5,
            multimask_output=False,
        ).pred_masks[0, :, 0]
    torch.testing.assert_close(ask(sam, image, [0], BOXES[:1]), logits.sigmoid(), atol=1e-5, rtol=1e-5)


def test_an_image_is_embedded_once(sam, monkeypatch):
    calls = []
    embed = sam._sam[0].get_image_embeddings
    monkeypatch.setattr(sam._sam[0], "get_image_embeddings", lambda pixels: calls.append(1) or embed(pixels))
    images = make_images(3, (64, 64))
    first = ask(sam, images, [0, 0, 2], BOXES)
    assert len(calls) == 2  # nobody asks for the second image
    torch.testing.assert_close(ask(sam, images, [0, 0, 2], BOXES), first)
    assert len(calls) == 2
    ask(sam, images.clone(), [0], BOXES[:1])
    assert len(calls) == 3


@pytest.mark.parametrize("size_hw", [(32, 64), (60, 40)])
def test_an_image_that_is_no_square_is_padded_or_stretched(sam, size_hw):
    images = make_images(1, size_hw)
    masks = ask(sam, images, [0], BOXES[:1])
    longest = max(size_hw)
    rows_cols = (16, 16) if sam.view.is_stretched else tuple(round(16 * side / longest) for side in size_hw)
    assert masks.shape == (1, *rows_cols)
    pixels = sam.view.prepare(images, torch.float32)
    assert pixels.shape == (1, 3, SIDE, SIDE)
    covered = (pixels != 0).any(1)[0]
    expected = (64, 64) if sam.view.is_stretched else tuple(round(64 * side / longest) for side in size_hw)
    assert (int(covered.any(1).sum()), int(covered.any(0).sum())) == expected


def test_the_covered_part_is_cut_out_of_the_square(sam):
    # Columns of the square hold their own number; half of a 32 x 64 input is padding, below, for SAM only.
    logits = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 16)
    cut = sam.view.cut(logits, (32, 64))
    if sam.view.is_stretched:
        torch.testing.assert_close(cut[0], logits[0, 0])
    else:
        torch.testing.assert_close(cut[0], logits[0, 0, :8])


def test_it_has_nothing_to_train_and_nothing_to_save(sam):
    assert list(sam.parameters()) == [] and sam.state_dict() == {}
    sam.train()
    assert not sam._sam[0].training
    assert not any(parameter.requires_grad for parameter in sam._sam[0].parameters())
    assert sam.double()._sam[0].dtype == torch.float64, "it moves along with its decoder"


def test_a_checkpoint_of_sam_2_for_videos_gives_its_image_part(tmp_path):
    torch.manual_seed(0)
    model = tiny_sam2()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    (found,) = SamMasks(str(tmp_path))._sam
    assert type(found) is Sam2Model
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * math.nan, "not finite"),
        (lambda weight: weight[:-1], "of another shape"),
        (lambda weight: None, "missing"),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_refused(folder, tmp_path, change, message):
    damaged = shutil.copytree(folder, tmp_path / "sam")
    state = load_file(damaged / "model.safetensors")
    name = next(name for name in sorted(state) if name.startswith("mask_decoder") and state[name].ndim > 1)
    changed = change(state.pop(name))
    save_file(state | ({} if changed is None else {name: changed}), damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        SamMasks(str(damaged))
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        SamMasks(str(damaged))


def test_another_model_is_refused(tiny_nano):
    with pytest.raises(ConfigError, match="is a 'llava' model; SamMasks takes"):
        SamMasks(str(tiny_nano))
