"""RISE: what attempts and verdicts are paid, which tokens that reaches, and what a vote that weighs P(true) comes to.

The group that the credit is worked out on: four attempts at 3+7, each with a verdict behind it::

    text            turn tensor                             attempt is   verdict says
    3+7=+70$!+$     −1 −1 −1 −1  0  0  0  0 −1  1  1        right        right
    3+7=+71$!-$     −1 −1 −1 −1  0  0  0  0 −1  1  1        wrong        wrong
    3+7=+72$!+$     −1 −1 −1 −1  0  0  0  0 −1  1  1        wrong        right
    3+7=+7$!?$      −1 −1 −1 −1  0  0  0 −1  1  1           no answer    nothing
"""

import random
from dataclasses import replace

import pytest
import torch
from stand_ins import encode, sharp_policy

import minirl.evaluation.verdicts as verdicts_of
from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.critiques import told_apart, verdict_metrics
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.critique import rise
from minirl.techniques.critique.rise import Rise, evaluate, outcome_rewards, p_accepted, solve_and_judge, verdicts

POLICY, CHECKS = sharp_policy(), get("checks")
# 3+7 = 10 → 0; 4+6 = 10 → 0.
ONE, TWO = Item("checks", 0, 0, 1, "3+7=", "+70"), Item("checks", 0, 1, 1, "4+6=", "+60")
FOUR = [("+70", "+"), ("+71", "-"), ("+72", "+"), ("+7", "?")]


def train_config(**changes) -> TrainConfig:
    settings = {"updates": 10, "prompts": 2, "samples": 2, "turns": 2, "feedback": "critique", "learning_rate": 1e-3}
    return TrainConfig(**{**settings, **changes})


def episodes(said, samples=4, problems=(ONE, TWO)) -> Rollouts:
    """Pairs of an attempt and a verdict as :func:`roll_out` would return them; the attempts are scored."""
    items = [problems[row // samples] for row in range(len(said))]
    texts, turns = [], []
    for item, (attempt, verdict) in zip(items, said, strict=True):
        texts.append(f"{item.prompt}{attempt}$!{verdict}$")
        own = [*[0] * (len(attempt) + 1), CONTEXT, *[1] * (len(verdict) + 1)]
        turns.append([CONTEXT] * len(item.prompt) + own)
    scores = [[CHECKS.score(item, attempt), 0.0] for item, (attempt, _) in zip(items, said, strict=True)]
    ids = pad_rows([encode(POLICY, text) for text in texts], POLICY.pad_id)[0]
    return Rollouts(
        ids=ids,
        turn=pad_rows(turns, CONTEXT)[0],
        logprobs=torch.zeros(ids.shape),
        scores=torch.tensor(scores),
        group=torch.arange(len(said)) // samples,
        answers=[list(pair) for pair in said],
        items=items,
        longest=8,
    )


def of_turns(values: torch.Tensor, drawn: Rollouts) -> list[list[float]]:
    """The one value that all tokens of a turn have, row by row; and there is none anywhere else."""
    assert not values[drawn.turn == CONTEXT].any()
    found = []
    for row, turn in zip(values, drawn.turn, strict=True):
        of_row = [row[turn == t].unique().tolist() for t in (0, 1)]
        assert all(len(some) == 1 for some in of_row)
        found.append([value for (value,) in of_row])
    return found


# --- what is paid ----------------------------------------------------------------------------------------------------


def test_the_table_of_rewards():
    # Right; not right; no answer. What is right and no answer cannot be (but by shuffled scores): it counts as right.
    rewards = outcome_rewards([True, False, False, True], [True, True, False, False])
    assert rewards.tolist() == [1, -0.5, -1, 1] and rewards.dtype == torch.float32


def test_every_outcome_needs_both():
    with pytest.raises(ValueError, match="zip"):
        outcome_rewards([True, False], [True])


@pytest.mark.parametrize(
    ("accepts", "rejects", "right", "worth"),
    [
        # Of ten attempts so many are right; a judge accepts so many of these, and rejects so many of the others.
        (5, 0, 5, 0.25),  # + to everything: (5 · 1 − 5 · ½) / 10
        (9, 0, 9, 0.85),  # the same, where nine are right: (9 − ½) / 10
        (9, 1, 9, 1.0),  # the truth
        (0, 5, 5, 0.25),  # - to everything
        (0, 1, 9, -0.35),  # the same, where nine are right: (1 − 9 · ½) / 10
        (8, 1, 9, 0.85),  # one false alarm costs as much as one mistake that is let through
    ],
)
def test_what_looks_like_judging_is_paid_by_how_common_right_attempts_are(accepts, rejects, right, worth):
    true = [i < accepts for i in range(right)] + [i < rejects for i in range(10 - right)]
    assert outcome_rewards(true, [True] * 10).mean().item() == pytest.approx(worth)


@pytest.mark.parametrize(
    ("texts", "level", "said"),
    [
        (["+70", "+"], 1, True),
        (["+70", "-"], 1, False),
        (["+70", " -\n"], 1, False),
        (["+70-46", "++"], 2, True),
        (["+70-46", "+-"], 2, False),
        (["+70-46", "-+"], 2, False),
        (["+70-46", "+"], 2, None),  # one sign is missing
        (["+70", "++"], 1, None),  # there is no second step
        (["+70", "?"], 1, None),
        (["+70", ""], 1, None),
        (["+70"], 1, None),  # nobody was asked
        (["+"], 1, None),  # this is an attempt, if a bad one
        (["-", "+"], 1, True),
    ],
)
def test_a_verdict_is_the_second_text(texts, level, said):
    item = replace(ONE, level=level)
    assert verdicts(replace(episodes(FOUR[:1]), items=[item], answers=[texts])) == [said]


def test_verdicts_of_the_group():
    assert verdicts(episodes(FOUR)) == [True, False, True, None]


# --- credit ----------------------------------------------------------------------------------------------------------

# Attempts 1, −½, −½, −1 with the sum −1. Each less the mean of the three others: 1 + 2/3, −½ + ½/3 (twice), −1 + 0.
SOLVING = [5 / 3, -1 / 3, -1 / 3, -1]
# Verdicts 1, 1, −½, −1 with the sum ½: 1 + ½/3 (twice), −½ − 1/3, −1 − 1½/3.
VERIFYING = [7 / 6, 7 / 6, -5 / 6, -3 / 2]


@pytest.mark.parametrize("verify", [1.0, 0.0])
def test_credit_by_hand(verify):
    drawn = episodes(FOUR)
    found = of_turns(Rise(verify=verify).credit(drawn).advantages, drawn)
    assert [first for first, _ in found] == pytest.approx(SOLVING)
    assert [second for _, second in found] == pytest.approx([value * verify for value in VERIFYING])


def test_a_wrong_attempt_with_a_true_verdict_is_pushed_down_and_its_verdict_up():
    # No return crosses the turns: nobody gains by writing what is easy to judge.
    (_, (attempt, verdict), *_) = of_turns(Rise().credit(drawn := episodes(FOUR)).advantages, drawn)
    assert attempt < 0 < verdict


@pytest.mark.parametrize("verify", [1.0, 0.0])
def test_the_kl_holds_both_turns_even_if_verdicts_are_not_paid(verify):
    drawn = episodes(FOUR)
    assert of_turns(Rise(beta=0.25, verify=verify).credit(drawn).kl, drawn) == [[0.25, 0.25]] * 4
    assert not Rise(beta=0.0).credit(drawn).kl.any()


def test_what_is_logged():
    # The return is that of the attempts, (1 − ½ − ½ − 1) / 4. One right attempt, accepted; of three wrong ones one is
    # rejected.
    expected = {"return": -1 / 4, "accepts_right": 1, "rejects_wrong": 1 / 3, "balanced": 2 / 3}
    assert Rise().credit(episodes(FOUR)).stats == pytest.approx(expected)
    assert Rise(verify=0.0).credit(episodes(FOUR)).stats == pytest.approx(expected)


def test_comparisons_stay_within_a_problem():
    # At TWO all is right and all verdicts are true: nothing to compare. At ONE all is as if TWO were not there.
    drawn = episodes([*FOUR, *[("+60", "+")] * 4])
    found = of_turns(Rise().credit(drawn).advantages, drawn)
    assert [second for _, second in found] == pytest.approx([*VERIFYING, 0, 0, 0, 0])
    assert [first for first, _ in found] == pytest.approx([*SOLVING, 0, 0, 0, 0])


def test_same_verdict_of_everything_is_pushed_to_neither_side_where_all_attempts_are_alike():
    drawn = episodes([("+71", "+"), ("+72", "+")], samples=2)
    assert of_turns(Rise().credit(drawn).advantages, drawn) == [[0, 0], [0, 0]]


def test_the_score_of_a_verdict_as_an_attempt_is_not_looked_at():
    drawn = episodes(FOUR)
    credit = Rise().credit(replace(drawn, scores=torch.cat([drawn.scores[:, :1], torch.ones(4, 1)], dim=1)))
    assert torch.equal(credit.advantages, Rise().credit(drawn).advantages)


def test_part_of_a_score_is_not_right():
    drawn = episodes([("+70", "+"), ("+70", "-")], samples=2)
    drawn.scores[:, 0] = torch.tensor([0.5, 0.5])
    # Attempts −½ each. Of the verdicts only the second is true: 1 and −½, each less the other.
    assert of_turns(Rise().credit(drawn).advantages, drawn) == [[0, -1.5], [0, 1.5]]


def test_scores_that_were_shuffled_decide_and_not_the_text():
    drawn = episodes([("+70", "+"), ("+71", "+")], samples=2)
    drawn.scores[:, 0] = torch.tensor([0.0, 1.0])
    assert of_turns(Rise().credit(drawn).advantages, drawn) == [[-1.5, -1.5], [1.5, 1.5]]


# --- other people's attempts -----------------------------------------------------------------------------------------

PROBLEMS = CHECKS.items(5, range(6), 3)


def ask(items=PROBLEMS, rate=0.15, seed=0, samples=2, **changes):
    settings = {"rate": rate, "samples": samples, "temperature": 1.0, **changes}
    return solve_and_judge(POLICY, CHECKS, items, generator=torch.Generator().manual_seed(seed), **settings)


def test_attempts_and_verdicts_are_rows_of_their_own():
    drawn = ask()
    assert drawn.items == [item for item in PROBLEMS for _ in range(2)] * 2
    assert drawn.group.tolist() == [g for g in range(12) for _ in range(2)] and drawn.samples == 2
    assert drawn.scores.shape == (24, 2) and not drawn.scores[:, 1].any()
    assert drawn.alive.tolist() == [[True, False]] * 12 + [[False, True]] * 12
    assert {len(texts) for texts in drawn.answers[:12]} == {1} and {len(texts) for texts in drawn.answers[12:]} == {2}


def test_ones_own_attempts_are_those_of_any_rollout():
    plain = roll_out(POLICY, CHECKS, PROBLEMS, samples=2, generator=torch.Generator().manual_seed(3), temperature=0.7)
    drawn = ask(seed=3, temperature=0.7)
    assert drawn.answers[:12] == plain.answers
    assert torch.equal(drawn.scores[:12, 0], plain.scores[:, 0])
    assert torch.equal(drawn.turn[:12, : plain.turn.shape[1]], plain.turn)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25])
def test_what_is_judged_was_written_by_careless_people(rate):
    rng, drawn = random.Random(7), ask(rate=rate, seed=7)
    theirs = [CHECKS.careless(item, rng, rate) for item in PROBLEMS]
    assert [texts[0] for texts in drawn.answers[12:]] == [text for text in theirs for _ in range(2)]
    right = [CHECKS.score(item, text) for item, text in zip(PROBLEMS, theirs, strict=True)]
    assert drawn.scores[12:, 0].tolist() == [score for score in right for _ in range(2)]
    # Without mistakes all are right; at ¼ people always give in, so all that is misled is wrong.
    expected = {0.0: [1.0] * 6, 0.25: [float(not CHECKS.misleading(item)) for item in PROBLEMS]}
    assert right == expected.get(rate, right)
    assert any(CHECKS.misleading(item) for item in PROBLEMS)


def test_only_the_verdict_is_ones_own():
    drawn = ask(seed=4)
    for row in range(12, 24):
        item, (attempt, said) = drawn.items[row], drawn.answers[row]
        context = encode(POLICY, f"{item.prompt}{attempt}$!")
        assert drawn.ids[row, : len(context)].tolist() == context
        assert (drawn.turn[row, : len(context)] == CONTEXT).all()
        own = drawn.ids[row][drawn.turn[row] == 1].tolist()
        assert POLICY.decode([own]) == [said]
        assert drawn.logprobs[row][drawn.turn[row] == 1].lt(0).all()


def test_the_same_noise_gives_the_same_rollouts():
    one, again, other = ask(), ask(), ask(seed=1)
    assert one.answers == again.answers and torch.equal(one.ids, again.ids)
    assert [texts[0] for texts in one.answers[12:]] != [texts[0] for texts in other.answers[12:]]


def test_credit_of_other_peoples_attempts_by_hand():
    # Two attempts of one's own at ONE, and two verdicts on somebody's +71: true and false.
    own, judged = episodes([("+70", ""), ("+71", "")], samples=2), episodes([("+71", "-"), ("+71", "+")], samples=2)
    own = replace(own, turn=torch.where(own.turn == 0, 0, CONTEXT), answers=[["+70"], ["+71"]])
    judged.turn = torch.where(judged.turn == 1, 1, CONTEXT)
    drawn = Rollouts.join([own, judged])
    credit = Rise(stale=0.1).credit(drawn)
    # Attempts 1 and −½, verdicts 1 and −½, each less the other; whoever has no such turn has nothing.
    expected = torch.zeros(drawn.turn.shape)
    expected[:2] = (drawn.turn[:2] == 0) * torch.tensor([[1.5], [-1.5]])
    expected[2:] = (drawn.turn[2:] == 1) * torch.tensor([[1.5], [-1.5]])
    assert torch.equal(credit.advantages, expected)
    assert torch.equal(credit.kl, torch.where(drawn.own, 0.01, 0.0))
    # The two that were not asked are not counted among the verdicts: of two wrong attempts one is rejected.
    found = {name: credit.stats[name] for name in ("accepts_right", "rejects_wrong", "balanced")}
    assert found == {"accepts_right": 0, "rejects_wrong": 1 / 2, "balanced": 1 / 4}


# --- phases ----------------------------------------------------------------------------------------------------------


def test_one_phase_of_attempts_and_verdicts():
    (phase,) = Rise().phases(train_config(samples=3, temperature=0.5))
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RL", 10, False)
    assert phase.roll_out.func is roll_out
    assert phase.roll_out.keywords == {"turns": 2, "samples": 3, "temperature": 0.5, "feedback": "critique"}
    assert phase.teacher is None and phase.reference_decay == 1


@pytest.mark.parametrize("rate", [0.0, 0.15])
def test_stale_phase(rate):
    (phase,) = Rise(stale=rate).phases(train_config(samples=3, temperature=0.5))
    assert phase.roll_out.func is solve_and_judge
    # As many turns, so as many attempts and verdicts, as in the other arms.
    assert phase.roll_out.keywords == {"rate": rate, "turns": 2, "samples": 3, "temperature": 0.5}


def test_the_control_shuffles():
    assert Rise(shuffle_scores=True).phases(train_config())[0].shuffle_scores


@pytest.mark.parametrize("settings", [{}, {"verify": 0.0}, {"stale": 0.2}, {"shuffle_scores": True}])
def test_arms_make_as_many_attempts_as_verdicts_and_learn(settings):
    train = train_config(updates=2, prompts=3, samples=2, kl="exact")
    learner = Learner(sharp_policy(1), TaskConfig(name="checks", level=2), train, seed=0)
    before = torch.cat([parameter.detach().flatten() for parameter in learner.parameters])
    (phase,) = Rise(**settings).phases(train)
    made = []

    def counted(*arguments, **how):
        drawn = phase.roll_out(*arguments, **how)
        made.append(drawn.alive.sum(0).tolist())
        return drawn

    records = list(run_phases(learner, [replace(phase, roll_out=counted)]))
    assert made == [[6, 6], [6, 6]]
    assert [record["update"] for record in records] == [1, 2]
    assert {"balanced", "accepts_right", "rejects_wrong", "kl@1", "kl@2"} <= records[0].keys()
    after = torch.cat([parameter.detach().flatten() for parameter in learner.parameters])
    assert after.isfinite().all() and not torch.equal(before, after)


# --- evaluation ------------------------------------------------------------------------------------------------------

# Attempts at ONE and at TWO, four each, with a verdict and P(true). Right is 0 at both.
SAID = [
    ("+70", "+"),
    ("+71", "+"),
    ("+71", "-"),
    ("+75", "-"),
    ("+60", "-"),
    ("+6", "-"),
    ("+62", "-"),
    ("+60", "?"),
]
P = [0.75, 0.25, 0.25, 0.25, 0.75, 0.75, 0.25, 0.25]
VALUES = {
    "accuracy@1": [1 / 4, 2 / 4],
    "pass@4": [1, 1],
    "majority@4": [0, 1],  # 0 1 1 5; 0 – 2 0, where the second is no answer
    "agreement": [2 / 4, 2 / 4],
    "illusion": [1 / 4, 0],
    "verified@4": [1, 1],  # ¾ for 0 beside ½ for 1 and ¼ for 5; 1 for 0 beside ¼ for 2, and ¾ that have no vote
    "vote_gain": [1, 0],
}
METRICS = {
    **{"accuracy@1": 3 / 8, "pass@4": 1, "majority@4": 1 / 2, "agreement": 1 / 2, "illusion": 1 / 8},
    **{"verified@4": 1, "vote_gain": 1 / 2},
    # Of three right attempts one is accepted, of five wrong ones four are rejected.
    **{"accepts_right": 1 / 3, "rejects_wrong": 4 / 5, "balanced": 17 / 30},
    # At ONE 1 of 1 right and 1 of 3 wrong ones accepted; at TWO 0 of 2 and 0 of 2.
    "apart": ((1 - 1 / 3) + 0) / 2,
    # Right ¾ ¾ ¼, wrong ¼ ¼ ¼ ¾ ¼. A right ¾ beats four and ties one: 4½ each; the ¼ ties four: 2. Of 15 pairs.
    "auroc": 11 / 15,
    # Off by ¾ twice (a right one at ¼, a wrong one at ¾), by ¼ six times: (2 · 9/16 + 6/16) / 8.
    "brier": 3 / 16,
    # Two of three at ¾ are right, off by 1/12; one of five at ¼, off by 1/20: (3/12 + 5/20) / 8.
    "calibration": 1 / 16,
}


@pytest.fixture
def scripted(monkeypatch):
    """``SAID`` instead of attempts, and its P(true); returns how the attempts were asked for."""
    asked = []

    def attempt_all(policy, task, items, **how):
        asked.append((policy, task, items, how))
        return episodes(SAID)

    def p_of(policy, task, rollouts):
        assert policy is POLICY and task is CHECKS and len(rollouts.items) == 8
        return torch.tensor(P)

    monkeypatch.setattr(verdicts_of, "attempt_all", attempt_all)
    monkeypatch.setattr(verdicts_of, "p_accepted", p_of)
    return asked


def test_an_evaluation_by_hand(scripted):
    evaluation, drawn = evaluate(POLICY, CHECKS, [ONE, TWO], seed=7, turns=2, feedback="critique", samples=4)
    assert evaluation.items == VALUES
    assert evaluation.metrics == pytest.approx(METRICS)
    assert evaluation.generated_tokens == 4 * 7 + 3 + 2 * 8  # stop tokens included: attempts and verdicts
    assert drawn.answers == [list(pair) for pair in SAID]


def test_how_attempts_are_asked_for(scripted):
    settings = {"seed": 7, "turns": 2, "feedback": "critique", "temperature": 0.5}
    evaluate(POLICY, CHECKS, [ONE, TWO], samples=4, batch=10, **settings)
    evaluate(POLICY, CHECKS, [ONE, TWO], samples=4, batch=3, **settings)
    expected = [(POLICY, CHECKS, [ONE, TWO], {**settings, "samples": 4, "batch": batch}) for batch in (2, 1)]
    assert scripted == expected  # so many problems at a time that their attempts fill a batch, and at least one


@pytest.mark.parametrize(
    ("said", "p", "verified"),
    [
        # Results 1 1 1 0 at ONE, of which 0 is right. One that is sure outvotes three that are not.
        (["+71", "+71", "+71", "+70"], [0.25, 0.25, 0.25, 1.0], 1),
        (["+71", "+71", "+71", "+70"], [0.25, 0.25, 0.25, 0.5], 0),
        (["+71", "+71", "+71", "+70"], [0.5, 0.25, 0.25, 1.0], 0),  # of equal weights the first
        (["+70", "+71", "+71", "+71"], [0.75, 0.25, 0.25, 0.25], 1),
        (["+7", "+7", "+7", "+70"], [1.0, 1.0, 1.0, 0.125], 1),  # what is no answer has no vote
        (["+7", "", "x", "+8"], [1.0, 1.0, 1.0, 1.0], 0),  # nor has anybody else
        (["+71", "+70", "+72", "+73"], [0.0, 0.0, 0.0, 0.0], 0),  # no weight at all: the first
    ],
)
def test_the_weighed_vote(monkeypatch, said, p, verified):
    monkeypatch.setattr(verdicts_of, "attempt_all", lambda *_, **__: episodes([(text, "+") for text in said]))
    monkeypatch.setattr(verdicts_of, "p_accepted", lambda *_: torch.tensor(p))
    evaluation, _ = evaluate(POLICY, CHECKS, [ONE], seed=0, turns=2, feedback="critique", samples=4)
    assert evaluation.items["verified@4"] == [verified]


def test_equal_weights_are_a_majority(monkeypatch):
    drawn = episodes(SAID)
    monkeypatch.setattr(verdicts_of, "attempt_all", lambda *_, **__: drawn)
    monkeypatch.setattr(verdicts_of, "p_accepted", lambda *_: torch.full((8,), 0.25))
    metrics = evaluate(POLICY, CHECKS, [ONE, TWO], seed=0, turns=2, feedback="critique", samples=4)[0].metrics
    assert metrics["vote_gain"] == 0 and metrics["verified@4"] == metrics["majority@4"] == 1 / 2


@pytest.mark.parametrize("batch", [4, 100])  # one problem at a time, or all
def test_an_evaluation_of_a_policy(batch):
    how = {"seed": 2, "turns": 2, "feedback": "critique", "samples": 3}
    evaluation, drawn = evaluate(POLICY, CHECKS, PROBLEMS, batch=batch, **how)
    again, same = evaluate(POLICY, CHECKS, PROBLEMS, **how)
    assert drawn.answers == same.answers
    assert evaluation.metrics == pytest.approx(again.metrics, abs=1e-5)
    assert drawn.alive.all() and drawn.samples == 3 and len(drawn.items) == 18
    right, said = (drawn.scores[:, 0] == 1).tolist(), verdicts(drawn)
    assert {"apart": told_apart(said, right, 3), **verdict_metrics(said, right)}.items() <= evaluation.metrics.items()
    for name, values in evaluation.items.items():
        assert len(values) == 6 and sum(values) / 6 == pytest.approx(evaluation.metrics[name])


def test_p_accepted_by_hand():
    said = [("+70-46", "++"), ("+71-47", "+-"), ("+70", "?"), ("", "")]
    two = Item("checks", 0, 2, 2, "3+7-4=", "+70-46")
    drawn = episodes(said, problems=(two,))
    found = p_accepted(POLICY, CHECKS, drawn)
    plus, minus = encode(POLICY, "+-")
    for (attempt, _), p in zip(said, found.tolist(), strict=True):
        by_hand = 1.0
        for signs in ("", "+"):  # a plus at the first step, and one at the second after it
            row = torch.tensor([encode(POLICY, f"3+7-4={attempt}$!{signs}")])
            odds = POLICY.logits(row)[0, -1].detach().double().exp()
            by_hand *= (odds[plus] / (odds[plus] + odds[minus])).item()
        assert p == pytest.approx(by_hand, abs=1e-5)
    assert found.max() - found.min() > 0.01  # it depends on the attempt, and not on the check that was written
    other = episodes([(attempt, "-+") for attempt, _ in said], problems=(two,))
    torch.testing.assert_close(p_accepted(POLICY, CHECKS, other), found)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [{"beta": -0.1}, {"verify": "perhaps"}, {"stale": -0.1}, {"stale": 1.1}, {"stail": 0.1}, {"shuffle": True}]
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Rise, bad, "arms.rise")


@pytest.mark.parametrize("changes", [{"turns": 1}, {"turns": 3}, {"feedback": "nudge"}])
def test_the_second_turn_is_a_verdict(changes):
    with pytest.raises(ConfigError, match="RISE's second turn is a verdict"):
        Rise().phases(train_config(**changes))


@pytest.mark.parametrize("tier", ["smoke", "tiny"])
def test_arms_differ_in_nothing_but_their_verdicts(tier):
    experiment = load_experiment("rise", tier)
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert {arm: (m.verify, m.balance, m.stale is not None, m.shuffle_scores) for arm, m in methods.items()} == {
        "rise": (1, False, False, False),
        "balanced": (1, True, False, False),
        "rl": (0, False, False, False),
        "stale": (1, False, True, False),
        "shuffled": (1, False, False, True),
    }
    assert len({m.beta for m in methods.values()}) == 1
    assert {tuple(m.evaluation()) for m in methods.values()} == {()}
    # What the evaluation asks for is what the arms are trained on.
    assert (experiment.train.turns, experiment.train.feedback) == (2, "critique")


@pytest.mark.parametrize(
    ("right", "weights"),
    [
        ([True, False], [1, 1]),
        ([True, True, True, False], [2 / 3, 2 / 3, 2 / 3, 2]),  # 3 · 2/3 = 1 · 2: both kinds weigh the same
        ([True, True], [0, 0]),  # nothing to tell apart
    ],
)
def test_both_kinds_of_attempts_count_alike(right, weights):
    assert rise.class_weights(right).tolist() == pytest.approx(weights)
