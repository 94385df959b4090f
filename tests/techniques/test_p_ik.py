"""P(IK) and P(True): heads fitted to what comes true, forecasts of every kind, and how they are judged.

Worked out on 3+7 = 0 and 4+6 = 0. An answer is the step with its result, ``$`` the token that ends it.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy, written

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_all
from minirl.evaluation.critiques import agreement, auroc, auroc_within, p_right, reliability, states_at_end
from minirl.rollouts.critiques import critique_and_refine, questions
from minirl.tasks import Item, get
from minirl.techniques.critique import p_ik
from minirl.techniques.critique.p_ik import PIK, evaluate, fit_head, forecast

POLICY, TALLY = sharp_policy(), get("tally")
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")
ASKS = ("p_true", "p_ik", "p_true_head", "likelihood", "votes", "rate")
TRAIN = TrainConfig(updates=2, prompts=1, samples=2, turns=1, learning_rate=1e-3)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- the head ---------------------------------------------------------------------------------------------------------


def test_a_head_that_sees_nothing_is_the_rate():
    weight, bias = fit_head(torch.zeros(8, 1), torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0]), 1e-3)
    assert weight.tolist() == [0]
    assert sigmoid(bias.item()) == pytest.approx(2 / 8, abs=1e-4)


def test_two_kinds_of_states_get_the_rates_of_their_kinds():
    # Where the input is 0, one in four is right; where it is 2, three in four. Without λ a free head hits both.
    states = torch.tensor([0.0] * 4 + [2.0] * 4)[:, None]
    rights = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
    weight, bias = fit_head(states, rights, 0.0)
    # σ(b) = 1/4: b = -log 3. σ(2w + b) = 3/4: 2w = 2 log 3.
    assert bias.item() == pytest.approx(-math.log(3), abs=1e-3)
    assert weight.item() == pytest.approx(math.log(3), abs=1e-3)


def test_a_rate_is_as_good_as_its_samples():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 3, generator=generator)
    rights = torch.randint(0, 2, (6, 4), generator=generator).float()
    by_rate = fit_head(states, rights.mean(1), 0.01)
    by_copies = fit_head(states.repeat_interleave(4, 0), rights.flatten(), 0.01)
    for one, other in zip(by_rate, by_copies, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-3)


def test_the_penalty_is_for_inputs_of_spread_one():
    # So a state in other units is another weight, and the same forecast.
    generator = torch.Generator().manual_seed(1)
    states, rights = torch.randn(40, 2, generator=generator), torch.rand(40, generator=generator)
    (w, b), (v, a) = fit_head(states, rights, 0.3), fit_head(states * 100 + 7, rights, 0.3)
    assert (v * 100).tolist() == pytest.approx(w.tolist(), abs=1e-3)
    assert ((states * 100 + 7) @ v + a).tolist() == pytest.approx((states @ w + b).tolist(), abs=1e-2)


def test_the_penalty_by_hand():
    # Inputs -1 and 1 (mean 0, spread 1), targets 0 and 1. By symmetry b = 0, and the loss is log(1 + e^-w) + λw²/2,
    # at its lowest where σ(-w) = λw. For λ = 0.1: at w = 1.6 it is 0.168 > 0.160, at 1.65 it is 0.161 < 0.165.
    weight, bias = fit_head(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.0, 1.0]), 0.1)
    assert 1.6 < weight.item() < 1.65
    assert sigmoid(-weight.item()) == pytest.approx(0.1 * weight.item(), abs=1e-3)
    assert bias.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("l2", "least", "most"), [(1e-3, 4, 100), (1.0, 0.05, 0.6), (1e3, 0, 1e-2)])
def test_more_penalty_less_head(l2, least, most):
    weight, _ = fit_head(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.0, 1.0]), l2)
    assert least < weight.item() < most


def test_an_input_that_never_changes_is_left_alone():
    states = torch.tensor([[0.0, 5.0], [1.0, 5.0], [0.0, 5.0], [1.0, 5.0]])
    weight, bias = fit_head(states, torch.tensor([0.0, 1, 1, 1]), 1e-2)
    assert weight[1].item() == 0
    assert torch.isfinite(bias).all() and weight[0] > 0


def test_a_head_is_the_same_every_time():
    generator = torch.Generator().manual_seed(2)
    states, rights = torch.randn(30, 5, generator=generator), torch.rand(30, generator=generator)
    first, second = (fit_head(states, rights, 1e-3) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(part.requires_grad for part in first)


# --- what is judged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "right", "samples", "expected"),
    [
        # The first problem: right above wrong. The second: below. Half on average.
        ([0.9, 0.1, 0.1, 0.9], [True, False, True, False], 2, 0.5),
        # Judges the problem alone: over all attempts 3 of 4 pairs are in order or tied, at one problem all are tied.
        ([0.9, 0.9, 0.1, 0.1], [True, False, True, False], 2, 0.5),
        # A problem of one kind has no pairs and does not count: the other has 1.
        ([0.2, 0.3, 0.8, 0.1], [True, True, True, False], 2, 1.0),
        # Three attempts: the right one is above one wrong one and below the other.
        ([0.5, 0.2, 0.9], [True, False, False], 3, 0.5),
        # No problem with both kinds at all.
        ([0.9, 0.8, 0.1, 0.2], [True, True, False, False], 2, 0.5),
    ],
)
def test_within_compares_attempts_at_one_problem(scores, right, samples, expected):
    assert auroc_within(scores, right, samples) == pytest.approx(expected)


def test_within_is_not_auroc():
    # Knows which problem is easy, and has the attempts at it the wrong way round.
    scores, right = [0.8, 0.9, 0.1, 0.2], [True, False, False, False]
    assert auroc(scores, right) == pytest.approx(2 / 3)  # above two of three wrong ones
    assert auroc_within(scores, right, 2) == 0


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_who_judges_the_problem_has_one_half(right, per_problem):
    assert auroc_within([p for p in per_problem for _ in range(4)], right, 4) == 0.5


@pytest.mark.parametrize(
    ("results", "samples", "expected"),
    [
        (["0", "0", "1"], 3, [0.5, 0.5, 0.0]),  # of the two others one agrees, one agrees, none does
        (["0", "0", "0", "0"], 4, [1.0] * 4),
        (["", "", "1"], 3, [0.0] * 3),  # what is no answer agrees with nothing
        (["0", "1", "1", "1"], 2, [0.0, 0.0, 1.0, 1.0]),  # the first two are at another problem
        (["7"], 1, [0.0]),  # there are no others
    ],
)
def test_agreement_is_with_the_others(results, samples, expected):
    assert agreement(results, samples) == expected


# --- forecasts --------------------------------------------------------------------------------------------------------


def rows(*answers: str, samples: int | None = None, problems=(ONE,)):
    return written(POLICY, list(problems), list(answers), samples or len(answers), task=TALLY)


def test_states_are_what_logits_are_made_of():
    context = encode(POLICY, "3+7=")
    with torch.no_grad():
        logits = POLICY.logits(torch.tensor([context]))[0, -1]
        state = states_at_end(POLICY, [context])[0]
        assert POLICY.model.lm_head(state).tolist() == pytest.approx(logits.tolist(), abs=1e-4)


def test_states_after_an_attempt_are_where_its_critique_begins():
    with torch.no_grad():
        state = states_at_end(POLICY, questions(POLICY, TALLY, [ONE, TWO], ["+70", "+6"]))
        for row, text in enumerate(("3+7=+70$!", "4+6=+6$!")):  # of other lengths: padding must not matter
            logits = POLICY.logits(torch.tensor([encode(POLICY, text)]))[0, -1]
            assert POLICY.model.lm_head(state[row]).tolist() == pytest.approx(logits.tolist(), abs=1e-4)


def test_states_after_other_feedback():
    with torch.no_grad():
        state = states_at_end(POLICY, questions(POLICY, TALLY, [ONE], ["+71"], "located"))[0]
        logits = POLICY.logits(torch.tensor([encode(POLICY, "3+7=+71$-a3+7=")]))[0, -1]
    assert POLICY.model.lm_head(state).tolist() == pytest.approx(logits.tolist(), abs=1e-4)


def test_an_attempt_for_every_problem():
    with pytest.raises(ValueError, match="zip"):
        questions(POLICY, TALLY, [ONE, TWO], ["+70"])


def test_p_true_is_that_of_the_critic():
    items = TALLY.items(0, range(6), 2)
    generator = torch.Generator().manual_seed(0)
    criticised = critique_and_refine(POLICY, TALLY, items, actor=POLICY, samples=1, generator=generator)
    attempts = [said[0] for said in criticised.answers]
    drawn = attempt_all(POLICY, TALLY, items, seed=0)
    drawn.answers = [[attempt] for attempt in attempts]
    found = forecast(POLICY, TALLY, drawn, "p_true")
    assert found.tolist() == pytest.approx(p_right(POLICY, criticised).tolist(), abs=1e-4)
    assert not found.requires_grad


def test_likelihood_is_that_of_the_whole_answer():
    drawn = rows("+70$", "+71$")
    drawn.logprobs = torch.tensor([[0.0, 0, 0, 0, -0.5, -0.25, 0, 0], [0.0, 0, 0, 0, -1, -1, -1, -1]])
    found = forecast(POLICY, TALLY, drawn, "likelihood").tolist()
    assert found == pytest.approx([math.exp(-0.75), math.exp(-4)])


def test_votes_are_by_result():
    # Another way to the same digit counts as the same; what is no answer does not.
    found = forecast(POLICY, TALLY, rows("+70$", "+70$", "+71$", "++0$"), "votes").tolist()
    assert found == pytest.approx([1 / 3, 1 / 3, 0, 0])


def test_the_head_before_an_attempt_cannot_see_it():
    states = forecast(POLICY, TALLY, rows("+70$", "+71$", "+60$", "+61$", samples=2, problems=(ONE, TWO)), "p_ik")
    assert torch.equal(states[0], states[1]) and torch.equal(states[2], states[3])
    assert not torch.allclose(states[0], states[2])
    expected = states_at_end(POLICY, POLICY.encode_prompts([ONE.prompt, TWO.prompt]))
    assert states[::2].flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-5)


def test_the_head_after_an_attempt_sees_it():
    states = forecast(POLICY, TALLY, rows("+70$", "+71$"), "p_true_head")
    assert not torch.allclose(states[0], states[1])


def test_the_rate_sees_nothing():
    assert forecast(POLICY, TALLY, rows("+70$", "+71$"), "rate").tolist() == [[0.0], [0.0]]


# --- the evaluation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(answers, p, …)``: what is drawn for ONE and TWO, and what is forecast of it."""

    def script(answers: list[str], p: list[float], **settings):
        drawn = rows(*answers, samples=len(answers) // 2, problems=(ONE, TWO))
        monkeypatch.setattr(p_ik, "attempt_all", lambda *_, **__: drawn)
        monkeypatch.setattr(p_ik, "forecast", lambda *_: torch.tensor(p))
        evaluation, returned = evaluate(POLICY, TALLY, [ONE, TWO], seed=0, samples=drawn.samples, **settings)
        assert returned is drawn
        return evaluation

    return script


def test_metrics_by_hand(scripted):
    # ONE: right 0.75, wrong 0.25. TWO: wrong 0.5, wrong 0.
    found = scripted(["+70$", "+71$", "+61$", "+62$"], [0.75, 0.25, 0.5, 0.0])
    assert found.items == {
        "accuracy@1": [0.5, 0.0],
        "chosen": [1.0, 0.0],  # the one with 0.75 is right, the one with 0.5 is not
        "brier": [(0.0625 + 0.0625) / 2, (0.25 + 0) / 2],
        "excess": [(-0.25 + 0.25) / 2, (0.5 + 0) / 2],
    }
    assert found.metrics["brier"] == pytest.approx((0.0625 + 0.0625 + 0.25) / 4)
    assert found.metrics["excess"] == pytest.approx(0.125)  # 0.375 on average, of which 0.25 came true
    assert found.metrics["auroc"] == 1.0
    assert found.metrics["within"] == 1.0
    # Each in a bin of its own: |0.75 - 1|, 0.25, 0.5 and 0.
    assert found.metrics["calibration"] == pytest.approx((0.25 + 0.25 + 0.5 + 0) / 4)


def test_permuted_forecasts_stay_at_their_problem(scripted):
    answers = ["+70$", "+71$", "+72$", "+73$", "+60$", "+61$", "+62$", "+63$"]
    p = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    straight, mixed = scripted(answers, p), scripted(answers, p, permute=True)
    assert straight.metrics["within"] == straight.metrics["chosen"] == 1.0
    assert mixed.metrics["within"] < 1.0
    # What is promised at each problem is the same, and so is what comes true.
    assert mixed.items["excess"] == pytest.approx(straight.items["excess"])
    assert mixed.items["accuracy@1"] == straight.items["accuracy@1"]


def test_metrics_are_the_means_of_items():
    items = TALLY.items(0, range(4), 2)
    evaluation, _ = evaluate(POLICY, TALLY, items, seed=1, samples=3)
    for name, values in evaluation.items.items():
        assert len(values) == 4
        assert evaluation.metrics[name] == pytest.approx(sum(values) / 4, abs=1e-12)


def test_all_arms_judge_the_same_attempts():
    items = TALLY.items(0, range(3), 2)
    found = {ask: evaluate(POLICY, TALLY, items, seed=5, ask=ask, samples=4) for ask in ASKS}
    first, drawn = found["p_true"]
    for ask, (evaluation, other) in found.items():
        assert torch.equal(other.ids, drawn.ids)
        assert {
            "auroc",
            "within",
            "brier",
            "calibration",
            "excess",
            "accuracy@1",
            "chosen",
        } == evaluation.metrics.keys()
        assert all(math.isfinite(value) for value in evaluation.metrics.values())
        # Who fits a head pays for the attempts it is fitted to.
        paid = evaluation.generated_tokens - first.generated_tokens
        assert paid > 0 if ask in p_ik.HEADS else paid == 0


def fitted_to(monkeypatch, items, **settings):
    """The problems that a head is fitted to, and what it is fitted to."""
    seen, targets = [], []

    def remember(policy, task, some, **how):
        seen.append((some, how))
        return attempt_all(policy, task, some, **how)

    monkeypatch.setattr(p_ik, "attempt_all", remember)
    monkeypatch.setattr(p_ik, "fit_head", lambda x, y, l2: targets.append(y) or fit_head(x, y, l2))
    evaluate(POLICY, TALLY, items, ask="p_ik", samples=2, **settings)
    (_, asked), (others, how) = seen
    assert how["seed"] != asked["seed"]
    return others, how["samples"], targets[0]


def test_a_head_is_fitted_to_other_problems(monkeypatch):
    items = TALLY.items(0, range(5), 1)  # of 180 there are at this level
    others, draws, rights = fitted_to(monkeypatch, items, seed=3, others=40, draws=3)
    assert not {item.prompt for item in others} & {item.prompt for item in items}
    assert 180 < len(others) < 200  # a few were the same by chance and are left out
    assert {item.level for item in others} == {1}
    assert draws == 3 and len(rights) == 3 * len(others)


def test_a_head_is_fitted_to_the_levels_it_is_told(monkeypatch):
    others, _, _ = fitted_to(monkeypatch, TALLY.items(0, range(3), 4), seed=3, levels=[2, 3], others=4)
    assert [item.level for item in others] == [2, 3] * 6


def test_other_seeds_other_problems(monkeypatch):
    items = TALLY.items(0, range(3), 3)
    first, second, again = (fitted_to(monkeypatch, items, seed=seed)[0] for seed in (1, 2, 1))
    assert first == again != second


def test_shuffled_scores_are_the_same_ones_elsewhere(monkeypatch):
    class Even(type(TALLY)):
        def score(self, item, completion):
            return float(len(completion) % 2)  # something that differs between attempts of an untrained policy

    task, items, targets = Even(), TALLY.items(0, range(6), 1), []
    monkeypatch.setattr(p_ik, "fit_head", lambda x, y, l2: targets.append(y) or fit_head(x, y, l2))
    for shuffle in (False, True):
        evaluate(POLICY, task, items, seed=3, ask="p_ik", shuffle_scores=shuffle)
    straight, mixed = targets
    assert 0 < straight.sum() == mixed.sum() < len(straight)
    assert not torch.equal(straight, mixed)


def test_nothing_of_the_policy_moves():
    before = [parameter.clone() for parameter in POLICY.model.parameters()]
    evaluate(POLICY, TALLY, TALLY.items(0, range(2), 2), seed=0, ask="p_true_head", samples=2)
    assert all(torch.equal(one, other) for one, other in zip(before, POLICY.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in POLICY.model.parameters())


def test_a_diagram_of_forecasts_that_come_true_is_the_diagonal():
    # Of ten forecasts of 0.3, three come true; of four of 0.75, three.
    p, right = [0.3] * 10 + [0.75] * 4, [True] * 3 + [False] * 7 + [True] * 3 + [False]
    assert reliability(p, right) == [(pytest.approx(0.3), 0.3, 10), (0.75, 0.75, 4)]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_an_arm_is_a_way_to_ask():
    method = PIK(ask="p_ik", levels=(2, 3), shuffle_scores=True, l2=0.5)
    assert method.evaluation() == {
        "ask": "p_ik",
        "permute": False,
        "shuffle_scores": True,
        "levels": (2, 3),
        "others": 4,
        "draws": 4,
        "l2": 0.5,
    }


def test_nothing_is_trained():
    assert all(PIK(ask=ask).phases(TRAIN) == [] for ask in ASKS)


@pytest.mark.parametrize(
    ("ask", "grade"),
    [("p_true", "critique"), ("p_true_head", "critique"), ("p_ik", None), ("votes", None), ("likelihood", None)],
)
def test_only_who_asks_about_attempts_needs_a_task_with_critiques(ask, grade):
    assert PIK(ask=ask).grade == grade


@pytest.mark.parametrize("settings", [{"shuffle_scores": True}, {"levels": [2]}])
@pytest.mark.parametrize("ask", ["p_true", "likelihood", "votes"])
def test_what_is_for_heads_is_an_error_elsewhere(ask, settings):
    with pytest.raises(ConfigError, match="only for p_ik, p_true_head, rate"):
        validate(PIK, {"ask": ask, **settings}, "arms.x").phases(TRAIN)


def test_independent_means_nothing_here():
    with pytest.raises(ConfigError, match="independent"):
        PIK(independent=True).phases(TRAIN)


@pytest.mark.parametrize(
    "bad", [{"ask": "p_false"}, {"levels": [0]}, {"others": 0}, {"draws": 0}, {"l2": -1}, {"permuted": True}]
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(PIK, bad, "arms.p_ik")
