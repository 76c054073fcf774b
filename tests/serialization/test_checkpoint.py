import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from lumen.errors import CheckpointError
from lumen.serialization.checkpoint import (
    POINTER,
    find_checkpoint,
    load_checkpoint,
    load_trained_state,
    named_checkpoint,
    plain,
    save_checkpoint,
    trained_state,
    write_pointer,
)


class _Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _checkpoint(model, **meta):
    state = trained_state(model)
    absent = sorted(model.state_dict().keys() - state.keys())
    return {"state_dict": state, "meta": {"iter": 3, "model": {"base": "tiny"}, "absent": absent, **meta}}


def _model():
    model = nn.ModuleDict({"base": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    model["base"].requires_grad_(False)
    return model


def test_a_saved_checkpoint_loads_as_it_was(tmp_path):
    checkpoint = _checkpoint(_model(), numbers=[1, 2.5, None, True, "text"])
    save_checkpoint(tmp_path / "a.pth", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert loaded["meta"] == checkpoint["meta"]
    assert torch.equal(loaded["state_dict"]["head.weight"], checkpoint["state_dict"]["head.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]


@pytest.mark.parametrize("value", [(1, 2), {1}, np.float32(1), nn.Parameter(torch.zeros(1)), print, b"raw"])
def test_an_object_is_refused_and_its_place_named(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"checkpoint\.meta\.list\.1 is a "):
        save_checkpoint(tmp_path / "a.pth", {"meta": {"list": [0, value]}})
    assert not (tmp_path / "a.pth").exists()


def test_plain_turns_what_is_nearly_data_into_data(tmp_path):
    value = {"tuple": (1, np.float32(2)), "array": np.arange(3), "weight": nn.Parameter(torch.ones(2))}
    result = plain(value)
    assert result["tuple"] == [1, 2.0]
    assert type(result["weight"]) is torch.Tensor
    save_checkpoint(tmp_path / "a.pth", result)


def test_plain_does_not_keep_the_storage_behind_a_view():
    assert plain(torch.zeros(1000)[:2]).untyped_storage().nbytes() == 8


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_never_runs(tmp_path, zipped):
    canary, path = tmp_path / "canary", tmp_path / "bad.pth"
    content = {"state_dict": {}, "meta": {"trap": _Canary(canary)}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="not written by Lumen"):
        load_checkpoint(path)
    assert not canary.exists()


def test_a_truncated_checkpoint_is_named_as_such(tmp_path):
    save_checkpoint(tmp_path / "a.pth", _checkpoint(_model()))
    content = (tmp_path / "a.pth").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "a.pth").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="not a whole checkpoint"):
            load_checkpoint(tmp_path / "a.pth")


def test_a_flipped_byte_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"state_dict": {"w": torch.full((100,), 1.5)}, "meta": {}})
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((100,), 1.5).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="differs from its check sum"):
        load_checkpoint(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(CheckpointError, match="cannot be loaded as data"):
        load_checkpoint(tmp_path / "a.pth")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="lacks 'state_dict' or 'meta'"):
        load_checkpoint(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "c.pth")


def test_the_pointer_decides_and_without_it_the_highest_number(tmp_path):
    assert find_checkpoint(tmp_path) is None
    for name in ("iter_9.pth", "iter_10.pth", "best.pth"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path).name == "iter_10.pth"
    write_pointer(tmp_path / "iter_9.pth")
    assert find_checkpoint(tmp_path).name == "iter_9.pth"
    (tmp_path / POINTER).write_text("iter_8.pth")
    with pytest.raises(CheckpointError, match=r"names 'iter_8\.pth', which is gone.*iter_10\.pth, iter_9\.pth"):
        find_checkpoint(tmp_path)


def test_a_user_names_a_file_or_the_folder_of_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint: train first"):
        named_checkpoint(tmp_path)
    (tmp_path / "iter_9.pth").touch()
    assert named_checkpoint(tmp_path) == named_checkpoint(tmp_path / "iter_9.pth") == tmp_path / "iter_9.pth"


def test_a_pointer_cannot_lead_out_of_its_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "iter_1.pth").touch()
    (tmp_path / "run" / POINTER).write_text("../iter_1.pth")
    with pytest.raises(CheckpointError, match="gone"):
        find_checkpoint(tmp_path / "run")


def test_only_what_was_trained_is_kept_and_the_rest_stays_the_base():
    source, target = _model(), _model()
    checkpoint = _checkpoint(source)
    assert set(checkpoint["state_dict"]) == {"head.weight", "head.bias"}
    base = target["base"].weight.clone()
    loaded = load_trained_state(target, checkpoint)
    assert loaded == {"head.weight", "head.bias"}
    assert torch.equal(target["head"].weight, source["head"].weight)
    assert torch.equal(target["base"].weight, base)


def test_numbers_that_are_not_finite_are_refused_unless_the_model_itself_has_them():
    checkpoint = _checkpoint(_model())
    checkpoint["state_dict"]["mask"] = torch.tensor([0.0, -torch.inf])
    target = _model()
    target.register_buffer("mask", torch.tensor([-torch.inf, -torch.inf]))
    load_trained_state(target, checkpoint)
    checkpoint["state_dict"]["head.bias"] = torch.full_like(checkpoint["state_dict"]["head.bias"], torch.nan)
    with pytest.raises(CheckpointError, match=r"not finite: head\.bias\."):
        load_trained_state(target, checkpoint)
    assert target["head"].bias.isfinite().all()


def test_what_an_earlier_stage_trained_is_kept_although_it_is_frozen_now():
    assert "base.bias" in trained_state(_model(), also={"base.bias"})


def test_a_tied_parameter_is_kept_under_both_names():
    model = _model()
    model.tied = model["head"].weight
    assert {"head.weight", "tied"} <= trained_state(model).keys()


def test_missing_unexpected_and_misshapen_names_are_told_with_the_recorded_model():
    checkpoint = _checkpoint(_model())
    del checkpoint["state_dict"]["head.bias"]
    checkpoint["state_dict"]["neck.weight"] = torch.zeros(1)
    checkpoint["state_dict"]["head.weight"] = torch.zeros(1, 3)
    message = (
        r"missing: head\.bias; unexpected: neck\.weight; other shape: head\.weight \[1, 3\] against \[1, 2\] here.*"
        r"iteration 3 of: base tiny"
    )
    with pytest.raises(CheckpointError, match=message):
        load_trained_state(_model(), checkpoint)


def test_a_new_stage_may_start_parts_afresh():
    checkpoint = _checkpoint(_model())
    checkpoint["state_dict"] = {"neck.weight": torch.zeros(1)}
    assert load_trained_state(_model(), checkpoint, fresh=("head.*", "neck.*")) == set()
