"""UFO: rewards of whole episodes as tables, what counts as a different answer, and credit where episodes end early."""

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.loops import Learner, run_phases
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.tasks.bucket import enumeration, repeating
from minirl.techniques.baselines import MultiTurnRL
from minirl.techniques.self_correction.ufo import UFO, different_answers, evaluate, unary_rewards

BUCKET = get("bucket")
ITEM = Item("bucket", 0, 0, 3, "bkqz=", "q")
WIDTH = 12


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 1, "samples": 3, "turns": 3, "learning_rate": 1e-3, **changes})


def episodes(*said: str, item: Item = ITEM, turns: int = 3) -> Rollouts:
    """One group of episodes, an attempt a word: ``"b q"`` is a wrong attempt, then the right one.

    An attempt is one token, and one token of context stands before each: ``"b q"`` has the turns −1 0 −1 1 −1 −1 …
    """
    answers = [row.split(" ") for row in said]
    turn = [[t // 2 if t % 2 and t < 2 * len(row) else -1 for t in range(WIDTH)] for row in answers]
    scores = [[BUCKET.score(item, text) for text in row] + [0.0] * (turns - len(row)) for row in answers]
    return Rollouts(
        ids=torch.zeros(len(said), WIDTH, dtype=torch.long),
        turn=torch.tensor(turn),
        logprobs=torch.zeros(len(said), WIDTH),
        scores=torch.tensor(scores),
        group=torch.zeros(len(said), dtype=torch.long),
        answers=answers,
        items=[item] * len(said),
        longest=2 * turns,
    )


def rewards(rollouts: Rollouts, gamma: float, repetition: float) -> list[list[float]]:
    made = rollouts.alive.sum(1)
    return unary_rewards(rollouts.scores, made, different_answers(rollouts), gamma, repetition).tolist()


# --- rewards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reward"),
    [
        ("q", [1, 0, 0, 0]),  # at once: γ⁰, and one of one is different
        ("b q", [0, 0.5, 0, 0]),  # γ¹
        ("b k z q", [0, 0, 0, 0.125]),  # γ³
        ("b b q", [0, 0, 0.25 - 0.5 / 3, 0]),  # γ², two of three are different: −λ/3
        ("b k z b", [0, 0, 0, -0.125]),  # never right, three of four: −λ/4
        ("b b b b", [0, 0, 0, -0.375]),  # one of four: −3λ/4
    ],
)
def test_rewards_by_hand(said, reward):
    # γ = 1/2, λ = 1/2.
    assert rewards(episodes(said, turns=4), 0.5, 0.5)[0] == pytest.approx(reward)


def test_without_discount_and_penalty_the_rewards_are_the_scores():
    rollouts = episodes("q", "b q", "b b q", "b b b")
    assert rewards(rollouts, 1.0, 0.0) == rollouts.scores.tolist()


def test_gamma_zero_rewards_the_first_attempt_alone():
    assert rewards(episodes("q", "b q"), 0.0, 0.0) == [[1, 0, 0], [0, 0, 0]]  # 0⁰ = 1


def test_the_penalty_does_not_read_the_scores():
    # What the shuffled control must know: with its scores taken away an episode pays for its repeats all the same.
    nothing = torch.zeros(2, 3)
    found = unary_rewards(nothing, torch.tensor([2, 3]), torch.tensor([1, 3]), 0.5, 0.5)
    assert found.tolist() == [[0, -0.25, 0], [0, 0, 0]]


def test_the_inputs_stay_as_they_were():
    scores, made, different = torch.tensor([[0.0, 1.0]]), torch.tensor([2]), torch.tensor([1])
    unary_rewards(scores, made, different, 0.5, 0.5)
    assert (scores.tolist(), made.tolist(), different.tolist()) == ([[0, 1]], [2], [1])


def test_players_of_bucket_by_hand():
    # Four candidates, one of which is right: each of the four letters in turn, three attempts, γ = 1.
    def mean(attempts: str) -> float:
        found = []
        for right in "bkqz":
            item = Item("bucket", 0, 0, 3, "bkqz=", right)
            played = attempts.split(right)[0] + right if right in attempts else attempts  # ends with success
            found.append(sum(rewards(episodes(" ".join(played), item=item), 1.0, 0.75)[0]))
        return sum(found) / 4

    assert mean("bkq") == enumeration(4, 3) == 0.75
    # "b" alone is right for one of the four; the other three episodes say it three times: −2/3 · λ each.
    assert mean("bbb") == pytest.approx(repeating(4, 3) - 0.75 * 2 / 3 * 3 / 4)
    # b, b, k: right with b (1), with k (1 − λ/3), and twice not at all (−λ/3).
    assert mean("bbk") == pytest.approx((1 + 0.75 - 2 * 0.25) / 4)


# --- different answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "candidates", "any_answer"),
    [
        ("q", 1, 1),
        ("b k z", 3, 3),
        ("b b k", 2, 2),
        ("b k b", 2, 2),  # not next to each other: a repeat all the same
        ("b a a", 1, 2),  # no candidate: a
        ("a c d", 0, 3),  # nonsense is as various as one likes
        ("= bk b", 1, 3),
    ],
)
def test_different_answers_by_hand(said, candidates, any_answer):
    rollouts = episodes(said)
    assert different_answers(rollouts).tolist() == [candidates]
    assert different_answers(rollouts, admissible_only=False).tolist() == [any_answer]


def test_an_empty_answer_is_no_candidate():
    rollouts = episodes("b k z")
    rollouts.answers = [["", "b", ""]]
    assert different_answers(rollouts).tolist() == [1]
    assert different_answers(rollouts, admissible_only=False).tolist() == [2]


def test_every_episode_is_counted_for_itself():
    assert different_answers(episodes("b b b", "b k z", "q", "b q")).tolist() == [1, 3, 1, 2]


# --- credit ---------------------------------------------------------------------------------------------------------

GROUP = ("q", "b q", "b b k")  # right at once, right the second time, never right and once repeated


def test_credit_by_hand():
    # γ = 1/2, λ = 3/4: the rewards are (1, 0, 0), (0, ½, 0) and (0, 0, −¼), and nothing is discounted a second time:
    # the returns are (1), (½, ½) and (−¼, −¼, −¼), each as far as the episode went.
    #   turn 1  1 − mean(½, −¼) = ⅞    ½ − mean(1, −¼) = ⅛    −¼ − mean(1, ½) = −1
    #   turn 2  –                      ½ + ¼ = ¾              −¼ − ½ = −¾
    #   turn 3  –                      –                      alone: nothing to compare with
    credit = UFO(gamma=0.5, repetition=0.75, beta=0.25).credit(episodes(*GROUP))
    rest = [0] * (WIDTH - 6)
    expected = [
        [0, 0.875, 0, 0, 0, 0, *rest],
        [0, 0.125, 0, 0.75, 0, 0, *rest],
        [0, -1, 0, -0.75, 0, 0, *rest],
    ]
    assert torch.allclose(credit.advantages, torch.tensor(expected), atol=1e-6)
    assert credit.kl.tolist() == [
        [0, 0.25, 0, 0, 0, 0, *rest],
        [0, 0.25, 0, 0.25, 0, 0, *rest],
        [0, 0.25, 0, 0.25, 0, 0.25, *rest],
    ]
    assert credit.stats == {"return": pytest.approx((1 + 0.5 - 0.25) / 3)}


def test_a_repeat_is_worth_less_than_another_wrong_letter():
    # Neither was ever right. One of three is a repeat: −λ/3 = −¼, against 0, and every attempt of the episode is
    # credited with it, the blameless first one, too.
    credit = UFO(gamma=0.5, repetition=0.75).credit(episodes("b b k", "b k z"))
    assert credit.advantages[:, 1:6:2].flatten().tolist() == pytest.approx([-0.25] * 3 + [0.25] * 3)
    # Without penalty the two are equal: what makes a repeat bad then is only that success comes later, if at all.
    credit = UFO(gamma=0.5, repetition=0.0).credit(episodes("b b k", "b k z"))
    assert not credit.advantages.any()


def test_nonsense_is_punished_unless_any_answer_counts():
    rollouts = episodes("a c d", "b k z")  # both never right; the first names no candidate at all: −λ
    assert UFO(repetition=0.75).credit(rollouts).advantages[:, 1].tolist() == [-0.75, 0.75]
    assert not UFO(repetition=0.75, admissible_only=False).credit(rollouts).advantages.any()


def test_without_discount_and_penalty_it_is_multi_turn_rl():
    for rollouts in (episodes(*GROUP), episodes("b b b", "z b q", "k q")):
        ufo = UFO(gamma=1.0, repetition=0.0, beta=0.07).credit(rollouts)
        naive = MultiTurnRL(gamma=1.0, beta=0.07, until_solved=True).credit(rollouts)
        assert torch.equal(ufo.advantages, naive.advantages)
        assert torch.equal(ufo.kl, naive.kl)
        assert ufo.stats == naive.stats


# --- phases ---------------------------------------------------------------------------------------------------------


def test_one_phase_of_episodes_that_end_with_success():
    method = UFO(shuffle_scores=True)
    (phase,) = method.phases(train_config(temperature=0.5, feedback="binary"))
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RL", 10, True)
    assert phase.roll_out.keywords == {
        "turns": 3, "samples": 3, "temperature": 0.5, "feedback": "binary", "until_solved": True,
    }  # fmt: skip
    assert torch.equal(phase.credit(episodes(*GROUP)).advantages, method.credit(episodes(*GROUP)).advantages)
    assert not UFO().phases(train_config())[0].shuffle_scores


class Lenient(type(BUCKET)):
    """An untrained policy hardly ever writes a candidate; here one attempt in four is right."""

    def check(self, item, answer):
        return answer[:1].islower()


def test_it_trains():
    train = train_config(updates=3, prompts=4, samples=4)
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="bucket", level=7), train, 0)
    learner.task = Lenient()
    before = [parameter.clone() for parameter in learner.parameters]
    records = list(run_phases(learner, UFO().phases(train)))
    # Success stays: the share solved by a turn never falls, and rises where anybody is right at all.
    for record in records:
        solved = [record[f"accuracy@{t}"] for t in (1, 2, 3)]
        assert solved == sorted(solved)
        assert {"return", "copy_rate", "kl@3", "entropy", "grad_norm"} <= record.keys()
    assert records[-1]["accuracy@3"] > records[-1]["accuracy@1"] > 0
    # Episodes that ended early cost less than 3 attempts of 2 tokens.
    assert records[-1]["generated_tokens"] < 3 * 16 * 3 * 2
    assert all((old != new).any() for old, new in zip(before, learner.parameters, strict=True))


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 1.5},
        {"gamma": -0.5},
        {"repetition": -0.1},
        {"beta": -1},
        {"admissible_only": "perhaps"},
        {"lambda": 0.1},
        {"turns": 5},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(UFO, bad, "arms.ufo")


def test_the_runner_finds_an_evaluation():
    assert evaluate.__module__ == "minirl.evaluation.attempts"
