"""What a shell completes: the protocol between typer and the shells, and bash itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lumen import cli
from lumen.inference.labelling.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
LUMEN = f"""#!{sys.executable}
import sys
sys.argv[0] = "lumen"
from lumen.cli import main
main()
"""


@pytest.fixture
def completed(monkeypatch, capsys):
    """Return a function that gives the words that bash is offered for the last one of a line."""

    def complete(line):
        words = line.split(" ")
        monkeypatch.setenv("_LUMEN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setattr(sys, "argv", ["lumen"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out.split()

    return complete


def test_commands_options_and_values_are_completed(completed):
    group = typer.main.get_command(cli.app)
    assert completed("lumen ") == list(group.commands)
    assert completed("lumen pre") == ["predict"]
    options = {name for option in group.commands["predict"].params for name in option.opts if name.startswith("--")}
    offered = completed("lumen predict photo.jpg --")
    assert options <= set(offered)
    assert completed("lumen predict photo.jpg --thr") == ["--threshold"]
    assert completed("lumen predict photo.jpg --task seg") == ["segmentation"]
    assert completed("lumen label photos star --format ") == list(FORMATS)
    assert completed("lumen predict ") == [], "the shell then offers files"


def test_zsh_is_offered_commands_with_what_they_do(monkeypatch, capsys):
    monkeypatch.setenv("_LUMEN_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "lumen che")
    monkeypatch.setattr(sys, "argv", ["lumen"])
    with pytest.raises(SystemExit):
        cli.main()
    offered = capsys.readouterr().out
    assert '"check-data":"List everything that is wrong' in offered and '"check-decoder":' in offered
    assert "predict" not in offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_after_installation(tmp_path):
    (tmp_path / "lumen").write_text(LUMEN)
    (tmp_path / "lumen").chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }

    def bash(script):
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "bash completion installed" in bash("lumen --install-completion bash")
    line = "COMP_WORDS=(lumen check-); COMP_CWORD=1; _lumen_completion lumen; echo ${COMPREPLY[@]}"
    assert bash(f"source {tmp_path}/.bashrc; {line}") == "check-data check-decoder\n"
