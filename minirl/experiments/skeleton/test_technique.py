"""New idea: its rewards worked out by hand, and what becomes of them token by token."""

import pytest
import torch
from stand_ins import written

from minirl.policy.models import tiny_llama
from minirl.tasks import Item
from minirl.techniques.new_family.new_idea import NewIdea, rewards


def test_rewards_by_hand():
    pytest.fail("TODO: scores for which rewards() differs from them, with the numbers worked out in a comment")


def test_scores_stay_as_they_were():
    scores = torch.tensor([[0.0], [1.0]])
    rewards(scores)
    assert scores.tolist() == [[0.0], [1.0]]


def test_credit_by_hand():
    """Two attempts at 3+4=, one right: each is compared with the other, so +1 and −1 at every own token."""
    rollouts = written(tiny_llama(16, 1, 2), [Item("add", 0, 0, 1, "3+4=", "07")], ["07$", "08$"], samples=2)
    credit = NewIdea(beta=0.5).credit(rollouts)
    assert credit.advantages.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, -1, -1, -1]]
    assert credit.kl[rollouts.own].tolist() == [0.5] * 6
