"""Label Studio's calls, in the shapes of its documentation."""

import base64

import numpy as np
import pytest
from serving_cases import png_of

from lumen.data.image import decode_image
from lumen.errors import ConfigError
from lumen.serving.label_studio import read_labels

CONFIG = """<View><Image name="photo" value="$image"/>
<RectangleLabels name="boxes" toName="photo"><Label value="star"/><Label value="red ring"/></RectangleLabels></View>"""
DATA = f"data:image/png;base64,{base64.b64encode(png_of()).decode()}"


def predict(client, *images, config=CONFIG):
    tasks = [{"id": place, "data": {"image": image}} for place, image in enumerate(images)]
    return client.post(
        "/label-studio/predict", json={"tasks": tasks, "label_config": config, "project": "1.2", "params": {}}
    )


def test_health_setup_and_webhook(served):
    assert served[1].get("/label-studio/health").json() == {"status": "UP", "model_class": "Lumen"}
    setup = {"project": "1.2", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
    version = served[1].post("/label-studio/setup", json=setup).json()["model_version"]
    assert version.startswith("lumen-")
    assert served[1].post("/label-studio/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200


def test_predictions_are_the_boxes_in_percent(predictor, served):
    local = "/data/local-files/?d=a.png"
    answer = predict(served[1], DATA, local, f"http://localhost:8080{local}").json()
    first, *others = answer["results"]
    assert all(other["result"] == first["result"] for other in others)
    table = predictor.image(decode_image(png_of(), "image")).predict(["star", "red ring"])
    assert len(first["result"]) == len(table)
    wanted = table.bboxes.numpy() / [120, 90, 120, 90] * 100
    for region, box, phrase in zip(first["result"], wanted, table.phrases, strict=True):
        value = region["value"]
        assert (region["from_name"], region["to_name"], region["type"]) == ("boxes", "photo", "rectanglelabels")
        assert (region["original_width"], region["original_height"]) == (120, 90)
        assert value["rectanglelabels"] == [phrase]
        corners = [value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]]
        np.testing.assert_allclose(corners, box, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("https://example.org/a.png", "is not fetched"),
        ("/data/local-files/?d=../../etc/passwd", "leaves the folder"),
        ("/data/local-files/?d=b.png", "there is no file 'b.png'"),
        (f"/data/local-files/?d={'a' * 5000}", "cannot be read: File name too long"),
        ("data:image/png;base64,AAAA", "cannot be read as an image"),
        (None, "the task names no image"),
    ],
)
def test_an_image_that_is_not_served_is_named(served, image, words):
    answer = predict(served[1], image)
    assert answer.status_code == 400 and words in answer.json()["error"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View>", "cannot be read as XML"),
        ('<View><Image name="a" value="$image"/><Choices name="c" toName="a"/></View>', r"controls are \['Choices'\]"),
        (CONFIG.replace("$image", "image"), "no <RectangleLabels"),
        ("x" * 200_001, "at most 200000 letters"),
    ],
)
def test_a_config_without_boxes_is_named(config, words):
    with pytest.raises(ConfigError, match=words):
        read_labels(config)


def test_too_many_tasks_are_refused(served):
    answer = predict(served[1], *["x"] * 101)
    assert answer.status_code == 422 and "101 tasks came, the limit is 100" in answer.json()["error"]
