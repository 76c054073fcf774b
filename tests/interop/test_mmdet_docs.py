"""What docs/mmdet.md shows, on small files: each snippet runs, and a config of mmdet trains as it is."""

import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from mmdet_layouts import annotation, coco, make_voc, picture, write
from mmdet_tiny import make_tiny_detector
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pages import ROOT, command_lines, run, snippets

from lumen.aligners.dense import DenseAligner
from lumen.decoders.pose import PoseDecoder
from lumen.errors import ConfigError
from lumen.inference.predictor import LumenPredictor
from lumen.interop.mmdet.library import read_part
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen

mmdet = pytest.importorskip("mmdet")
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning", "ignore:torch.meshgrid")

PAGE = (ROOT / "docs" / "mmdet.md").read_text(encoding="utf-8")
SMALL = ("train_cfg.max_iters=2", "train_dataloader.batch_size=2", "model.input_hw=[64,64]")
WORKERS = (
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_voc(tmp_path / "data/VOCdevkit")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_config_of_mmdet_trains_and_is_judged_as_it_is(here, tiny_nano, monkeypatch):
    shutil.copytree(ROOT / "configs", here / "configs")
    # The file that mmdet ships for VOC, to the letter: wrappers, transforms, samplers and metric of mmdet.
    shipped = ROOT / mmdet.__path__[0] / ".mim/configs/_base_/datasets/voc0712.py"
    shutil.copy(shipped, here / "my_mmdet_config.py")
    (here / "configs/detection/mine_mmdet.py").write_text(snippets(PAGE, "python")[0])
    train, test = (shlex.split(line) for line in command_lines(snippets(PAGE, "bash")[0]))
    overrides = ["--cfg-options", *SMALL, *WORKERS, f"model.lmm.name_or_path={tiny_nano}"]
    # Two runs of one second and one process would share their name.
    assert run([*train, *overrides, "experiment_name=train"], monkeypatch) == 0
    asked = [*test, "--out", "figures.json", *overrides[:1], *overrides[3:], "experiment_name=test"]
    assert run(asked, monkeypatch) == 0
    figures = json.loads((here / "figures.json").read_text())
    assert set(figures) == {"pascal_voc/mAP", "pascal_voc/AP50"} and 0 <= figures["pascal_voc/mAP"] <= 1
    assert DefaultScope.get_current_instance().scope_name == "lumen"  # that of the run
    card = json.loads((here / "work_dirs/mine_mmdet/protocol_test.json").read_text())
    assert card["prompts_per_image"] == 20 and "VOCMetric" in str(card["metrics"])


@pytest.fixture
def pose_predictor(tiny_nano):
    torch.manual_seed(0)
    adapter = HFAdapter(str(tiny_nano), base={"attention": "eager"})
    aligner = {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64}
    return LumenPredictor(Lumen(adapter, aligner, [{"type": PoseDecoder}]), input_hw=(64, 64))


def test_the_snippets_run(here, pose_predictor, monkeypatch, capsys):
    make_tiny_detector(here)
    picture(here / "data/coco/val2017/1.jpg")
    picture(here / "photos/1.jpg")
    person = annotation(1, 1, 1, [4, 6, 20, 24], keypoints=[8, 9, 2], num_keypoints=1)
    write(here / "data/coco/annotations/person_keypoints_val2017.json", coco(("person",), [person], ("1.jpg",)))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pose_predictor.set_image(image)
    answers = InstanceData(
        bboxes=torch.tensor([[4.0, 6, 24, 30]]), labels=torch.tensor([11]), scores=torch.tensor([0.9])
    )
    names = {"image": image, "predictor": pose_predictor, "answers": answers}
    for block in snippets(PAGE, "python")[1:]:
        exec(compile(block, "docs/mmdet.md", "exec"), names)
    assert "'pascal_voc/mAP': 1.0" in capsys.readouterr().out
    assert names["ours"].metainfo["classes"] == names["data"].metainfo["classes"]
    assert (here / "answers.png").is_file() and (here / "people.json").is_file()
    assert len(names["poses"]) == len(names["people"])
    (label,) = (shlex.split(line) for line in command_lines(snippets(PAGE, "bash")[1]))
    assert run([*label, "--device", "cpu"], monkeypatch) == 0
    assert (here / "labels/coco.json").is_file()


def test_a_config_without_the_part_is_named(here):
    (here / "part.py").write_text("model = dict()\n")
    with pytest.raises(ConfigError, match=r"part\.py has no 'train_dataloader'"):
        read_part("part.py", "train_dataloader")
    with pytest.raises(ConfigError, match="cannot be read as a config of mmdet"):
        read_part("mmdet::none.py", "train_dataloader")
