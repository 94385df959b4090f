"""How far critiques can be trusted: metrics counted by hand, for verdicts, for P(right), and for a whole critic."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy

from minirl.evaluation import critiques
from minirl.evaluation.critiques import (
    auroc,
    calibration_metrics,
    evaluate_critic,
    filtered_majority,
    located,
    p_right,
    reliability,
    told_apart,
    verdict_metrics,
)
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.critiques import criticise, critique_and_refine
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, get

TALLY = get("tally")
# 3+7 = 10 → 0; 0-4 = -4 → 6.
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 2, "3+7-4=", "+70-46")
POLICY = sharp_policy()


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_right", "of_wrong", "accepts", "rejects"),
    [
        ([True, True, True, False, None], [False, True, None, None], 3 / 5, 1 / 4),  # None is neither
        ([True], [False], 1, 1),
        ([False], [True], 0, 0),
        ([True, True], [True, True, True], 1, 0),  # the same of everything: balanced is ½
        ([False, False], [False], 0, 1),
        ([None], [None], 0, 0),
        ([True, False], [], 1 / 2, 0),  # where there is no attempt of a kind, its share is 0
        ([], [False], 0, 1),
        ([], [], 0, 0),
    ],
)
def test_verdict_metrics_by_hand(
    of_right: list[bool | None], of_wrong: list[bool | None], accepts: float, rejects: float
) -> None:
    right = [True] * len(of_right) + [False] * len(of_wrong)
    expected = {"accepts_right": accepts, "rejects_wrong": rejects, "balanced": (accepts + rejects) / 2}
    assert verdict_metrics([*of_right, *of_wrong], right) == pytest.approx(expected)
    backwards = [*of_right, *of_wrong][::-1]
    assert verdict_metrics(backwards, right[::-1]) == pytest.approx(expected)


# Y accepts, n rejects, . is no critique; + is a right attempt, - a wrong one.
SAID = {"Y": True, "n": False, ".": None}


@pytest.mark.parametrize(
    ("said", "attempts", "samples", "apart"),
    [
        ("YYnn", "++--", 4, 1),
        ("nnYY", "++--", 4, -1),  # the wrong ones are accepted
        ("YnYn", "++--", 4, 0),
        ("YYYY", "+---", 4, 0),  # whoever says the same of everything
        ("nnnn", "+---", 4, 0),
        ("YYnn", "+---", 4, 1 - 1 / 3),  # one of three wrong ones is let in
        ("Yn..", "++--", 4, 1 / 2),  # what is no critique accepts nothing, neither right ones
        ("..Yn", "++--", 4, -1 / 2),
        ("....", "+-+-", 4, 0),
        ("YYnn YYYY", "++-- +---", 4, (1 + 0) / 2),
        ("YY YY nn nn", "++ ++ -- --", 2, 0),  # judges the problem: right on all, but no problem has both kinds
        ("YY nn Yn", "++ -- +-", 2, 1),  # only the last problem has both
        ("YY nn nn YY", "+- +- +- +-", 2, 0),  # judges the problem, and knows nothing
        ("Yn nY Yn Yn", "+- +- +- +-", 2, (1 - 1 + 1 + 1) / 4),
        ("Yn nY", "+- -+", 2, 1),  # the order within a problem does not matter
        ("YYYn nnnn", "+++- +---", 4, (1 + 0) / 2),  # a mean over problems, not over attempts
        ("YYnn", "++--", 2, 0),  # in groups of two there is no problem with both
        ("Y n", "+ -", 1, 0),
        ("", "", 4, 0),
    ],
)
def test_told_apart_by_hand(said: str, attempts: str, samples: int, apart: float) -> None:
    verdicts = [SAID[sign] for sign in said.replace(" ", "")]
    right = [sign == "+" for sign in attempts.replace(" ", "")]
    assert told_apart(verdicts, right, samples) == pytest.approx(apart)


def test_apart_is_not_balanced() -> None:
    # Eight problems of four: easy ones, three of four right, and hard ones, one of four. Whoever accepts what is easy
    # is right three times in four, of both kinds; and does not tell one attempt from another.
    right = ([True] * 3 + [False] + [True] + [False] * 3) * 4
    verdicts = ([True] * 4 + [False] * 4) * 4
    assert verdict_metrics(verdicts, right)["balanced"] == 3 / 4 and told_apart(verdicts, right, 4) == 0
    assert verdict_metrics(right, right)["balanced"] == told_apart(right, right, 4) == 1


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans()), max_size=12), st.integers(1, 4))
def test_apart_by_the_table(drawn: list[tuple[bool | None, bool]], samples: int) -> None:
    drawn = drawn[: len(drawn) // samples * samples]
    problems = [drawn[start : start + samples] for start in range(0, len(drawn), samples)]
    gaps = []
    for problem in problems:
        let_in = {kind: [verdict is True for verdict, good in problem if good is kind] for kind in (True, False)}
        if all(let_in.values()):
            gaps.append(sum(let_in[True]) / len(let_in[True]) - sum(let_in[False]) / len(let_in[False]))
    found = told_apart([verdict for verdict, _ in drawn], [good for _, good in drawn], samples)
    assert found == pytest.approx(sum(gaps) / len(gaps) if gaps else 0) and -1 <= found <= 1
    # The order of the problems does not matter, and who judges the other way round has the opposite.
    shuffled = [pair for problem in problems[::-1] for pair in problem]
    assert told_apart([v for v, _ in shuffled], [good for _, good in shuffled], samples) == pytest.approx(found)
    turned = [(v is not True, good) for v, good in drawn]
    assert told_apart([v for v, _ in turned], [good for _, good in turned], samples) == pytest.approx(-found)


# --- P(right) --------------------------------------------------------------------------------------------------------


def rows(texts: list[str], own: list[str]) -> Rollouts:
    """Contexts with critiques after them; ``$`` is the stop token."""
    width = max(len(text) + len(said) for text, said in zip(texts, own, strict=True))
    turns = [[CONTEXT] * len(text) + [1] * len(said) for text, said in zip(texts, own, strict=True)]
    ids = [encode(POLICY, text + said) for text, said in zip(texts, own, strict=True)]
    return Rollouts(
        ids=pad_rows(ids, POLICY.pad_id)[0],
        turn=pad_rows(turns, CONTEXT)[0],
        logprobs=torch.zeros(len(texts), width),
        scores=torch.zeros(len(texts), 3),
        group=torch.arange(len(texts)),
        answers=[["", said] for said in own],
        items=[ONE] * len(texts),
        longest=3,
    )


TEXTS = ["3+7=+70$!", "3+7-4=+70-46$!", "3+7=+71$!", "3+7=$!", "3+7-4=+71-47$!"]


def test_p_right_is_plus_beside_minus_where_the_critique_begins() -> None:
    found = p_right(POLICY, rows(TEXTS, ["+$", "-a$", "x", "$", "--$"]))
    plus, minus = encode(POLICY, "+-")
    for text, p in zip(TEXTS, found.tolist(), strict=True):
        # A row by itself, without padding: its last logits say what comes after !, the first sign of a critique.
        odds = POLICY.logits(torch.tensor([encode(POLICY, text)]))[0, -1].detach().double().exp()
        assert p == pytest.approx((odds[plus] / (odds[plus] + odds[minus])).item(), abs=1e-5)
    assert found.shape == (5,) and not found.requires_grad
    assert found.max() - found.min() > 0.1  # it depends on what was read


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_p_right_depends_on_neither_batch_nor_critique(batch: int) -> None:
    whole = p_right(POLICY, rows(TEXTS, ["+$"] * 5))
    torch.testing.assert_close(p_right(POLICY, rows(TEXTS, ["-b$", "+", "$", "xyz", "!"]), batch), whole)
    order = [3, 1, 4, 0, 2]
    shuffled = p_right(POLICY, rows([TEXTS[i] for i in order], ["+$"] * 5), batch)
    torch.testing.assert_close(shuffled, whole[order])


def test_p_right_of_what_a_critic_wrote() -> None:
    how = {"actor": POLICY, "samples": 2, "generator": torch.Generator().manual_seed(0)}
    rollouts = critique_and_refine(POLICY, TALLY, TALLY.items(0, range(4), 2), **how)
    found = p_right(POLICY, rollouts)
    assert found.view(4, 2).diff().abs().max() < 1e-5  # both critics of an attempt have read the same
    # The sampled log-prob of a first sign is over all tokens, P(right) over two of them.
    by_hand = criticise(POLICY, TALLY, rollouts.items, [said[0] for said in rollouts.answers])
    first = by_hand.own.int().argmax(1)
    logits = POLICY.logits(by_hand.ids)[torch.arange(8), first - 1].detach()
    plus, minus = encode(POLICY, "+-")
    torch.testing.assert_close(found, (logits[:, plus] - logits[:, minus]).sigmoid(), atol=1e-5, rtol=1e-4)


# --- ranking and calibration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_right", "of_wrong", "area"),
    [
        ([0.9, 0.8], [0.2, 0.1], 1),
        ([0.1], [0.2, 0.3], 0),
        ([0.9, 0.3], [0.5], 1 / 2),
        ([0.9, 0.3], [0.5, 0.1], 3 / 4),  # of four pairs only 0.3 against 0.5 is the wrong way round
        ([0.5], [0.5], 1 / 2),  # a tie counts half
        ([0.5, 0.9], [0.5, 0.1], 7 / 8),  # ½ + 1 + 1 + 1 of 4
        ([0.5, 0.5, 0.5], [0.5, 0.5], 1 / 2),
        ([1.0, 0.75], [1.0, 0.25], 5 / 8),  # ½ + 1 + 0 + 1
        ([0.9, 0.8], [], 1 / 2),  # nothing to compare with
        ([], [0.9, 0.8], 1 / 2),
        ([], [], 1 / 2),
    ],
)
def test_auroc_by_hand(of_right: list[float], of_wrong: list[float], area: float) -> None:
    right = [True] * len(of_right) + [False] * len(of_wrong)
    assert auroc(of_right + of_wrong, right) == area
    assert auroc((of_right + of_wrong)[::-1], right[::-1]) == area


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
def test_auroc_is_the_share_of_pairs_in_order(drawn: list[tuple[int, bool]]) -> None:
    scores, right = [value / 4 for value, _ in drawn], [good for _, good in drawn]
    of_right, of_wrong = ([s for s, good in zip(scores, right, strict=True) if good == kind] for kind in (True, False))
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(of_right, of_wrong)]
    assert auroc(scores, right) == pytest.approx(sum(pairs) / len(pairs) if pairs else 0.5)
    # Ranking alone counts, and who says the opposite of everything has the rest.
    assert auroc([score**3 - 7 for score in scores], right) == auroc(scores, right)
    assert auroc([-score for score in scores], right) == pytest.approx(1 - auroc(scores, right))


def test_reliability_by_hand() -> None:
    p = [0.95, 0.05, 0.12, 0.0, 0.18, 1.0, 0.5, 0.15]
    right = [True, False, True, True, False, False, True, False]
    assert reliability(p, right) == [
        (pytest.approx(0.025), 1 / 2, 2),  # 0.05 and 0.0
        (pytest.approx(0.15), pytest.approx(1 / 3), 3),  # 0.12, 0.18 and 0.15
        (0.5, 1, 1),  # nothing between 0.2 and 0.5
        (pytest.approx(0.975), 1 / 2, 2),  # 0.95 and 1.0: certainty has no bin of its own
    ]
    assert reliability([], []) == []


@pytest.mark.parametrize("value", [i / 10 for i in range(10)])
def test_the_lower_edge_belongs_to_a_bin(value: float) -> None:
    assert [count for _, _, count in reliability([value, value + 0.0999], [True, False])] == [2]
    if value:
        assert [count for _, _, count in reliability([value - 0.0001, value], [True, False])] == [1, 1]


@pytest.mark.parametrize(
    ("p", "right", "expected"),
    [
        # auroc as by hand above. Brier (0 + 1 + 1/16 + 1/16) / 4. Bins: two at 1 of which half are right, off by ½; one
        # at ¼ and one at ¾, off by ¼ each: (2 · ½ + ¼ + ¼) / 4.
        ([1.0, 1.0, 0.25, 0.75], [True, False, False, True], (5 / 8, 9 / 32, 3 / 8)),
        # Always one half, of which a quarter is right: ½² for each, and off by ¼.
        ([0.5] * 4, [True, False, False, False], (1 / 2, 1 / 4, 1 / 4)),
        ([0.5] * 4, [True, False, True, False], (1 / 2, 1 / 4, 0)),
        ([1.0, 0.0], [True, False], (1, 0, 0)),
        ([0.0, 1.0], [True, False], (0, 1, 1)),
        # Calibrated, and yet of little use: of four at ¾ three are right.
        ([0.75] * 4, [True, True, True, False], (1 / 2, (3 / 16 + 9 / 16) / 4, 0)),
        # Perfect in ranking, and far off: bins at 0.25 and 0.125.
        ([0.25, 0.125], [True, False], (1, (9 / 16 + 1 / 64) / 2, (3 / 4 + 1 / 8) / 2)),
        # In one bin, over- and underconfidence cancel: 0.5 and 0.5625, mean 17/32, half of them right.
        ([0.5, 0.5625], [False, True], (1, (1 / 4 + 49 / 256) / 2, 1 / 32)),
    ],
)
def test_calibration_metrics_by_hand(p: list[float], right: list[bool], expected: tuple[float, float, float]) -> None:
    assert calibration_metrics(p, right) == pytest.approx(
        dict(zip(("auroc", "brier", "calibration"), expected, strict=True))
    )


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=12))
def test_bounds_of_calibration(drawn: list[tuple[float, bool]]) -> None:
    p, right = [value for value, _ in drawn], [good for _, good in drawn]
    values = calibration_metrics(p, right)
    assert all(0 <= value <= 1 for value in values.values())
    assert sum(count for _, _, count in reliability(p, right)) == len(drawn)
    # Within a bin errors can cancel, between bins they cannot: the overall gap is the least that it can be.
    assert values["calibration"] >= abs(sum(p) - sum(right)) / len(drawn) - 1e-9
    assert values["calibration"] ** 2 <= values["brier"] + 1e-9  # by Jensen, twice


# --- where, and which of several -------------------------------------------------------------------------------------

YES, A, B = (True, None), (False, 0), (False, 1)


@pytest.mark.parametrize(
    ("said", "truth", "share"),
    [
        ([A, B, A, B], [A, B, B, A], 1 / 2),
        ([A, A, A], [A, YES, YES], 1),  # objections to right attempts have no place to name
        ([A, YES, None], [A, B, B], 1),  # nor has who does not object
        ([B, YES, None, A], [A, B, B, A], 1 / 2),
        ([A, B], [None, B], 1),  # no step of the answer is wrong, but text after the last one
        ([YES, None], [A, B], 0),
        ([], [], 0),
    ],
)
def test_located_by_hand(said: list, truth: list, share: float) -> None:
    assert located(said, truth) == share


@pytest.mark.parametrize(
    ("results", "accepted", "winner"),
    [
        (["7", "7", "6", "7"], [False, False, True, False], "6"),  # one vote of those that were let in
        (["7", "7", "6", "7"], [True, True, True, False], "7"),
        (["7", "7", "6", "7"], [False, True, True, False], "7"),  # a tie: the first of those let in
        (["7", "6", "7", "6"], [False, True, True, True], "6"),
        (["6", "7", "7"], [False, False, False], "7"),  # none accepted: all of them vote
        (["6", "7"], [False, False], "6"),
        (["", "7"], [True, False], ""),  # what was accepted is no answer
        (["", "7"], [True, True], "7"),
        ([""], [False], ""),
    ],
)
def test_filtered_majority_by_hand(results: list[str], accepted: list[bool], winner: str) -> None:
    assert filtered_majority(results, accepted) == winner


# --- a critic --------------------------------------------------------------------------------------------------------

# Four attempts at each of two problems: attempt, critique, refinement (none where the critique cannot be read); scores
# of attempt, verdict and refinement; P(right).
EPISODES = [
    (ONE, ["+70", "+", "+70"], [1, 1, 1], 0.75),
    (ONE, ["+71", "-a", "+70"], [0, 1, 1], 0.25),  # fixed
    (ONE, ["+71", "+", "+71"], [0, 0, 0], 0.75),
    (ONE, ["+70", "-a", "+71"], [1, 0, 0], 0.25),  # broken
    (TWO, ["+71-47", "-a", "+70-46"], [0, 1, 1], 0.25),  # fixed; the first step it is
    (TWO, ["+70-47", "-a", "+70-47"], [0, 1, 0], 0.25),  # it is the second
    (TWO, ["+70-46", "+", "+70-46"], [1, 1, 1], 0.75),
    (TWO, ["+70-47", "-c"], [0, 0, 0], 0.25),  # there is no third: no critique
]
ITEMS = {
    "accuracy@1": [2 / 4, 1 / 4],
    "pass@4": [1, 1],
    "majority@4": [1, 0],  # 0 1 1 0: a tie, and 0 came first; 7 7 6 7
    "agreement": [2 / 4, 3 / 4],
    "illusion": [0, 2 / 4],
    "refined": [2 / 4, 2 / 4],
    "fixed": [1 / 4, 1 / 4],
    "broken": [1 / 4, 0],
    "delta": [0, 1 / 4],  # fixed − broken
    "filtered@4": [1, 1],  # 0 and 1 were let in, and 0 came first; only the 6
    "filter_gain": [0, 1],
}
METRICS = {
    # Means of the above over both items.
    **{"accuracy@1": 3 / 8, "pass@4": 1, "majority@4": 1 / 2, "agreement": 5 / 8, "illusion": 1 / 4},
    **{"refined": 1 / 2, "fixed": 1 / 4, "broken": 1 / 8, "delta": 1 / 8, "filtered@4": 1, "filter_gain": 1 / 2},
    # Of three right attempts two are accepted, of five wrong ones three rejected; two of those at the right step.
    **{"accepts_right": 2 / 3, "rejects_wrong": 3 / 5, "balanced": 19 / 30, "located": 2 / 3},
    # ONE: one of two right ones is accepted, one of two wrong ones. TWO: the right one, and of three wrong ones none.
    "apart": (0 + 1) / 2,
    # Right ¾ ¾ ¼, wrong ¾ ¼ ¼ ¼ ¼: each ¾ is half a pair and four, the ¼ is none and four halves: 4½ + 4½ + 2 of 15.
    # Off by ¾ twice (the accepted wrong one and the rejected right one), by ¼ six times: (2 · 9/16 + 6/16) / 8.
    # Two thirds of three at ¾, off by 1/12; one of five at ¼, off by 1/20: (3/12 + 5/20) / 8.
    **{"auroc": 11 / 15, "brier": 3 / 16, "calibration": 1 / 16},
}


@pytest.fixture
def scripted(monkeypatch):
    """``EPISODES`` instead of roll-outs, and their P(right); returns how the roll-outs were asked for."""
    asked, left = [], list(EPISODES)

    def episodes_of(policy, task, items, **how):
        asked.append((policy, task, list(items), how))
        some = [left.pop(0) for _ in items]
        assert [item for item, *_ in some] == items
        written = rows(
            [f"{item.prompt}{said[0]}$!" for item, said, *_ in some], [f"{said[1]}$" for _, said, *_ in some]
        )
        scores = torch.tensor([score for *_, score, _ in some], dtype=torch.float)
        return replace(written, scores=scores, answers=[said for _, said, *_ in some], items=items)

    def p_of(policy, rollouts):
        assert policy is POLICY and len(rollouts.items) == 8
        return torch.tensor([p for *_, p in EPISODES])

    monkeypatch.setattr(critiques, "critique_and_refine", episodes_of)
    monkeypatch.setattr(critiques, "p_right", p_of)
    return asked


@pytest.mark.parametrize("batch", [3, 4, 100])
def test_a_critic_by_hand(scripted, batch: int) -> None:
    evaluation, rollouts = evaluate_critic(POLICY, TALLY, [ONE, TWO], seed=7, samples=4, batch=batch)
    assert evaluation.items == ITEMS
    assert evaluation.metrics == pytest.approx(METRICS)
    assert list(evaluation.items) == list(ITEMS) and evaluation.metrics.keys() == METRICS.keys()
    assert evaluation.generated_tokens == 3 * 2 + 5 * 3  # the critic's: + and -a with a stop token each
    # All rows in order, as groups of an item's attempts, however many were made at a time.
    assert rollouts.answers == [said for _, said, *_ in EPISODES] and rollouts.items == [ONE] * 4 + [TWO] * 4
    assert rollouts.group.tolist() == [0] * 4 + [1] * 4 and rollouts.samples == 4
    assert [len(items) for _, _, items, _ in scripted] == {3: [3, 3, 2], 4: [4, 4], 100: [8]}[batch]


def test_scores_and_critiques_of_these_episodes_are_true() -> None:
    for item, said, (before, verdict, after), _ in EPISODES:
        assert (
            TALLY.score(item, said[0]) == before and TALLY.score(item, said[-1] if len(said) > 2 else said[0]) == after
        )
        assert verdict == (said[1][0] == TALLY.critique(item, said[0])[0] and said[1] != "-c")


def test_what_a_critic_is_asked(scripted) -> None:
    evaluate_critic(POLICY, TALLY, [ONE, TWO], seed=7, samples=4, batch=3, temperature=0.5)
    for policy, task, _, how in scripted:
        assert policy is POLICY and task is TALLY
        assert how["actor"] is POLICY  # the policy itself, unless another is named
        assert how["samples"] == 1 and how["temperature"] == 0.5 and how.keys() == scripted[0][3].keys()
        assert how["generator"].initial_seed() == 7 and how["generator"] is scripted[0][3]["generator"]
    assert set(scripted[0][3]) == {"actor", "samples", "generator", "temperature"}  # one refinement, hence greedy


def test_without_temperature_there_is_no_noise(scripted) -> None:
    evaluate_critic(POLICY, TALLY, [ONE, TWO], seed=7, samples=4, temperature=0)
    assert scripted[0][3]["generator"] is None and scripted[0][3]["temperature"] == 1.0


def test_another_actor_is_loaded_by_name(scripted, monkeypatch) -> None:
    other, loaded = sharp_policy(1), []

    def load(name: str, device: str):
        loaded.append((name, device))
        return other

    monkeypatch.setattr(critiques, "load_policy", load)
    evaluation, _ = evaluate_critic(POLICY, TALLY, [ONE, TWO], seed=7, actor="some-base", samples=4, batch=3)
    assert loaded == [("some-base", "cpu")]  # once, not for every batch
    assert all(policy is POLICY and how["actor"] is other for policy, _, _, how in scripted)
    assert evaluation.items == ITEMS


def test_an_untrained_critic_is_evaluated_all_the_same() -> None:
    # Nothing scripted: it gets nothing right, says nothing that is a critique, and no number is missing for that.
    items = TALLY.items(0, range(3), 2)
    evaluation, rollouts = evaluate_critic(POLICY, TALLY, items, seed=0, samples=2)
    assert evaluation.items.keys() == {name.replace("4", "2") for name in ITEMS}
    assert evaluation.metrics.keys() == {name.replace("4", "2") for name in METRICS}
    nothing = {"accuracy@1", "refined", "delta", "agreement", "accepts_right", "rejects_wrong", "apart", "located"}
    assert all(evaluation.metrics[name] == 0 for name in nothing)
    assert evaluation.metrics["auroc"] == 0.5
    p = p_right(POLICY, rollouts)  # of wrong attempts all of it is error
    assert evaluation.metrics["brier"] == pytest.approx(p.square().mean().item())
    assert evaluation.metrics["calibration"] == pytest.approx(p.mean().item())
    assert rollouts.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert evaluation == evaluate_critic(POLICY, TALLY, items, seed=0, samples=2)[0]
    assert rollouts.answers != evaluate_critic(POLICY, TALLY, items, seed=1, samples=2)[1].answers
