"""RLTF: its baseline in numbers, the sequences it learns from, and the credit of every token.

The group of two episodes that everything is worked out on; 10 and 11 are prompt, 1 to 8 attempts, 20 to 24 feedback::

    row   ids                              turn
    0     10 11  1  2 20 21  3  4  0       −1 −1  0  0 −1 −1  1  1 −1     the last one is padding
    1     10 11  5 22 23 24  6  7  8       −1 −1  0 −1 −1 −1  1  1  1
"""

from types import SimpleNamespace

import pytest
import torch

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.loops import policy_losses
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item
from minirl.tasks.lookup import Lookup
from minirl.techniques.self_correction.rltf_text import (
    RLTF,
    distillation_advantages,
    evaluate,
    feedback_tokens,
    without_feedback,
)

IDS = [[10, 11, 1, 2, 20, 21, 3, 4, 0], [10, 11, 5, 22, 23, 24, 6, 7, 8]]
TURN = [[-1, -1, 0, 0, -1, -1, 1, 1, -1], [-1, -1, 0, -1, -1, -1, 1, 1, 1]]
# What is left of them without first attempt and feedback.
ALONE_IDS = [[10, 11, 3, 4, 0], [10, 11, 6, 7, 8]]
ALONE_TURN = [[-1, -1, 1, 1, -1], [-1, -1, 1, 1, 1]]
# A group in which one second attempt of two is right: mean ½, deviation √½, so GRPO's advantage is ½ / (√½ + 10⁻⁴).
NORMALISED = 0.5 / (0.5**0.5 + 1e-4)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 1, "samples": 2, "turns": 2, "learning_rate": 1e-3, **changes})


def rollouts(scores) -> Rollouts:
    rows = len(scores)
    return Rollouts(
        ids=torch.tensor(IDS * (rows // 2)),
        turn=torch.tensor(TURN * (rows // 2)),
        logprobs=torch.tensor(TURN * (rows // 2)) * 0.5,
        scores=torch.tensor(scores),
        group=torch.arange(rows) // 2,
        answers=[["a", "b"]] * rows,
        items=[Item("lookup", 0, 0, 1, "C=", "acc")] * rows,
        longest=8,
    )


# --- the baseline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "from_first", "from_second"),
    [
        # Nobody is right at once, three of four are after feedback: means 0 and ¾.
        ([0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1], [0.25, 0.25, -0.75, 0.25]),
        # Feedback makes all right: to be compared with each other teaches nothing, with the first attempts everything.
        ([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]),
        # One is right at once: mean ¼.
        ([0, 1, 0, 0], [1, 1, 0, 1], [0.75, 0.75, -0.25, 0.75], [0.25, 0.25, -0.75, 0.25]),
        # All is known: what there is to learn from feedback is 0, and to get worse than before is punished.
        ([1, 1, 1, 1], [1, 1, 0, 1], [0, 0, -1, 0], [0.25, 0.25, -0.75, 0.25]),
        # Feedback was of no use.
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),
        # Scores in parts count in parts: means ¼ and ½.
        ([0.5, 0, 0.5, 0], [1, 0.5, 0.5, 0], [0.75, 0.25, 0.25, -0.25], [0.5, 0, 0, -0.5]),
    ],
)
def test_advantages_by_hand(first, second, from_first, from_second):
    scores = torch.tensor([first, second]).T.float()
    before = scores.clone()
    assert distillation_advantages(scores, 4, "first").tolist() == from_first
    assert distillation_advantages(scores, 4, "second").tolist() == from_second
    assert torch.equal(scores, before)


def test_groups_are_compared_with_themselves():
    # Three groups of two with the means (0, ½), (1, 1) and (½, 0) of (first, second) attempts.
    scores = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert distillation_advantages(scores, 2, "first").tolist() == [1, 0, 0, 0, -0.5, -0.5]
    assert distillation_advantages(scores, 2, "second").tolist() == [0.5, -0.5, 0, 0, 0, 0]


# --- the sequences ---------------------------------------------------------------------------------------------------


def test_the_second_attempt_as_if_it_had_been_the_first():
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    alone = without_feedback(data)
    assert alone.ids.tolist() == ALONE_IDS
    assert alone.turn.tolist() == ALONE_TURN
    assert torch.equal(alone.scores, data.scores) and torch.equal(alone.group, data.group)
    assert (data.ids.tolist(), data.turn.tolist()) == (IDS, TURN)  # the episodes stay as they were


def test_tokens_of_the_feedback():
    # Between the attempts: neither the prompt before them nor the padding behind.
    said = feedback_tokens(rollouts([[0.0, 1.0], [0.0, 0.0]]))
    assert said.int().tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0]]


def test_sequences_of_episodes_that_a_model_wrote():
    # A model that knows nothing, whose attempts are of all lengths, with or without the token that ends them.
    policy, task = tiny_llama(32, 1, 2), Lookup()
    items = [*task.items(0, range(4), 3), *task.items(0, range(4), 4)]  # prompts of two to four tokens
    data = roll_out(
        policy, task, items, turns=2, samples=2, generator=torch.Generator().manual_seed(0), feedback="corrected"
    )
    alone, said = without_feedback(data), feedback_tokens(data)
    for b, item in enumerate(data.items):
        second = data.ids[b][data.turn[b] == 1].tolist()
        expected = policy.encode_prompts([item.prompt])[0] + second
        assert alone.ids[b].tolist()[: len(expected)] == expected
        assert alone.ids[b][alone.own[b]].tolist() == second
        # An attempt that was cut off is closed by a stop token, which then stands before what was said.
        feedback = policy.encode_feedback([task.feedback(item, data.answers[b][0], "corrected")])[0]
        finished = data.ids[b][data.turn[b] == 0][-1] == policy.stop_id
        assert data.ids[b][said[b]].tolist() == ([] if finished else [policy.stop_id]) + feedback


# --- credit ----------------------------------------------------------------------------------------------------------


def test_reward_alone_by_hand():
    # Both first attempts are wrong, so they teach nothing; of the second attempts the first is right.
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    credit = RLTF(beta=0.25).credit(data)
    assert credit.sequences is data  # what is learned from is what was sampled
    a = NORMALISED
    expected = [[0, 0, 0, 0, 0, 0, a, a, 0], [0, 0, 0, 0, 0, 0, -a, -a, -a]]
    torch.testing.assert_close(credit.advantages, torch.tensor(expected))
    b = 0.25
    assert credit.kl.tolist() == [[0, 0, b, b, 0, 0, b, b, 0], [0, 0, b, 0, 0, 0, b, b, b]]


def test_each_attempt_is_rewarded_for_itself():
    # Row 0 is right at first and wrong then, row 1 the other way round. A return that ran on would be 1 in both rows.
    credit = RLTF().credit(rollouts([[1.0, 0.0], [0.0, 1.0]]))
    a = NORMALISED
    expected = [[0, 0, a, a, 0, 0, -a, -a, 0], [0, 0, -a, 0, 0, 0, a, a, a]]
    torch.testing.assert_close(credit.advantages, torch.tensor(expected))
    assert not credit.kl.any()
    assert credit.stats == {"return": 0.5}  # of the first attempts: what the method is for


@pytest.mark.parametrize(
    ("baseline", "weight", "right", "wrong"),
    [("first", 1.0, 1.0, 0.0), ("first", 2.0, 2.0, 0.0), ("second", 1.0, 0.5, -0.5), ("second", 4.0, 2.0, -2.0)],
)
def test_self_distillation_by_hand(baseline, weight, right, wrong):
    # The episodes as without it, and below them the second attempts alone, with r₁ − 0 or r₁ − ½ at their own tokens.
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    credit = RLTF(self_distillation=weight, baseline=baseline, beta=0.25).credit(data)
    pad = [0, 0, 0, 0]
    assert credit.sequences.ids.tolist() == [*IDS, *(row + pad for row in ALONE_IDS)]
    assert credit.sequences.turn.tolist() == [*TURN, *(row + [-1] * 4 for row in ALONE_TURN)]
    assert credit.sequences.group.tolist() == [0, 0, 1, 1]  # groups of two: neighbours still share a prompt
    reward_alone = RLTF(beta=0.25).credit(data)
    assert torch.equal(credit.advantages[:2], reward_alone.advantages)
    assert credit.advantages[2:].tolist() == [[0, 0, right, right, 0, *pad], [0, 0, wrong, wrong, wrong, *pad]]
    # The reference holds what was sampled; it says nothing about sequences that it was not asked for.
    assert torch.equal(credit.kl[:2], reward_alone.kl) and not credit.kl[2:].any()
    assert credit.stats == reward_alone.stats


def test_feedback_modelling_by_hand():
    # The words of the feedback become tokens to learn, each with weight λ; the attempts are credited as without it.
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    credit = RLTF(feedback_modelling=0.1, beta=0.25).credit(data)
    a, f = NORMALISED, 0.1
    expected = [[0, 0, 0, 0, f, f, a, a, 0], [0, 0, 0, f, f, f, -a, -a, -a]]
    torch.testing.assert_close(credit.advantages, torch.tensor(expected))
    assert credit.sequences.ids.tolist() == IDS
    assert credit.sequences.own.int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1]]
    assert torch.equal(credit.kl, RLTF(beta=0.25).credit(data).kl)
    assert data.turn.tolist() == TURN  # what the policy wrote is still what the budget counts


def test_both_are_the_one_and_the_other():
    data = rollouts([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    both = RLTF(self_distillation=1.0, feedback_modelling=0.1).credit(data)
    modelling, distillation = RLTF(feedback_modelling=0.1).credit(data), RLTF(self_distillation=1.0).credit(data)
    assert torch.equal(both.advantages[:4], modelling.advantages)
    assert torch.equal(both.sequences.turn[:4], modelling.sequences.turn)
    assert torch.equal(both.advantages[4:], distillation.advantages[4:])
    assert torch.equal(both.sequences.turn[4:], distillation.sequences.turn[4:])  # feedback is not in these any more
    assert torch.equal(both.sequences.ids, distillation.sequences.ids)


def test_the_loss_by_hand():
    # Row by row: −Σ A log π(y₁ | what stands before it), over the episodes and over (problem, y₁), divided by 4 rows.
    policy = tiny_llama(32, 1, 2)
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    credit = RLTF(self_distillation=2.0).credit(data)

    def log_probability(row: list[int], end: int, length: int) -> torch.Tensor:
        """Of the last ``length`` tokens before position ``end``."""
        ids = torch.tensor([row[:end]])
        return token_logprobs(policy.logits(ids[:, :-1]), ids[:, 1:])[0, -length:].sum()

    loss = -NORMALISED * (log_probability(IDS[0], 8, 2) - log_probability(IDS[1], 9, 3))
    loss = (loss - 2 * log_probability(ALONE_IDS[0], 4, 2)) / 4
    learner = SimpleNamespace(policy=policy, reference=None, train=train_config())
    stats: dict[str, float] = {}
    (found,) = policy_losses(learner, credit.sequences, credit, OBJECTIVES["reinforce"], stats)
    torch.testing.assert_close(found, loss)
    assert stats["loss/policy"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("baseline", "learns"), [("first", True), ("second", False)])
def test_where_feedback_makes_all_right_only_the_first_baseline_teaches(baseline, learns):
    # Scores as in the sparse regime after some two-turn RL: nobody right at first, everybody right then.
    policy = tiny_llama(32, 1, 2)
    credit = RLTF(self_distillation=1.0, baseline=baseline).credit(rollouts([[0.0, 1.0], [0.0, 1.0]]))
    learner = SimpleNamespace(policy=policy, reference=None, train=train_config())
    for loss in policy_losses(learner, credit.sequences, credit, OBJECTIVES["reinforce"], {}):
        loss.backward()
    assert any(p.grad.any() for p in policy.model.parameters()) == learns


# --- phases and settings ---------------------------------------------------------------------------------------------


def test_one_phase_with_the_settings_of_the_run():
    method = RLTF(self_distillation=1.0, shuffle_scores=True)
    (phase,) = method.phases(train_config(feedback="corrected", samples=4, temperature=0.5))
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RLTF", 10, True)
    assert phase.objective == OBJECTIVES["reinforce"]
    assert phase.roll_out.keywords == {"turns": 2, "samples": 4, "temperature": 0.5, "feedback": "corrected"}
    data = rollouts([[0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(phase.credit(data).advantages, method.credit(data).advantages)


def test_an_arm_may_have_feedback_of_its_own():
    # The control hears that its guess was wrong and nothing else; all arms are evaluated alike.
    policy, task = tiny_llama(32, 1, 2), Lookup()
    (phase,) = RLTF(grade="binary").phases(train_config(feedback="corrected"))
    items = task.items(0, range(3), 3)
    data = phase.roll_out(policy, task, items, generator=torch.Generator().manual_seed(0))
    for b, item in enumerate(data.items):
        heard = data.ids[b][feedback_tokens(data)[b]].tolist()
        assert policy.tokenizer.decode(heard, skip_special_tokens=True) == f"-{item.prompt}"
    assert RLTF(grade="binary").evaluation() == {}


@pytest.mark.parametrize("turns", [1, 3])
def test_there_is_an_attempt_before_and_one_after_feedback(turns):
    with pytest.raises(ConfigError, match=rf"train.turns: .*, not {turns}"):
        RLTF().phases(train_config(turns=turns))


@pytest.mark.parametrize(
    "bad",
    [
        {"self_distillation": -1},
        {"self_distillation": True},
        {"feedback_modelling": -0.1},
        {"feedback_modelling": float("nan")},
        {"baseline": "third"},
        {"beta": -0.1},
        {"feedback": 3},
        {"self_destillation": 1.0},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(RLTF, bad, "arms.distillation")


def test_the_runner_finds_an_evaluation():
    assert evaluate.__module__ == "minirl.evaluation.correction"
