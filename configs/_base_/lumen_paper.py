"""Model, optimizer and hooks of the paper's recipe (Jiao et al., NeurIPS 2024, arXiv 2403.07304).

Its code was never released. Marks: SURE, the paper states it; INFERRED, it follows from the paper or from the code it
builds on (LISA, SAM, CenterNet); UNKNOWN, not stated anywhere, and the value is ours.

Departs:
- Two text losses, each with weight 1: one over the forced answers of location prompts, one over conversations, each
  divided by its own tokens of the global batch. A trainer of LLaVA's kind has a single mean over all of these tokens.
- The loss of the heatmap is divided by the objects of the global batch. CenterNet divides by the cells that hold a
  centre, image by image in some code: two objects in one cell count once there.
- The width of a bump keeps an IoU of .3 (CornerNet's figure, and that of mmdet's CenterNet); CenterNet's own code has
  .7, which gives narrower bumps. The paper names neither.
- A conversation without an image gets a grey one, so that all samples take the same steps; LLaVA shows none.
- Each turn of a conversation is a suffix of its own behind the turns before it. The answers and what they see are those
  of LLaVA's one sequence; earlier turns are computed again.
"""

from mmengine.optim import LinearLR
from torch.optim import AdamW

from lumen.aligners.dense import DenseAligner
from lumen.engine.hooks import FreezeHook
from lumen.engine.optim import GroupedConstructor, LumenOptimWrapper
from lumen.engine.schedule import WarmUpThenDecay
from lumen.lmm.adapter import HFAdapter

_lmm = dict(
    type=HFAdapter,
    name_or_path="llava-hf/llava-1.5-7b-hf",  # SURE: LLaVA-1.5 7B with CLIP ViT-L/14-336
    template="paper",  # SURE: the sentence; which token belongs to which task is INFERRED from the names
    readout=dict(
        position="loc",  # UNKNOWN: the state at [LOC], or the one that predicts it
        features="vision",  # SURE: dense features come from the vision encoder, not from the LLM
        # SURE: CLIP's positions resized to 448, a grid of 32 x 32; INFERRED: the LLM sees 336. The CLIP layer of the
        # dense features is UNKNOWN; here it is LLaVA's own, the last but one.
        dense_hw=(448, 448),
    ),
    base=dict(
        # SURE: LoRA; INFERRED from LISA: its settings.
        lora=dict(r=8, alpha=16, dropout=0.05, targets=["q_proj", "v_proj"]),
        # INFERRED from LISA: both embedding tables are trained. Here: the output layer, and the new input rows.
        new_tokens="learn",
        gradient_checkpointing=True,  # INFERRED from LISA; changes memory and time, not the result
        dtype="bfloat16",  # INFERRED from LISA: bf16
    ),
)
_aligner = dict(
    type=DenseAligner,
    # SURE: SAM-like two-way attention, twice, 256 wide, a map of 32 x 32 without upsampling, joint attention of all
    # tokens. INFERRED from SAM: 8 heads, an MLP of 2048, a last attention, kernels by a 3-layer MLP.
    # Ours: sine positions in place of SAM's random ones, a direct path beside LISA's MLP of [LOC], new initial weights.
    channels=256,
    depth=2,
    num_heads=8,
    mlp_channels=2048,
    fine_levels=0,
    leak_map_queries=True,
    heat=dict(
        target="centernet",  # SURE: a Gaussian per box, its width after the box as in CenterNet
        point_sigma=2.0,  # SURE: 2; INFERRED: in cells of the heatmap
        prior=0.1,  # UNKNOWN; as in CenterNet
    ),
)
# SURE: heatmap and text loss, both times 1. Presence is ours and off.
_loss_weights = {"lmm/loss_answer": 1.0, "aligner/loss_heat": 1.0, "aligner/loss_presence": 0.0}

# SURE: AdamW, 3e-4, no weight decay. INFERRED from LISA: betas, clipping, bf16.
optim_wrapper = dict(
    type=LumenOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.0),
    constructor=GroupedConstructor,
    clip_grad=dict(max_norm=1.0),
)
# SURE: LoRA and aligner are trained, all else is frozen. In stage 1 no decoder is trained: only the heatmap is shared.
_freeze_alignment = [
    dict(type=FreezeHook, freeze=["lmm.*vision_tower.*", "lmm.*multi_modal_projector.*", "decoders.*"])
]
# UNKNOWN: what is frozen while [H] and [W] are trained; here everything but the decoders.
_freeze_decoding = [dict(type=FreezeHook, freeze=["lmm.*", "aligner.*"])]

# INFERRED from LISA: 100 steps of warm-up, then linearly to 0 at the end of the run.
param_scheduler = dict(type=WarmUpThenDecay, warm_up=100, decay=dict(type=LinearLR, start_factor=1.0, end_factor=0.0))
val_cfg = dict(dtype="bfloat16")
test_cfg = dict(dtype="bfloat16")
