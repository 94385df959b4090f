"""Policy-gradient objectives: by hand on five tokens, against TRL on a tiny Llama, and where they must agree."""

import math
from collections import defaultdict

import pytest
import torch
from pydantic import ValidationError
from splits import assert_parts_add_up
from torch import tensor
from trl_trainers import online_trainer

from minirl.objectives.kl import estimated_kl, kl_penalty
from minirl.objectives.policy_gradient import OBJECTIVES, Objective, Totals, log_ratio, policy_gradient, token_weights
from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import tiny_llama

# --- by hand --------------------------------------------------------------------------------------------------------

# Two rows with two and three own tokens, part of a batch of N = 4 episodes with T = 10 own tokens, at most M = 5 a row:
# token          a    b        c    d    e
# ratio ρ        8    8       1/4  1/2   1       on sequence level √64 = 8 twice and ∛(1/8) = 1/2 three times
# advantage A    1   −2       −1    3    2
# log π         −1   −2       −3   −1   −2
OWN = tensor([[True, False, True, False], [True, True, False, True]])
TOTALS = Totals(episodes=4, tokens=10, longest=5)
LOGPROBS = [[-1.0, -9.0, -2.0, -9.0], [-3.0, -1.0, -9.0, -2.0]]
RATIOS = tensor([[8.0, 0.1, 8.0, 9.0], [0.25, 0.5, 7.0, 1.0]])  # those of masked tokens would be clipped as well
ADVANTAGES = tensor([[1.0, 5.0, -2.0, -5.0], [-1.0, 3.0, 5.0, 2.0]])

# Statistics: Σρ/T = 17.75/10; c lies below the lower clip with A < 0, a beyond the upper one with A > 0; d and b lie
# beyond a clip too, but min() lets them come back.
TOKEN_STATS = {"ratio": 1.775, "clipped_low": 0.1, "clipped_high": 0.1}

# objective: loss, its gradient with respect to log π of a, b, c, d, e, and the other statistics
BY_HAND = {
    # A log π = −1, 4, 3, −3, −4, so −(−1)/4; gradient −A/4
    "reinforce": (0.25, [-0.25, 0.5, 0.25, -0.75, -0.5], {}),
    # s = 1.2, −16, −0.8, 1.5, 2, so 12.1/10; gradient −ρA/10 where not clipped
    "ppo": (1.21, [0, 1.6, 0, -0.15, -0.2], TOKEN_STATS),
    # Means of rows −14.8/2 = −7.4 and 2.7/3 = 0.9, so 6.5/4; gradient −ρA/(4 · 2) and −ρA/(4 · 3)
    "grpo": (1.625, [0, 2.0, 0, -0.125, -1 / 6], TOKEN_STATS),
    # 12.1/(4 · 5); gradient −ρA/20
    "dr_grpo": (0.605, [0, 0.8, 0, -0.075, -0.1], TOKEN_STATS),
    # As ppo with s = 1.28 for a
    "dapo": (1.202, [0, 1.6, 0, -0.15, -0.2], TOKEN_STATS),
    # These two of four rows: 2/4 of the mean over their five tokens
    "bnpo": (1.21, [0, 1.6, 0, -0.15, -0.2], TOKEN_STATS),
    # s = 1.0004, −16, −0.9997, 1.5, 1: means of rows −7.4998 and 0.5001, so 6.9997/4. ρ = 8 and ½ move with every token
    # of their row, by ρ/|o|: the sum of unclipped ρA is −16 in row 1, (3 + 2)/2 in row 2, hence 16/(4 · 2 · 2) and
    # −2.5/(4 · 3 · 3) for every token. Σρ/T = (16 + 1.5)/10.
    "gspo": (
        1.749925,
        [1.0, 1.0, -2.5 / 36, -2.5 / 36, -2.5 / 36],
        {"ratio": 1.75, "clipped_low": 0.1, "clipped_high": 0.1},
    ),
    # The ratio is clipped to [0, 5]: s = 5 · 1 · (−1), 5 · (−2)(−2), ¼ · (−1)(−3), ½ · 3 · (−1), 2 · (−2), which is
    # 10.25 in all; gradient −clip(ρ)A/10. No ratio is below 0.
    "cispo": (-1.025, [-0.5, 1.0, 0.025, -0.15, -0.2], {**TOKEN_STATS, "clipped_low": 0.0}),
}


def test_every_objective_is_tested():
    assert BY_HAND.keys() == OBJECTIVES.keys()


@pytest.mark.checks("hand")
@pytest.mark.parametrize("objective", BY_HAND)
def test_loss_gradient_and_statistics_by_hand(objective):
    total, gradient, statistics = BY_HAND[objective]
    logprobs = tensor(LOGPROBS, requires_grad=True)
    sampled = logprobs.detach() - RATIOS.log()
    loss, stats = policy_gradient(logprobs, sampled, ADVANTAGES, OWN, OBJECTIVES[objective], TOTALS)
    assert loss.item() == pytest.approx(total, abs=1e-5)
    assert stats == pytest.approx({"loss/policy": total, **statistics}, abs=1e-5)
    loss.backward()
    assert logprobs.grad[OWN].tolist() == pytest.approx(gradient, abs=1e-5)
    assert logprobs.grad[~OWN].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("episode", [[1 / 4, 0, 1 / 4, 0], [1 / 4, 1 / 4, 0, 1 / 4]]),
        ("token", [[1 / 10, 0, 1 / 10, 0], [1 / 10, 1 / 10, 0, 1 / 10]]),
        ("sequence", [[1 / 8, 0, 1 / 8, 0], [1 / 12, 1 / 12, 0, 1 / 12]]),
        ("constant", [[1 / 20, 0, 1 / 20, 0], [1 / 20, 1 / 20, 0, 1 / 20]]),
        ("micro_batch", [[2 / 20, 0, 2 / 20, 0], [2 / 20, 2 / 20, 0, 2 / 20]]),
    ],
)
def test_token_weights_by_hand(weight, expected):
    torch.testing.assert_close(token_weights(OWN, weight, TOTALS), tensor(expected))
    # Rows without own tokens have no weight, and no division by zero.
    assert token_weights(torch.zeros(2, 3, dtype=torch.bool), weight, TOTALS).tolist() == [[0.0] * 3] * 2


def test_log_ratio_by_hand():
    logprobs = tensor(LOGPROBS)
    sampled = logprobs - RATIOS.log()
    two = math.log(2)
    by_token = [[3 * two, 0, 3 * two, 0], [-2 * two, -two, 0, 0]]
    torch.testing.assert_close(log_ratio(logprobs, sampled, OWN, "token"), tensor(by_token))
    by_sequence = [[3 * two, 0, 3 * two, 0], [-two, -two, 0, -two]]
    torch.testing.assert_close(log_ratio(logprobs, sampled, OWN, "sequence"), tensor(by_sequence))
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert log_ratio(logprobs, sampled, nothing, "sequence").tolist() == [[0.0] * 4] * 2


def test_unknown_names():
    logprobs = tensor(LOGPROBS)
    with pytest.raises(ValueError, match="unknown token weight 'turn'"):
        token_weights(OWN, "turn", TOTALS)
    with pytest.raises(ValueError, match="unknown ratio level 'turn'"):
        log_ratio(logprobs, logprobs, OWN, "turn")
    unchecked = OBJECTIVES["ppo"].model_copy(update={"surrogate": "tanh"})
    with pytest.raises(ValueError, match="unknown surrogate 'tanh'"):
        policy_gradient(logprobs, logprobs, ADVANTAGES, OWN, unchecked, TOTALS)


@pytest.mark.parametrize("wrong", [{"surrogate": "tanh"}, {"clip_low": 1.5}, {"clip_high": -0.1}, {"clip": 0.2}])
def test_an_objective_checks_its_fields(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Objective(**{"surrogate": "clip", "weight": "token", **wrong})


# --- masks and micro-batches ----------------------------------------------------------------------------------------

ROWS = 6


def batch():
    """log π (a leaf), log μ, A, own, all [6, 5], in double precision, and the batch's totals."""
    generator = torch.Generator().manual_seed(3)
    logprobs = -torch.rand(ROWS, 5, generator=generator, dtype=torch.float64)
    sampled = logprobs + 0.6 * torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    own = torch.rand(ROWS, 5, generator=generator) > 0.4
    own[:, 2] = True
    sampled[1, 2], advantages[1, 2] = logprobs[1, 2] - 2, 0.5  # ρ = 7.4 is beyond every clip
    totals = Totals(ROWS, int(own.sum()), int(own.sum(1).max()))
    return (logprobs.requires_grad_(), sampled, advantages, own), totals


def pieces(tensors, totals, objective, sizes):
    """Losses and statistics of micro-batches with these numbers of rows."""
    split = zip(*(t.split(sizes) for t in tensors), strict=True)
    return [policy_gradient(*piece, OBJECTIVES[objective], totals) for piece in split]


@pytest.mark.checks("micro")
@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - {"bnpo"}))
def test_micro_batches_add_up_to_the_batch(objective):
    tensors, totals = batch()
    assert len(set(tensors[3].sum(1).tolist())) > 1  # rows of unequal length
    whole, whole_stats = policy_gradient(*tensors, OBJECTIVES[objective], totals)
    assert_parts_add_up((whole, whole_stats), pieces(tensors, totals, objective, [1, 3, 2]), tensors[0])
    if objective != "reinforce":
        assert whole_stats["clipped_high"] > 0


def test_bnpo_is_a_batch_statistic():
    # Row 1 has one own token, row 2 three; s = 1, 2, 2, 2 at ρ = 1. Whole: −7/4. By rows: −(1 + 2)/2. The statistics,
    # which count tokens of the whole batch, still add up.
    own = tensor([[True, False, False], [True, True, True]])
    logprobs, advantages = torch.full((2, 3), -1.0), tensor([[1.0] * 3, [2.0] * 3])
    tensors, totals = (logprobs, logprobs, advantages, own), Totals(2, 4, 3)
    whole, stats = policy_gradient(*tensors, OBJECTIVES["bnpo"], totals)
    parts = pieces(tensors, totals, "bnpo", [1, 1])
    assert whole.item() == stats["loss/policy"] == -1.75
    assert sum(loss.item() for loss, _ in parts) == -1.5
    assert sum(part["ratio"] for _, part in parts) == stats["ratio"] == 1.0


def test_bnpo_pieces_weigh_as_much_as_their_rows():
    # For equal pieces the mean of the pieces' means, as one accumulates gradients; the comparison with TRL is below.
    tensors, totals = batch()
    means = [
        policy_gradient(*(t[s] for t in tensors), OBJECTIVES["ppo"], Totals(2, int(tensors[3][s].sum()), 5))[0]
        for s in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in pieces(tensors, totals, "bnpo", [2, 2, 2])), sum(means) / 3)
    whole, _ = policy_gradient(*tensors, OBJECTIVES["bnpo"], totals)
    assert abs(whole.item() - sum(means).item() / 3) > 1e-4
    # Rows that are equally long make the split irrelevant.
    even = (*tensors[:3], torch.ones(ROWS, 5, dtype=torch.bool))
    whole, _ = policy_gradient(*even, OBJECTIVES["bnpo"], Totals(ROWS, 30, 5))
    parts = pieces(even, Totals(ROWS, 30, 5), "bnpo", [1, 3, 2])
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)


@pytest.mark.checks("mask")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_masked_tokens_get_exactly_zero_gradient(objective):
    (clean, sampled, advantages, own), totals = batch()
    expected, expected_stats = policy_gradient(clean, sampled, advantages, own, OBJECTIVES[objective], totals)
    (expected_gradient,) = torch.autograd.grad(expected, clean)
    poison = tensor([-math.inf, math.nan, 0.0, -1e30, math.inf], dtype=torch.float64)
    for wrong, wrong_sampled in ((poison, poison), (poison, 0 * advantages), (0 * advantages, poison)):
        logprobs = clean.detach().where(own, wrong).requires_grad_()
        args = (logprobs, sampled.where(own, wrong_sampled), advantages, own)  # advantages of masked tokens are not 0
        loss, stats = policy_gradient(*args, OBJECTIVES[objective], totals)
        loss.backward()
        assert (logprobs.grad[~own] == 0.0).all()
        assert (loss.item(), stats) == (expected.item(), expected_stats)
        torch.testing.assert_close(logprobs.grad[own], expected_gradient[own])
    assert expected_gradient.abs().max() > 0.01


# --- identities -----------------------------------------------------------------------------------------------------

LOGITS = [math.log(1.0), math.log(2.0), math.log(1.0)]  # π = (1/4, 1/2, 1/4)


def loss_of(logits, ids, advantages, own, objective="reinforce"):
    """Loss for logits [B, L, 3] on the first pass over fresh rollouts, π = μ."""
    logprobs, own = token_logprobs(logits, tensor(ids)), tensor(own)
    totals = Totals(len(ids), int(own.sum()), int(own.sum(1).max()))
    return policy_gradient(logprobs, logprobs.detach(), tensor(advantages), own, OBJECTIVES[objective], totals)[0]


def test_gradient_in_the_logits_by_hand():
    # One token a = 0 with A = 2: loss −2 ln(1/4); gradient −A (onehot − π) = −2 (1 − ¼, −½, −¼).
    logits = tensor([[LOGITS]], requires_grad=True)
    loss = loss_of(logits, [[0]], [[2.0]], [[True]])
    assert loss.item() == pytest.approx(4 * math.log(2))
    loss.backward()
    torch.testing.assert_close(logits.grad, tensor([[[-1.5, 1.0, 0.5]]]))


@pytest.mark.checks("identity")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_first_pass_is_the_policy_gradient_theorem(objective):
    # By enumeration: E_a[r(a) ∇log π(a)] = ∇ Σ_a π(a) r(a). Episodes of one token are weighted alike by all.
    rewards = tensor([1.0, -2.0, 0.5])
    logits = tensor([0.3, -1.2, 0.7], requires_grad=True)
    (expected,) = torch.autograd.grad(-(logits.softmax(-1) * rewards).sum(), logits)
    pi = logits.detach().softmax(-1)
    total = torch.zeros(3)
    for token in range(3):
        loss = loss_of(logits.view(1, 1, 3), [[token]], [[rewards[token].item()]], [[True]], objective)
        total += pi[token] * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, expected)


@pytest.mark.checks("identity")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_constant_baseline_costs_nothing_in_expectation(objective):
    logits = tensor([0.3, -1.2, 0.7], requires_grad=True)
    pi = logits.detach().softmax(-1)
    total = torch.zeros(3)
    for token in range(3):
        loss = loss_of(logits.view(1, 1, 3), [[token]], [[3.0]], [[True]], objective)
        total += pi[token] * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.checks("identity", "ppo", "gspo", "cispo")
@pytest.mark.parametrize(("surrogate", "ratio"), [("clip", "token"), ("clip", "sequence"), ("cispo", "token")])
def test_without_clips_the_ratio_undoes_off_policy_sampling(surrogate, ratio):
    # Σ_a μ(a) (π(a)/μ(a)) r(a) ∇log π(a) = ∇ Σ_a π(a) r(a), whatever μ sampled. With the clips of PPO it does not.
    rewards = tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    mu = tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    logits = tensor([0.3, -1.2, 0.7], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(-(logits.softmax(-1) * rewards[:, 0]).sum(), logits)

    def gradient(**clips):
        objective = Objective(surrogate=surrogate, weight="episode", ratio=ratio, **clips)
        logprobs = logits.log_softmax(-1)[:, None]  # one row per token of the vocabulary, counted μ times
        own = torch.ones(3, 1, dtype=torch.bool)
        args = (logprobs, mu.log()[:, None], mu[:, None] * rewards, own)
        return torch.autograd.grad(policy_gradient(*args, objective, Totals(1, 3, 1))[0], logits)[0]

    torch.testing.assert_close(gradient(clip_low=1, clip_high=1e9), expected)
    assert (gradient() - expected).abs().max() > 0.05


@pytest.mark.checks("identity", "ppo", "dapo", "grpo", "dr_grpo", "bnpo")
def test_equally_long_full_rows_make_the_weights_equal():
    # The length normalisations of these five differ by nothing else.
    tensors, _ = batch()
    full = (*tensors[:3], torch.ones(ROWS, 5, dtype=torch.bool))
    losses = [
        policy_gradient(*full, OBJECTIVES[name].model_copy(update={"clip_high": 0.2}), Totals(ROWS, 30, 5))[0]
        for name in ("ppo", "dapo", "grpo", "dr_grpo", "bnpo")
    ]
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(5))


def test_long_attempts_are_not_averaged_away():
    # REINFORCE sums over an episode: a second token with the same log-prob doubles the loss.
    one = loss_of(tensor([[LOGITS, LOGITS]]), [[0, 0]], [[1.0, 1.0]], [[True, False]])
    two = loss_of(tensor([[LOGITS, LOGITS]]), [[0, 0]], [[1.0, 1.0]], [[True, True]])
    assert two.item() == pytest.approx(2 * one.item())


# --- against TRL ----------------------------------------------------------------------------------------------------

BETA = 0.3
LENGTHS, LONGEST = [3, 6, 2, 5], 8  # own tokens before the tool mask; TRL's max_completion_length
# objective of ours: settings of TRL's GRPOTrainer that mean the same
TRL = {
    "ppo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "bnpo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo"},
}


def build(method, directory):
    """One of TRL's trainers around a tiny Llama whose distributions are far from uniform."""
    policy = tiny_llama(16, 1, 2)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(15)  # initialised with a deviation of 0.02
    sizes = {"max_completion_length": LONGEST, "num_generations": 2, "per_device_train_batch_size": 4}

    def no_reward(**columns):
        return [0.0] * len(columns["prompts"])

    return online_trainer(method, policy, no_reward, [{"prompt": "1+1="}] * 4, directory, **sizes)


@pytest.fixture(scope="module")
def grpo_trainer(tmp_path_factory):
    return build("grpo", tmp_path_factory.mktemp("grpo"))


@pytest.fixture(scope="module")
def rloo_trainer(tmp_path_factory):
    return build("rloo", tmp_path_factory.mktemp("rloo"))


def trl_inputs(model, advantage_shape="token"):
    """What TRL's ``_compute_loss`` reads: left-padded prompts, right-padded completions, tool outputs among them."""
    generator = torch.Generator().manual_seed(1)
    positions, lengths = torch.arange(6), tensor(LENGTHS)
    inputs = {
        "prompt_ids": torch.randint(3, 60, (4, 3), generator=generator),
        "prompt_mask": tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1]]),
        "completion_ids": torch.randint(3, 60, (4, 6), generator=generator),
        "completion_mask": (positions < lengths[:, None]).long(),
        "tool_mask": tensor([[1] * 6, [1, 1, 0, 0, 1, 1], [1] * 6, [1, 0, 1, 1, 1, 1]]),
    }
    inputs["prompt_ids"][inputs["prompt_mask"] == 0] = inputs["completion_ids"][inputs["completion_mask"] == 0] = 0
    with torch.no_grad():
        now = our_logprobs(model, inputs)[:, -6:]
    # Tokens' and rows' ratios π/μ beyond the clips on both sides, and a reference that is not the policy.
    drift = tensor([[0.4], [0.5], [-0.6], [-0.4]])
    inputs["old_per_token_logps"] = now + drift + 0.5 * torch.randn(4, 6, generator=generator)
    inputs["ref_per_token_logps"] = now + 0.7 * torch.randn(4, 6, generator=generator)
    advantages = tensor([1.5, -0.8, -1.1, 0.6])
    by_token = torch.randn(4, 6, generator=generator)
    inputs["advantages"] = by_token if advantage_shape == "token" else advantages
    return inputs


def our_logprobs(model, inputs):
    """log π [B, L] at temperature 1, from the same model's logits."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    return token_logprobs(model(input_ids=ids, attention_mask=mask).logits[:, :-1], ids[:, 1:])


def over_whole_rows(inputs):
    """own, log μ, log π_ref and A on the columns of :func:`our_logprobs`: two of the three prompt tokens come first."""
    own = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    advantages = inputs["advantages"]
    advantages = advantages[:, None].expand(4, 6) if advantages.dim() == 1 else advantages
    others = (inputs["old_per_token_logps"], inputs["ref_per_token_logps"], advantages)
    pad = torch.nn.functional.pad
    return pad(own, (2, 0)).bool(), *(pad(other, (2, 0), value=-4.0) for other in others)


def our_loss(model, inputs, objective, sizes, beta, corrected=False):
    """Loss of the batch, and its statistics, as the sum over micro-batches; ``corrected``: KL is weighted by ρ."""
    own, sampled, reference, advantages = over_whole_rows(inputs)
    totals = Totals(len(own), int(own.sum()), LONGEST)
    rows = (our_logprobs(model, inputs), sampled, advantages, own, reference)
    losses, statistics = [], defaultdict(float)
    for logprobs, sampled, advantages, own, reference in zip(*(t.split(sizes) for t in rows), strict=True):
        loss, stats = policy_gradient(logprobs, sampled, advantages, own, objective, totals)
        kl, weights = estimated_kl(logprobs, reference, "k3"), token_weights(own, objective.weight, totals)
        if corrected:
            kl = kl * log_ratio(logprobs, sampled, own, objective.ratio).exp()
        losses.append(loss + kl_penalty(kl, torch.full_like(kl, beta), weights, own))
        for name, value in stats.items():
            statistics[name] += value
    return sum(losses), statistics


def their_loss(trainer, inputs, sizes):
    """TRL's loss as it accumulates over micro-batches, and what it logs of each."""
    trainer.model.train()
    trainer._metrics["train"].clear()
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = len(sizes)
    mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    split = {name: rows.split(sizes) for name, rows in inputs.items()}
    pieces = [{name: rows[i] for name, rows in split.items()} for i in range(len(sizes))]
    loss = sum(trainer._compute_loss(trainer.model, {**piece, "num_items_in_batch": mask.sum()}) for piece in pieces)
    return loss, trainer._metrics["train"]


def assert_same(model, ours, theirs, scale=1.0):
    """The same gradient of every parameter."""
    parameters = list(model.parameters())
    gradients = [scale * g for g in torch.autograd.grad(ours, parameters)]
    assert max(g.abs().max() for g in gradients) > 1e-2
    torch.testing.assert_close(gradients, list(torch.autograd.grad(theirs, parameters)), rtol=1e-4, atol=1e-5)


def configure(trainer, objective, settings):
    trainer.loss_type = settings["loss_type"]
    trainer.importance_sampling_level = settings.get("importance_sampling_level", "token")
    trainer.epsilon_low = objective.clip_low
    # TRL's CISPO has no lower clip, and its upper one is the bound itself instead of the distance from 1.
    trainer.epsilon_high = objective.clip_high + (objective.surrogate == "cispo")
    trainer.beta, trainer.args.use_bias_correction_kl = BETA, False


@pytest.mark.checks("trl")
@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers about TRL
@pytest.mark.parametrize("sizes", [[4], [2, 2]], ids=["whole", "accumulated"])
@pytest.mark.parametrize("advantage_shape", ["row", "token"])
@pytest.mark.parametrize("objective", TRL)
def test_equal_to_trl_grpo_trainer(grpo_trainer, objective, advantage_shape, sizes):
    settings, model = TRL[objective], grpo_trainer.model
    clips = {"clip_low": 0.1} if objective == "ppo" else {"clip_low": 0.1, "clip_high": 0.3}
    if objective == "cispo":
        clips = {"clip_low": 1.0, "clip_high": 0.3}
    changed = OBJECTIVES[objective].model_copy(update=clips)
    configure(grpo_trainer, changed, settings)
    inputs = trl_inputs(model, advantage_shape)
    theirs, metrics = their_loss(grpo_trainer, inputs, sizes)
    ours, stats = our_loss(model, inputs, changed, sizes, BETA)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_same(model, ours, theirs)
    if len(sizes) == 1 and (objective != "gspo" or advantage_shape == "token"):  # else TRL counts rows, not tokens
        if objective == "cispo":
            assert metrics["cispo_clip_ratio"] == pytest.approx([stats["clipped_high"]])
        else:
            assert metrics["clip_ratio/low_mean"] == pytest.approx([stats["clipped_low"]])
            assert metrics["clip_ratio/high_mean"] == pytest.approx([stats["clipped_high"]])
            assert stats["clipped_low"] > 0
        assert stats["clipped_high"] > 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("objective", ["grpo", "gspo"])
def test_kl_as_trl_weighs_it_by_default(grpo_trainer, objective):
    # TRL 1.16 multiplies k3 by ρ and differentiates through both (use_bias_correction_kl): in expectation that is the
    # gradient of KL(π ‖ π_ref), which k3 alone does not have (see test_kl.py).
    model = grpo_trainer.model
    configure(grpo_trainer, OBJECTIVES[objective], TRL[objective])
    grpo_trainer.args.use_bias_correction_kl = True
    inputs = trl_inputs(model)
    theirs, _ = their_loss(grpo_trainer, inputs, [4])
    ours, _ = our_loss(model, inputs, OBJECTIVES[objective], [4], BETA, corrected=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_same(model, ours, theirs)
    plain, _ = our_loss(model, inputs, OBJECTIVES[objective], [4], BETA)
    assert abs(plain.item() - theirs.item()) > 0.01


@pytest.mark.checks("trl", "reinforce")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("advantage_shape", ["row", "token"])
def test_reinforce_is_trl_cispo_on_the_first_pass(grpo_trainer, advantage_shape):
    # Without old log-probs TRL takes ρ = 1, and its CISPO loss is −A log π, averaged over tokens: 1/T in place of 1/N.
    model = grpo_trainer.model
    configure(grpo_trainer, OBJECTIVES["cispo"], TRL["cispo"])
    grpo_trainer.beta = 0.0
    inputs = trl_inputs(model, advantage_shape)
    first_pass = {name: value for name, value in inputs.items() if name != "old_per_token_logps"}
    theirs, _ = their_loss(grpo_trainer, first_pass, [4])
    ours, _ = our_loss(model, inputs, OBJECTIVES["reinforce"], [4], 0.0)
    tokens_per_episode = (inputs["completion_mask"] * inputs["tool_mask"]).sum().item() / 4
    torch.testing.assert_close(ours / tokens_per_episode, theirs, rtol=1e-5, atol=1e-5)
    assert_same(model, ours, theirs, 1 / tokens_per_episode)


def rloo_inputs(model):
    """``trl_inputs`` as RLOO's ``_compute_loss`` reads them: log μ of rows, no tool mask, one advantage a row."""
    inputs = trl_inputs(model, "row")
    del inputs["tool_mask"]
    return inputs


@pytest.mark.checks("trl", "reinforce")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reinforce_has_the_gradient_of_trl_rloo_on_the_first_pass(rloo_trainer):
    # At ρ = 1 the gradient of RLOO's −mean(ρ A) is −mean(A Σ ∇log π). (The losses differ: −mean A has no log π.)
    model = rloo_trainer.model
    inputs = rloo_inputs(model)
    own = over_whole_rows(inputs)[0]
    with torch.no_grad():
        inputs["old_logps"] = our_logprobs(model, inputs).where(own, 0.0).sum(1)
    theirs, _ = their_loss(rloo_trainer, inputs, [4])
    assert theirs.item() == pytest.approx(-inputs["advantages"].mean().item(), abs=1e-5)
    ours, _ = our_loss(model, inputs, OBJECTIVES["reinforce"], [4], 0.0)
    assert_same(model, ours, theirs)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_later_passes_of_trl_rloo_clip_the_ratio_of_whole_rows(rloo_trainer):
    # A difference in definition: with d = log π − log μ, RLOO's ρ is exp(Σ d) over a row's tokens, GSPO's is
    # exp(Σ d / |o|), and no ratio level of ours is the former. On |o| · d, which undoes the mean, their losses agree.
    model = rloo_trainer.model
    inputs = rloo_inputs(model)
    own, sampled, _, advantages = over_whole_rows(inputs)
    sampled = our_logprobs(model, inputs).detach() + 0.3 * (sampled - our_logprobs(model, inputs).detach())
    inputs["old_logps"] = sampled.where(own, 0.0).sum(1)
    rloo_trainer.epsilon_low, rloo_trainer.epsilon_high = 0.1, 0.3
    theirs, metrics = their_loss(rloo_trainer, inputs, [4])
    assert 0 < metrics["clip_ratio/region_mean"][0] < 1
    gspo = OBJECTIVES["gspo"].model_copy(update={"clip_low": 0.1, "clip_high": 0.3})
    length, totals = own.sum(1, keepdim=True), Totals(4, int(own.sum()), LONGEST)
    logprobs = our_logprobs(model, inputs)
    ours, _ = policy_gradient(length * logprobs, length * sampled, advantages, own, gspo, totals)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_same(model, ours, theirs)
    different, _ = policy_gradient(our_logprobs(model, inputs), sampled, advantages, own, gspo, totals)
    assert abs(different.item() - theirs.item()) > 0.1 * abs(theirs.item())
