"""What the LLM of the seeing nano learns to say about images of shapes."""

from mmengine.config import read_base

from lumen.corner_words import CornerWords
from lumen.data.mixture import JoinedDataset
from lumen.data.refer import AskSentences, ReferDataset
from lumen.data.shapes.asking import AskRelations, ListShapes
from lumen.data.text import AskQuestions, QuestionsDataset
from lumen.data.written import WriteAnswers

with read_base():
    from .seeing_nano import *

_questions = dict(_files, type=QuestionsDataset, ann_file="annotations/questions_train.json")
_refs = dict(
    _files,
    type=ReferDataset,
    ann_file="annotations/refs_train.json",
    layout="shapes",
    split="groups",
    instances_file="annotations/instances_train.json",
)
_ask_facts = dict(
    type=AskQuestions,
    key="facts",
    num_prompts=9,
    forms=["existence", "colour", "count"],
)
_ask_relations = dict(
    type=AskQuestions,
    key="relations",
    num_prompts=2,
    forms=["relation"],
    exchange_sides=True,
)
_ask_more_relations = dict(type=AskRelations, num_prompts=2)
_ask_places = dict(
    type=AskSentences,
    task="written_boxes",
    num_prompts=2,
    no_target=False,
    max_targets=1,
    exchange_sides=True,
    weight=0.4,
)
_write_boxes = dict(type=WriteAnswers, codec=dict(type=CornerWords, bins=_bins))
_list = dict(type=ListShapes, bins=_bins, weight=0.15)
_texts = [_ask_facts, _ask_relations, _ask_more_relations, _ask_places, _write_boxes, _list]
_joined = dict(
    type=JoinedDataset,
    base=dict(_images, with_masks=False),
    further=dict(
        facts=dict(dataset=_questions, key="questions"),
        relations=dict(dataset=_questions, key="questions"),
        refs=dict(dataset=_refs, key="refs"),
    ),
    pipeline=[_load, _resize, _keep, *_texts, _pack],
)
train_dataloader = dict(_loader, dataset=_joined)
