"""Self-certainty: how sure a model was of an answer, and which one is chosen.

Choosing is worked out on 3+7 = 0. An answer is the step with its result, ``$`` the token that ends it; how sure the
model was of each is scripted.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import sharp_policy, written

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_all
from minirl.tasks import Item, get
from minirl.techniques.critique import self_certainty
from minirl.techniques.critique.self_certainty import SelfCertainty, certainty, evaluate, scores_of

POLICY, TALLY = sharp_policy(), get("tally")
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")
CHOICES = ("any", "likeliest", "certain", "borda", "majority")


def logits(*tokens: list[float]) -> torch.Tensor:
    """[1, L, V] of one row, from the probabilities of the symbols at each token."""
    return torch.tensor([tokens]).log()


def all_own(rows: int, length: int) -> torch.Tensor:
    return torch.ones(rows, length, dtype=torch.bool)


# --- how sure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [2, 3, 87])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_uniform_is_zero(vocabulary, shift):
    # V · 1/V = 1, whose logarithm is 0 for every symbol.
    flat = torch.full((2, 4, vocabulary), shift)
    assert certainty(flat, all_own(2, 4)).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # -1/2 (log(2 · 0.9) + log(2 · 0.1)) = -1/2 (0.5878 - 1.6094)
        ([0.9, 0.1], 0.5108),
        # The same symbol or the other: it does not matter which one is likely.
        ([0.1, 0.9], 0.5108),
        # -1/2 (log 1.98 + log 0.02) = -1/2 (0.6831 - 3.9120)
        ([0.99, 0.01], 1.6145),
        # -1/4 (log 2 + log 1 + 2 log 0.5): half at the first, a quarter, and twice an eighth
        ([0.5, 0.25, 0.125, 0.125], 0.1733),
    ],
)
def test_certainty_by_hand(p, expected):
    assert certainty(logits(p), all_own(1, 1)).item() == pytest.approx(expected, abs=1e-4)


def test_certainty_is_the_divergence_of_uniform_from_the_model():
    p = torch.tensor([0.7, 0.2, 0.1])
    kl = sum(1 / 3 * math.log((1 / 3) / value) for value in p.tolist())
    assert certainty(p.log()[None, None], all_own(1, 1)).item() == pytest.approx(kl, abs=1e-6)


def test_logits_may_be_shifted():
    p = logits([0.9, 0.1], [0.5, 0.5])
    assert certainty(p + 7, all_own(1, 2)).item() == pytest.approx(certainty(p, all_own(1, 2)).item(), abs=1e-6)


def test_an_answer_has_the_mean_over_its_own_tokens():
    p = logits([0.99, 0.01], [0.9, 0.1], [0.5, 0.5], [0.001, 0.999])
    # The first is prompt, the last padding: (0.5108 + 0) / 2.
    own = torch.tensor([[False, True, True, False]])
    assert certainty(p, own).item() == pytest.approx(0.2554, abs=1e-4)


def test_every_row_for_itself():
    p = torch.cat([logits([0.9, 0.1], [0.5, 0.5]), logits([0.5, 0.5], [0.99, 0.01])])
    own = torch.tensor([[True, False], [True, True]])
    assert certainty(p, own).tolist() == pytest.approx([0.5108, 1.6145 / 2], abs=1e-4)


def test_a_row_without_own_tokens_is_zero():
    assert certainty(logits([0.9, 0.1]), torch.tensor([[False]])).item() == 0


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (None, (0.6931 + 0.6931 + 40) / 4 - math.log(4)),  # 8.96
        (-30, (0.6931 + 0.6931 + 40) / 4 - math.log(4)),  # below all
        (-20, (0.6931 + 0.6931 + 40) / 4 - math.log(4)),
        (-10, (0.6931 + 0.6931 + 20) / 4 - math.log(4)),  # 3.96
        (-0.5, 0.5 - math.log(4)),  # above all: every token is alike
    ],
)
def test_a_floor_bounds_every_log_p(floor, expected):
    # A coin tossed between two of four symbols; of the others one hears once in five hundred million.
    tossing = torch.tensor([[[math.log(0.5), math.log(0.5), -20.0, -20.0]]])
    assert certainty(tossing, all_own(1, 1), floor).item() == pytest.approx(expected, abs=1e-3)


def test_the_trap_and_its_repair():
    """Who cannot decide between two symbols seems surer than who has decided, if the others are more improbable."""
    tossing = torch.tensor([[[-0.7, -0.7, -20.0, -20.0]]])
    decided = torch.tensor([[[-0.02, -4.0, -10.0, -10.0]]])
    assert certainty(tossing, all_own(1, 1)) > certainty(decided, all_own(1, 1)) + 4
    assert certainty(tossing, all_own(1, 1), -10) < certainty(decided, all_own(1, 1), -10)


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=6), st.floats(-40, -1))
def test_certainty_is_never_negative_and_a_floor_never_raises_it(values, floor):
    one = torch.tensor([[values]])
    free, bounded = certainty(one, all_own(1, 1)), certainty(one, all_own(1, 1), floor)
    assert free >= -1e-5
    assert bounded <= free + 1e-5


# --- of every answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 256])
@pytest.mark.parametrize("floor", [None, -3.0])
def test_scores_of_rollouts_are_those_of_their_tokens(batch, floor):
    items = TALLY.items(0, range(3), 2)
    drawn = attempt_all(POLICY, TALLY, items, seed=0, samples=4)
    found = scores_of(POLICY, drawn, floor, batch)
    assert found.shape == (12,) and not found.requires_grad
    for row in (0, 7, 11):
        places = drawn.own[row].nonzero().flatten().tolist()
        # What stands before a token is what it was drawn from.
        before = [POLICY.logits(drawn.ids[row : row + 1, :place])[:, -1:] for place in places]
        tokens = [certainty(one, all_own(1, 1), floor).item() for one in before]
        assert found[row].item() == pytest.approx(sum(tokens) / len(tokens), abs=1e-3)


def test_a_text_has_one_certainty():
    drawn = written(POLICY, [ONE], ["+70$", "+71$", "+70$"], 3, task=TALLY)
    found = scores_of(POLICY, drawn, None, 256).tolist()
    assert found[0] == pytest.approx(found[2], abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3


def test_the_last_token_itself_does_not_count():
    # Its distribution does, and that is the same whatever was drawn from it.
    one, other = (written(POLICY, [ONE], [text], 1, task=TALLY) for text in ("+70$", "+704"))
    assert scores_of(POLICY, one, None, 8).tolist() == pytest.approx(
        scores_of(POLICY, other, None, 8).tolist(), abs=1e-5
    )


# --- which one is chosen ----------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(answers, sure=…, logprobs=…)``: what is drawn for ONE (and TWO), and how sure the model was."""

    def script(answers: list[str], sure: list[float], logprobs: list[float] | None = None, problems=(ONE,)):
        drawn = written(POLICY, list(problems), answers, len(answers) // len(problems), task=TALLY)
        drawn.logprobs = torch.zeros(drawn.ids.shape)
        drawn.logprobs[:, 4] = torch.tensor(logprobs or [0.0] * len(answers))
        monkeypatch.setattr(self_certainty, "attempt_all", lambda *_, **__: drawn)
        monkeypatch.setattr(self_certainty, "scores_of", lambda *_: torch.tensor(sure))

        def choose(name: str, **settings) -> list[float]:
            samples = drawn.samples
            evaluation, returned = evaluate(
                POLICY, TALLY, list(problems), seed=0, choose=name, samples=samples, **settings
            )
            assert returned is drawn
            chosen = list(evaluation.items[f"chosen@{samples}"])
            assert evaluation.metrics[f"chosen@{samples}"] == sum(chosen) / len(chosen)
            return chosen

        return choose

    return script


def test_choices_by_hand(scripted):
    # Two right ones; three times the same mistake, twice likelier; and the surest is no answer at all.
    answers, sure = ["+71$", "+70$", "+71$", "+70$", "+71$", "++0$"], [1.0, 5.0, 2.0, 4.0, 3.0, 9.0]
    choose = scripted(answers, sure, [-1.0, -2.0, -1.0, -2.0, -1.0, -9.0])
    assert choose("any") == [2 / 6]
    assert choose("likeliest") == [0]
    assert choose("certain") == [0]  # the one that is no answer
    assert choose("majority") == [0]  # three against two
    # Ranks by certainty: no answer 6 (no vote), right ones 5 and 4, wrong ones 3, 2 and 1: nine against six.
    assert choose("borda", power=1.0) == [1]


@pytest.mark.parametrize(
    ("power", "chosen"),
    [
        # Wrong: weights 1, 2 and 3; right: 4. With power p the wrong ones have 1 + 2^p + 3^p, the right one 4^p.
        (0.0, 0),  # 3 against 1
        (1.0, 0),  # 6 against 4
        (1.5, 0),  # 9.02 against 8
        (2.0, 1),  # 14 against 16
        (8.0, 1),
    ],
)
def test_power_leads_from_the_majority_to_the_surest(scripted, power, chosen):
    choose = scripted(["+71$", "+71$", "+71$", "+70$"], [1.0, 2.0, 3.0, 4.0])
    assert choose("borda", power=power) == [chosen]


def test_a_majority_does_not_ask_who_is_sure(scripted):
    for sure in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]):
        choose = scripted(["+70$", "+71$", "+70$"], sure)
        assert choose("majority", power=9.0) == choose("borda", power=0.0) == [1]


def test_of_equally_sure_ones_the_first(scripted):
    assert scripted(["+70$", "+71$"], [2.0, 2.0])("certain") == [1]
    assert scripted(["+71$", "+70$"], [2.0, 2.0])("certain") == [0]


def test_likelihood_is_that_of_a_token(scripted):
    # In all -3 against -2.5. But four tokens (with the end) against three, which was cut off: -0.75 against -0.83.
    choose = scripted(["+70$", "+71"], [0.0, 9.0], [-3.0, -2.5])
    assert choose("likeliest") == [1]


def test_every_problem_chooses_for_itself(scripted):
    # ONE: right is surer. TWO: wrong is surer.
    choose = scripted(["+70$", "+71$", "+60$", "+65$"], [2.0, 1.0, 3.0, 4.0], problems=(ONE, TWO))
    assert choose("certain") == [1, 0]
    assert choose("any") == [0.5, 0.5]


def test_no_answer_at_all(scripted):
    choose = scripted(["+$", "++0$"], [1.0, 2.0])
    for name in CHOICES:
        assert choose(name) == [0]


def test_all_choices_see_the_same_answers_and_report_the_same_votes():
    items = TALLY.items(0, range(3), 2)
    found = {}
    for choice in CHOICES:
        evaluation, drawn = evaluate(POLICY, TALLY, items, seed=4, choose=choice, samples=4)
        found[choice] = evaluation, drawn
    (first, drawn), *others = found.values()
    assert {"accuracy@1", "pass@4", "majority@4", "agreement", "illusion", "chosen@4"} == first.items.keys()
    for evaluation, other in others:
        assert torch.equal(other.ids, drawn.ids)
        assert evaluation.generated_tokens == first.generated_tokens == int(drawn.own.sum())
        assert {**evaluation.items, "chosen@4": 0} == {**first.items, "chosen@4": 0}
    assert found["majority"][0].items["chosen@4"] == first.items["majority@4"]
    assert found["any"][0].items["chosen@4"] == first.items["accuracy@1"]


def test_the_floor_reaches_the_scores(monkeypatch):
    asked = []
    monkeypatch.setattr(
        self_certainty, "scores_of", lambda _, drawn, floor, __: asked.append(floor) or drawn.own.sum(1)
    )
    for floor in (None, -10.0):
        evaluate(POLICY, TALLY, [ONE], seed=0, choose="certain", floor=floor, samples=2)
    assert asked == [None, -10.0]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (SelfCertainty(), {"choose": "certain", "power": 1.0, "floor": None}),
        (SelfCertainty(floor=-10), {"choose": "certain", "power": 1.0, "floor": -10.0}),
        (SelfCertainty(choose="borda", power=2), {"choose": "borda", "power": 2.0, "floor": None}),
        (SelfCertainty(choose="any"), {"choose": "any", "power": 1.0, "floor": None}),
    ],
)
def test_an_arm_is_a_way_to_choose(method, arguments):
    assert method.evaluation() == arguments


def test_nothing_is_trained():
    train = TrainConfig(updates=2, prompts=1, samples=2, turns=1, learning_rate=1e-3)
    assert all(SelfCertainty(choose=choice).phases(train) == [] for choice in CHOICES)


@pytest.mark.parametrize("bad", [{"choose": "best"}, {"power": "high"}, {"floor": "low"}, {"flor": -10}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(SelfCertainty, bad, "arms.certain")
