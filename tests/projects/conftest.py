import sys
from pathlib import Path

import pytest

LMAN = Path(__file__).parents[2] / "projects/lman"


@pytest.fixture(scope="session")
def tiny_persons(tmp_path_factory):
    """Return the folder of a person world of few pictures."""
    from lman_world.write import make_persons

    sizes = {
        "scenes": {"train": 4, "val": 2, "test": 2},
        "crowds": {"train": 2, "val": 2, "test": 2},
        "portraits": {"train": 12, "val": 2, "test": 4},
        "identities": {"train": 2, "test": 2},
    }
    out = tmp_path_factory.mktemp("persons") / "persons"
    assert make_persons(out, sizes=sizes, workers=1)
    return out


if str(LMAN) not in sys.path:
    sys.path.append(str(LMAN))  # as the tools do for the folder of a config
