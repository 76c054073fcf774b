"""The tokenizer of nano: byte-level BPE trained on a fixed word list, with a chat template."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lumen.prompts import TEMPLATES

IMAGE_TOKEN = "<image>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% if not loop.last %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)

WORDS = tuple(
    """
circle square triangle star cross ring heart arrow red green blue yellow orange purple cyan magenta white black brown
pink gray dark light small big large striped dotted plain left right above below under over of the a an is are there no
yes and or in on at to next near far between inside outside top bottom middle what which where how many color colour
shape shapes object objects image picture one two three four five six seven eight nine ten zero none number count with
person bicycle car motorcycle airplane bus train truck boat traffic light fire hydrant stop sign parking meter bench
bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard
sports ball kite baseball bat glove skateboard surfboard tennis racket bottle wine glass cup fork knife spoon bowl
banana apple sandwich orange broccoli carrot hot dog pizza donut cake chair couch potted plant bed dining table toilet
tv laptop mouse remote keyboard cell phone microwave oven toaster sink refrigerator book clock vase scissors teddy
hair drier toothbrush man woman boy girl shirt hat nose eye ear shoulder elbow wrist hip knee ankle tail tip center
RBC WBC Platelets cell blood red blood cell white blood cell standing sitting holding wearing behind front
circles squares triangles stars crosses rings hearts arrows leftmost rightmost highest lowest largest smallest medium
corner base lobe notch barb wing upper lower is it does has A There picture 0 1 2 3 4 5 6 7
USER ASSISTANT Sure location output task boxes masks points text answer Describe this short question
""".split()  # noqa: SIM905 - a list of words reads as text
)


FIRST_WORDS = ("what", "where", "is", "how", "the", "name", "find", "describe", "There")
"""Words that stand first in a text, where no space is part of their token."""


def build_tokenizer(
    vocabulary: int, *, first_words: Sequence[str] = (), whole: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on a fixed word list: common words become one token, any text still encodes.

    Args:
        vocabulary: Upper bound of the vocabulary that is trained.
        first_words: Words that become one token without a space before them, too.
        whole: Words that are one token each, whatever stands around them, behind the trained vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>", IMAGE_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    wording = [part for template in TEMPLATES.values() for part in (template.before, template.after, template.answer)]
    tokenizer.train_from_iterator([*(f" {word}" for word in WORDS), *first_words] * 2 + wording, trainer)
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=False) for word in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )
