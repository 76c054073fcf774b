"""What a server refuses, how it says so, and that it goes on."""

import base64
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from serving_cases import png_of, running

from lumen.errors import ConfigError
from lumen.serving.limits import Limits
from lumen.serving.server import open_port

HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
IMAGE = {"image": ("photo.png", png_of())}
STAR = {"phrases": "star"}
CODED = base64.b64encode(png_of()).decode()
FORMS = [
    ({"files": {"image": b"no image"}, "data": STAR}, 400, "the image: cannot be read as an image"),
    ({"files": {"image": png_of(201, 200)}, "data": STAR}, 400, "200 x 201 pixels, the limit is 40000"),
    ({"files": {"image": png_of(300, 300)}, "data": STAR}, 413, "bytes, the limit is 200000: send a smaller image"),
    ({"files": {"other": b"x"}, "data": STAR}, 400, "holds no image"),
    ({"files": IMAGE}, 422, "name at least one phrase"),
    ({"files": IMAGE, "data": {"phrases": list("abcdef")}}, 422, "has 6 phrases, the limit is 5"),
    ({"files": IMAGE, "data": {**STAR, "task": "driving"}}, 422, "no decoder for task 'driving'; this model has ["),
    ({"files": IMAGE, "data": {**STAR, "task": ["vqa", "caption"]}}, 422, "task: Input should be a valid string"),
    ({"files": IMAGE, "data": {**STAR, "threshold": "high"}}, 422, "threshold: Input should be a valid number"),
    ({"files": IMAGE, "data": {**STAR, "threshold": "nan"}}, 422, "must be a finite number"),
    ({"files": IMAGE, "data": {**STAR, "colour": "red"}}, 422, "colour: Extra inputs are not permitted, got 'red'"),
    ({"files": IMAGE, "data": {**STAR, "task": "pose"}}, 422, "pose needs one category and its keypoints"),
    ({"files": IMAGE, "data": {"phrases": " "}}, 422, "empty"),
    ({"files": IMAGE, "data": {**STAR, "task": "vqa", "heatmaps": "true"}}, 422, "has no heatmap"),
    ({"json": {"image": "%%%", **STAR}}, 400, "cannot be read as base64"),
    ({"json": {"image": 3, **STAR}}, 400, "is a text in base64, got a int"),
    ({"json": ["image"]}, 422, "must be a JSON object, got a list"),
    ({"json": {"image": CODED, "phrases": "star"}}, 422, "phrases: Input should be a valid list"),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "cannot be read as JSON"),
    ({"content": b"[" * 9999, "headers": {"content-type": "application/json"}}, 422, "cannot be read as JSON"),
    ({"content": b"x", "headers": {"content-type": "image/png"}}, 422, "got the content type 'image/png'"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "the form cannot be read"),
]


@pytest.mark.parametrize(("sent", "status", "words"), FORMS, ids=[words[:30] for _, _, words in FORMS])
def test_a_wrong_question_is_answered_and_the_server_goes_on(served, sent, status, words):
    answer = served[1].post("/predict", **sent)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert served[1].get("/healthz").status_code == 200


def post(client, seed=0, **fields):
    return client.post("/predict", files={"image": png_of(seed=seed)}, data={**STAR, "threshold": "0", **fields})


def wait_until(is_true):
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_slow_client_is_told_and_holds_nobody_up(served):
    with socket.create_connection((served[1].base_url.host, served[1].base_url.port)) as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        assert post(served[1]).status_code == 200
        slow.settimeout(30)
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408") and b"1 bytes of the request came in 1 s, which is the limit" in answer


def test_an_oversized_upload_is_read_to_its_end_so_that_the_client_gets_the_answer(served):
    answer = served[1].post("/predict", content=b"x" * 20_000_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "20000000 bytes, the limit is 200000" in answer.json()["error"]


def test_a_question_whose_client_left_is_not_computed(predictor, served):
    service, client = served
    computed = service.metrics.batches._sum.get
    with predictor._shared._lock, ThreadPoolExecutor(1) as pool:  # the model is busy
        before = computed()
        first = pool.submit(post, client, 31)
        wait_until(lambda: computed() == before + 1)
        body = f'{{"image": "{CODED}", "phrases": ["star"]}}'.encode()
        head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n"
        left = service.metrics.gone._value.get()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as leaving:
            leaving.sendall(head.encode() + body)
            wait_until(lambda: len(service.queue) == 1)
        wait_until(lambda: service.metrics.gone._value.get() == left + 1)
        predictor._shared._lock.release()
        try:
            assert first.result(30).status_code == 200
        finally:
            predictor._shared._lock.acquire()
    assert post(client, 32).status_code == 200 and computed() == before + 2


def test_a_fault_of_the_model_is_answered_to_its_question_alone(predictor, served, monkeypatch, caplog):
    ask = predictor.ask_together

    def fail(images, asked):
        if any(phrases == ("fault",) for phrases, _, _ in asked):
            raise RuntimeError("out of memory")
        return ask(images, asked)

    monkeypatch.setattr(predictor, "ask_together", fail)
    with ThreadPoolExecutor(4) as pool:
        with predictor._shared._lock:
            before = served[0].metrics.batches._sum.get()
            calls = [pool.submit(post, served[1], 50, phrases="star")]
            wait_until(lambda: served[0].metrics.batches._sum.get() == before + 1)
            calls += [
                pool.submit(post, served[1], 51 + place, phrases=word) for place, word in enumerate(("fault", "ring"))
            ]
            wait_until(lambda: len(served[0].queue) == 2)
        assert [call.result(60).status_code for call in calls] == [200, 500, 200]
    assert "its log tells why" in calls[1].result().json()["error"]


def test_overload_is_answered_503_and_what_waits_is_answered(predictor):
    limits = replace(Limits(), queue=2, batch=2)
    with running(predictor, limits) as (server, client), ThreadPoolExecutor(8) as pool:
        queue = server.config.app.state.service.queue
        with predictor._shared._lock:
            calls = [pool.submit(post, client, 70)]
            wait_until(lambda: server.config.app.state.service.metrics.batches._sum.get() == 1)
            calls += [pool.submit(post, client, 71 + place) for place in range(2)]
            wait_until(lambda: len(queue) == 2)
            refused = post(client, 73)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert (
            "2 questions wait already" in refused.json()["error"] and "the limits are 2 and" in refused.json()["error"]
        )
        assert [call.result(60).status_code for call in calls] == [200, 200, 200]
        assert post(client, 73).status_code == 200


def test_a_server_that_stops_answers_what_waits(predictor):
    with ThreadPoolExecutor(4) as pool, predictor._shared._lock, running(predictor) as (server, client):
        queue = server.config.app.state.service.queue
        calls = [pool.submit(post, client, 80)]
        wait_until(lambda: server.config.app.state.service.metrics.batches._sum.get() == 1)
        calls += [pool.submit(post, client, 81 + place) for place in range(3)]
        wait_until(lambda: len(queue) == 3)
        server.should_exit = True
        time.sleep(0.2)
        predictor._shared._lock.release()
        try:
            assert [call.result(60).status_code for call in calls] == [200] * 4
        finally:
            predictor._shared._lock.acquire()


def test_a_port_that_is_taken_is_named():
    with open_port("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken: choose another one with --port"):
            open_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen at port 8000 of 'no-such-host\.invalid'"):
        open_port("no-such-host.invalid", 8000)
    with pytest.raises(ConfigError, match="cannot listen"):
        open_port(os.fsdecode(b"\xff"), 8000)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match="the limit queue must be at least 1, got 0"):
        Limits(queue=0)
