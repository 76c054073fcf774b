"""u-LLaVA at full size: the model and the data of both stages. Nothing here was trained. Marks as in ``ullava_common``.

P: Vicuna-7B v1.1, CLIP ViT-L/14 at 224 (layer -2, no class token, 256 tokens), a linear connector, SAM ViT-H at 1024,
raw corners, AdamW without decay, cosine, warm-up of 3 %, bf16.

``data/ullava_base`` is made by

    python tools/make_lmm.py --llm lmsys/vicuna-7b-v1.1 --tower openai/clip-vit-large-patch14 --out data/ullava_base

Departs, OURS:
- SAM gets the images at 1008 pixels, enlarged to its 1024, in place of the originals: an image is framed once. The
  tower takes a second look at that size, which nothing reads.
- No rows of begin and end tokens of images and clips, which LLaVA's layout does not have.
- 8 frames of a clip, evenly spread (UNKNOWN).
- PACO and the parts of VOC 2010 have no reader yet.
- Boxes live in the letterboxed image, whose bars lie on both sides, as in the public code; so does what SAM sees, which
  there has its bar at the right and below.
"""

from mmengine.dataset import pseudo_collate
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW
from ullava_connector import ClipConnector
from ullava_salient import SalientDataset
from ullava_samples import AskNames, AskReferring, AskSalient

from lumen.data.clips import LoadClip
from lumen.data.mixture import MixtureSampler
from lumen.data.refer import ReferDataset
from lumen.data.semantic import SemanticDataset
from lumen.data.text import AskQuestions, LoadImageOrBlank, QuestionsDataset
from lumen.data.transforms import LoadImage, PackSample, ResizeToInput
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter
from lumen.lmm.sam_prompted import SamPrompted
from lumen.model import Lumen

_load = dict(type=LoadImage)
_resize = dict(type=ResizeToInput)  # P: letterboxed to a square, no augmentation
_pack = dict(type=PackSample)

_base = dict(dtype="bfloat16", gradient_checkpointing=True, connector=dict(type=ClipConnector))
_lmm = dict(type=HFAdapter, name_or_path="data/ullava_base", base=_base)
_model = dict(type=Lumen, lmm=_lmm)
_sam = dict(type=SamPrompted, name_or_path="facebook/sam-vit-huge")

_sentences = dict(
    type=ReferDataset,
    layout="refer",
    split="train",
    with_masks=True,
    data_root="data/refer",
    data_prefix=dict(img="images/mscoco/images/train2014"),
    pipeline=[_load, _resize, dict(type=AskReferring, num_prompts=3), _pack],
)
_refcoco = dict(_sentences, ann_file="refcoco/refs(unc).p", instances_file="refcoco/instances.json")
_refcocoplus = dict(_sentences, ann_file="refcoco+/refs(unc).p", instances_file="refcoco+/instances.json")
_refcocog = dict(_sentences, ann_file="refcocog/refs(umd).p", instances_file="refcocog/instances.json")
_refclef = dict(
    _sentences,
    ann_file="refclef/refs(unc).p",
    instances_file="refclef/instances.json",
    data_prefix=dict(img="images/saiapr_tc-12"),
)
_maps = dict(type=SemanticDataset, pipeline=[_load, _resize, dict(type=AskNames, num_prompts=3), _pack])
_salient = dict(
    type=SalientDataset,
    data_root="data/salient_15k",
    ann_file="salient_15k.json",
    data_prefix=dict(img="images", mask="masks"),
    pipeline=[_load, _resize, dict(type=AskSalient), _pack],
)
_texts = dict(
    type=QuestionsDataset,
    layout="conversations",
    pipeline=[
        dict(type=LoadImageOrBlank),
        _resize,
        dict(type=AskQuestions, num_prompts=None, shuffle=False, task="chat"),
        _pack,
    ],
)
_instruct = dict(
    _texts, data_root="data/llava", ann_file="llava_instruct_150k.json", data_prefix=dict(img="coco/train2017")
)
_captions = dict(_texts, data_root="data/llava_cc3m", ann_file="chat.json", data_prefix=dict(img="images"))
_clips = dict(
    type=QuestionsDataset,
    layout="captions",
    data_root="data/tgif",
    ann_file="captions.json",  # of tgif-v1.0.tsv, in the format of COCO's captions
    data_prefix=dict(img="gifs"),
    pipeline=[dict(type=LoadClip, frames=8), _resize, dict(type=AskQuestions, task="caption"), _pack],
)

_loader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type=pseudo_collate),
    sampler=dict(type=MixtureSampler),
)


optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, weight_decay=0.0),  # P; the rate is that of the stage
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=1.0),  # INFERRED: the default of the trainer that the public code uses
)
param_scheduler = dict(
    type=WarmUpThenDecay, warm_up=10**6, max_share=0.03, decay=dict(type=CosineAnnealingLR, eta_min=0.0)
)
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
