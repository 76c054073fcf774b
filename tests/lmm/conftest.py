"""Adapters of tiny models of the families, and copies of these models with another config."""

import json
import shutil

import pytest
from helpers import adapter_options

from lumen.lmm.adapter import HFAdapter


@pytest.fixture(scope="module")
def load(repositories):
    """Return a function that loads a family's tiny model, once for the same options."""
    loaded = {}

    def get(name, **options):
        key = (name, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = HFAdapter(repositories(name), **adapter_options(**options)).eval()
        return loaded[key]

    return get


@pytest.fixture
def spoiled(repositories, tmp_path):
    """Return a function that copies a tiny model with other fields in its config.json."""

    def get(name, **fields):
        shutil.copytree(repositories(name), tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | fields))
        return str(tmp_path)

    return get
