"""Who may be the judge: what every judge pays, how right it is, and what that is worth token by token.

The group of most tests: four answers each to ``3+7=`` and ``4+6=``, two phrasings of one problem (both come to 0)::

    row   problem   answer   result   right   majority says   cross says
    0     3+7=      +70      0        yes     0               1
    1     3+7=      +71      1        no      1               0
    2     3+7=      +71      1        no      1               0
    3     3+7=      +7       –        no      0               0
    4     4+6=      +60      0        yes     1               0
    5     4+6=      +60      0        yes     1               0
    6     4+6=      +65      5        no      0               0
    7     4+6=      +61      1        no      0               1
"""

import random
from dataclasses import replace

import pytest
import torch
from stand_ins import sharp_policy, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.votes import evaluate_votes
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.rollouts.critiques import p_true
from minirl.tasks import Item, get
from minirl.tasks.chain import apply, misconception
from minirl.techniques.base import OnlinePhase
from minirl.techniques.critique import reward_sources
from minirl.techniques.critique.co_reward import both_phrasings
from minirl.techniques.critique.reward_sources import (
    JudgedRL,
    coin_rewards,
    credulous_rewards,
    evaluate,
    judge_metrics,
    learning,
)

POLICY, TALLY = sharp_policy(), get("tally")
ITEMS = TALLY.items(5, range(8), 3)
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")
ANSWERS = ["+70$", "+71$", "+71$", "+7$", "+60$", "+60$", "+65$", "+61$"]
TRUTH = [1.0, 0, 0, 0, 1, 1, 0, 0]
MAJORITY = [0.0, 1, 1, 0, 1, 1, 0, 0]  # labels 1 and 0
CROSS = [1.0, 0, 0, 0, 0, 0, 0, 1]  # the same two, exchanged


def method(judge="truth", **settings) -> JudgedRL:
    return JudgedRL(judge=judge, **settings)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 3, "turns": 1, "learning_rate": 1e-3, **changes})


def rollouts():
    return written(POLICY, [ONE, TWO], ANSWERS, 4, task=TALLY)


def judged(rewards):
    """The rollouts above as :meth:`JudgedRL.judged_episodes` returns them: the truth, and what a judge says."""
    drawn = rollouts()
    return replace(drawn, scores=torch.stack([drawn.scores[:, 0], torch.tensor(rewards)], dim=1))


class Throws(random.Random):
    """Random numbers that are written down here."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


# --- the coin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        # Throws 0.1 0.6 0.1 0.6; it says what is true where the throw is below the accuracy.
        (0.5, [1, 0, 0, 1]),
        (0.6, [1, 0, 0, 1]),  # 0.6 is not below 0.6
        (0.7, [1, 1, 0, 0]),
        (0.0, [0, 0, 1, 1]),  # always the contrary
        (1.0, [1, 1, 0, 0]),  # the truth
    ],
)
def test_a_coin_by_hand(accuracy, expected):
    rewards = coin_rewards(torch.tensor([1.0, 1, 0, 0]), accuracy, Throws(0.1, 0.6, 0.1, 0.6))
    assert rewards.tolist() == expected and rewards.dtype == torch.float32


def test_partly_right_is_not_right():
    assert coin_rewards(torch.tensor([0.5, 1.0]), 1.0, random.Random(0)).tolist() == [0, 1]


def test_a_coin_says_what_is_true_as_often_as_its_accuracy_of_right_and_of_wrong():
    scores = torch.tensor([1.0] * 4000 + [0.0] * 4000)
    rewards = coin_rewards(scores, 0.7, random.Random(0))
    # Four standard deviations of a share of 4000 are 0.029.
    assert rewards[:4000].mean().item() == pytest.approx(0.7, abs=0.03)
    assert rewards[4000:].mean().item() == pytest.approx(0.3, abs=0.03)


def test_a_better_coin_is_wrong_at_some_of_the_same_answers():
    scores = torch.tensor([1.0, 0.0] * 50)
    wrong = [
        (coin_rewards(scores, accuracy, random.Random(1)) != scores).nonzero().flatten().tolist()
        for accuracy in (0.9, 0.6)
    ]
    assert 0 < len(wrong[0]) < len(wrong[1]) and set(wrong[0]) < set(wrong[1])


# --- the credulous critic -------------------------------------------------------------------------------------------


def problem(misled: bool) -> Item:
    """A sum of one step whose entry has a misconception, or none."""
    for index in range(100):
        (item,) = TALLY.items(3, [index], 1)
        if TALLY.misleading(item) == misled:
            return item
    raise AssertionError


def answers_to(item: Item) -> list[str]:
    """The right answer, the one that is believed, and one that is neither; of an entry that nobody gets wrong, the
    right one and two wrong ones."""
    value, operation = int(item.prompt[0]), item.prompt[1:3]
    right, believed = apply(value, operation), misconception(value, operation)
    believed = (right + 1) % 10 if believed is None else believed
    other = next(digit for digit in range(10) if digit not in (right, believed))
    return [f"{operation}{digit}" for digit in (right, believed, other)]


@pytest.mark.parametrize(
    ("misled", "accuracy", "paid"),
    [
        (True, 1.0, [1, 0, 0]),  # never gives in: the truth
        (True, 0.0, [0, 1, 0]),  # always gives in: the mistake, and not the truth
        (False, 0.0, [1, 0, 0]),  # where there is no misconception there is nothing to give in to
        (False, 1.0, [1, 0, 0]),
    ],
)
def test_a_credulous_critic_by_hand(misled, accuracy, paid):
    item = problem(misled)
    rewards = credulous_rewards(TALLY, [item] * 3, answers_to(item), accuracy, random.Random(0))
    assert rewards.tolist() == paid and rewards.dtype == torch.float32


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.8])
def test_it_gives_in_as_often_as_its_accuracy_says(accuracy):
    item = problem(misled=True)
    right, believed, other = answers_to(item)
    said = {
        text: credulous_rewards(TALLY, [item] * 2000, [text] * 2000, accuracy, random.Random(2)).mean().item()
        for text in (right, believed, other)
    }
    # The mistake is paid if it gives in, the truth if it does not; nothing else ever.
    assert said[right] == pytest.approx(accuracy, abs=0.045)  # four standard deviations
    assert said[believed] == pytest.approx(1 - accuracy, abs=0.045)
    assert said[other] == 0


def test_at_one_half_a_coin_and_a_credulous_critic_differ_in_where_they_err():
    # One problem that misleads and one that does not, right and believed answers to both, many times over.
    items = [problem(misled=misled) for misled in (True, False)]
    texts = [text for item in items for text in answers_to(item)[:2]] * 1000
    asked = [item for item in items for _ in range(2)] * 1000
    scores = torch.tensor([1.0, 0, 1, 0] * 1000)
    means = {
        "coin": coin_rewards(scores, 0.5, random.Random(0)).view(-1, 4).mean(0),
        "credulous": credulous_rewards(TALLY, asked, texts, 0.5, random.Random(0)).view(-1, 4).mean(0),
    }
    assert means["coin"].tolist() == pytest.approx([0.5] * 4, abs=0.07)
    # Right everywhere where nothing misleads: balanced accuracy ¾, and yet no difference where there is one to make.
    assert means["credulous"].tolist() == pytest.approx([0.5, 0.5, 1, 0], abs=0.07)


def test_what_is_no_answer_is_not_accepted():
    item = problem(misled=False)
    texts = ["", "+", "nonsense", answers_to(item)[0][:2]]
    assert credulous_rewards(TALLY, [item] * 4, texts, 1.0, random.Random(0)).tolist() == [0, 0, 0, 0]


# --- how right a judge is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "scores", "judge", "balanced"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1, 1),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0, 0),
        # Three of four right. Right to everything: ¾ of the answers, but all of the right and none of the wrong.
        ([1, 1, 1, 1], [1, 1, 1, 0], 0.75, 0.5),
        ([0, 0, 0, 0], [1, 1, 1, 0], 0.25, 0.5),
        # One of three right ones, and the wrong one: (⅓ + 1) / 2.
        ([1, 0, 0, 0], [1, 1, 1, 0], 0.5, 2 / 3),
        # Nothing is wrong: one half is put for what cannot be known, (½ + ½) / 2 and (1 + ½) / 2.
        ([1, 0], [1, 1], 0.5, 0.5),
        ([1, 1], [1, 1], 1, 0.75),
        ([0, 0], [0, 0], 1, 0.75),
        (MAJORITY, TRUTH, 5 / 8, (2 / 3 + 3 / 5) / 2),
        (CROSS, TRUTH, 5 / 8, (1 / 3 + 4 / 5) / 2),
    ],
)
def test_judge_metrics_by_hand(rewards, scores, judge, balanced):
    found = judge_metrics(torch.tensor(rewards, dtype=torch.float), torch.tensor(scores, dtype=torch.float))
    assert found == pytest.approx({"judge": judge, "judge_balanced": balanced})


# --- what every judge pays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("judge", "paid"), [("truth", TRUTH), ("majority", MAJORITY), ("cross", CROSS)])
def test_rewards_by_hand(judge, paid):
    assert method(judge).rewards(POLICY, TALLY, rollouts(), random.Random(0)).tolist() == paid


def test_the_dials_are_turned_by_the_accuracy():
    assert misconception(1, "+9") == 9 and misconception(4, "+6") is None
    misled = Item("tally", 0, 2, 1, "1+9=", "+90")
    drawn = written(POLICY, [misled, TWO], ["+90$", "+99$", "+91$", "+60$", "+69$", "+61$"], 3, task=TALLY)
    paid = {
        (judge, accuracy): method(judge, accuracy=accuracy).rewards(POLICY, TALLY, drawn, random.Random(0)).tolist()
        for judge in ("coin", "credulous")
        for accuracy in (0.0, 1.0)
    }
    assert paid == {
        ("coin", 0.0): [0, 1, 1, 0, 1, 1],  # the contrary of the truth, everywhere
        ("credulous", 0.0): [0, 1, 0, 1, 0, 0],  # believes that 1+9 is 9, and knows that 4+6 is 0
        ("coin", 1.0): [1, 0, 0, 1, 0, 0],
        ("credulous", 1.0): [1, 0, 0, 1, 0, 0],
    }


@pytest.mark.parametrize(("judge", "settings"), [("self", {}), ("critic", {"critic": "somebody"})])
def test_who_is_asked_for_a_critique(judge, settings, monkeypatch):
    other, asked = sharp_policy(1), []
    monkeypatch.setattr(reward_sources, "load_actor", lambda name, device: (asked.append((name, device)), other)[1])
    drawn = both_phrasings(
        POLICY, TALLY, ITEMS, generator=torch.Generator().manual_seed(0), samples=8, temperature=1.0, correlation=0.0
    )
    rewards = method(judge, **settings).rewards(POLICY, TALLY, drawn, random.Random(0))
    texts = [said[0] for said in drawn.answers]
    says_right = {
        who: p_true(one, TALLY, drawn.items, texts) > 0.5 for who, one in (("self", POLICY), ("critic", other))
    }
    assert rewards.tolist() == says_right[judge].float().tolist()
    assert not torch.equal(says_right["self"], says_right["critic"])  # else this would show nothing
    assert asked == ([("somebody", "cpu")] if judge == "critic" else [])


def test_exactly_one_half_is_no_praise(monkeypatch):
    monkeypatch.setattr(reward_sources, "p_true", lambda *_: torch.tensor([0.5, 0.51, 0.49, 1.0, 0.0, 0.5, 0.9, 0.1]))
    paid = method("self").rewards(POLICY, TALLY, rollouts(), random.Random(0))
    assert paid.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


# --- what that is worth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "worth"),
    [
        # Each less the mean of the other three of its prompt. One of four paid: 1 − 0, and 0 − ⅓; two of four: ±⅔.
        (TRUTH, [1, -1 / 3, -1 / 3, -1 / 3, 2 / 3, 2 / 3, -2 / 3, -2 / 3]),
        (MAJORITY, [-2 / 3, 2 / 3, 2 / 3, -2 / 3, 2 / 3, 2 / 3, -2 / 3, -2 / 3]),
        (CROSS, [1, -1 / 3, -1 / 3, -1 / 3, -1 / 3, -1 / 3, -1 / 3, 1]),
        # All answers to one prompt paid and none to the other: knowing the problem teaches nothing.
        ([1.0] * 4 + [0.0] * 4, [0] * 8),
    ],
)
def test_credit_by_hand(rewards, worth):
    credit = method().credit(judged(rewards))
    # Four tokens of the problem; then the answer and the token that ends it, of row 3 two and one, of all others three.
    own = [[0] * 4 + ([1, 1, 1, 0] if row == 3 else [1] * 4) for row in range(8)]
    expected = [worth[row] * token for row in range(8) for token in own[row]]
    assert credit.advantages.shape == (8, 8)
    assert credit.advantages.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "paid", "illusion"),
    [
        (TRUTH, 3 / 8, 0),
        (MAJORITY, 4 / 8, 1 / 8),
        (CROSS, 2 / 8, -1 / 8),  # paid less than what was right
        ([1.0] * 8, 1, 5 / 8),
    ],
)
def test_logged_numbers_by_hand(rewards, paid, illusion):
    stats = method().credit(judged(rewards)).stats
    how_right = judge_metrics(torch.tensor(rewards), torch.tensor(TRUTH))
    assert stats == pytest.approx({"return": paid, "illusion": illusion, **how_right})


def test_the_truth_earns_nothing_unless_it_is_the_judge():
    drawn = judged(MAJORITY)
    other = replace(drawn, scores=torch.stack([1 - drawn.scores[:, 0], drawn.scores[:, 1]], dim=1))
    assert torch.equal(method().credit(drawn).advantages, method().credit(other).advantages)


def test_kl_coefficients_by_hand():
    credit = method(beta=0.25).credit(judged(TRUTH))
    assert credit.kl.tolist()[2:4] == [[0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0, 0.25, 0.25, 0.25, 0]]
    assert not method(beta=0.0).credit(judged(TRUTH)).kl.any()


# --- how answers are drawn and judged -------------------------------------------------------------------------------


def draw(one: JudgedRL, seed=3):
    return one.judged_episodes(
        POLICY, TALLY, ITEMS[:4], generator=torch.Generator().manual_seed(seed), samples=3, temperature=1.0
    )


def test_answers_are_those_of_co_reward_whoever_judges():
    noise = torch.Generator().manual_seed(3)
    plain = both_phrasings(POLICY, TALLY, ITEMS[:4], generator=noise, samples=3, temperature=1.0, correlation=0.0)
    for one in (method("truth"), method("cross"), method("coin", accuracy=0.5)):
        drawn = draw(one)
        assert drawn.answers == plain.answers and torch.equal(drawn.ids, plain.ids)
        assert drawn.items == plain.items and drawn.scores.shape == (4 * 3, 2)
        assert torch.equal(drawn.scores[:, 0], plain.scores[:, 0])  # the truth; beside it the judge
    assert torch.equal(draw(method("truth")).scores[:, 1], (plain.scores[:, 0] == 1).float())


def test_the_noise_of_an_update_throws_the_coin():
    coin = method("coin", accuracy=0.5)
    first, again = draw(coin).scores[:, 1], draw(coin).scores[:, 1]
    assert torch.equal(first, again)
    assert torch.equal(first, coin_rewards(draw(coin).scores[:, 0], 0.5, random.Random(3)))
    assert not torch.equal(first, draw(coin, seed=4).scores[:, 1])


def test_one_phase_of_policy_gradient():
    one = method("cross")
    (phase,) = one.phases(train_config(temperature=0.5))
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores, phase.reference_decay) == ("RL", 10, False, 1)
    # Nothing of the judge is among the settings of the rollouts: all arms roll out alike.
    assert phase.roll_out.keywords == {"samples": 3, "temperature": 0.5}
    drawn = phase.roll_out(POLICY, TALLY, ITEMS[:4], generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn.scores, one.judged_episodes(
        POLICY, TALLY, ITEMS[:4], generator=torch.Generator().manual_seed(3), samples=3, temperature=0.5
    ).scores)  # fmt: skip
    assert phase.credit(drawn).stats["return"] == pytest.approx(drawn.scores[:, 1].mean().item())


def test_a_run_logs_the_judge_and_the_truth():
    learner = Learner(sharp_policy(1), TaskConfig(name="tally", level=1), train_config(updates=2), seed=0)
    records = list(run_phases(learner, method("coin", accuracy=1.0).phases(learner.train)))
    assert len(records) == 2
    for record in records:
        assert record["return"] == record["accuracy@1"] and record["illusion"] == 0
        assert record["judge"] == 1


# --- what is read off a run -----------------------------------------------------------------------------------------


def test_learning_takes_the_first_update_and_the_last_ten():
    records = [{"judge": 0.25, "judge_balanced": 0.5, "illusion": 9.0}] * 1
    records += [{"judge": 0.0, "judge_balanced": 0.0, "illusion": 9.0}] * 4
    records += [{"judge": 0.5, "judge_balanced": 0.75, "illusion": 0.0}] * 5
    records += [{"judge": 1.0, "judge_balanced": 0.25, "illusion": 0.5}] * 5
    assert learning(records) == pytest.approx(
        {
            "judge@start": 0.25,
            "judge_balanced@start": 0.5,
            "judge@end": 0.75,
            "judge_balanced@end": 0.5,
            "illusion@end": 0.25,
        }
    )


def test_learning_of_a_run_that_is_shorter_than_ten():
    records = [{"judge": one, "judge_balanced": one, "illusion": one} for one in (0.0, 0.5)]
    found = learning(records)
    assert (found["judge@start"], found["judge@end"], found["illusion@end"]) == (0.0, 0.25, 0.25)


def test_the_evaluation_is_the_familys():
    assert evaluate is evaluate_votes
    assert method().evaluation() == {}


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "judge"),  # nobody judges unless asked
        ({"judge": "oracle"}, "judge"),
        ({"judge": "coin", "accuracy": 1.1}, "accuracy"),
        ({"judge": "coin", "accuracy": -0.1}, "accuracy"),
        ({"judge": "truth", "beta": -0.1}, "beta"),
        ({"judge": "critic", "critics": "tally-clerk"}, "critics"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(JudgedRL, settings, "arms.coin")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": "critic"}, r"^critic: name the base that judges with 'judge: critic', and only there$"),
        ({"judge": "self", "critic": "tally-clerk"}, r"^critic: name the base"),
        ({"judge": "coin"}, r"^accuracy: belongs to 'judge: coin' and 'judge: credulous', and they need it$"),
        ({"judge": "credulous"}, r"^accuracy: belongs to"),
        ({"judge": "truth", "accuracy": 0.5}, r"^accuracy: belongs to"),
        ({"judge": "truth", "shuffle_scores": True}, r"^shuffle_scores: the control is 'judge: coin'"),
    ],
)
def test_settings_that_do_not_belong_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        method(**settings).phases(train_config())


@pytest.mark.parametrize("changes", [{"prompts": 3}, {"turns": 2}])
def test_a_problem_in_two_phrasings_and_one_turn(changes):
    with pytest.raises(
        ConfigError, match=r"^train\.prompts must be even \(two phrasings of a problem\) and train\.turns 1$"
    ):
        method().phases(train_config(**changes))


def test_an_accuracy_of_zero_is_an_accuracy():
    (phase,) = method("coin", accuracy=0.0).phases(train_config())
    assert phase.updates == 10


def test_the_arms_differ_in_nothing_but_the_judge():
    experiment = load_experiment("reward-sources", "tiny")
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert {arm: one.judge for arm, one in methods.items()} == {arm: arm for arm in experiment.arms}
    assert list(methods) == ["truth", "majority", "cross", "self", "critic", "coin"]
    assert {one.beta for one in methods.values()} == {0.01}
    assert methods["coin"].accuracy == 0.5  # knows nothing
    assert methods["critic"].critic == experiment.base  # at the first update it is also the judge of `self`


def test_the_dials_go_from_bad_to_good_and_share_all_else_with_the_arms():
    experiment, dials = (
        load_experiment("reward-sources", "tiny"),
        load_experiment("reward-sources", "tiny", variant="judges"),
    )
    turned = {"coin": [], "credulous": []}
    for arm in dials.arms:
        one = load_method(dials, arm)
        turned[one.judge].append(one.accuracy)
        assert arm == f"{one.judge}_{round(100 * one.accuracy)}"
    assert turned == {"coin": [0.6, 0.7, 0.9], "credulous": [0.2, 0.4, 0.6, 0.8]}
    assert (dials.train, dials.task, dials.base) == (experiment.train, experiment.task, experiment.base)
