"""SSR: what an injection is worth, what a valid bug is, who is compared with whom, and what the arms do."""

import pytest
import torch
from stand_ins import encode, sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.injections import injection_stats, repair_stats
from minirl.policy.logprobs import pad_rows
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, get
from minirl.tasks.bugs import BREAK, edits
from minirl.techniques.base import OnlinePhase
from minirl.techniques.self_play.ssr import (
    SSR,
    RandomBugs,
    evaluate,
    injection_reward,
    learning,
    pose,
)

POLICY, BUGS = sharp_policy(), get("bugs")
RIGHT = "cdhi"
BREAKING = Item("bugs", 0, 0, BREAK, "Bcdhi:6573>3024;8241>1492=", "ddhi")


def mend(broken: str) -> Item:
    return BUGS.mending(BREAKING, broken)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 2, "samples": 2, "turns": 1, "learning_rate": 1e-3, **changes})


def batch(rows, samples):
    """Rollouts of ``rows``, (item, text) each, as a round makes them: every text ends with the stop token."""
    items, texts = [item for item, _ in rows], [text for _, text in rows]
    ids = [encode(POLICY, f"{item.prompt}{text}$") for item, text in rows]
    turn = [[CONTEXT] * len(item.prompt) + [0] * (len(text) + 1) for item, text in rows]
    return Rollouts(
        ids=pad_rows(ids, POLICY.pad_id)[0],
        turn=pad_rows(turn, CONTEXT)[0],
        logprobs=torch.zeros(1),
        scores=torch.tensor([[BUGS.score(item, text)] for item, text in rows]),
        group=torch.arange(len(rows)) // samples,
        answers=[[text] for text in texts],
        items=items,
        longest=6,
    )


def advantage_of(credit, rollouts):
    """The advantage of every row: that of its own tokens, which are all alike."""
    rows = []
    for values, own in zip(credit.advantages, rollouts.own, strict=True):
        (value,) = set(values[own].tolist())
        assert not values[~own].any()
        rows.append(value)
    return rows


# --- what an injection is worth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repairs", "reward", "worth"),
    [
        (None, "ssr", -1),  # not valid
        ((0, 8), "ssr", -0.8),  # nobody mends it
        ((1, 8), "ssr", 1 - 1.8 / 8),
        ((4, 8), "ssr", 0.1),
        ((7, 8), "ssr", 1 - 1.8 * 7 / 8),
        ((8, 8), "ssr", -0.8),  # everybody does
        ((0, 8), "no_floor", 1),
        ((8, 8), "no_floor", -0.8),  # the line's own end
        ((0, 8), "valid", 1),
        (None, "valid", -1),
        (None, "ssp", -1),
    ],
)
def test_the_reward_of_an_injection_by_hand(repairs, reward, worth):
    assert injection_reward(repairs, reward) == pytest.approx(worth)


def test_what_is_hardly_ever_mended_is_worth_most_and_what_never_is_least_of_the_valid():
    worth = [injection_reward((k, 8)) for k in range(9)]
    assert worth.index(max(worth)) == 1 and worth[0] == worth[8] == min(worth) > injection_reward(None)


# --- what a valid bug is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "valid"),
    [
        ("ddhi", 4, True),
        ("ddhi", 1, True),
        ("dchi", 1, False),  # two letters, one allowed
        ("dchi", 2, True),
        (RIGHT, 4, False),  # nothing is broken
        ("cdh", 4, False),  # no program
        ("cdhx", 4, False),
        ("", 4, False),
    ],
)
def test_validity(text, limit, valid):
    problem = pose(BUGS, limit, BREAKING, text)
    assert (problem is not None) == valid
    if problem:
        assert problem == mend(text) and problem.answer == RIGHT and RIGHT not in problem.prompt


def test_a_failed_repair_is_posed_like_an_injection():
    # Somebody was to mend "ddhi" and wrote "dchi": that is two letters from the right program.
    assert pose(BUGS, 4, mend("ddhi"), "dchi") == mend("dchi")
    assert pose(BUGS, 4, mend("ddhi"), RIGHT) is None  # it was mended


# --- credit ----------------------------------------------------------------------------------------------------------

# Two injections: one valid, one that changes nothing. Of the four repairs of the valid one, in two groups, three pass.
ROUND = [
    (BREAKING, "ddhi"),
    (BREAKING, RIGHT),
    (mend("ddhi"), RIGHT),
    (mend("ddhi"), "ddhi"),
    (mend("ddhi"), RIGHT),
    (mend("ddhi"), RIGHT),
]


def test_credit_by_hand():
    rollouts = batch(ROUND, 2)
    # s = ¾: 1 − 1.8 · ¾ = −0.35 against −1. Leave one out of two: each less the other.
    # Repairs: +1 against −1 in the first group; in the second both pass, nothing to compare.
    credit = SSR().credit(rollouts)
    assert advantage_of(credit, rollouts) == pytest.approx([0.65, -0.65, 2, -2, 0, 0])
    assert credit.stats == pytest.approx(
        {
            "return": (-0.35 - 1 + 1 - 1 + 1 + 1) / 6,
            "valid": 0.5,
            "bug_edits": 1,
            "solve_rate": 0.75,
            "unsolved": 0,
            "trivial": 0,
            "repaired": 0.75,
            "different": 0.5,  # one bug, mended in two groups
        }
    )


def test_the_weight_is_the_injections_own():
    rollouts = batch(ROUND, 2)
    assert advantage_of(SSR(weight=2.0).credit(rollouts), rollouts) == pytest.approx([1.3, -1.3, 2, -2, 0, 0])


@pytest.mark.parametrize(("reward", "worth"), [("valid", 2.0), ("variance", 1.25), ("no_floor", 0.65)])
def test_other_rewards_by_hand(reward, worth):
    # Of a solve rate of ¾: 1; min(¾, ¼); 1 − 1.8 · ¾. The other injection has −1.
    rollouts = batch(ROUND, 2)
    assert advantage_of(SSR(reward=reward).credit(rollouts), rollouts)[:2] == pytest.approx([worth, -worth])


def test_who_injects_too_far_is_not_valid():
    rows = [(BREAKING, "dchi"), (BREAKING, "ddhi"), (mend("ddhi"), RIGHT), (mend("ddhi"), "ddhi")]
    rollouts = batch(rows, 2)
    # s = ½ of the second: 0.1; the first has −1, and no repair of it was asked for.
    assert advantage_of(SSR(edits=1).credit(rollouts), rollouts)[:2] == pytest.approx([-1.1, 1.1])


def test_nothing_valid_leaves_the_injections_alone():
    rollouts = batch([(BREAKING, RIGHT), (BREAKING, "cd")], 2)
    credit = SSR().credit(rollouts)
    assert advantage_of(credit, rollouts) == [0, 0]
    assert credit.stats == {"return": -1, "valid": 0, "repaired": 0, "different": 0}


def test_shuffled_rewards_are_the_same_ones_and_the_solvers_stay():
    seen = set()
    for index in range(20):
        asked = BUGS.breaking(Item("bugs", 0, index, 1, "", RIGHT))
        rows = [(asked, asked.answer), (asked, RIGHT)]
        rows += [(BUGS.mending(asked, asked.answer), text) for text in (RIGHT, "", RIGHT, RIGHT)]
        rollouts = batch(rows, 2)
        dealt = advantage_of(SSR(shuffled=True).credit(rollouts), rollouts)
        assert dealt == advantage_of(SSR(shuffled=True).credit(rollouts), rollouts)  # a run that resumes deals the same
        assert sorted(dealt[:2]) == pytest.approx([-0.65, 0.65]) and dealt[2:] == [2, -2, 0, 0]
        seen.add(dealt[0] > 0)
    assert seen == {True, False}


def test_the_rival_is_paid_for_repairs_alone():
    rollouts = batch(ROUND[2:], 2)
    credit = RandomBugs().credit(rollouts)
    assert advantage_of(credit, rollouts) == [2, -2, 0, 0]
    assert credit.stats == {"return": 0.5, "repaired": 0.75, "different": 0.5}


# --- stats -----------------------------------------------------------------------------------------------------------


def test_stats_by_hand():
    found = [((0, 4), 3), ((4, 4), 1), ((1, 4), 2), (None, 0)]
    assert injection_stats(found) == pytest.approx(
        {"valid": 3 / 4, "bug_edits": 2, "solve_rate": 5 / 12, "unsolved": 1 / 3, "trivial": 1 / 3}
    )
    assert injection_stats([(None, 0)]) == {"valid": 0}
    assert repair_stats(batch(ROUND[:2], 2)) == {"repaired": 0, "different": 0}


# --- phases, config, evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "name"), [(SSR(), "self-play"), (RandomBugs(), "repair")])
def test_one_online_phase(method, name):
    (phase,) = method.phases(train_config())
    assert isinstance(phase, OnlinePhase) and (phase.name, phase.updates) == (name, 3)


def played(method, **changes):
    (phase,) = method.phases(train_config(**changes))
    items = BUGS.items(1, range(2), 2)
    return items, phase.roll_out(POLICY, BUGS, items, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("letters", [1, 2, 3])
def test_the_rival_gets_as_many_answers_as_a_round(letters):
    items, rollouts = played(RandomBugs(edits=letters), samples=3)
    # Two programs, four bugs each, three repairs: with three injections and their repairs it would be 2 · 3 + 6 · 3.
    assert len(rollouts.items) == 24 and rollouts.samples == 3
    assert [item.answer for item in rollouts.items[::12]] == [item.answer for item in items]
    assert {edits(item.prompt[1:5], item.answer) for item in rollouts.items} == {letters}


def test_a_round_begins_with_the_right_programs():
    items, rollouts = played(SSR())
    assert [item.prompt for item in rollouts.items[:4:2]] == [BUGS.breaking(item).prompt for item in items]
    assert len(rollouts.items) == 4  # an untrained policy writes no program, so there is nothing to mend


@pytest.mark.parametrize("method", [SSR, RandomBugs])
def test_configs_that_cannot_be(method):
    with pytest.raises(ConfigError, match=r"shuffle_scores: .*'shuffled: true'"):
        method(shuffle_scores=True).phases(train_config())
    with pytest.raises(ConfigError, match="turns 2"):
        method().phases(train_config(turns=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": "ssr"}, "unknown key 'rewards'. Did you mean 'reward'"),
        ({"reward": "azr"}, "key 'reward'"),
        ({"edits": 0}, "key 'edits'"),
        ({"edits": 5}, "key 'edits'"),
        ({"weight": 0}, "key 'weight'"),
        ({"higher_order": 2}, "key 'higher_order'"),
    ],
)
def test_config_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(SSR, settings, "arms.ssr")


def test_evaluation_by_hand(monkeypatch):
    # Whoever breaks always changes the first two letters; whoever mends always says RIGHT.
    items = [mend("ddhi"), BUGS.item(1, 0, 2)]

    def attempt_all(policy, task, problems, **settings):
        return batch([(item, answer(item)) for item in problems], 1)

    def answer(item):
        return ("hh" if item.prompt[1:3] != "hh" else "dd") + item.prompt[3:5] if item.level == BREAK else RIGHT

    monkeypatch.setattr("minirl.evaluation.injections.attempt_all", attempt_all)
    evaluation, rollouts = evaluate(POLICY, BUGS, items, seed=0)
    assert evaluation.items["accuracy@1"] == [1, 0] and evaluation.metrics["accuracy@1"] == 0.5
    assert evaluation.items["one_edit"] == evaluation.items["three_edits"] == [0, 0]
    valid = [BUGS.score(BUGS.breaking(item), answer(BUGS.breaking(item))) for item in items]
    assert evaluation.items["valid"] == valid
    assert evaluation.generated_tokens == 4 * 2 * 5
    assert [item.level for item in rollouts.items] == [1, 2, BREAK, BREAK]


def test_evaluation_of_a_policy():
    evaluation, _ = evaluate(POLICY, BUGS, BUGS.items(2, range(6), 2), seed=0)
    assert set(evaluation.metrics) == {"accuracy@1", "one_edit", "three_edits", "valid", "small", "bug_edits"}
    assert all(len(values) == 6 for values in evaluation.items.values())


def test_learning_by_hand():
    # The last two updates that had a valid injection: rates 0.5 and 0.7.
    records = [{"solve_rate": 0.1, "unsolved": 1.0}, {"solve_rate": 0.5, "unsolved": 0.2}, {"valid": 0.0}]
    records += [{"solve_rate": 0.7, "unsolved": 0.0}]
    assert learning(records, last=2) == pytest.approx({"solve_rate": 0.6, "unsolved": 0.1})
    assert learning([{"repaired": 0.5}]) == {}
