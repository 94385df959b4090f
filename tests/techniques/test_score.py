"""SCoRe: its two rewards as tables, and what becomes of them token by token.

The two episodes of a group that the credit is worked out on, one token an attempt where nothing else is said::

    row   turn tensor           attempts
    0     −1  0  0 −1  1 −1     see the test
    1     −1  0 −1  1  1  1
"""

import pytest
import torch

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.techniques.baselines import MultiTurnRL
from minirl.techniques.self_correction.score import Score, evaluate, stage_one_rewards, stage_two_rewards

# All that can happen to two attempts: wrong → wrong, wrong → right, right → wrong, right → right.
SCORES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TURN = [[-1, 0, 0, -1, 1, -1], [-1, 0, -1, 1, 1, 1]]


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 1, "samples": 2, "turns": 2, "learning_rate": 1e-3, **changes})


def rollouts(scores) -> Rollouts:
    rows = len(scores)
    return Rollouts(
        ids=torch.zeros(rows, 6, dtype=torch.long),
        turn=torch.tensor(TURN * (rows // 2)),
        logprobs=torch.zeros(rows, 6),
        scores=torch.tensor(scores),
        group=torch.arange(rows) // 2,
        answers=[["a", "b"]] * rows,
        items=[Item("add", 0, 0, 1, "3+4=", "07")] * rows,
        longest=4,
    )


def test_stage_one_rewards_the_second_attempt_alone():
    assert stage_one_rewards(SCORES).tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("alpha", "rewards"),
    [
        (0.0, [[0, 0], [0, 1], [1, 0], [1, 1]]),  # the scores themselves
        (1.0, [[0, 0], [0, 2], [1, -1], [1, 1]]),
        (10.0, [[0, 0], [0, 11], [1, -10], [1, 1]]),
    ],
)
def test_stage_two_rewards_progress(alpha, rewards):
    assert stage_two_rewards(SCORES, alpha).tolist() == rewards


def test_scores_stay_as_they_were():
    scores = SCORES.clone()
    stage_one_rewards(scores), stage_two_rewards(scores, 10.0)
    assert torch.equal(scores, SCORES)


@pytest.mark.parametrize(
    ("gamma", "first", "second"),
    [
        # wrong → right earns (0, 1 + 2), right → right (1, 1). Returns (3, 3) and (2, 1): advantages ±1 and ±2.
        (1.0, 1.0, 2.0),
        # Returns (1.5, 3) and (1.5, 1): the first attempts are worth the same.
        (0.5, 0.0, 2.0),
        # Returns (0, 3) and (1, 1): every attempt for itself.
        (0.0, -1.0, 2.0),
    ],
)
def test_stage_two_credit_by_hand(gamma, first, second):
    credit = Score(alpha=2.0, gamma=gamma).credit(rollouts([[0.0, 1.0], [1.0, 1.0]]), stage=2)
    expected = [[0, first, first, 0, second, 0], [0, -first, 0, -second, -second, -second]]
    assert credit.advantages.tolist() == expected


def test_stage_one_credit_by_hand():
    # wrong → right earns (0, 1), right → wrong (0, 0): with gamma 1 the returns are (1, 1) and (0, 0).
    data = rollouts([[0.0, 1.0], [1.0, 0.0]])
    credit = Score().credit(data, stage=1)
    assert credit.advantages.tolist() == [[0, 1, 1, 0, 1, 0], [0, -1, 0, -1, -1, -1]]
    assert credit.stats == {"return": 0.5}
    # Without discount back to the first attempt, its tokens are held by the KL term alone.
    credit = Score(gamma=0.0).credit(data, stage=1)
    assert credit.advantages.tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, -1, -1, -1]]


def test_logged_return_by_hand():
    # Stage II, α = 2, rewards (0, 3) and (1, 1): returns 3 and 2.
    assert Score(alpha=2.0).credit(rollouts([[0.0, 1.0], [1.0, 1.0]]), stage=2).stats == {"return": 2.5}


def test_groups_are_compared_with_themselves():
    # Two groups of two; the second group agrees, so that it teaches nothing, whatever the first one earned.
    credit = Score(alpha=0.0).credit(rollouts([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]), stage=2)
    assert credit.advantages[:2].tolist() == [[0, 1, 1, 0, 1, 0], [0, -1, 0, -1, -1, -1]]
    assert credit.advantages[2:].tolist() == [[0] * 6] * 2


@pytest.mark.parametrize(("stage", "first"), [(1, 0.75), (2, 0.25)])
def test_kl_coefficients_by_hand(stage, first):
    # β₁ = 0.25 everywhere, β₂ = 0.5 on top for the first attempt in stage I; context and padding have none.
    credit = Score(beta_1=0.25, beta_2=0.5).credit(rollouts([[0.0, 1.0], [1.0, 1.0]]), stage=stage)
    expected = [[0, first, first, 0, 0.25, 0], [0, first, 0, 0.25, 0.25, 0.25]]
    assert credit.kl.tolist() == expected


@pytest.mark.parametrize(
    ("share", "updates", "split"),
    [(0.5, 10, (5, 5)), (0.3, 10, (3, 7)), (0.0, 10, (0, 10)), (0.25, 7, (2, 5)), (0.5, 1, (0, 1))],
)
def test_phases_share_the_updates(share, updates, split):
    phases = Score(stage_1=share).phases(train_config(updates=updates))
    assert [phase.name for phase in phases] == ["stage I", "stage II"]
    assert tuple(phase.updates for phase in phases) == split
    assert not any(phase.shuffle_scores for phase in phases)


def test_phases_carry_the_credit_of_their_stage():
    method = Score(alpha=3.0, shuffle_scores=True)
    data = rollouts([[0.0, 1.0], [1.0, 1.0]])
    phases = method.phases(train_config())
    assert all(phase.shuffle_scores for phase in phases)
    for stage, phase in enumerate(phases, start=1):
        mine, theirs = phase.credit(data), method.credit(data, stage=stage)
        assert torch.equal(mine.advantages, theirs.advantages) and torch.equal(mine.kl, theirs.kl)
    assert not torch.equal(phases[0].credit(data).advantages, phases[1].credit(data).advantages)


def test_without_bonus_stage_two_is_multi_turn_rl():
    generator = torch.Generator().manual_seed(0)
    data = rollouts(torch.randint(0, 2, (8, 2), generator=generator).float().tolist())
    for gamma in (1.0, 0.5, 0.0):
        score = Score(alpha=0.0, beta_1=0.07, beta_2=9.0, gamma=gamma).credit(data, stage=2)
        naive = MultiTurnRL(beta=0.07, gamma=gamma).credit(data)
        assert torch.equal(score.advantages, naive.advantages)
        assert torch.equal(score.kl, naive.kl)
        assert score.stats == naive.stats


@pytest.mark.parametrize("bad", [{"alpha": -1}, {"stage_1": 1.0}, {"gamma": 1.5}, {"beta_1": -0.1}, {"bonus": 3}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Score, bad, "arms.score")


@pytest.mark.parametrize("turns", [1, 3])
def test_score_needs_two_turns(turns):
    with pytest.raises(ConfigError, match="turns"):
        Score().phases(train_config(turns=turns))


def test_the_runner_finds_an_evaluation():
    assert evaluate.__module__ == "minirl.evaluation.correction"
