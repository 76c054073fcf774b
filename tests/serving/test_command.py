"""The command, and the page of the documentation about it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest
import typer
from serving_cases import png_of

from lumen.cli import app
from lumen.errors import ConfigError
from lumen.serving.server import require_packages

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_snippet_of_the_page_runs(served, tmp_path, monkeypatch, capsys):
    (tmp_path / "photo.jpg").write_bytes(png_of(seed=3))
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[1]
    names = {}
    exec(code.replace("http://127.0.0.1:8000", str(served[1].base_url)).replace("0.4", "0"), names)
    assert capsys.readouterr().out.count("\n") == len(names["answer"]["labels"]) > 0


def test_options_that_the_page_shows_exist():
    command = typer.main.get_command(app).commands["serve"]
    known = {name for option in command.params for name in option.opts}
    shown = set(re.findall(r"--[a-z][a-z-]+", re.sub(r"python tools/\S+[^`]*", "", PAGE)))
    assert shown and shown <= known


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"needs the extra 'serve', of which uvicorn is missing: pip install 'lumen"):
        require_packages()


@pytest.mark.slow
def test_the_command_serves_the_packaged_nano_until_sigterm(tmp_path):
    command = [sys.executable, "-m", "lumen.cli", "serve", "--lmm", "nano", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        url = next(line for line in process.stdout if line.startswith("serving at")).split()[-1]
        fields = {"phrases": "star", "task": "written_boxes"}
        answer = httpx.post(f"{url}/predict", files={"image": png_of(160, 160)}, data=fields, timeout=120)
        assert answer.status_code == 200 and answer.json()["task"] == "written_boxes"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
