"""RefCritic: what a critique is paid for, and that nobody says which step is wrong.

Scores of a critique are of the attempt, of the verdict, and the share of right new attempts. In the groups below four
critiques of one attempt are compared; ``7=x!-a$`` is seven tokens, of which the last three are the critique's own::

    turn   −1 −1 −1 −1  1  1  1      and −1 in the last place after a ``+``, which is one token shorter
"""

from dataclasses import replace

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.critiques import evaluate_critic
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.rollouts import critiques
from minirl.rollouts.critiques import critic_episodes, critique_and_refine
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item
from minirl.techniques.base import OnlinePhase
from minirl.techniques.critique.refcritic import RefCritic, critic_rewards, evaluate

# Four critiques of a wrong attempt: at the right step, at another one, at one too late, and a "+".
WRONG = [[0, 1, 0.75], [0, 1, 0.25], [0, 1, 0], [0, 0, 0]]
# Four of a right attempt: two accept it, and it stays right; two object, and the actor spoils it half of the time.
RIGHT = [[1, 1, 1], [1, 1, 1], [1, 0, 0.5], [1, 0, 0.5]]


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 2, "samples": 4, "learning_rate": 1e-3, **changes})


def method(**changes) -> RefCritic:
    return RefCritic(**{"actor": "somebody", **changes})


def rollouts(scores, samples: int = 4) -> Rollouts:
    """Groups of ``samples`` critiques; the last of each is a ``+``, one token shorter."""
    rows = len(scores)
    turn = torch.tensor([[CONTEXT] * 4 + [1] * 3] * rows)
    turn[samples - 1 :: samples, -1] = CONTEXT
    return Rollouts(
        ids=torch.zeros(rows, 7, dtype=torch.long),
        turn=turn,
        logprobs=torch.zeros(rows, 7),
        scores=torch.tensor(scores, dtype=torch.float),
        group=torch.arange(rows) // samples,
        answers=[["x", "-a", "y"]] * rows,
        items=[Item("tally", 0, 0, 1, "7=", "x")] * rows,
        longest=3,
    )


# --- reward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "verdict", "after", "weight", "reward"),
    [
        (0, 1, 0.75, 1.0, 1.75),  # wrong, called wrong, and three of four new attempts are right
        (0, 1, 0.75, 2.0, 2.5),  # λ = 2: 1 + 2 · 0.75
        (0, 1, 0.75, 0.0, 1.0),  # λ = 0: the verdict alone
        (0, 1, 0.0, 1.0, 1.0),  # called wrong, and no help: the verdict is paid all the same
        (0, 0, 0.75, 1.0, 0.0),  # called right; that the actor mends it nonetheless is not the critic's merit
        (1, 1, 1.0, 1.0, 1.0),  # right, called right: no more than the verdict, though all stays right
        (1, 0, 1.0, 1.0, 0.0),  # a false alarm that does no harm earns nothing
        (1, 0, 0.0, 1.0, 0.0),
    ],
)
def test_rewards_by_hand(before, verdict, after, weight, reward):
    given = [torch.tensor([float(value)]) for value in (before, verdict, after)]
    assert critic_rewards(*given, weight).tolist() == [reward]


def test_rewards_are_of_each_critique():
    assert critic_rewards(*torch.tensor(WRONG + RIGHT).unbind(1), 2.0).tolist() == [2.5, 1.5, 1, 0, 1, 1, 0, 0]


def test_a_right_verdict_beats_a_wrong_one_whatever_comes_of_it():
    after = torch.linspace(0, 1, 5)
    for before in (0.0, 1.0):
        same = torch.full((5,), before)
        worst_true = critic_rewards(same, torch.ones(5), after, 3.0).min()
        best_false = critic_rewards(same, torch.zeros(5), after, 3.0).max()
        assert worst_true == 1 and best_false == 0


# --- credit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "scores", "advantages"),
    [
        # Rewards 1.75, 1.25, 1, 0 with the sum 4. Each less the mean of the three others: 1.75 − 2.25/3 = 1,
        # 1.25 − 2.75/3 = 1/3, 1 − 3/3 = 0, 0 − 4/3.
        ({}, WRONG, [1, 1 / 3, 0, -4 / 3]),
        # λ = 2: 2.5, 1.5, 1, 0 with the sum 5: 2.5 − 2.5/3, 1.5 − 3.5/3, 1 − 4/3, 0 − 5/3. What points too late is
        # now pushed down, though its verdict is right.
        ({"weight": 2.0}, WRONG, [5 / 3, 1 / 3, -1 / 3, -5 / 3]),
        # The verdict alone: 1, 1, 1, 0. Three letters, one advantage: 1 − 2/3.
        ({"refinements": 0}, WRONG, [1 / 3, 1 / 3, 1 / 3, -1]),
        ({"weight": 0.0}, WRONG, [1 / 3, 1 / 3, 1 / 3, -1]),
        # Of a right attempt the verdict decides: 1, 1, 0, 0, each less a third of the others' sum.
        ({}, RIGHT, [2 / 3, 2 / 3, -2 / 3, -2 / 3]),
        ({"refinements": 0}, RIGHT, [2 / 3, 2 / 3, -2 / 3, -2 / 3]),
    ],
)
def test_credit_by_hand(settings, scores, advantages):
    credit = method(**settings).credit(rollouts(scores))
    # Sign and letter and the stop get it, what stands before is context; the last critique is a "+" and ends sooner.
    expected = torch.zeros(4, 7)
    expected[:, 4:] = torch.tensor(advantages)[:, None]
    expected[3, 6] = 0
    torch.testing.assert_close(credit.advantages, expected)


def test_critiques_are_compared_with_those_of_the_same_attempt():
    both = method().credit(rollouts(WRONG + RIGHT)).advantages
    assert torch.equal(both[:4], method().credit(rollouts(WRONG)).advantages)
    assert torch.equal(both[4:], method().credit(rollouts(RIGHT)).advantages)


def test_without_refinements_it_does_not_matter_what_they_would_have_been():
    others = [[before, verdict, 1 - after] for before, verdict, after in WRONG]
    judged = [method(refinements=0).credit(rollouts(scores)).advantages for scores in (WRONG, others)]
    assert torch.equal(*judged)
    helped = [method().credit(rollouts(scores)).advantages for scores in (WRONG, others)]
    assert not torch.equal(*helped)


def test_what_was_said_is_not_looked_at():
    """No step is a label: with the same scores any letter has the same credit."""
    data = rollouts(WRONG)
    same = replace(data, answers=[["x", "-d", "y"]] * 4)
    assert torch.equal(method().credit(data).advantages, method().credit(same).advantages)


def test_logged_shares_by_hand():
    # Verdicts: 3 of 4 and 2 of 4 are right. New attempts: 0.75 + 0.25 + 0 + 0 and 1 + 1 + 0.5 + 0.5, of eight.
    stats = method().credit(rollouts(WRONG + RIGHT)).stats
    assert (stats["verdict"], stats["refined"]) == (0.625, 0.5)


def test_the_kl_holds_the_critique_and_nothing_else():
    credit = method(beta=0.125).credit(rollouts(WRONG))
    assert credit.kl.tolist() == [[0] * 4 + [0.125] * 3] * 3 + [[0] * 4 + [0.125] * 2 + [0]]


def test_scores_stay_as_they_were():
    data = rollouts(WRONG)
    method().credit(data)
    assert data.scores.tolist() == WRONG


# --- phases and a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"refinements": 0}, {"shuffle_scores": True, "refinements": 2}])
def test_there_is_one_phase(settings):
    train = train_config(samples=3, temperature=0.5)
    (phase,) = method(**settings).phases(train)
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.reference_decay) == ("RL", 10, 1.0)
    assert phase.shuffle_scores is settings.get("shuffle_scores", False)
    assert phase.roll_out.func is critic_episodes
    asked = {"actor": "somebody", "samples": 3, "temperature": 0.5, "refinements": settings.get("refinements", 4)}
    assert phase.roll_out.keywords == asked


def flat(policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def test_a_run_trains_the_critic_and_neither_actor_nor_reference(monkeypatch):
    actor, asked = sharp_policy(0), []

    def some_help(*arguments, **how):  # this actor is never right; without rewards nothing would move
        asked.append(how["refinements"])
        return replace(critique_and_refine(*arguments, **how), scores=torch.tensor(WRONG + RIGHT))

    monkeypatch.setattr(critiques, "load_actor", lambda *_: actor)
    monkeypatch.setattr(critiques, "critique_and_refine", some_help)
    train = train_config(updates=2, kl="exact")
    learner = Learner(sharp_policy(1), TaskConfig(name="tally", level=1), train, seed=0)
    base, frozen = flat(learner.policy), flat(actor)
    records = list(run_phases(learner, method(refinements=3).phases(train)))
    assert [record["phase"] for record in records] == ["RL", "RL"] and asked == [3, 3]
    assert not torch.equal(flat(learner.policy), base)
    assert torch.equal(flat(actor), frozen) and torch.equal(flat(learner.reference), base)
    # The critique is turn 1 of three scores: before the second update it has left the base, and nothing else has.
    assert records[0]["kl@2"] == pytest.approx(0, abs=1e-6) and records[1]["kl@2"] > 0
    assert all(record["kl@1"] == record["kl@3"] == 0 for record in records)
    assert [(record["verdict"], record["refined"]) for record in records] == [(0.625, 0.5)] * 2


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "actor"),  # there is no actor that goes without saying
        ({"actor": "tally-critics", "refinement": 4}, "refinement"),
        ({"actor": "tally-critics", "refinements": -1}, "refinements"),
        ({"actor": "tally-critics", "refinements": 2.5}, "refinements"),
        ({"actor": "tally-critics", "weight": -1.0}, "weight"),
        ({"actor": "tally-critics", "beta": -0.01}, "beta"),
        ({"actor": "tally-critics", "shuffle_scores": "perhaps"}, "shuffle_scores"),
        ({"actor": 3}, "actor"),
    ],
)
def test_a_wrong_setting_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(RefCritic, settings, "arms.refcritic")


def test_the_evaluation_knows_who_acts():
    assert method(refinements=2, weight=3.0).evaluation() == {"actor": "somebody"}
    assert evaluate is evaluate_critic


def test_the_arms_differ_in_nothing_but_their_reward():
    experiment = load_experiment("refcritic", "tiny")
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert {arm: (m.refinements, m.shuffle_scores) for arm, m in methods.items()} == {
        "refcritic": (4, False),
        "judgement": (0, False),
        "shuffled": (4, True),
    }
    assert {(m.actor, m.weight, m.beta) for m in methods.values()} == {(experiment.base, 1.0, 0.01)}
