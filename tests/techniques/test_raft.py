"""RAFT: which answers are kept, and that learning from them is maximum likelihood.

Problems of two letters: ``#2,<a=`` wants two letters, the first an a. ``$`` ends an answer.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.objectives.policy_gradient import Totals, policy_gradient
from minirl.objectives.supervised import cross_entropy
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase, SupervisedPhase
from minirl.techniques.curriculum.raft import Raft, best_of, only

POLICY, CONSTR = sharp_policy(), get("constr")
ONE, TWO = Item("constr", 0, 0, 1, "#2,<a=", "ab"), Item("constr", 0, 1, 1, "#2,<b=", "ba")
# ONE: right, half right (length), right, no answer. TWO: half (the length), half (the first letter), right, half.
ANSWERS = ["ab$", "cb$", "ac$", "x$", "ab$", "b$", "ba$", "cc$"]
PROMPT = len("#2,<a=")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def rollouts() -> Rollouts:
    """The stand-in says of no token that is its own here: its prompts have four."""
    made = written(POLICY, [ONE, TWO], ANSWERS, 4, task=CONSTR)
    made.turn = torch.full(made.ids.shape, CONTEXT)
    for row, answer in enumerate(ANSWERS):
        made.turn[row, PROMPT : PROMPT + len(answer)] = 0
    made.logprobs = torch.arange(made.ids.numel()).view(made.ids.shape) / 100.0
    return made


# --- the best -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "k", "rows"),
    [
        ([0.2, 0.9, 0.5, 0.4], 4, [1]),
        ([0.2, 0.9, 0.5, 0.4], 2, [1, 2]),  # of every two the better one, though 0.5 is not the best of four
        ([0.5, 0.5, 0.2, 0.5], 4, [0]),  # of equal ones the first
        ([0.0, 0.0, 0.0, 0.0], 4, [0]),  # somebody is the best of four bad ones, too
        ([0.0, 1.0, 1.0, 1.0, 0.0, 0.25], 3, [1, 3]),
        ([-3.0, -1.0, -2.0, -4.0], 2, [1, 2]),  # the order matters, not the scale
    ],
)
def test_best_of_by_hand(scores, k, rows):
    assert best_of(torch.tensor(scores), k).tolist() == rows


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12), st.sampled_from([2, 3, 4, 6, 12]))
def test_nobody_of_its_k_is_better(scores, k):
    drawn = torch.tensor(scores)
    rows = best_of(drawn, k).tolist()
    assert len(rows) == 12 // k
    for i, row in enumerate(rows):
        assert i * k <= row < (i + 1) * k
        assert drawn[row] == drawn[i * k : (i + 1) * k].max()


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_a_larger_k_keeps_fewer_and_no_worse_ones(scores):
    drawn = torch.tensor(scores)
    means = [drawn[best_of(drawn, k)].mean().item() for k in (2, 4, 12)]
    assert means[0] <= means[1] + 1e-6 <= means[2] + 2e-6


@given(st.lists(st.integers(0, 20), min_size=8, max_size=8))
def test_only_the_order_of_scores_matters(scores):
    drawn = torch.tensor(scores, dtype=torch.float64)
    assert torch.equal(best_of(drawn, 4), best_of(drawn.exp() * 3 + 1, 4))


# --- kept answers ---------------------------------------------------------------------------------------------------


def test_only_these_rows_are_left_with_all_that_belongs_to_them():
    kept = only(rollouts(), torch.tensor([2, 6]))
    everything = rollouts()
    for name in ("ids", "turn", "logprobs", "scores", "group"):
        assert torch.equal(getattr(kept, name), getattr(everything, name)[[2, 6]])
    assert kept.answers == [["ac"], ["ba"]]
    assert kept.items == [ONE, TWO]
    assert kept.longest == everything.longest


def test_credit_keeps_the_best_of_each_problem():
    credit = Raft().credit(rollouts())
    assert credit.sequences.answers == [["ab"], ["ba"]]  # of the two right ones to ONE the first
    assert credit.stats == {"kept": 1}


def test_credit_of_a_smaller_k_keeps_the_best_of_every_two():
    credit = Raft(best_of=2).credit(rollouts())
    # (ab, cb), (ac, x), (ab, b), (ba, cc): the third pair has one half right and the other too, so the first is kept.
    assert credit.sequences.answers == [["ab"], ["ac"], ["ab"], ["ba"]]
    assert credit.stats == {"kept": pytest.approx((1 + 1 + 0.5 + 1) / 4)}


def test_every_own_token_of_a_kept_answer_counts_one_and_no_other():
    credit = Raft().credit(rollouts())
    assert torch.equal(credit.advantages, credit.sequences.own.float())
    assert credit.advantages.sum(1).tolist() == [3, 3]  # two letters and the end
    assert not credit.kl.any()


def test_shuffled_scores_keep_anything():
    drawn = rollouts()
    drawn.scores = drawn.scores[[3, 0, 1, 2, 7, 4, 5, 6]]  # as the loop does it before credit: scores on other answers
    assert Raft().credit(drawn).sequences.answers == [["cb"], ["cc"]]


# --- maximum likelihood ---------------------------------------------------------------------------------------------


def loss_of(method: Raft, ratios: list[float]) -> tuple[float, list[float]]:
    """Loss and gradient by log π of one kept answer with these ratios; π_old is ½ everywhere."""
    (phase,) = method.phases(train_config())
    sampled = torch.full((1, len(ratios)), math.log(0.5), dtype=torch.float64)
    logprobs = (sampled + torch.tensor([ratios], dtype=torch.float64).log()).requires_grad_()
    ones = torch.ones_like(sampled)
    loss, _ = policy_gradient(
        logprobs, sampled, ones, ones.bool(), phase.objective, Totals(1, len(ratios), len(ratios))
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient.flatten().tolist()


def test_raft_is_cross_entropy():
    logprobs = torch.tensor([[0.0, -1.0, -2.0], [-0.5, -3.0, 0.0]])
    own = torch.tensor([[False, True, True], [True, True, False]])
    (phase,) = Raft().phases(train_config())
    loss, _ = policy_gradient(logprobs, logprobs, own.float(), own, phase.objective, Totals(2, 4, 8))
    assert loss.item() == pytest.approx((1 + 2 + 0.5 + 3) / 4)
    assert loss.item() == pytest.approx(cross_entropy(logprobs, own, 4)[0].item())


def test_raft_by_hand():
    # π = ½, 0.6, 1: (ln 2 + ln 5/3 + 0)/3. The gradient of a mean of −log π is −⅓, wherever π is.
    loss, gradient = loss_of(Raft(), [1, 1.2, 2])
    assert loss == pytest.approx((math.log(2) + math.log(5 / 3)) / 3)
    assert gradient == pytest.approx([-1 / 3] * 3)


def test_raft_plus_plus_by_hand():
    # −mean of min(ρ, 1.2): (1 + 1.1 + 1.2 + ½)/4. Gradient −ρ/4, and nothing past 1.2.
    loss, gradient = loss_of(Raft(clipped=True), [1, 1.1, 2, 0.5])
    assert loss == pytest.approx(-(1 + 1.1 + 1.2 + 0.5) / 4)
    assert gradient == pytest.approx([-1 / 4, -1.1 / 4, 0, -0.5 / 4])


def test_the_two_begin_with_the_same_step():
    assert loss_of(Raft(), [1, 1, 1])[1] == pytest.approx(loss_of(Raft(clipped=True), [1, 1, 1])[1])


def test_a_wider_clip_lets_go_later():
    assert loss_of(Raft(clipped=True, clip_high=1.5), [2, 3])[1] == pytest.approx([-1, 0])  # −2/2, and past 2.5


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_online():
    method = Raft(best_of=2, shuffle_scores=True)
    (phase,) = method.phases(train_config(updates=7))
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RAFT", 7, True)
    assert phase.credit == method.credit


def test_once_imitates_answers_of_the_base():
    method = Raft(best_of=2, once=True)
    (phase,) = method.phases(train_config(updates=7))
    assert isinstance(phase, SupervisedPhase)
    assert (phase.updates, phase.collect, phase.from_policy) == (7, method.collect, False)
    found = method.examples(None, rollouts(), 0)
    kept = [("#2,<a=", "ab$"), ("#2,<a=", "ac$"), ("#2,<b=", "ab$"), ("#2,<b=", "ba$")]
    assert found == [(encode(POLICY, prompt), encode(POLICY, answer)) for prompt, answer in kept]


def test_once_there_is_no_ratio_to_clip():
    with pytest.raises(ConfigError, match=r"^clipped: where all answers come from the base there is no ratio to clip"):
        Raft(once=True, clipped=True).phases(train_config())


def test_rows_of_a_batch_that_are_learned_from():
    # Two problems with four samples each, of every two the better one: four rows, and one step of every weight.
    learner = Learner(sharp_policy(), TaskConfig(name="constr", level=1), train_config(updates=1, passes=2), 0)
    before = {name: value.clone() for name, value in learner.policy.model.state_dict().items()}
    (record,) = run_phases(learner, Raft(best_of=2).phases(learner.train))
    assert 0 <= record["accuracy@1"] <= record["kept"] <= 1
    assert record["loss/policy"] > 0  # a cross-entropy
    assert all(not torch.equal(before[name], value) for name, value in learner.policy.model.state_dict().items())


def test_micro_batches_change_nothing():
    found = []
    for pieces in (1, 2, 4):
        train = train_config(updates=1, prompts=4, micro_batches=pieces)
        learner = Learner(sharp_policy(), TaskConfig(name="constr", level=1), train, 0)
        (record,) = run_phases(learner, Raft(best_of=2).phases(train))
        found.append((record["loss/policy"], record["grad_norm"]))
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=1e-4)


def test_the_best_is_chosen_among_single_attempts():
    with pytest.raises(ConfigError, match=r"^train\.turns 2: the best is chosen among single attempts; set it to 1$"):
        Raft().phases(train_config(turns=2))


def test_samples_are_whole_groups():
    with pytest.raises(ConfigError, match=r"^best_of 3: 4 samples are not whole groups of that many$"):
        Raft(best_of=3).phases(train_config())


@pytest.mark.parametrize("bad", [{"best_of": 1}, {"clip_high": 0}, {"clip": True}, {"clipped": "maybe"}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Raft, bad, "arms.raft")


def test_the_arms_of_the_claim():
    experiment = load_experiment("raft", "tiny")
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert all(method.phases(experiment.train) for method in methods.values())
