"""SPO: a taste that goes in a circle as a game, what a Bradley–Terry model makes of it, and rewards of comparisons."""

import copy
import math

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.preferences import (
    CLASSES,
    GAMES,
    Mixture,
    bradley_terry,
    chosen_classes,
    class_probabilities,
    evaluate_preferences,
    exploitability,
    judged,
    win_counts,
    win_matrix,
)
from minirl.loops import Learner, derive_seed, run_phases
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import roll_out
from minirl.tasks import get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.self_play import spo
from minirl.techniques.self_play.spo import SPO, learning, noted, win_shares

POLICY, TASTE = load_policy("bucket-forgetful"), get("taste")
ROCK, SCISSORS, PAPER, TWIG, NONE = range(5)
RPS = torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])  # of children: who wins always wins


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 4, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


# --- the game -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", GAMES)
def test_somebody_wins_every_comparison(game):
    wins = win_matrix(game)
    torch.testing.assert_close(wins + wins.T, torch.ones(len(CLASSES), len(CLASSES)))


def test_uniform_on_rock_paper_scissors_is_the_optimum():
    assert exploitability(RPS, torch.full((3,), 1 / 3)).item() == pytest.approx(0, abs=1e-6)
    assert exploitability(RPS, torch.tensor([1.0, 0, 0])).item() == 0.5  # whoever says one thing loses to another
    # Half rock, half scissors: rock ties with the first and beats the second.
    assert exploitability(RPS, torch.tensor([0.5, 0.5, 0])).item() == 0.25


def test_nothing_beats_three_three_five_in_our_circle():
    mixture = torch.tensor([3.0, 3, 5, 0, 0]) / 11
    # Rock: 3/11 · ½ + 3/11 · 1 + 5/11 · 0.2 = ½; the other two likewise; a twig wins one in ten.
    assert (win_matrix("circle") @ mixture).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.1, 0])
    assert exploitability(win_matrix("circle"), mixture).item() == pytest.approx(0, abs=1e-6)


def test_every_pure_answer_of_the_circle_is_beaten_and_the_first_of_the_ladder_is_not():
    alone = torch.eye(5)
    # By paper, rock, scissors; by any of the three; by anything.
    assert exploitability(win_matrix("circle"), alone).tolist() == pytest.approx([0.3, 0.5, 0.3, 0.4, 0.5])
    assert exploitability(win_matrix("ladder"), alone).tolist() == pytest.approx([0, 0.3, 0.3, 0.4, 0.5])
    assert exploitability(win_matrix("coin"), alone).tolist() == [0] * 5


def test_a_mixture_is_as_exploitable_as_the_mean_of_its_policies():
    mixture = Mixture()
    assert mixture.add(torch.tensor([[1.0, 0, 0]])).tolist() == [[1, 0, 0]]
    mixture.add(torch.tensor([[0.0, 1, 0]]))
    average = mixture.add(torch.tensor([[0.0, 0, 1]]))
    assert average.tolist() == [pytest.approx([1 / 3] * 3)]
    assert exploitability(RPS, average).item() == pytest.approx(0, abs=1e-6)  # though each of the three is at ½


def test_a_mixture_goes_on_where_it_stood():
    first, second = Mixture(), Mixture()
    first.add(torch.tensor([[1.0, 0.0]]))
    second.load(first.state())
    assert second.add(torch.tensor([[0.0, 1.0]])).tolist() == [[0.5, 0.5]]


# --- exact probabilities --------------------------------------------------------------------------------------------


def test_class_probabilities_are_those_of_single_texts():
    """Letter by letter, without batches or shared prompts."""
    items = TASTE.items(3, range(3), 2)
    exact = class_probabilities(POLICY, TASTE, items)
    assert exact.shape == (3, 5)
    for item, row in zip(items, exact.tolist(), strict=True):
        wanted = [0.0] * 5
        for letter in item.prompt[:-1]:
            ids = torch.tensor(POLICY.encode_text([item.prompt + letter]))
            logprobs = POLICY.logits(ids).log_softmax(-1)[0]
            wanted[TASTE.class_of(item, letter)] += (
                (logprobs[-2, ids[0, -1]] + logprobs[-1, POLICY.stop_id]).exp().item()
            )
        wanted[NONE] = 1 - sum(wanted)
        assert row == pytest.approx(wanted, abs=1e-5)


def test_class_probabilities_are_the_shares_of_samples():
    (item,) = TASTE.items(0, [0], 2)
    exact = class_probabilities(POLICY, TASTE, [item], temperature=0.7)[0]
    noise = torch.Generator().manual_seed(0)
    drawn = roll_out(POLICY, TASTE, [item], samples=4000, generator=noise, temperature=0.7)
    seen = chosen_classes(TASTE, drawn).flatten().bincount(minlength=5) / 4000
    assert (seen - exact).abs().max() < 0.03  # four standard errors of a share are at most 0.032


def test_class_probabilities_do_not_depend_on_the_batch():
    items = TASTE.items(1, range(5), 2)
    torch.testing.assert_close(
        class_probabilities(POLICY, TASTE, items, batch=2), class_probabilities(POLICY, TASTE, items)
    )


def test_evaluation_by_hand():
    items = TASTE.items(7, range(3), 2)
    evaluation, rollouts = evaluate_preferences(POLICY, TASTE, items, seed=0)
    exact = class_probabilities(POLICY, TASTE, items)
    assert evaluation.items["exploitability"] == exploitability(win_matrix("circle"), exact).tolist()
    assert evaluation.items["largest"] == exact.max(1).values.tolist()
    assert evaluation.metrics["share/none"] == pytest.approx(exact[:, NONE].mean().item())
    assert [item.prompt for item in rollouts.items] == [item.prompt for item in items]
    other, _ = evaluate_preferences(POLICY, TASTE, items, seed=0, game="coin")
    assert other.metrics["exploitability"] == 0


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_one_verdict_a_pair():
    chosen = torch.tensor([[ROCK, SCISSORS, TWIG, NONE], [PAPER, PAPER, ROCK, TWIG]])
    verdicts = judged(win_matrix("circle"), chosen, torch.Generator().manual_seed(0))
    torch.testing.assert_close(verdicts + verdicts.mT, torch.ones(2, 4, 4))
    assert set(verdicts.flatten().tolist()) == {0, 0.5, 1}
    assert verdicts[0, 0, 1] == 1  # rock always breaks scissors
    assert verdicts[0, :3, 3].tolist() == [1, 1, 1]  # and everything beats what is no answer


def test_verdicts_come_as_often_as_the_table_says():
    chosen = torch.tensor([[PAPER, ROCK]]).expand(4000, 2)
    verdicts = judged(win_matrix("circle"), chosen, torch.Generator().manual_seed(1))
    assert abs(verdicts[:, 0, 1].mean().item() - 0.8) < 0.026  # four standard errors


def test_win_counts_by_hand():
    # Two groups: a rock beat a twig; a twig beat another twig, which counts as a win and a loss of twigs.
    verdicts = torch.tensor([[[0.5, 1], [0, 0.5]], [[0.5, 1], [0, 0.5]]])
    counts = win_counts(verdicts, torch.tensor([[ROCK, TWIG], [TWIG, TWIG]]))
    assert counts[ROCK, TWIG] == counts[TWIG, TWIG] == 1
    assert counts.sum() == 2


def test_win_shares_by_hand():
    # The first beat both others, the second the third. The diagonal does not count.
    verdicts = torch.tensor([[[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]]])
    assert win_shares(verdicts).tolist() == [[1, 0.5, 0]]


def test_shares_of_wins_are_unbiased():
    """On average an answer earns what it wins against the others."""
    chosen = torch.tensor([[ROCK, ROCK, PAPER, TWIG]])
    wins = win_matrix("circle")
    drawn = judged(wins, chosen.expand(8000, 4), torch.Generator().manual_seed(2))
    # A rock: ½ against the other, 0.2 against paper, 0.9 against the twig.
    rock, paper, twig = (0.5 + 0.2 + 0.9) / 3, (0.8 + 0.8 + 0.9) / 3, 0.1
    assert win_shares(drawn).mean(0).tolist() == pytest.approx([rock, rock, paper, twig], abs=0.015)


# --- Bradley–Terry --------------------------------------------------------------------------------------------------


def test_scores_of_two_by_hand():
    # Three wins in four: σ(r − r') = ¾ at a difference of log 3.
    scores = bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), ridge=1e-6)
    assert scores.tolist() == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-4)


def test_scores_find_the_scores_behind_comparisons():
    truth = torch.tensor([1.0, 0.3, -0.3, -1.0])
    counts = 1e6 * (truth[:, None] - truth).sigmoid()
    assert bradley_terry(counts).tolist() == pytest.approx(truth.tolist(), abs=1e-3)


def test_a_circle_has_no_scores():
    assert bradley_terry(100 * RPS).tolist() == pytest.approx([0, 0, 0], abs=1e-5)  # though everybody loses to somebody


def test_scores_of_our_circle_prefer_a_kind_that_is_beaten():
    scores = bradley_terry(1000 * win_matrix("circle"))
    assert scores.argmax() == ROCK
    assert exploitability(win_matrix("circle"), torch.eye(5)[ROCK]).item() == pytest.approx(0.3)


def test_who_never_loses_has_a_finite_score():
    scores = bradley_terry(torch.tensor([[0.0, 5.0], [0.0, 0.0]]))
    assert scores.isfinite().all() and scores[0] > scores[1]


# --- the phase ------------------------------------------------------------------------------------------------------


def play(method, updates=4, items=None):
    (phase,) = method.phases(train_config(updates=updates))
    items = items or TASTE.items(derive_seed(0, "problems"), range(2), 2)
    noise = torch.Generator().manual_seed(0)
    return phase, phase.roll_out(POLICY, TASTE, items, generator=noise)


def test_what_is_played_earns_shares_of_wins():
    phase, rollouts = play(SPO())
    assert isinstance(phase, OnlinePhase)
    assert rollouts.rewards.shape == (8,)
    # In each group of four every pair hands out one win among three possible ones: 6 wins of 12.
    assert rollouts.rewards.view(2, 4).sum(1).tolist() == pytest.approx([2, 2])
    credit = phase.credit(rollouts)
    group = rollouts.rewards[:4]
    wanted = group[0] - group[1:].mean()  # leave one out
    assert credit.advantages[0][rollouts.own[0]].tolist() == pytest.approx([wanted.item()] * int(rollouts.own[0].sum()))
    assert credit.kl[0][rollouts.own[0]].tolist() == pytest.approx([0.1] * int(rollouts.own[0].sum()))


def test_what_is_logged_is_exact():
    phase, rollouts = play(SPO())
    probes = TASTE.items(700_001, range(16), 2)
    exact = class_probabilities(POLICY, TASTE, probes)
    stats = phase.stats(rollouts)
    assert stats == noted(rollouts)
    expected = exploitability(win_matrix("circle"), exact).mean().item()
    assert stats["exploitability"] == stats["average"] == pytest.approx(expected)  # an average of one
    assert sum(stats[f"share/{name}"] for name in CLASSES) == pytest.approx(1)


def test_a_coin_judges_without_looking():
    _, rollouts = play(SPO(judge="coin"))
    assert rollouts.rewards.view(2, 4).sum(1).tolist() == pytest.approx([2, 2])
    # The truth stays the truth: only rewards are told by the coin.
    assert rollouts.stats["exploitability"] == play(SPO())[1].stats["exploitability"]


def test_refit_pays_the_scores_of_its_batch():
    _, rollouts = play(SPO(reward="refit"))
    chosen = chosen_classes(TASTE, rollouts)
    by_class = {}
    for kind, reward in zip(chosen.flatten().tolist(), rollouts.rewards.tolist(), strict=True):
        by_class.setdefault(kind, set()).add(round(reward, 6))
    assert all(len(values) == 1 for values in by_class.values())  # one score a kind


def test_the_fixed_model_is_fitted_once_to_answers_of_the_base(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return POLICY

    monkeypatch.setattr(spo, "load_policy", load)
    spo.reward_model.cache_clear()
    method = SPO(reward="fixed")
    (phase,) = method.phases(train_config())
    seen = [
        phase.roll_out(POLICY, TASTE, TASTE.items(5, range(first, first + 2), 2), generator=torch.Generator())
        for first in (0, 2)
    ]
    spo.reward_model.cache_clear()
    assert asked == [POLICY.name]
    scores = [dict(zip(chosen_classes(TASTE, r).flatten().tolist(), r.rewards.tolist(), strict=True)) for r in seen]
    assert all(scores[0][kind] == scores[1][kind] for kind in scores[0].keys() & scores[1].keys())


def test_learning_reads_the_second_half():
    records = [{"exploitability": e, "average": a} for e, a in ((0.9, 0.9), (0.8, 0.5), (0.1, 0.3), (0.3, 0.2))]
    assert learning(records) == pytest.approx({"average": 0.2, "late": 0.2})


def test_training_runs_and_a_resumed_mixture_counts_all_policies():
    method, train = SPO(beta=0.0), train_config()
    learner = Learner(copy.deepcopy(POLICY), TaskConfig(name="taste", level=2), train, seed=0)
    records = list(run_phases(learner, method.phases(train)))
    half = Learner(copy.deepcopy(POLICY), TaskConfig(name="taste", level=2), train, seed=0)
    steps = run_phases(half, method.phases(train))
    first = [next(steps), next(steps)]
    # A new process: other phases, the learner as it was.
    assert first + list(run_phases(half, method.phases(train))) == records
    assert records[0]["average"] == records[0]["exploitability"]
    assert records[-1]["average"] != records[-1]["exploitability"]


# --- mistakes in configs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "win"}, "key 'reward'"),
        ({"game": "triangle"}, "key 'game'"),
        ({"judge": "nobody"}, "key 'judge'"),
        ({"beta": -0.1}, "key 'beta'"),
        ({"betta": 0.1}, "unknown key 'betta'. Did you mean 'beta'?"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match="arm") as caught:
        validate(SPO, settings, "arm")
    assert message in str(caught.value)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ConfigError, match="judge: coin"):
        SPO(shuffle_scores=True).phases(train_config())
    with pytest.raises(ConfigError, match=r"train\.turns 2"):
        SPO().phases(train_config(turns=2))


def test_an_arm_is_evaluated_in_the_game_it_was_trained_in():
    assert SPO().evaluation() == {}
    assert SPO(game="ladder").evaluation() == {"game": "ladder"}
