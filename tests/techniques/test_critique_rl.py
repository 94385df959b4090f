"""Critique-RL: what a critique is paid for, which tokens that reaches, and what the two stages are made of.

The group that the credit is worked out on: two critiques of one attempt, and the token that ends them. Everything
before a critique is context, whoever wrote it::

    row   text          turn tensor              attempt   verdict   refinement
    0     7=x!-a$       −1 −1 −1 −1  1  1  1     (scores: see the tests)
    1     7=x!+$        −1 −1 −1 −1  1  1 −1
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
from minirl.rollouts.critiques import critique_and_refine
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.techniques.critique.critique_rl import CritiqueRL, evaluate

TURN = [[-1, -1, -1, -1, 1, 1, 1], [-1, -1, -1, -1, 1, 1, -1]]
ACTOR = sharp_policy(0)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 2, "samples": 2, "learning_rate": 1e-3, **changes})


def method(**changes) -> CritiqueRL:
    return CritiqueRL(**{"actor": "somebody", **changes})


def rollouts(scores) -> Rollouts:
    """Groups of two critiques; ``scores`` are of attempt, verdict and refinement."""
    rows = len(scores)
    return Rollouts(
        ids=torch.zeros(rows, 7, dtype=torch.long),
        turn=torch.tensor(TURN * (rows // 2)),
        logprobs=torch.zeros(rows, 7),
        scores=torch.tensor(scores, dtype=torch.float),
        group=torch.arange(rows) // 2,
        answers=[["x", "-a", "y"]] * rows,
        items=[Item("tally", 0, 0, 1, "7=", "x")] * rows,
        longest=3,
    )


# --- credit ----------------------------------------------------------------------------------------------------------

# The attempt is wrong. One critic objects, and the actor mends it; the other accepts it, and it stays as it was.
HELPED = [[0, 1, 1], [0, 0, 0]]
# The attempt is right. One critic objects, and the actor takes it calmly; the other accepts. Both keep it right.
CALM = [[1, 0, 1], [1, 1, 1]]
# The attempt is wrong. A true objection does not help; praise that is wrong does.
LUCKY = [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("scores", "verdict", "help_", "advantage"),
    [
        # Of two rows, each is compared with the other: the advantage is the difference of their rewards.
        (HELPED, 1.0, 0.0, 1.0),  # 1 against 0
        (HELPED, 0.0, 1.0, 1.0),  # 1 against 0
        (HELPED, 0.25, 1.0, 1.25),  # 1.25 against 0
        (CALM, 1.0, 0.0, -1.0),  # 0 against 1
        (CALM, 0.0, 1.0, 0.0),  # 1 against 1: a false alarm costs nothing
        (CALM, 0.25, 1.0, -0.25),  # 1 against 1.25: now it does
        (LUCKY, 1.0, 0.0, 1.0),  # 1 against 0
        (LUCKY, 0.0, 1.0, -1.0),  # 0 against 1: help speaks against the truth
        (LUCKY, 0.25, 1.0, -0.75),  # 0.25 against 1: a small bonus does not turn it round
        (LUCKY, 1.0, 1.0, 0.0),  # 1 against 1: here the truth is worth as much as the help
    ],
)
def test_credit_by_hand(scores, verdict, help_, advantage):
    credit = method().credit(rollouts(scores), verdict=verdict, help_=help_)
    # The critique's own tokens get it, its stop included; the attempt in the context and the padding get nothing.
    assert credit.advantages.tolist() == [
        [0, 0, 0, 0, advantage, advantage, advantage],
        [0, 0, 0, 0, -advantage, -advantage, 0],
    ]


def test_whether_the_attempt_was_right_is_not_paid_for():
    other = [[1 - attempt, verdict, refined] for attempt, verdict, refined in LUCKY]
    credits = [method().credit(rollouts(scores), verdict=0.5) for scores in (LUCKY, other)]
    assert torch.equal(credits[0].advantages, credits[1].advantages)


def test_help_counts_once_if_nothing_else_is_said():
    credit = method().credit(rollouts(LUCKY), verdict=0.25)
    assert torch.equal(credit.advantages, method().credit(rollouts(LUCKY), verdict=0.25, help_=1.0).advantages)


def test_a_share_of_several_refinements_counts_as_a_share():
    # Three of four refinements after one critique are right, one of four after the other: ¾ − ¼.
    credit = method().credit(rollouts([[0, 1, 0.75], [0, 1, 0.25]]), verdict=0.25)
    assert credit.advantages[:, 4].tolist() == [0.5, -0.5]


def test_critiques_are_compared_with_those_of_the_same_attempt():
    # The first group agrees, whatever it earned: it teaches nothing. The second teaches as if it were alone.
    credit = method().credit(rollouts([[1, 1, 1], [1, 1, 1], *HELPED]), verdict=1.0, help_=0.0)
    assert credit.advantages[:, 4].tolist() == [0, 0, 1, -1]


def test_four_critiques_of_an_attempt_by_hand():
    data = rollouts([[0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    data.group = torch.zeros(4, dtype=torch.long)
    credit = method().credit(data, verdict=0.25)
    # Rewards 1.25, 0.25, 1, 0 with the sum 2.5. Each less the mean of the three others:
    # 1.25 − 1.25/3, 0.25 − 2.25/3, 1 − 1.5/3, 0 − 2.5/3.
    assert credit.advantages[:, 4].tolist() == pytest.approx([5 / 6, -1 / 2, 1 / 2, -5 / 6])
    assert credit.advantages[:, :4].abs().max() == 0


def test_logged_shares_by_hand():
    # Of four critiques three have the right verdict, and one was followed by a right answer.
    stats = method().credit(rollouts([[0, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]), verdict=1.0, help_=0.0).stats
    assert (stats["verdict"], stats["refined"]) == (0.75, 0.25)


def test_the_kl_holds_the_critique_and_nothing_else():
    credit = method(beta=0.125).credit(rollouts(HELPED), verdict=1.0)
    assert credit.kl.tolist() == [[0, 0, 0, 0, 0.125, 0.125, 0.125], [0, 0, 0, 0, 0.125, 0.125, 0]]


def test_scores_stay_as_they_were():
    data = rollouts(HELPED)
    method().credit(data, verdict=1.0)
    assert data.scores.tolist() == HELPED


# --- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "updates", "expected"),
    [
        # The last update of stage I belongs to the anchor.
        (0.5, 10, {"discriminate": 4, "anchor": 1, "help": 5}),
        (0.25, 80, {"discriminate": 19, "anchor": 1, "help": 60}),
        (0.5, 2, {"discriminate": 0, "anchor": 1, "help": 1}),
        (0.3, 4, {"discriminate": 0, "anchor": 1, "help": 3}),  # 1.2 → 1
        (1.0, 10, {"discriminate": 9, "anchor": 1, "help": 0}),  # verdicts alone
        (0.0, 10, {"help": 10}),  # no stage I, and nothing to be anchored to
        (0.1, 4, {"help": 4}),  # 0.4 → 0
    ],
)
def test_stages_share_the_updates(first, updates, expected):
    phases = method(first=first).phases(train_config(updates=updates))
    assert {phase.name: phase.updates for phase in phases} == expected
    assert [phase.name for phase in phases] == list(expected)
    assert sum(expected.values()) == updates


def test_the_reference_moves_once_and_all_the_way():
    decays = {phase.name: phase.reference_decay for phase in method().phases(train_config())}
    assert decays == {"discriminate": 1.0, "anchor": 0.0, "help": 1.0}


def test_stage_one_needs_no_refinements():
    train = train_config(samples=3, temperature=0.5)
    settings = {phase.name: phase.roll_out.keywords for phase in method().phases(train)}
    shared = {"actor": "somebody", "samples": 3, "temperature": 0.5}
    assert settings == {
        "discriminate": {**shared, "refinements": 0},
        "anchor": {**shared, "refinements": 0},
        "help": shared,  # one, as critique_and_refine has it
    }


@pytest.mark.parametrize(
    ("settings", "paid"),
    [
        # Rewards of a critique that is right and does not help, and of one that is wrong and helps.
        ({"discriminate": 0.25}, {"discriminate": (1, 0), "anchor": (1, 0), "help": (0.25, 1)}),
        ({}, {"discriminate": (1, 0), "anchor": (1, 0), "help": (0.2, 1)}),
        ({"first": 0.0, "discriminate": 0.0}, {"help": (0, 1)}),  # the indirect reward
        ({"first": 0.0, "discriminate": 1.0}, {"help": (1, 1)}),  # one stage: the plain sum
        ({"first": 1.0}, {"discriminate": (1, 0), "anchor": (1, 0), "help": (0.2, 1)}),  # of help there is no update
    ],
)
def test_what_every_stage_pays(settings, paid):
    found = {}
    for phase in method(**settings).phases(train_config()):
        true, helpful = paid[phase.name]
        first, second = phase.credit(rollouts(LUCKY)).advantages[:, 4].tolist()
        assert first == pytest.approx(true - helpful) and second == pytest.approx(helpful - true)
        found[phase.name] = phase
    assert found.keys() == paid.keys()


@pytest.mark.parametrize("shuffled", [True, False])
def test_the_control_shuffles_every_stage(shuffled):
    phases = method(shuffle_scores=shuffled).phases(train_config())
    assert [phase.shuffle_scores for phase in phases] == [shuffled] * 3


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def actors(monkeypatch):
    """Who is asked to act, by name: always ``ACTOR``."""
    asked = []
    monkeypatch.setattr(critiques, "load_actor", lambda name, *_: (asked.append(name), ACTOR)[1])
    return asked


def flat(policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def test_a_run_anchors_stage_two_to_the_critic_of_stage_one(actors, monkeypatch):
    def half_help(*arguments, **how):  # this actor is never right; without rewards nothing would move
        return replace(critique_and_refine(*arguments, **how), scores=torch.tensor(HELPED * 2, dtype=torch.float))

    monkeypatch.setattr(critiques, "critique_and_refine", half_help)
    train = train_config(updates=5, kl="exact")
    learner = Learner(sharp_policy(1), TaskConfig(name="tally", level=1), train, seed=0)
    base, actor = flat(learner.policy), flat(ACTOR)
    references, policies, records = [], [], []
    for record in run_phases(learner, method(first=0.6, beta=0.5).phases(train)):
        references.append(flat(learner.reference))
        policies.append(flat(learner.policy))
        records.append(record)
    assert [record["phase"] for record in records] == ["discriminate"] * 2 + ["anchor"] + ["help"] * 2
    assert torch.equal(references[0], base) and torch.equal(references[1], base)
    # What the third update has made is what the others are held to.
    torch.testing.assert_close(references[2], policies[2])
    assert torch.equal(references[3], references[2]) and torch.equal(references[4], references[2])
    assert not torch.equal(policies[2], base)
    assert torch.equal(flat(ACTOR), actor)  # frozen
    assert set(actors) == {"somebody"} and len(actors) == 5
    # The critique is turn 1 of episodes with three scores, and only it is held to the reference.
    assert all(record["kl@1"] == record["kl@3"] == 0 for record in records)
    # Before the second update the policy has left the base; where stage II begins, it *is* its reference.
    assert records[1]["kl@2"] > 0
    assert records[3]["kl@2"] == pytest.approx(0, abs=1e-6)


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "actor"),  # there is no actor that goes without saying
        ({"actor": "tally-critics", "discriminates": 0.2}, "discriminates"),
        ({"actor": "tally-critics", "first": -0.1}, "first"),
        ({"actor": "tally-critics", "first": 1.1}, "first"),
        ({"actor": "tally-critics", "discriminate": -0.2}, "discriminate"),
        ({"actor": "tally-critics", "beta": -0.01}, "beta"),
        ({"actor": "tally-critics", "shuffle_scores": "perhaps"}, "shuffle_scores"),
        ({"actor": 3}, "actor"),
    ],
)
def test_a_wrong_setting_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(CritiqueRL, settings, "arms.two_stage")


def test_the_evaluation_knows_who_acts():
    assert method().evaluation() == {"actor": "somebody"}
    assert evaluate is evaluate_critic


def test_the_arms_differ_in_nothing_but_their_reward():
    experiment = load_experiment("critique-rl", "tiny")
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    # (share of stage I, weight of the verdict in stage II), scores shuffled?
    assert {arm: (m.first, m.discriminate, m.shuffle_scores) for arm, m in methods.items()} == {
        "two_stage": (0.5, 0.2, False),
        "one_stage": (0.0, 1.0, False),
        "indirect": (0.0, 0.0, False),
        "verdicts": (1.0, 0.2, False),
        "shuffled": (0.5, 0.2, True),
    }
    assert {(m.actor, m.beta) for m in methods.values()} == {(experiment.base, 0.01)}  # critic and actor start alike
