"""What every run has in common: hooks, logging, environment. A leaf changes what it needs by name."""

from mmengine.hooks import IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.visualization import LocalVisBackend, Visualizer

from lumen.engine.hooks import CpuClockHook, SafeCheckpointHook

default_scope = "lumen"
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=SafeCheckpointHook, interval=500, max_keep=2),
    clock=dict(type=CpuClockHook, interval=50),
)
env_cfg = dict(
    num_threads=None,  # 1 on a machine without GPU: a second thread of a small model mostly spins
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(),  # of several ranks: nccl on GPUs, gloo on CPUs
)
log_processor = dict(by_epoch=False, window_size=50)
log_level = "INFO"
randomness = dict(seed=0)  # resuming needs the seed that the run started with
# tools/train.py --log-to tensorboard wandb adds backends.
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
load_from = None
resume = False
