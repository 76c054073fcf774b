import pytest
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR
from toy import make_runner

from lumen.engine.hooks import SafeCheckpointHook
from lumen.engine.schedule import WarmUpThenDecay, placed_schedulers
from lumen.errors import ConfigError

COSINE = {"type": WarmUpThenDecay, "decay": {"type": CosineAnnealingLR, "eta_min": 3e-5}}


def test_a_long_run_warms_up_for_a_fixed_number_of_iterations():
    assert placed_schedulers(COSINE, 2300) == [
        {"type": LinearLR, "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 200},
        {"type": CosineAnnealingLR, "eta_min": 3e-5, "by_epoch": False, "begin": 200, "end": 2300, "T_max": 2100},
    ]


@pytest.mark.parametrize(("max_iters", "turn"), [(1600, 200), (800, 100), (20, 2), (16, 2)])
def test_a_short_run_warms_up_for_an_eighth(max_iters, turn):
    warm_up, decay = placed_schedulers(COSINE, max_iters)
    assert (warm_up["end"], decay["begin"], decay["end"]) == (turn, turn, max_iters)


def test_a_run_without_room_for_a_warm_up_only_decays():
    assert [item["type"] for item in placed_schedulers(COSINE, 15)] == [CosineAnnealingLR]


def test_another_decay_takes_no_length_that_it_does_not_know():
    decay = {"type": "LinearLR", "start_factor": 1.0, "end_factor": 0.0}
    placed = placed_schedulers({"type": "WarmUpThenDecay", "warm_up": 100, "decay": decay}, 1000)
    assert placed[1] == decay | {"by_epoch": False, "begin": 100, "end": 1000}


def test_other_schedulers_stay_as_they_are():
    for settings in (None, [{"type": MultiStepLR, "milestones": [3]}], {"type": MultiStepLR, "milestones": [3]}):
        assert placed_schedulers(settings, 20) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warm_up": -1}, "warm_up must not be negative"),
        ({"max_share": 1.5}, "max_share"),
        ({"decay": {"type": CosineAnnealingLR, "T_max": 3}}, r"\['T_max'\] come from train_cfg.max_iters"),
    ],
)
def test_a_wrong_setting_is_told(change, message):
    with pytest.raises(ConfigError, match=message):
        placed_schedulers(COSINE | change, 100)


def test_twenty_steps_are_a_run_whose_rate_rises_and_falls_and_that_is_evaluated_at_its_end(tmp_path):
    runner = make_runner(
        tmp_path,
        max_iters=20,
        val=True,
        train_cfg={"max_iters": 20},
        param_scheduler={"type": WarmUpThenDecay, "decay": {"type": CosineAnnealingLR, "eta_min": 0.0}},
        default_hooks={"checkpoint": {"type": SafeCheckpointHook, "interval": 20}},
    )
    rates, validations = [], []
    runner.register_hook(_Watch(rates, validations))
    runner.train()
    assert rates[0] == pytest.approx(0.05 * 0.01)
    assert rates[1] == max(rates) == pytest.approx(0.05)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.001
    assert validations == [20]


class _Watch(SafeCheckpointHook.__mro__[1]):
    """Notes the rate of each iteration and when validations come."""

    def __init__(self, rates, validations):
        self.rates, self.validations = rates, validations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_val(self, runner):
        self.validations.append(runner.iter)
