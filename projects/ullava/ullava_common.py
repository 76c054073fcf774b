"""What all configs of u-LLaVA share: the answer with its slots, the heads that read them, the losses.

Marks: P, the paper (Xu et al., ECAI 2024) or its public code; INFERRED, follows from them; UNKNOWN, searched and not
found; OURS, our choice.

P: the wording of the answer; two slots; the state before a slot is read; two layers with ReLU for each slot; an MLP for
the box; SAM's mask decoder but for its head of ratings; cross entropy 1, BCE 2 (mean over the pixels of a mask), Dice
.5, L1 1 (sum of four sides), GIoU 1.

Departs, OURS:
- Expressions about an image are packed, each is a conversation of its own. The public code puts up to three into one
  conversation, so that later ones see the answers to earlier ones.
- The image stands before the text; the public code puts a video behind the first question.
- Each loss is divided once, by the pairs of the global batch. The public code divides box losses by the boxes twice.
- The paper does not say how the two boxes are combined (UNKNOWN): their mean where their IoU is at least .5, else the
  box of the mask.
- Rows of the slots start at the mean of the known ones plus noise of their spread; in the public code they start at
  random.
- Masks are learned at the size of the network input, not at that of the original image.
- The wordings of the questions in training: ours. P: those of evaluation.
"""

from ullava_decoder import UllavaDecoder

from lumen.aligners.slots import SlotAligner

_template = dict(
    name="ullava",
    before="",  # the prompt is the whole question
    after="",
    answer="Sure. Mask: [SEG]; Location: [LOC]; {words}",  # P; the words are "[tag]NAME[/tag]." and the explanation
    slots=["[SEG]", "[LOC]"],
    tokens=["[tag]", "[/tag]"],
)
_tasks = [dict(name="ullava", answer_format="masks", routing_token="[SEG]")]
_readout = dict(position="before_loc")  # P
_slots = dict(type=SlotAligner, slots=["[SEG]", "[LOC]"])
_ullava = dict(type=UllavaDecoder)
_loss_weights = {
    "lmm/loss_answer": 1.0,
    "lmm/loss_text": 1.0,
    "ullava/loss_mask": 2.0,
    "ullava/loss_dice": 0.5,
    "ullava/loss_l1": 1.0,
    "ullava/loss_giou": 1.0,
}
