"""Tiny models of the families, saved once. This file puts its folder on the path, so that tests import ``zoo``."""

import json
import shutil

import pytest
from helpers import adapter_options
from zoo import save

from lumen.lmm.adapter import HFAdapter


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return a function that saves a family's tiny model once and gives its folder."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="module")
def load(folder):
    """Return a function that loads a family's tiny model, once for the same options."""
    loaded = {}

    def get(name, **options):
        key = (name, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = HFAdapter(folder(name), **adapter_options(**options)).eval()
        return loaded[key]

    return get


@pytest.fixture
def spoiled(folder, tmp_path):
    """Return a function that copies a tiny model with other fields in its config.json."""

    def get(name, **fields):
        shutil.copytree(folder(name), tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | fields))
        return str(tmp_path)

    return get
