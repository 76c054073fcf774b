"""A mask from the slot: its state prompts SAM's mask decoder, which starts from scratch. See docs/comparison.md.

python tools/compare.py run --cell slotmask_linear --seed 0
"""

from mmengine.config import read_base

from lumen.aligners.slots import SlotAligner
from lumen.decoders.slot_mask import SlotMaskDecoder
from lumen.lmm.sam_prompted import SamPrompted

with read_base():
    from .._base_.compare_masks import *

model = dict(
    _model,
    aligner=dict(type=SlotAligner, slots=["[LOC]"], channels=96, fine_levels=1),  # stride 8, as the heatmap has
    decoders=[
        dict(
            type=SlotMaskDecoder,
            sam=dict(
                type=SamPrompted,
                encoder="shared",
                sizes=dict(num_attention_heads=4, mlp_dim=256, iou_head_hidden_dim=32),
            ),
        )
    ],
    loss_weights={"referring_segmentation/loss_mask": 2.0, "referring_segmentation/loss_dice": 0.5},
)
