import numpy as np
import pytest
import torch
from helpers import make_images, make_sample
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.visualization import LocalVisBackend, Visualizer
from PIL import Image
from torch.utils.data import Dataset
from toy import make_runner

from lumen.aligners.dense import DenseAligner
from lumen.decoders.detection import DetectionDecoder
from lumen.engine.hooks.visual import ShowHook, VisualHook, draw_samples, undisturbed
from lumen.engine.optim import LumenOptimWrapper
from lumen.errors import ConfigError
from lumen.lmm.adapter import HFAdapter
from lumen.model import Lumen


class Boxes(Dataset):
    """Three images of noise with one box each; which box depends on NumPy's generator."""

    metainfo = {"classes": ("cat", "dog")}  # noqa: RUF012

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index):
        left = np.random.randint(40)
        sample = make_sample(["cat", "dog"], [[left, 8, left + 30, 60]], [0])
        sample.set_metainfo({"img_id": index})
        return {"inputs": make_images(1, seed=index)[0], "data_samples": sample}


class Nothing(BaseMetric):
    """Counts answers."""

    def process(self, data_batch, data_samples):
        """Keep nothing but the number."""
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        """Count."""
        return {"answers": float(sum(results))}


class Losses(Hook):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Keep it."""
        self.values.append(float(outputs["loss"]))


def model_config(nano):
    """Return the config of a tiny model that finds boxes."""
    return {
        "type": Lumen,
        "lmm": {"type": HFAdapter, "name_or_path": str(nano), "base": {"attention": "eager"}},
        "aligner": {"type": DenseAligner, "channels": 32, "num_heads": 4, "mlp_channels": 64, "fine_levels": 1},
        "decoders": [{"type": DetectionDecoder}],
    }


def train(folder, nano, *hooks):
    """Train three steps; return the losses and torch's generator."""
    losses = Losses()
    loader = {"dataset": {"type": Boxes}, "batch_size": 2, "num_workers": 0}
    runner = make_runner(
        folder,
        max_iters=3,
        model=model_config(nano),
        train_dataloader={**loader, "sampler": {"type": InfiniteSampler}},
        val_dataloader={**loader, "sampler": {"type": DefaultSampler, "shuffle": False}},
        val_cfg={},
        val_evaluator=[{"type": Nothing}],
        optim_wrapper={"type": LumenOptimWrapper, "optimizer": {"type": torch.optim.SGD, "lr": 0.01}},
        param_scheduler=None,
        custom_hooks=[losses, *hooks],
        visualizer={"type": Visualizer, "vis_backends": [{"type": LocalVisBackend}]},
    )
    runner.train()
    return losses.values, torch.get_rng_state()


def test_training_is_bit_equal_with_and_without_the_hook(tiny_nano, tmp_path):
    plain, plain_rng = train(tmp_path / "plain", tiny_nano)
    watched, watched_rng = train(tmp_path / "watched", tiny_nano, VisualHook(1, num_samples=2))
    assert plain == watched and len(set(plain)) == 3
    assert torch.equal(plain_rng, watched_rng)
    names = sorted(path.name for path in (tmp_path / "watched" / "visuals").iterdir())
    assert names == ["iter_1.png", "iter_2.png", "iter_3.png"]
    assert len(list((tmp_path / "watched").rglob("answers_*.png"))) == 3, "the backend of the visualizer"
    sheet = np.asarray(Image.open(tmp_path / "watched" / "visuals" / "iter_1.png"))
    assert sheet.shape == (2 * (480 + 26 + 8) + 8, 5 * 488 + 8, 3)


def test_modes_generators_and_buffers_stay(tiny_lumen):
    tiny_lumen.train()
    tiny_lumen.aligner.eval()
    modes = [module.training for module in tiny_lumen.modules()]
    buffers = {name: value.clone() for name, value in tiny_lumen.named_buffers()}
    torch.manual_seed(5)
    np.random.seed(5)
    with undisturbed(tiny_lumen):
        first = draw_samples(tiny_lumen, Boxes(), num_samples=2, num_heatmaps=1, min_score=0.3)
        torch.rand(3)
    after = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(after[0], torch.rand(3)) and (after[1] == np.random.rand(3)).all()
    assert modes == [module.training for module in tiny_lumen.modules()]
    assert all(torch.equal(value, buffers[name]) for name, value in tiny_lumen.named_buffers())
    with undisturbed(tiny_lumen):
        again = draw_samples(tiny_lumen, Boxes(), num_samples=2, num_heatmaps=1, min_score=0.3)
    assert np.array_equal(first, again), "the same samples each time"


def test_the_mode_comes_back_after_an_error(tiny_lumen):
    tiny_lumen.train()
    with pytest.raises(ZeroDivisionError), undisturbed(tiny_lumen):
        raise ZeroDivisionError
    assert tiny_lumen.training and tiny_lumen.lmm.training


def test_a_run_without_validation_data_is_refused(tmp_path):
    runner = make_runner(tmp_path, custom_hooks=[{"type": VisualHook}])
    with pytest.raises(ConfigError, match="define val_dataloader"):
        runner.train()


@pytest.mark.parametrize("options", [{"interval": 0}, {"num_samples": 0}, {"num_heatmaps": 0}])
def test_wrong_settings_are_told(options):
    with pytest.raises(ConfigError, match="must be at least 1"):
        VisualHook(**options)


def test_every_tested_sample_gets_a_picture(tmp_path, tiny_nano):
    loader = {"dataset": {"type": Boxes}, "batch_size": 2, "num_workers": 0}
    runner = make_runner(
        tmp_path / "run",
        model=model_config(tiny_nano),
        train_dataloader=None,
        train_cfg=None,
        optim_wrapper=None,
        param_scheduler=None,
        test_dataloader={**loader, "sampler": {"type": DefaultSampler, "shuffle": False}},
        test_cfg={},
        test_evaluator=[{"type": Nothing}],
        custom_hooks=[{"type": ShowHook, "folder": tmp_path / "seen", "min_score": 0.0}],
    )
    runner.test()
    names = [f"{number:06d}.png" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == names
    with Image.open(tmp_path / "seen" / names[0]) as picture:
        assert picture.width > picture.height  # two pictures side by side
    runner.test()
    assert len(list((tmp_path / "seen").iterdir())) == 3
