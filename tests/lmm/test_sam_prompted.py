import pytest
import torch
from helpers import make_images
from test_sam import tiny_sam, tiny_sam2
from transformers import SamModel

from lumen.errors import ConfigError
from lumen.lmm.sam_prompted import SamPrompted

SIZES = {"num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam")
    tiny_sam().save_pretrained(path)
    return str(path)


def vectors_of(count, channels=16, seed=0):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_it_equals_the_mask_decoder_of_transformers(folder):
    images, vectors, index = make_images(2, (64, 64)), vectors_of(3), torch.tensor([1, 0, 1])
    sam, prompted = SamModel.from_pretrained(folder).eval(), SamPrompted(folder, channels=16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted, _ = sam.mask_decoder(
            image_embeddings=sam.get_image_embeddings((images / 255 - mean) / std)[index],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().repeat(3, 1, 1, 1),
            sparse_prompt_embeddings=vectors[:, None, None],
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
            multimask_output=False,
        )
        logits = prompted(vectors, index, images=images)
        prompted.objects_at_once = 1
        torch.testing.assert_close(prompted(vectors, index, images=images), logits, atol=1e-4, rtol=1e-4)
    assert logits.shape == (3, 16, 16)
    torch.testing.assert_close(logits, wanted[:, 0, 0], atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_vectors_and_the_mask_decoder_but_for_the_head_of_ratings(folder):
    prompted, vectors = SamPrompted(folder, channels=16), vectors_of(2)
    prompted(vectors, torch.tensor([0, 1]), images=make_images(2, (48, 64))).square().sum().backward()
    assert bool(vectors.grad.abs().sum(1).all())
    trained = {name for name, value in prompted.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in prompted.named_parameters() if "iou_prediction_head" not in name}
    assert all(value.grad is not None for value in prompted.parameters() if value.requires_grad)
    assert {name.partition(".")[0] for name in prompted.state_dict()} == {"mask_decoder"}, "SAM is not saved"
    assert prompted.double()._sam[0].dtype == torch.float64, "it moves along"


@pytest.mark.parametrize("encoder", ["sam", "shared"])
def test_no_vectors_give_no_masks_that_connect_all_that_is_trained(folder, encoder):
    prompted = SamPrompted(folder if encoder == "sam" else None, channels=16, encoder=encoder,
                           sizes=None if encoder == "sam" else SIZES)  # fmt: skip
    given = {} if encoder == "sam" else {"dense": torch.randn(2, 16, 4, 6)}
    logits = prompted(vectors_of(0), torch.zeros(0, dtype=torch.long), **given)
    assert len(logits) == 0
    logits.sum().backward()
    assert all(value.grad is not None for value in prompted.parameters() if value.requires_grad)


def test_from_scratch_it_reads_the_dense_map(folder):
    torch.manual_seed(0)
    prompted = SamPrompted(channels=16, encoder="shared", sizes=SIZES)
    dense, vectors, index = torch.randn(2, 16, 4, 6, requires_grad=True), vectors_of(3), torch.tensor([0, 1, 1])
    logits = prompted(vectors, index, dense=dense)
    assert logits.shape == (3, 16, 24)
    torch.testing.assert_close(prompted(vectors[1:2], index[:1], dense=dense[1:])[0], logits[1], atol=1e-5, rtol=1e-4)
    logits.square().sum().backward()
    assert bool(dense.grad.abs().sum((1, 2, 3)).all())
    pretrained, sam = SamPrompted(folder, channels=16, encoder="shared"), SamModel.from_pretrained(folder)
    assert torch.equal(pretrained.mask_decoder.mask_tokens.weight, sam.mask_decoder.mask_tokens.weight)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="encoder='sam' needs a SAM"):
        SamPrompted(channels=16)
    with pytest.raises(ConfigError, match="encoder must be one of"):
        SamPrompted(folder, channels=16, encoder="vit")
    with pytest.raises(ConfigError, match="is 16 wide, the vectors 32"):
        SamPrompted(folder, channels=32)
    prompted, nothing = SamPrompted(channels=16, encoder="shared", sizes=SIZES), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ConfigError, match="reads a dense map with cells"):
        prompted(vectors_of(1), nothing, dense=torch.zeros(1, 16, 0, 0))
    with pytest.raises(ConfigError, match="reads the images"):
        SamPrompted(folder, channels=16)(vectors_of(1), nothing)
    tiny_sam2().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a 'sam2' model; SamPrompted takes 'sam'"):
        SamPrompted(str(tmp_path), channels=32)
