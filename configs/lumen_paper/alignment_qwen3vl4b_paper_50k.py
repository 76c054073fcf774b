"""The paper's stage 1, phase 1, with Qwen3-VL 4B in place of LLaVA: everything here is ours. Not measured.

Qwen3-VL takes any multiple of 32 pixels itself, so there is one image of 448 for both LLM and aligner, and its towers
and mergers have other names. Phases and stages after it change the same lines.

    torchrun --nproc-per-node 8 tools/train.py configs/lumen_paper/alignment_qwen3vl4b_paper_50k.py --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .alignment_llava7b_paper_50k import *

model["lmm"]["name_or_path"] = "Qwen/Qwen3-VL-4B-Instruct"
model["lmm"]["readout"]["dense_hw"] = None
custom_hooks[0]["freeze"] = ["lmm.*visual.*", "decoders.*"]
