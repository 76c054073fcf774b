"""Nano on gRefCOCO: sentences for none, one or several objects: the box that a sentence means.

Tested on testA; testB by ``--cfg-options test_dataloader.dataset.split=testB``.

Not measured.

    data/refer/grefs/{grefs(unc).json,instances.json}
    python tools/train.py configs/grounding/grounding_nano_grefcoco.py

N-acc at a T-acc of .90 takes its threshold from val, where ``val.json`` names it ``grounding/threshold_at_t_acc_90``:

    python tools/test.py configs/grounding/grounding_nano_grefcoco.py work_dirs/grounding_nano_grefcoco \
        --cfg-options test_dataloader.dataset.split=val --out val.json
    ... --cfg-options test_evaluator.threshold=0.37   # the figure of val.json; gives grounding/n_acc_at_threshold
"""

from mmengine.config import read_base

with read_base():
    from .grounding_nano_refcoco import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(
        layout="grefcoco", ann_file="grefs/grefs(unc).json", instances_file="grefs/instances.json"
    )
model["decoders"][0]["limits"] = dict(num_boxes=10)  # a sentence may have no answer, or several
