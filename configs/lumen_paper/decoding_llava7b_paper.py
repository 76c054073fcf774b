"""The paper's stage 2: [H] and [W], two more tokens of the aligner, learn the size of the object at each peak by L1.

SURE: [H], [W], L1, 100 peaks and NMS for detection, one peak for grounding and for each keypoint, SAM as it is for
masks. UNKNOWN, so ours: what is frozen (all but the decoders), data (detection and grounding as in phase 1), steps,
rate, weight of L1 (CenterNet's 0.1), unit (cells), threshold of NMS, which SAM (ViT-H is INFERRED from LISA).
Departs: grounding and masks read their box by our box head, not by [H] and [W]; it is trained here too. The score of a
mask is presence times peak, and presence stays untrained.

Not measured here. The paper, COCO val: 35.3 box AP, 30.4 mask AP, 67.2 keypoint AP; RefCOCOg val: 83.6.

    torchrun --nproc-per-node 8 tools/train.py configs/lumen_paper/decoding_llava7b_paper.py --launcher pytorch
"""

from mmengine.config import read_base

from lumen.decoders.detection_paper import PaperDetectionDecoder
from lumen.decoders.grounding import GroundingDecoder
from lumen.decoders.pose import PoseDecoder
from lumen.decoders.sam_segmentation import SamReferringDecoder, SamSegmentationDecoder
from lumen.lmm.sam import SamMasks
from lumen.metrics.coco.metric import CocoMetric
from lumen.model import Lumen

with read_base():
    from .._base_.lumen_paper import *
    from .._base_.lumen_paper_data import *
    from .._base_.runtime import *

_sam = dict(type=SamMasks, name_or_path="facebook/sam-vit-huge")

load_from = dict(checkpoint="work_dirs/alignment_vqa_llava7b_paper_10k/iter_10000.pth", fresh=["decoders.*"])
model = dict(
    type=Lumen,
    lmm=_lmm,
    aligner=_aligner,
    decoders=[
        dict(type=PaperDetectionDecoder, limits=dict(num_peaks=100)),
        dict(type=GroundingDecoder, limits=dict(with_presence=False)),
        dict(type=PoseDecoder, offset_head=False),
        dict(type=SamSegmentationDecoder, sam=_sam),
        dict(type=SamReferringDecoder, sam=_sam),
    ],
    loss_weights=dict(_loss_weights, **{"detection/loss_size": 0.1}),
)
custom_hooks = _freeze_decoding
# Detection and grounding for [H], [W] and the box of sentences; masks learn their box from the same pictures.
_mask_boxes = dict(_coco, pipeline=[_load, _resize, dict(_ask, task="segmentation"), _pack])
_ask_masks = dict(type=AskSentences, num_prompts=1, task="referring_segmentation")
_mask_sentences = dict(_refcocog, pipeline=[_load, _resize, _ask_masks, _pack])
train_dataloader["dataset"].update(
    datasets=[_coco, _objects365, _openimages, _refcoco, _refcocoplus, _refcocog, _mask_boxes, _mask_sentences],
    weights=[0.2, 0.2, 0.2, 0.05, 0.05, 0.05, 0.2, 0.05],
)
train_cfg = dict(max_iters=10000)  # UNKNOWN
val_evaluator = dict(type=CocoMetric)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
