"""The page in headless Chromium."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from serving_cases import png_of, running

NEEDS = "needs chromium: pip install PyQt6-WebEngine, which brings it as a wheel"


@pytest.mark.chromium
@pytest.mark.skipif(find_spec("PyQt6") is None or find_spec("PyQt6.QtWebEngineWidgets") is None, reason=NEEDS)
def test_a_person_finds_phrases_and_asks_in_words(predictor, tmp_path):
    (tmp_path / "photo.png").write_bytes(png_of())
    with running(predictor) as (_, client):
        command = [sys.executable, str(Path(__file__).with_name("browse.py"))]
        done = subprocess.run(
            [*command, str(client.base_url), str(tmp_path / "photo.png"), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        wanted = client.post(
            "/predict", files={"image": png_of()}, data={"phrases": ["star", "circle"], "threshold": "0"}
        ).json()
    seen = json.loads(done.stdout)
    assert seen["without a picture"] == "choose a picture first" and seen["error"] == "" and seen["complaints"] == []
    assert seen["first"].endswith("picture encoded") and seen["again"].endswith("picture known already")
    assert seen["found"] == [["star", str(wanted["found"][0])], ["circle", str(wanted["found"][1])]]
    pictures = [seen[name] for name in ("bare", "boxes", "heatmaps", "one phrase")]
    assert len(set(pictures)) == 4 and all(
        size.startswith("480x360") or size.startswith("640x480") for size in pictures
    )
    assert [row[0] for row in seen["segmentation"]] == [row[0] for row in seen["counting"]] == ["star", "circle"]
    assert all(float(row[1]) >= 0 for row in seen["counting"])
    assert len(seen["words"]) == 2 and seen["words"][0] == "what is it?"
    assert len(seen["hosts"]) == 1 and seen["hosts"][0].startswith("127.0.0.1")
