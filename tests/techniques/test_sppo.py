"""SPPO: estimated win rates, which answers are kept, a loss with a target for each, and iterations that remember."""

import copy

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.preferences import CLASSES, chosen_classes, class_probabilities, exploitability, win_matrix
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy
from minirl.tasks import get
from minirl.techniques.base import PreferencePhase
from minirl.techniques.self_play.sppo import (
    SPPO,
    attempts,
    best_and_worst,
    dpo_loss,
    estimated_wins,
    learning,
    sppo_loss,
)

TASTE, BASE = get("taste"), load_policy("bucket-forgetful")
ROCK, SCISSORS, PAPER, TWIG, NONE = range(5)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 6, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def learner(**changes) -> Learner:
    return Learner(copy.deepcopy(BASE), TaskConfig(name="taste", level=2), train_config(**changes), seed=0)


# --- win rates ------------------------------------------------------------------------------------------------------


def test_estimated_wins_by_hand():
    # Each against all four, itself at one half: rock loses mostly to paper, always beats scissors.
    estimate = estimated_wins(win_matrix("circle"), torch.tensor([[ROCK, SCISSORS, PAPER, TWIG]]))
    rock, scissors, paper = (0.5 + 1 + 0.2 + 0.9) / 4, (0 + 0.5 + 0.8 + 0.9) / 4, (0.8 + 0.2 + 0.5 + 0.9) / 4
    assert estimate[0].tolist() == pytest.approx([rock, scissors, paper, (0.1 * 3 + 0.5) / 4])


def test_estimates_of_a_prompt_average_to_one_half():
    chosen = torch.tensor([[ROCK, ROCK, TWIG, NONE, PAPER], [PAPER] * 5])
    estimate = estimated_wins(win_matrix("circle"), chosen)
    assert estimate.mean(1).tolist() == pytest.approx([0.5, 0.5])  # what one wins the other loses
    assert estimate[1].tolist() == pytest.approx([0.5] * 5)  # equal answers cannot beat each other


def test_prompts_do_not_compete():
    wins, one, other = win_matrix("circle"), [ROCK, TWIG], [PAPER, NONE]
    both = estimated_wins(wins, torch.tensor([one, other]))
    assert both[0].tolist() == estimated_wins(wins, torch.tensor([one]))[0].tolist()


def test_best_and_worst_by_hand():
    # Rows of the second prompt begin at 3. Of equals the first.
    estimate = torch.tensor([[0.5, 0.7, 0.2], [0.6, 0.1, 0.1]])
    assert best_and_worst(estimate).tolist() == [1, 2, 3, 4]


def test_a_prompt_with_equal_answers_keeps_one_against_itself():
    assert best_and_worst(torch.tensor([[0.5, 0.5]])).tolist() == [0, 0]


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_least_at_the_target_of_each_answer():
    # η = 2: an answer that wins 0.7 should be e^0.4 times as likely, one that wins 0.3 e^−0.4 times.
    estimate = torch.tensor([[0.7, 0.3]])
    value, _ = sppo_loss(torch.tensor([0.4]), torch.tensor([-0.4]), estimate, normaliser=1, eta=2.0)
    assert value.item() == pytest.approx(0, abs=1e-9)
    value, _ = sppo_loss(torch.tensor([0.5]), torch.tensor([-0.2]), estimate, normaliser=1, eta=2.0)
    assert value.item() == pytest.approx(0.1**2 + 0.2**2)


def test_sppo_raises_the_chosen_one_and_dpo_does_not_care():
    """Both log-ratios as low as can be, the difference as asked: SPPO raises both, DPO goes on with the difference."""
    slopes = {}
    for name, loss, setting in (("sppo", sppo_loss, {"eta": 1.0}), ("dpo", dpo_loss, {"beta": 1.0})):
        ratios = torch.tensor([-1.0, -1.4], requires_grad=True)
        value, _ = loss(ratios[:1], ratios[1:], torch.tensor([[0.7, 0.3]]), normaliser=1, **setting)
        slopes[name] = torch.autograd.grad(value, ratios)[0].tolist()
    assert slopes["sppo"] == pytest.approx([2 * (-1 - 0.2), 2 * (-1.4 + 0.2)])
    assert slopes["dpo"][0] == pytest.approx(-slopes["dpo"][1])  # what one gains the other loses
    assert slopes["dpo"][0] < 0


def test_dpo_does_not_look_at_the_estimates():
    ratios = torch.tensor([0.3]), torch.tensor([-0.1])
    values = [dpo_loss(*ratios, torch.tensor([e]), normaliser=1, beta=1.0)[0].item() for e in ([0.9, 0.1], [0.5, 0.5])]
    assert values[0] == values[1]


# --- iterations -----------------------------------------------------------------------------------------------------


def test_iterations_are_equally_long():
    phases = SPPO(iterations=3).phases(train_config())
    assert [(phase.name, phase.updates) for phase in phases] == [(f"iteration {t}", 2) for t in (1, 2, 3)]
    assert all(isinstance(phase, PreferencePhase) for phase in phases)


def collected(**settings):
    (phase, *_) = SPPO(iterations=3, **settings).phases(train_config())
    return phase.collect(learner())


def test_what_is_collected_by_hand():
    pairs, drawn = collected(), attempts(learner(), 2)
    estimate = estimated_wins(win_matrix("circle"), chosen_classes(TASTE, drawn))
    rows = best_and_worst(estimate)
    assert len(estimate) == 4  # two updates of two prompts
    assert pairs.ids.tolist() == drawn.ids[rows].tolist()
    assert pairs.own.tolist() == drawn.own[rows].tolist()
    torch.testing.assert_close(pairs.confidence, torch.stack([estimate.max(1).values, estimate.min(1).values], dim=1))
    assert pairs.generated_tokens == drawn.generated_tokens()
    assert pairs.stats["win_chosen"] == pytest.approx(estimate.max(1).values.mean().item())


def test_all_arms_draw_the_same_answers_first():
    tokens = {collected(**settings).generated_tokens for settings in ({}, {"loss": "dpo"}, {"judge": "shuffled"})}
    assert len(tokens) == 1


def test_shuffled_keeps_the_win_rates_and_loses_whose_they_are():
    honest, shuffled = collected(), collected(judge="shuffled")
    torch.testing.assert_close(shuffled.confidence, honest.confidence)
    assert shuffled.ids.tolist() != honest.ids.tolist()


def test_what_is_logged_is_exact():
    stats = collected().stats
    exact = class_probabilities(BASE, TASTE, TASTE.items(700_001, range(16), 2))
    expected = exploitability(win_matrix("circle"), exact).mean().item()
    assert stats["exploitability"] == stats["average"] == pytest.approx(expected)
    assert sum(stats[f"share/{name}"] for name in CLASSES) == pytest.approx(1)


def test_scores_are_fitted_once_and_kept():
    method, one = SPPO(judge="bradley_terry"), learner()
    first = method.beliefs(one, torch.tensor([[ROCK, TWIG], [PAPER, NONE]]))
    again = method.beliefs(one, torch.tensor([[TWIG, TWIG], [TWIG, TWIG]]))  # later answers change nothing
    assert again.tolist() == first.tolist()
    torch.testing.assert_close(first + first.T, torch.ones(5, 5))
    assert first[ROCK, TWIG] > 0.5 and first[PAPER, NONE] > 0.5
    # Scores have an order: who beats somebody that beats a third beats the third at least as often.
    order = first.mean(1).argsort()
    assert (first[order][:, order].diff(dim=0) >= -1e-6).all()


def test_the_true_judge_is_asked_for_the_table():
    assert SPPO().beliefs(learner(), torch.zeros(1, 2, dtype=torch.long)).tolist() == win_matrix("circle").tolist()


@pytest.mark.parametrize("settings", [{}, {"loss": "dpo"}, {"judge": "bradley_terry"}, {"judge": "shuffled"}])
def test_training_runs_and_meets_every_policy_once(settings):
    one, phases = learner(), SPPO(iterations=3, **settings).phases(train_config())
    records = list(run_phases(one, phases))
    assert [("average" in record) for record in records] == [True, False] * 3
    assert records[0]["average"] == records[0]["exploitability"]
    assert int(one.memory["mixture/count"]) == 3
    assert learning(records)["chosen"] == pytest.approx(sum(records[i]["preference/chosen"] for i in (1, 3, 5)) / 3)


def test_learning_by_hand():
    """Four iterations of two updates; the second half are the last two."""
    records = []
    for t, (gain, average) in enumerate(((0.4, 0.4), (0.3, 0.2), (0.2, 0.15), (0.4, 0.1))):
        ratios = {"preference/chosen": 0.0, "preference/rejected": 0.0}
        records += [
            {"exploitability": gain, "average": average, **ratios},
            {"preference/chosen": 0.1 * t, "preference/rejected": -0.2},
        ]
    wanted = {"average": 0.1, "late": 0.3, "chosen": 0.15, "rejected": -0.2, "fell": -0.15}
    assert learning(records) == pytest.approx(wanted)


# --- mistakes in configs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ipo"}, "key 'loss'"),
        ({"judge": "coin"}, "key 'judge'"),
        ({"eta": 0}, "key 'eta'"),
        ({"iterations": 0}, "key 'iterations'"),
        ({"etta": 1}, "unknown key 'etta'. Did you mean 'eta'?"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match="arm") as caught:
        validate(SPPO, settings, "arm")
    assert message in str(caught.value)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ConfigError, match="judge: shuffled"):
        SPPO(shuffle_scores=True).phases(train_config())
    with pytest.raises(ConfigError, match="4 equal iterations need updates"):
        SPPO(iterations=4).phases(train_config())
    with pytest.raises(ConfigError, match="turns: 1"):
        SPPO(iterations=3).phases(train_config(turns=2))
