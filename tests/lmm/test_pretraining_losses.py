import math

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from lumen.errors import ConfigError
from lumen.lmm.object_heads import ObjectHeads, Objects, TowerMaps
from lumen.lmm.packing.rows import Suffix, gaps, pack_rows
from lumen.lmm.text_losses import answer_loss, neighbours_of
from lumen.lmm.token_words import TokenWords, WordReader, word_loss
from lumen.structures import FeatureWidths


def objects(boxes, labels, image, numbers=None):
    rows = InstanceData(bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels, dtype=torch.long))
    return Objects(rows, torch.tensor(image, dtype=torch.long), numbers)


def packed(*suffixes):
    return pack_rows([1, 2], [list(suffixes)], max_suffix_tokens=99, context=99, pad_id=0)


def test_answers_count_by_their_weight():
    once = packed(Suffix((5, 6, 7), (0, 0), (), 1), Suffix((5, 8), (0, 0), (), 1, weight=0.25))
    head, states = nn.Linear(4, 10), torch.randn(1, once.input_ids.shape[1], 4)
    first = answer_loss(head, packed(Suffix((5, 6, 7), (0, 0), (), 1)), states[:, :5])
    second = packed(Suffix((5, 8), (0, 0), (), 1))
    torch.testing.assert_close(
        answer_loss(head, once, states), first + 0.25 * answer_loss(head, second, states[:, [0, 1, 5, 6]])
    )
    assert once.answer_weights[0].tolist() == [0, 0, 1, 1, 0, 0.25, 0]


def test_neighbours_of_an_ordered_word_are_partly_right():
    rows, states = packed(Suffix((5, 7), (0, 0), (), 1)), torch.zeros(1, 4, 4)
    head = nn.Linear(4, 10)
    neighbours = neighbours_of([(6, 7, 8)], 10)
    assert neighbours[:, 6].tolist() == [6, 7] and neighbours[:, 9].tolist() == [9, 9]
    logs = head.bias.log_softmax(0)
    expected = -(0.5 * logs[7] + 0.25 * logs[6] + 0.25 * logs[8])
    torch.testing.assert_close(answer_loss(head, rows, states, neighbours), expected)
    torch.testing.assert_close(answer_loss(head, rows, states, neighbours_of([], 10)), answer_loss(head, rows, states))


def test_tokens_that_are_left_out_leave_gaps_in_the_positions():
    is_image = torch.tensor([False, True, True, False])
    assert gaps(is_image, torch.tensor([[0, 3], [2, 4]]), 5, 6).tolist() == [[0, 0, 2, 3, 3, 3], [0, 2, 3, 3, 3, 3]]


def test_the_token_at_an_object_means_its_words():
    words = TokenWords(torch.tensor([0, 1, 2]), {"labels": torch.tensor([[1.0, 1, 0], [0, 0, 1]])}, 0)
    table = nn.Embedding(4, 2)
    tokens = torch.randn(1, 4, 2)
    found = objects([[9.0, 1.0, 11.0, 3.0]], [1], [0])
    logits = WordReader()(tokens, table.weight[:3])
    torch.testing.assert_close(logits, torch.nn.functional.rms_norm(tokens, (2,)) @ table.weight[:3].T - 4)
    loss = word_loss(logits, words, found, token_hw=(2, 2), input_hw=(16, 16))
    target = torch.zeros(1, 4, 3)
    target[0, 1, 2] = 1
    expected = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_words_of_a_box_share_the_probability_with_their_neighbours():
    words = TokenWords(torch.arange(12), {}, 2)
    target = words.targets(objects([[0.0, 4.0, 8.0, 8.0]], [0], [0]), (8, 8))[0]
    assert target.tolist() == [0.75, 0.25, 0, 0.25, 0.5, 0.25, 0, 0.25, 0.75, 0, 0.25, 0.75]


@pytest.fixture
def heads():
    torch.manual_seed(0)
    widths = FeatureWidths(query=8, grid=6, laterals=(3, 4))
    return ObjectHeads(widths=widths, values={"labels": 3}, cells=["labels"], input_size=32)


def test_heads_start_at_the_loss_of_guessing(heads):
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    maps = TowerMaps(torch.randn(1, 6, 2, 2), torch.randn(1, 4, 4, 4), 16)
    numbers = torch.full((1, 4, 4), -1)
    numbers[0, 0] = 0
    numbers[0, 1] = -2
    found = heads.loss(maps, objects([[0.0, 0.0, 32.0, 32.0]], [2], [0], numbers))
    assert found["loss_cells"].item() == pytest.approx(1.5 * math.log(4))
    centres = 4 * math.sqrt(0.5) * math.log(2)
    assert found["loss_objects"].item() == pytest.approx(centres + math.log(3) + 4 * (1 - 0.01))


def test_heads_are_finite_and_connected_without_objects(heads):
    maps = TowerMaps(torch.randn(2, 6, 2, 2, requires_grad=True), torch.randn(2, 4, 4, 4), 16)
    losses = heads.loss(maps, objects([], [], [], torch.full((2, 4, 4), -1)))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in heads.parameters())


def test_an_object_is_read_at_its_own_token(heads):
    maps = TowerMaps(torch.randn(2, 6, 2, 2), torch.randn(2, 4, 4, 4), 16)
    one = objects([[17.0, 17.0, 31.0, 31.0]], [0], [1])
    expected = heads.token_head(maps.grid[1, :, 1, 1])
    torch.testing.assert_close(heads.at_objects(maps, one)["labels"][0], expected)


def test_ordered_words_that_are_missing_are_named(make_adapter):
    with pytest.raises(ConfigError, match="no token for"):
        make_adapter(box_bins=4)
