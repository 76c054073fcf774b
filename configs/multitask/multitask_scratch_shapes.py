"""The tasks of ``multitask_nano_shapes.py``, learned by a nano of random weights.

python tools/make_nano.py --out data/nano4 --llm-layers 4 --tied
python tools/make_shapes.py
python tools/train.py configs/multitask/multitask_scratch_shapes.py
python tools/benchmarks/multitask.py work_dirs/multitask_scratch_shapes --lmm data/nano4
"""

from mmengine.config import read_base

with read_base():
    from .multitask_nano_shapes import *

_lmm["name_or_path"] = "data/nano4"
optim_wrapper["paramwise_cfg"]["lr_mult"] = dict.fromkeys(_tokens, 0.1)
train_cfg["max_iters"] = 3500
