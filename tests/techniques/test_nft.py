"""NFT as a technique: what its loss reads from advantages, and that the first step is GRPO's. The loss itself is tested
with the objectives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import Lenient, sharp_policy, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.objectives.advantages import advantages
from minirl.objectives.negative_aware import correctness_rates
from minirl.objectives.policy_gradient import OBJECTIVES, Totals
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.baselines import MultiTurnRL
from minirl.techniques.curriculum.nft import NFT, outcomes

POLICY, ROUTES = sharp_policy(), get("routes")
# 3+7 = 0 and 4+6 = 0.
ONE, TWO = Item("routes", 0, 0, 1, "3+7=", "+70"), Item("routes", 0, 1, 1, "4+6=", "+60")
ANSWERS = ["+70$", "+71$", "+75$", "+79$", "+60$", "+60$", "+60$", "+61$"]  # one in four right, three in four


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 2, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def rollouts(answers=ANSWERS, scores=None):
    return written(POLICY, [ONE, TWO], list(answers), 4, scores, task=ROUTES)


# --- right or wrong, and how often ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "correct", "rate"),
    [
        (0.75, True, 0.25),  # 1 − r of a right answer
        (-0.25, False, 0.25),  # −r of a wrong one to the same problem
        (0.0625, True, 0.9375),  # fifteen of sixteen
        (-0.9375, False, 0.9375),
        (0.0, False, 0.0),  # all right or all wrong: nothing says which, and both are dropped
    ],
)
def test_outcomes_by_hand(advantage, correct, rate):
    spread = torch.tensor([[0.0, advantage, advantage]])
    found = outcomes(spread, spread.new_tensor([[0, 1, 1]]).bool())
    assert (found[0].tolist(), found[1].tolist()) == ([correct], [rate])


def test_outcomes_are_read_where_a_row_is_its_own():
    # Rows begin to write at different places, and one may be cut to nothing but own tokens.
    own = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 0]]).bool()
    spread = torch.tensor([[9.0, 9.0, 0.5], [-0.5, -0.5, -0.5], [9.0, 0.5, 9.0]])
    correct, rates = outcomes(spread, own)
    assert correct.tolist() == [True, False, True]
    assert rates.tolist() == [0.5, 0.5, 0.5]


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4))
def test_outcomes_are_those_that_the_advantages_were_made_of(groups):
    right = torch.tensor(groups).flatten()
    of = torch.arange(len(right)) // 8
    centred = advantages(right.float()[:, None], 8, "group_mean")
    own = torch.ones(len(right), 2).bool()
    correct, rates = outcomes(centred.expand(-1, 2), own)
    truth = correctness_rates(right, of).float()
    mixed = (truth > 0) & (truth < 1)
    assert torch.equal(correct[mixed], right[mixed])
    torch.testing.assert_close(rates[mixed], truth[mixed])
    assert not rates[~mixed].any()  # which the loss drops


# --- credit ---------------------------------------------------------------------------------------------------------


def test_credit_by_hand():
    credit = NFT().credit(rollouts())
    assert credit.advantages[:, 4].tolist() == [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75]
    assert not credit.advantages[:, :4].any()  # the problem
    assert not credit.kl.any()
    assert credit.stats == {"return": 4 / 8}


def test_partial_credit_is_wrong():
    credit = NFT().credit(rollouts(scores=[1.0, 0.5, 0.9, 0.0, 0.5, 0.5, 0.5, 0.5]))
    assert credit.advantages[:, 4].tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]


# --- the loss -------------------------------------------------------------------------------------------------------

OWN = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1]]).bool()  # rows of one problem, the first two right


def loss_of(method: NFT, ratios: list[float]) -> tuple[float, dict[str, float], torch.Tensor]:
    """Loss, statistics and gradient by log π, rows having these ratios."""
    sampled = torch.full((4, 3), -1.5, dtype=torch.float64)
    logprobs = (sampled + torch.tensor(ratios, dtype=torch.float64).log()[:, None]).requires_grad_()
    centred = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64)[:, None] * OWN
    totals = Totals(episodes=4, tokens=7, longest=2)
    loss, stats = method.loss(logprobs, sampled, centred, OWN, OBJECTIVES["ppo"], totals)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), stats, gradient


def test_loss_by_hand():
    # r = ½, ω = ½, seven tokens. Right: ½ · 2 ln 2 and ½ · ln ½. Wrong at R = ½: left 3/2, ½ · 2 ln 3/2; at R = 4/3:
    # left 2/3, below the floor of 1, costs nothing.
    value = -(2 * 0.693147 - 0.693147 + 2 * 0.405465) / 2 / 7
    loss, stats, gradient = loss_of(NFT(), [2, 0.5, 0.5, 4 / 3])
    assert loss == pytest.approx(value, abs=1e-6)
    assert stats == {"loss/nft": pytest.approx(value, abs=1e-6), "floored": pytest.approx(2 / 7)}
    # Right −½/7; wrong ½ · R/left: ½ · ½/(3/2) = 1/6 and, with 1 for what is left, ½ · 4/3 = 2/3.
    expected = torch.tensor([-1 / 14, -1 / 14, 1 / 42, 2 / 21], dtype=torch.float64)[:, None] * OWN
    torch.testing.assert_close(gradient, expected)


def test_settings_reach_the_loss():
    ratios = [2, 0.5, 0.5, 4 / 3]
    assert not loss_of(NFT(negative_weight=0), ratios)[2][2:].any()  # RFT does not see wrong answers
    torch.testing.assert_close(
        loss_of(NFT(prompt_weight="uniform"), ratios)[2],
        2 * loss_of(NFT(), ratios)[2],  # 1 in place of ½
    )
    # What is left of the fourth row, 2/3, is above a floor of ½: ½ · (4/3)/(2/3) = 1.
    assert loss_of(NFT(floor=0.5), ratios)[2][3].tolist() == pytest.approx([0, 1 / 7, 1 / 7])


def test_the_first_step_is_that_of_grpo_without_standard_deviation():
    # Same base, same problems, same noise; 2 updates of one pass each, so that R = 1 always.
    found = {}
    for method in (NFT(), MultiTurnRL(objective="ppo", baseline="group_mean", beta=0.0)):
        train = train_config(prompts=4, samples=8)
        learner = Learner(sharp_policy(), TaskConfig(name="add", level=1), train, 0)
        learner.task = Lenient()
        records = list(run_phases(learner, method.phases(train)))
        assert all(record["grad_norm"] > 0 for record in records)
        found[method.name] = [record["grad_norm"] for record in records], learner.policy.model.state_dict()
    nft, grpo = found["nft"], found["multi_turn_rl"]
    assert nft[0] == pytest.approx(grpo[0], rel=1e-3)
    for name, value in nft[1].items():
        torch.testing.assert_close(value, grpo[1][name], rtol=1e-3, atol=1e-4)


def test_after_the_first_pass_they_part():
    norms = []
    for method in (NFT(), MultiTurnRL(objective="ppo", baseline="group_mean", beta=0.0)):
        train = train_config(updates=1, prompts=4, samples=8, passes=4, learning_rate=1e-2)
        learner = Learner(sharp_policy(), TaskConfig(name="add", level=1), train, 0)
        learner.task = Lenient()
        (record,) = run_phases(learner, method.phases(train))
        norms.append(record["grad_norm"])
    assert norms[0] != pytest.approx(norms[1], rel=1e-2)


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_with_a_loss_of_its_own():
    method = NFT(shuffle_scores=True)
    (phase,) = method.phases(train_config())
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("NFT", 2, True)
    assert phase.credit == method.credit and phase.loss == method.loss


def test_a_rate_is_that_of_single_attempts():
    with pytest.raises(ConfigError, match=r"^train\.turns 2: a rate is that of single attempts; set it to 1$"):
        NFT().phases(train_config(turns=2))


@pytest.mark.parametrize("bad", [{"negative_weight": -1}, {"prompt_weight": "squared"}, {"floor": 0}, {"beta": 0.1}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(NFT, bad, "arms.nft")


def test_the_arms_of_the_claim():
    experiment = load_experiment("nft", "tiny")
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert methods["nft"].negative_weight == 1 and methods["rft"].negative_weight == 0
    assert all(method.phases(experiment.train) for method in methods.values())
