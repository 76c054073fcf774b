"""Nano on gRefCOCO: sentences for none, one or several objects: the box that a sentence means.

Tested on testA; testB by ``--cfg-options test_dataloader.dataset.split=testB``.

Not measured.

    data/refer/grefs/{grefs(unc).json,instances.json}
    python tools/train.py configs/grounding/grounding_nano_grefcoco.py
"""

from mmengine.config import read_base

with read_base():
    from .grounding_nano_refcoco import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(
        layout="grefcoco", ann_file="grefs/grefs(unc).json", instances_file="grefs/instances.json"
    )
model["decoders"][0]["limits"] = dict(num_boxes=10)  # a sentence may have no answer, or several
