"""Questions that wait are asked together, and images are kept within bounds."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_cases import png_of

from lumen.data.image import decode_image
from lumen.inference.reports import Request
from lumen.serving.asking import ForgottenError, Job, answer_jobs
from lumen.serving.store import ImageStore


def job_of(seed, *phrases, task="detection", **fields):
    image = decode_image(png_of(90 + seed, 120, seed), "image")
    return Job(str(seed), image, Request(phrases, task, 0.0), **fields)


def check_equal(found, wanted):
    assert found.size_hw == wanted.size_hw and set(found.table.keys()) == set(wanted.table.keys())
    assert found.table.phrases == wanted.table.phrases
    for key in ("bboxes", "scores", "counts"):
        if key in wanted.table:
            np.testing.assert_allclose(found.table[key], wanted.table[key], rtol=1e-3, atol=1e-3)


def store_of(max_images=8, max_bytes=2**30):
    return ImageStore(max_images=max_images, max_bytes=max_bytes)


def test_answers_of_a_batch_are_those_of_each_question_alone(predictor):
    jobs = [
        job_of(1, "star"),
        job_of(2, "ring", "cat", task="counting"),
        job_of(1, "ring"),  # another question about an image of this batch
        job_of(3, "what is it?", task="vqa"),
        Job("4", job_of(4, "star").image, Request(("star",), "pose", 0.0, ("top", "left"))),
        job_of(5, "star", heatmaps=True),
    ]
    predictor.model.lmm.usage.clear()
    store = store_of()
    found = answer_jobs(predictor, store, jobs)
    assert [answer.was_kept for answer in found] == [False, False, True, False, False, False]
    assert sorted(store._kept) == ["1", "2", "3", "4", "5"]
    for job, answer in zip(jobs, found, strict=True):
        alone = answer_jobs(predictor, store_of(), [job])[0]
        check_equal(answer, alone)
        if job.heatmaps:
            assert np.abs(answer.heatmaps.astype(int) - alone.heatmaps).max() <= 1
        check_equal(answer_jobs(predictor, store, [Job(job.key, None, job.request)])[0], alone)


def test_the_images_used_last_are_kept_within_bounds(predictor):
    store = store_of(max_images=2)
    for seed in (1, 2, 1, 3):
        answer_jobs(predictor, store, [job_of(seed, "star")])
    assert list(store._kept) == ["1", "3"] and "2" not in store
    assert store.num_bytes == sum(image.num_bytes for image, _ in store._kept.values())
    with pytest.raises(ForgottenError, match="send it again"):
        answer_jobs(predictor, store, [Job("2", None, Request(("star",)))])
    tight = store_of(max_bytes=store.get("1").num_bytes - 1)
    check_equal(*(answer_jobs(predictor, one, [job_of(1, "star")])[0] for one in (tight, store)))
    assert len(tight) == 0 and tight.num_bytes == 0


def test_clients_at_once_get_their_own_answers_in_few_batches(served):
    service, client = served
    before = service.metrics.batches._sum.get()

    def post(seed):
        return client.post("/predict", files={"image": png_of(100 + seed, 60, seed)}, data={"phrases": "star"}).json()

    with ThreadPoolExecutor(12) as pool:
        with service.predictor._shared._lock:
            calls = [pool.submit(post, seed) for seed in range(12)]
        answers = [call.result(60) for call in calls]
    assert [answer["height"] for answer in answers] == list(range(100, 112))
    assert service.metrics.batches._sum.get() == before + 12
