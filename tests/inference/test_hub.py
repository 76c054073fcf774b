"""Models and decoders on a hub, through huggingface_hub's own client; the hub is a server on this machine."""

import json
from pathlib import Path

import pytest
import transformers.utils.hub
from huggingface_hub import constants
from local_hub import READ_ONLY, TOKEN, local_hub
from test_pretrained import IMAGE, MASKS, PHRASES, VIEWS, ask, build, check_equal, config_of, edit

from lumen import LumenPredictor, push_to_hub
from lumen.errors import CheckpointError, ConfigError
from lumen.inference.pretrained import decoder_config, from_pretrained, load_decoder, save_decoder, save_pretrained
from lumen.inference.sources import ExportedModel, find_model
from lumen.paths import is_hub_id

# The client itself uses a deprecated argument of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CARD = {"figures": {"coco/bbox_mAP": 0.51234}, "dataset": "val.json"}


@pytest.fixture(scope="module")
def trained(tiny_nano, tmp_path_factory):
    """Return a model, its folder with a copy of its base model, and the folder of its mask decoder."""
    config, folder = config_of(tiny_nano, MASKS), tmp_path_factory.mktemp("exported")
    model = build(config)
    model.lmm.requires_grad_(False)
    about = {"classes": ["star", "ring"], "card": CARD, "license_id": "apache-2.0", "copy_base": True}
    save_pretrained(model, folder / "model", config=config, views=VIEWS, **about)
    save_decoder(model, "segmentation", folder / "masks", config=decoder_config(config, "segmentation"))
    return model, folder / "model", folder / "masks"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a hub that this process talks to, with an empty cache and a token that may write."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    with local_hub() as hub:
        point_to(hub.url, monkeypatch)
        yield hub


def point_to(url, monkeypatch):
    """Do what HF_ENDPOINT does when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    # transformers keeps the first client that it made, with the address of its time.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)


def test_a_model_answers_alike_from_the_hub(trained, hub):
    model, folder, _ = trained
    address = push_to_hub(folder, "org/name")
    assert address.startswith(f"{hub.url}/org/name/commit/")
    assert hub.files("org/name").keys() == {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    predictor = LumenPredictor.from_pretrained("org/name", device="cpu")
    assert predictor.classes == ("star", "ring")
    predictor.set_image(IMAGE)
    assert len(predictor.predict(PHRASES, score_threshold=0.0)) > 0
    for task in ("detection", "segmentation"):
        check_equal(ask(model, task), ask(from_pretrained("org/name").model, task))


def test_a_decoder_comes_from_the_hub(trained, hub):
    model, folder, masks = trained
    push_to_hub(masks, "org/masks", private=True)
    assert hub.repositories["org/masks"]["private"]
    other = build(config_of(folder / "base"), seed=1)
    other.load_state_dict(model.state_dict(), strict=False)
    assert load_decoder(other, "org/masks") == "segmentation"
    check_equal(ask(model, "segmentation"), ask(other, "segmentation"))


def test_the_card_says_how_to_load_and_under_which_licence(trained, hub):
    _, folder, masks = trained
    push_to_hub(folder, "org/name")
    card = hub.files("org/name")["README.md"].decode()
    assert card.startswith("---\nlibrary_name: lumen-perception\nlicense: apache-2.0\ntags:\n- lumen\n- detection\n")
    assert 'LumenPredictor.from_pretrained("org/name")' in card and "FOLDER" not in card
    assert "| coco/bbox_mAP | 0.5123 |" in card and "by default: star, ring." in card
    assert "A copy of its base model is in `base`" in card
    push_to_hub(masks, "org/masks")
    card = hub.files("org/masks")["README.md"].decode()
    assert "license:" not in card and "No licence was named" in card
    assert 'load_decoder(predictor.model, "org/masks")' in card


def test_a_second_upload_is_a_second_commit(trained, hub):
    _, folder, _ = trained
    first, second = push_to_hub(folder, "org/name"), push_to_hub(folder, "org/name", message="again")
    assert first != second
    commit = first.rpartition("/")[2]
    assert list(from_pretrained("org/name", revision=commit).model.decoders) == ["detection", "segmentation"]
    with pytest.raises(CheckpointError, match="has no such revision"):
        from_pretrained("org/name", revision="v2")


def test_nothing_but_the_files_of_an_export_is_sent_or_fetched(trained, hub, tmp_path):
    _, folder, _ = trained
    push_to_hub(folder, "org/name")
    files = hub.files("org/name")
    hub.add("org/more", {**files, "modeling.py": b"raise SystemExit", "base/modeling.py": b"", "base/w.bin": b"\x80."})
    from_pretrained("org/more")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".py", ".bin")]
    assert not [line for line in hub.requests if line.endswith((".py", ".bin"))]


def test_code_that_a_base_names_is_not_run(trained, hub):
    _, folder, _ = trained
    push_to_hub(folder, "org/name")
    files = dict(hub.files("org/name"))
    settings = json.loads(files["base/config.json"])
    named = {**settings, "auto_map": {"AutoConfig": "evil/repo--modeling.Config"}}
    hub.add("org/evil", {**files, "base/config.json": json.dumps(named).encode()})
    assert list(from_pretrained("org/evil").model.decoders) == ["detection", "segmentation"]
    hub.add("org/stranger", {**files, "base/config.json": json.dumps({**named, "model_type": "evil"}).encode()})
    with pytest.raises(ConfigError, match="Code from a model repository is never run"):
        from_pretrained("org/stranger")
    assert not [line for line in hub.requests if "evil/repo" in line]


def test_a_base_that_only_the_repository_names_is_not_fetched(trained, hub):
    _, folder, _ = trained
    push_to_hub(folder, "org/name")
    files = dict(hub.files("org/name"))
    base = {name.removeprefix("base/"): content for name, content in files.items() if name.startswith("base/")}
    hub.add("org/base", base)
    content = json.loads(files["model.json"])
    content["model"]["lmm"]["name_or_path"] = "org/base"
    hub.add("org/small", {"model.json": json.dumps(content).encode(), "model.safetensors": files["model.safetensors"]})
    with pytest.raises(CheckpointError, match=r"a folder alone never causes a download.*base_model='org/base'"):
        from_pretrained("org/small")
    assert not [line for line in hub.requests if "org/base" in line]
    assert list(from_pretrained("org/small", base_model="org/base").model.decoders) == ["detection", "segmentation"]


def test_what_was_fetched_opens_without_the_hub(trained, hub, monkeypatch):
    _, folder, _ = trained
    push_to_hub(folder, "org/name")
    from_pretrained("org/name")
    point_to("http://127.0.0.1:9", monkeypatch)
    assert list(from_pretrained("org/name").model.decoders) == ["detection", "segmentation"]
    with pytest.raises(CheckpointError, match=r"'org/other' is not a folder here.*127.0.0.1:9 cannot be reached"):
        from_pretrained("org/other")
    with pytest.raises(CheckpointError, match=r"cannot be uploaded to 'org/name' \(ConnectError"):
        push_to_hub(folder, "org/name")


def test_what_may_not_be_read_is_named(trained, hub, monkeypatch):
    _, folder, _ = trained
    push_to_hub(folder, "org/hidden", private=True)
    hub.add("org/gated", {"model.json": b"{}"}, gated=True)
    with pytest.raises(CheckpointError, match="no such repository, or a private one"):
        from_pretrained("org/nothing")
    with pytest.raises(CheckpointError, match="only those who have asked"):
        from_pretrained("org/gated")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=r"'org/hidden'.*if it is private, log in by `hf auth login`"):
        from_pretrained("org/hidden")
    hub.add("org/empty", {"README.md": b"nothing here"})
    with pytest.raises(CheckpointError, match=r"holds no model: \['model.json', 'model.safetensors'\] are missing"):
        from_pretrained("org/empty")


def test_what_may_not_be_written_is_named(trained, hub, monkeypatch):
    _, folder, _ = trained
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    with pytest.raises(CheckpointError, match="take one with write access"):
        push_to_hub(folder, "org/name")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match="there is no token; log in by `hf auth login`, or set HF_TOKEN"):
        push_to_hub(folder, "org/name")
    assert "org/name" not in hub.repositories


def test_a_folder_that_nobody_else_could_open_is_not_sent(trained, hub, tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    save_pretrained(build(config), tmp_path / "out", config=config, views=VIEWS)
    assert f"Its base model, `{tiny_nano}`, is not in this folder." in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"a folder of this machine: export the model with a copy"):
        push_to_hub(tmp_path / "out", "org/name")
    with pytest.raises(ConfigError, match="named as org/name, got 'name'"):
        push_to_hub(tmp_path / "out", "name")
    with pytest.raises(CheckpointError, match="holds no model"):
        push_to_hub(tmp_path, "org/name")
    edit(tmp_path / "out" / "model.json", lambda content: content["model"]["lmm"].update(name_or_path="nano"))
    push_to_hub(tmp_path / "out", "org/name")
    assert list(hub.repositories) == ["org/name"]
    (tmp_path / "out" / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be uploaded .*export it again, with its README\.md"):
        push_to_hub(tmp_path / "out", "org/name")


def test_a_base_that_is_no_folder_of_safetensors_is_not_copied(tiny_nano, tmp_path):
    config = config_of(tiny_nano)
    model = build(config)
    named = {**config, "lmm": {**config["lmm"], "name_or_path": "org/base"}}
    with pytest.raises(ConfigError, match="org/base cannot be copied"):
        save_pretrained(model, tmp_path / "out", config=named, views=VIEWS, copy_base=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"as the hub spells it, such as apache-2\.0, got 'Apache 2'"):
        save_pretrained(model, tmp_path / "out", config=config, views=VIEWS, license_id="Apache 2")
    save_pretrained(model, tmp_path / "hub", config=named, views=VIEWS)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "\nbase_model: org/base\n" in card and 'from_pretrained("FOLDER", base_model="org/base")' in card


def test_a_revision_belongs_to_a_repository(trained):
    with pytest.raises(ConfigError, match="belongs to a repository of the hub"):
        from_pretrained(trained[1], revision="main")


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("org/name", True),
        ("Org-1/n_a.me-2", True),
        ("name", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("./base", False),
        ("../up", False),
        ("here/name", False),
        ("org/name\n", False),
        ("", False),
    ],
)
def test_what_is_taken_for_an_id_of_the_hub(name, is_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_id(name) == is_id


def test_the_command_line_takes_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model(Path("org/name"), None, None, "org/base") == ExportedModel(Path("org/name"), "org/base")
