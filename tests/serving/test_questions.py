"""Questions over HTTP, from a real client to a real server."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_cases import png_of

from lumen.data.image import decode_image
from lumen.inference.reports import Request, describe_answer
from lumen.ops.masks import decode_masks

PHRASES = ["star", "red ring"]


def ask(client, content=None, **fields):
    files = {"image": ("photo.png", png_of() if content is None else content)}
    return client.post("/predict", files=files, data={"phrases": PHRASES, "threshold": "0", **fields})


@pytest.mark.parametrize("task", ["detection", "segmentation", "counting", "vqa", "caption"])
def test_an_answer_is_that_of_the_predictor(predictor, served, task):
    phrases = ["what is it?"] if task == "vqa" else [] if task == "caption" else PHRASES
    answer = ask(served[1], phrases=phrases, task=task).json()
    request = Request(tuple(phrases) or ("",), task, 0.0)
    asked = predictor.image(decode_image(png_of(), "image"))
    table = asked.predict(request.phrases, task=task, score_threshold=0.0)
    wanted = describe_answer(Path("x"), (90, 120), request, table)
    for key in wanted.keys() - {"image", "masks"}:
        if key in ("bboxes_xyxy", "scores", "counts", "peak_scores"):
            np.testing.assert_allclose(answer[key], wanted[key], rtol=1e-3, atol=1e-3)
        else:
            assert answer[key] == wanted[key], key
    assert answer["found"] == [answer["labels"].count(place) for place in range(len(request.phrases))]


def test_a_form_and_json_are_the_same_question(served):
    fields = {"phrases": PHRASES, "threshold": 0}
    coded = base64.b64encode(png_of()).decode()
    for image in (coded, f"data:image/png;base64,{coded}"):
        answer = served[1].post("/predict", json={"image": image, **fields}).json()
        assert answer["labels"] and answer == {**ask(served[1]).json(), "was_kept": answer["was_kept"]}


def test_asking_again_neither_decodes_nor_encodes(predictor, served):
    usage, content = predictor.model.lmm.usage, png_of(seed=7)
    first = ask(served[1], content).json()
    usage.clear()
    again = ask(served[1], content).json()
    assert (first["was_kept"], again["was_kept"]) == (False, True)
    assert {**first, "was_kept": True} == again
    assert usage.images == 0 and 0 < usage.tokens < len(predictor.model.lmm.prefix((64, 64)))


def test_masks_as_png_are_the_run_lengths(served):
    answers = [ask(served[1], task="segmentation", masks=form).json()["masks"] for form in ("rle", "png")]
    assert answers[0]
    for code, text in zip(*answers, strict=True):
        mask = np.array(Image.open(BytesIO(base64.b64decode(text))))
        assert np.array_equal(mask, decode_masks([code], (90, 120))[0].numpy().astype(np.uint8) * 255)


def test_heatmaps_are_those_of_the_predictor(predictor, served):
    found = ask(served[1], heatmaps="true").json()["heatmaps"]
    wanted = predictor.image(decode_image(png_of(), "image")).heatmaps(PHRASES).numpy()
    for text, heat in zip(found, wanted, strict=True):
        picture = np.array(Image.open(BytesIO(base64.b64decode(text))))
        assert picture.shape == (90, 120) and np.abs(picture / 255 - heat).max() < 0.003


def test_keypoints_of_a_pose(served):
    answer = ask(served[1], phrases=["star"], task="pose", keypoints=["top", "left"]).json()
    assert answer["keypoint_names"] == ["top", "left"]
    assert np.array(answer["keypoints"]).shape == (len(answer["scores"]), 2, 2)


def test_the_page_and_what_it_reads_come_from_the_server_alone(served):
    page = served[1].get("/")
    assert page.headers["content-type"].startswith("text/html") and "http://" not in page.text
    assert "https://" not in page.text and "src=" not in page.text.replace("image.src=", "").replace("image.src =", "")
    info = served[1].get("/info").json()
    assert info["tasks"][0] == "detection" and set(info["text_tasks"]) == {"vqa", "caption"}
    assert info["limits"]["phrases"] == 5 and info["has_heatmaps"]


def test_health_and_figures(served):
    assert served[1].get("/healthz").json() == {"status": "ok"}
    ask(served[1])
    before = served[1].get("/metrics").text
    ask(served[1])
    assert ask(served[1], task="bicycle").status_code == 422
    after = served[1].get("/metrics").text

    def figure(text, name):
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    asked = 'lumen_requests_total{path="/predict",status="200"}'
    for name in (asked, "lumen_batch_questions_count", 'lumen_images_total{kept="true"}'):
        assert figure(after, name) == figure(before, name) + 1, name
    wrong = 'lumen_requests_total{path="/predict",status="422"}'
    assert figure(after, wrong) == figure(before, wrong) + 1
    assert figure(after, "lumen_kept_images") == len(served[0].store) >= 1
    assert figure(after, "lumen_kept_bytes") == served[0].store.num_bytes > 0


def test_the_interface_is_described(served):
    described = served[1].get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(described) == {"multipart/form-data", "application/json"}
    assert {"image", "phrases", "task", "threshold"} <= set(described["application/json"]["schema"]["properties"])
