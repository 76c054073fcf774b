import json

import pytest
import torch
from helpers import make_images, make_sample
from lman_captions import caption_mask, pad_captions, run_jointly
from lman_metrics import RetrievalMetric
from lman_pretrain import LOSSES, QueryPretrainer, contrast, hard_negatives
from mmengine.structures import InstanceData

from lumen.data.text import QuestionsDataset
from lumen.errors import ConfigError, DataError
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.connectors import QueryConnector
from lumen.structures import Prompt

CONNECTOR = {
    "type": QueryConnector,
    "num_queries": 4,
    "width": 32,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_range": 0.18,
}


@pytest.fixture
def make_model(tiny_nano):
    def make(connector=CONNECTOR, losses=LOSSES, **options):
        torch.manual_seed(0)
        lmm = {
            "type": HFAdapter,
            "name_or_path": str(tiny_nano),
            "base": {"attention": "eager", "connector": connector},
        }
        options = {"input_hw": (32, 48), "dim": 16} | options
        return QueryPretrainer(lmm, loss_weights=dict.fromkeys(losses, 1.0), **options)

    return make


def batch(*captions):
    samples = [make_sample([Prompt("", task="caption", answer=caption)]) for caption in captions]
    return make_images(len(captions), (32, 48)), samples


def test_queries_alone_are_those_of_the_connector(make_model):
    model = make_model().eval()
    images, _ = batch("a", "b")
    queries, _ = run_jointly(model.connector, model.heads, cells=model.cells(images), texts=None)
    tokens = torch.stack(list(model.lmm.encode_images(images).states.pooler_output))
    torch.testing.assert_close(model.connector.to_tokens(queries), tokens, atol=1e-5, rtol=1e-5)


def test_padding_and_later_words_are_not_seen(make_model):
    model = make_model().eval()
    cells = model.cells(batch("a", "b")[0])
    short, long = (
        model.read_captions(batch(*texts)[1]) for texts in (("a hat", "a hat"), ("a hat", "a hat and boots"))
    )
    first, second = ((model.similarity(cells, each)[:, 0]) for each in (short, long))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)

    def written(ids):
        sees = caption_mask(torch.ones(1, 4, dtype=torch.bool), queries=4, causal=True)
        return run_jointly(model.connector, model.heads, cells=cells[:1], texts=model.heads.embed(ids), sees=sees)

    (queries, states), (other_queries, other) = written(torch.tensor([[5, 6, 7]])), written(torch.tensor([[5, 6, 9]]))
    torch.testing.assert_close(queries, other_queries)
    torch.testing.assert_close(states[:, :3], other[:, :3])
    assert not torch.allclose(states[:, 3], other[:, 3])


def test_masks_by_hand():
    is_token = torch.tensor([[True, True, False]])
    assert caption_mask(is_token, queries=1)[0].int().tolist() == [[1, 1, 1, 0]] * 3 + [[1, 1, 1, 1]]
    written = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert caption_mask(is_token, queries=1, causal=True)[0].int().tolist() == written
    ids, is_token = pad_captions([[4, 5, 6], [7]], max_tokens=2)
    assert ids.tolist() == [[4, 5], [7, 0]] and is_token.tolist() == [[True, True], [True, False]]
    assert pad_captions([], max_tokens=2)[0].shape == (0, 0)


def test_equal_captions_are_positives():
    is_same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    logits = torch.tensor([[2.0, 2.0, -50.0], [2.0, 2.0, -50.0], [-50.0, -50.0, 2.0]])
    # Two right answers of equal logits: the loss is their entropy, log 2, in two rows of three.
    assert contrast(logits, is_same).item() == pytest.approx(2 / 3 * 0.693147, rel=1e-4)
    image, text = hard_negatives(torch.zeros(3, 3), is_same)
    assert all(not is_same[i, t] for i, t in image.T.tolist() + text.T.tolist())
    assert image.shape == text.shape == (2, 3)
    none, _ = hard_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert none.shape == (2, 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_switched_one_by_one(make_model, loss):
    torch.manual_seed(1)
    losses = make_model(losses=[loss])(*batch("a red hat", "a red hat", "blue boots"))
    assert set(losses) == {loss} and losses[loss].isfinite()
    # A batch of one has no negatives.
    assert make_model(losses=[loss])(*batch("a red hat"))[loss].isfinite()


def test_all_but_the_way_to_the_llm_is_trained(make_model):
    model = make_model()
    model.lmm.base_model.model.vision_tower.requires_grad_(False)
    losses = model(*batch("a red hat", "blue boots"))
    sum(losses.values()).backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    inside = "lmm.base_model.model.multi_modal_projector."
    expected = {f"{inside}{name}" for name, _ in model.connector.named_parameters() if "to_tokens" not in name}
    assert {name for name in trained if name.startswith("lmm.")} == expected
    assert {name for name, _ in model.heads.named_parameters()} == {n[6:] for n in trained if n.startswith("heads.")}
    # A tower that is not frozen is trained with it.
    model.lmm.base_model.model.vision_tower.requires_grad_(True)
    sum(model(*batch("a red hat", "blue boots")).values()).backward()
    assert model.lmm.base_model.model.vision_tower.to_tokens.weight.grad is not None


def test_captions_of_a_few_images_are_learned(make_model):
    # In evaluation mode, as a frozen tower is while the connector learns.
    model, (_, samples) = make_model(losses=["loss_itc"]).eval(), batch("a red hat", "blue boots", "a green scarf")
    # Noise looks alike to a tower that has learned nothing; colours do not.
    colours = torch.tensor([[200, 0, 0], [0, 0, 200], [0, 200, 0]], dtype=torch.uint8)
    images = colours[:, :, None, None].repeat(1, 1, 32, 48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    values = []
    for _ in range(20):
        total = sum(model(images, samples).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.1 * values[0]
    metric = RetrievalMetric()
    for number, sample in enumerate(model(images, samples, mode="predict")):
        metric.process(None, [sample.to_dict() | {"img_id": number}])
    assert metric.compute_metrics(metric.results) == {"R@1": 1.0, "chance": pytest.approx(1 / 3), "pool": 3.0}


def test_retrieval_by_hand():
    metric = RetrievalMetric(pool=3)
    vectors = torch.eye(2)
    answers = [(vectors, vectors[0], "a"), (vectors * 0, vectors[0], "b"), (vectors * 0.5, vectors[1], "a")]
    for number, (image, text, caption) in enumerate(answers):
        sample = make_sample([Prompt("", task="caption", answer=caption)])
        sample.set_metainfo({"img_id": number})
        sample.pred_instances = InstanceData(image_vectors=image[None], text_vectors=text[None])
        metric.process(None, [sample.to_dict()])
    # All captions find picture 0: right for its own and for that which is equal.
    figures = metric.compute_metrics(metric.results)
    assert figures == {"R@1": pytest.approx(2 / 3), "chance": pytest.approx((2 + 1 + 2) / 9), "pool": 3.0}
    assert metric.compute_metrics([])["R@1"] == -1.0


def test_wrong_options_and_missing_captions_are_refused(make_model, tmp_path):
    with pytest.raises(ConfigError, match="trains a QueryConnector"):
        make_model(connector=None)
    with pytest.raises(ConfigError, match="loss_weights name some of"):
        make_model(losses=["loss_luck"])
    with pytest.raises(ConfigError, match="multiples of 16"):
        make_model(input_hw=(30, 48))
    images, samples = batch("a hat", "")
    with pytest.raises(DataError, match="have no caption"):
        make_model()(images, samples)
    images = [{"id": 1, "file_name": "1.jpg", "height": 32, "width": 32}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(DataError, match="no image with a usable text"):
        QuestionsDataset(layout="captions", ann_file="captions.json", data_root=str(tmp_path))
