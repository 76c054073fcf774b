"""The paper's stage 1, phase 1, with SmolVLM 2B in place of LLaVA: everything here is ours. Not measured.

SmolVLM takes one size of picture, 384 pixels, in 27 x 27 patches of 14, of which 9 make a token.

    torchrun --nproc-per-node 8 tools/train.py configs/lumen_paper/alignment_smolvlm_paper_50k.py --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .alignment_llava7b_paper_50k import *

model["lmm"]["name_or_path"] = "HuggingFaceTB/SmolVLM-Instruct"
model["lmm"]["readout"]["dense_hw"] = None
custom_hooks[0]["freeze"] = ["lmm.*vision_model.*", "lmm.*connector.*", "decoders.*"]
