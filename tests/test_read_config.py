import sys

import pytest

from lumen.config import read_config
from lumen.errors import ConfigError


def test_a_config_finds_modules_beside_it_and_in_the_roots(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "far_plugin_of_test.py").write_text("class Far: pass\n")
    (tmp_path / "near_plugin_of_test.py").write_text("class Near: pass\n")
    text = (
        "from far_plugin_of_test import Far\nfrom near_plugin_of_test import Near\nmodel = dict(type=Far, other=Near)\n"
    )
    (tmp_path / "config.py").write_text(text)
    config = read_config(tmp_path / "config.py", import_roots=[tmp_path / "root"])
    assert (config.model["type"].__name__, config.model["other"].__name__) == ("Far", "Near")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.yaml", "model: 1", "a config is a Python file"),
        ("a.py", "model = (", "never closed"),
        ("a.py", "_base_ = ['x.py']", "read_base"),
        ("a.py", "model = undefined", "not defined"),
        ("a.py", "with read_base():\n    from configs._base_.nano import *", "copy configs/_base_ beside it"),
    ],
)
def test_what_is_no_pure_python_config_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_config(tmp_path / name)


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no config"):
        read_config(tmp_path / "gone.py")
