import numpy as np
import pytest
import torch
from attribute_decoder import AttributeDecoder
from helpers import make_sample, make_shared
from lman_metrics import AttributeMetric, MissRate, ReidMetric, log_average_miss_rate, match_boxes, rank_identities
from mmengine.structures import InstanceData
from reid_decoder import ReidDecoder

from lumen.decoders.contract import check_decoder
from lumen.errors import DataError
from lumen.structures import Prompt


@pytest.mark.parametrize("kind", [AttributeDecoder, ReidDecoder])
def test_decoders_keep_the_contract(kind):
    assert [finding for finding in check_decoder(kind) if finding.problem] == []


def asked(names, task):
    return [Prompt(name, task=task, label=place) for place, name in enumerate(names)]


def test_an_attribute_is_there_if_its_prompt_has_an_object():
    decoder = AttributeDecoder(channels=32)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.fill_(2.0)
    sample = make_sample(asked(("hat", "boots", "scarf"), "attributes"), [[0, 0, 9, 9]], [1])
    shared = make_shared([0, 0, 0], [0, 1, 2])
    # One positive and two negatives at logit 2.
    wanted = np.log1p(np.exp(-2)) + 2 * np.log1p(np.exp(2))
    assert decoder.loss(shared, [sample])["loss_attribute"].item() == pytest.approx(wanted, rel=1e-5)
    ignored = make_sample(asked(("hat",), "attributes"), ignored=[[0, 0, 9, 9]], ignored_index=[0])
    assert decoder.loss(make_shared([0], [0]), [ignored])["loss_attribute"].item() == 0
    # The second prompt has no pair: its answer is that the attribute is not there.
    answer = decoder.predict(make_shared([0, 0], [0, 2]), [sample])[0]
    torch.testing.assert_close(answer.scores, torch.tensor([0.8808, 0.0, 0.8808]), atol=1e-4, rtol=0)
    assert answer.labels.tolist() == [0, 1, 2]


def person(identity, camera=1, img_id=0):
    sample = make_sample(asked(("person",), "reid"), [[0, 0, 9, 9]], [0])
    sample.gt_instances.identity = torch.tensor([identity])
    sample.gt_instances.camera = torch.tensor([camera])
    sample.set_metainfo({"img_id": img_id})
    return sample


def test_each_identity_is_learned_by_itself():
    torch.manual_seed(0)
    decoder, shared = ReidDecoder(channels=32, num_identities=3), make_shared([0, 1], [0, 0], num_images=2)
    shared.query.data.normal_()
    samples = [person(0), person(2)]
    both = decoder.loss(shared, samples)["loss_identity"]
    single = 0.0
    for place in (0, 1):
        alone = make_shared([0], [0])
        alone.query.data.copy_(shared.query.data[place])
        single += decoder.loss(alone, [samples[place]])["loss_identity"]
    torch.testing.assert_close(both, single)
    answer = decoder.predict(shared, samples)[1]
    assert answer.embeddings.shape == (1, 128)
    assert answer.embeddings.norm().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="set num_identities"):
        decoder.loss(shared, [person(0), person(3)])


def answered(names, truth, scores, img_id=0):
    """Return a sample with prompts, true attributes and scores, as metrics get it."""
    sample = make_sample(asked(names, "attributes"), [[0, 0, 9, 9]] * len(truth), truth)
    sample.set_metainfo({"img_id": img_id})
    index = torch.arange(len(scores)).flip(0)
    sample.pred_instances = InstanceData(scores=torch.tensor(scores).flip(0), prompt_index=index)
    return sample.to_dict()


def test_attribute_figures_by_hand():
    metric = AttributeMetric()
    metric.dataset_meta = {"classes": ("hat", "boots")}
    names = ("hat", "boots")
    metric.process(None, [answered(names, [0], [0.9, 0.6], 1), answered(names, [], [0.2, 0.7], 2)])
    metric.process(None, [answered(names, [0, 1], [0.1, 0.8], 3), answered(names, [1], [0.3, 0.9], 4)])
    figures = metric.compute_metrics(metric.results)
    # Hat: 1 of 2 positives, 2 of 2 negatives. Boots: 2 of 2 positives, 0 of 2 negatives.
    assert figures["mA_hat"] == 0.75 and figures["mA_boots"] == 0.5 and figures["mA"] == 0.625
    precision, recall = np.mean([1 / 2, 0, 1, 1]), np.mean([1, 0, 1 / 2, 1])
    assert figures["F1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert metric.compute_metrics([]) == {"mA": -1.0, "F1": -1.0, "mA_hat": -1.0, "mA_boots": -1.0}
    with pytest.raises(DataError, match="one finite score each"):
        metric.process(None, [answered(names, [], [0.5])])


def test_identities_are_ranked_over_cameras():
    # Pictures: person 0 by cameras 1 and 2, person 1 by cameras 1 and 2, person 0 by camera 1 again.
    identities, cameras = np.array([0, 0, 1, 1, 0]), np.array([1, 2, 1, 2, 1])
    similarity = np.array(
        [
            [9.0, 1.0, 2.0, 0.0, 8.0],  # picture 4 is left out: the same person by the same camera; 2 comes before 1
            [3.0, 9.0, 0.0, 2.0, 1.0],  # 0 is first; the order is 0, 3, 4, 2
            [0.0, 1.0, 9.0, 2.0, 3.0],  # 4 comes before 3
            [0.0, 1.0, 2.0, 9.0, 0.5],  # 2 is first
            [7.0, 3.0, 0.0, 1.0, 9.0],  # 1 is first
        ]
    )
    found = rank_identities(similarity, identities, cameras)
    assert found.rank_1 == pytest.approx(3 / 5)
    assert found.mean_ap == pytest.approx(np.mean([1 / 2, (1 + 2 / 3) / 2, 1 / 2, 1, 1]))
    across = rank_identities(similarity, identities, cameras, other_cameras_only=True)
    assert across.rank_1 == 1.0
    # A person whom one camera saw is no query; where there is no other, nothing can be measured.
    alone = rank_identities(similarity, np.array([0, 0, 1, 2, 0]), cameras)
    assert (alone.num_queries, alone.num_skipped) == (3, 2)
    with pytest.raises(DataError, match="seen by two cameras"):
        rank_identities(similarity, identities, np.ones(5, dtype=int))


def test_reid_metric_reads_samples():
    metric, vectors = ReidMetric(), torch.eye(3)[[0, 0, 1, 1]]
    samples = [
        person(identity, camera, img_id) for img_id, (identity, camera) in enumerate([(0, 1), (0, 2), (1, 1), (1, 2)])
    ]
    for sample, vector in zip(samples, vectors, strict=True):
        sample.pred_instances = InstanceData(embeddings=vector[None], prompt_index=torch.tensor([0]))
    metric.process(None, [sample.to_dict() for sample in samples])
    figures = metric.compute_metrics(metric.results)
    assert figures == {"rank_1": 1.0, "mAP": 1.0, "rank_1_other_cameras": 1.0, "skipped": 0.0}
    with pytest.raises(DataError, match="seen by two cameras"):
        metric.compute_metrics([])
    samples[0].pred_instances = InstanceData(
        embeddings=torch.zeros(0, 3), prompt_index=torch.zeros(0, dtype=torch.long)
    )
    with pytest.raises(DataError, match="one vector"):
        metric.process(None, [samples[0].to_dict()])


def test_boxes_find_free_objects_and_ignored_regions_excuse():
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [40, 0, 50, 10], [44, 0, 54, 10], [60, 0, 70, 10]])
    found, counts = match_boxes(boxes, objects, torch.tensor([[40.0, 0, 49, 10]]))
    assert found.tolist() == [True, False, False, False, False]
    assert counts.tolist() == [True, True, False, False, True]
    found, counts = match_boxes(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 4))
    assert found.shape == counts.shape == (0,)


def test_miss_rate_by_hand():
    # Ten images, two objects: found at no false alarm, then one false alarm (0.1 an image), then the second object.
    hits = np.array([True, False, True])
    # Below 0.1 an image the miss rate is 1/2; at 0.1, and above, it is 0, which counts as 1e-10.
    rates = np.logspace(-2, 0, 9)
    wanted = np.exp(np.mean(np.log(np.where(rates < 0.1, 0.5, 1e-10))))
    assert log_average_miss_rate(hits, 2, 10) == pytest.approx(wanted)
    # A detector whose best box is wrong misses all at low rates.
    assert log_average_miss_rate(np.array([False]), 1, 1) == 1.0
    metric = MissRate()
    sample = make_sample(asked(("person",), "detection"), [[0, 0, 10, 10]], [0])
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 9], [30, 30, 40, 40]]),
        scores=torch.tensor([0.9, 0.8]),
        prompt_index=torch.zeros(2, dtype=torch.long),
    )
    metric.process(None, [sample.to_dict()])
    assert metric.compute_metrics(metric.results)["MR-2"] == pytest.approx(1e-10)
    assert metric.compute_metrics([]) == {"MR-2": -1.0}
