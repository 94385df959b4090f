"""The loops: micro-batches, seeds, resuming, what is logged, and what stops a run.

The policies are untrained and tiny. So that they earn something, an attempt counts as right when it begins with a
lower-case letter (26 of the 87 tokens).
"""

import copy
import dataclasses
import functools
import math
from types import SimpleNamespace

import peft
import pytest
import torch
from stand_ins import Lenient

from minirl import batches, loops
from minirl.config import TaskConfig, TrainConfig
from minirl.errors import ConfigError, TrainingError
from minirl.experiments.rundir import load_newest_checkpoint, save_checkpoint
from minirl.loops import Learner, derive_seed, piece, policy_losses, rollout_stats, run_phases
from minirl.objectives.distillation import distillation
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.objectives.preference import cream
from minirl.policy.logprobs import pad_rows, token_logprobs
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.rollouts.samplers import SAMPLERS, read_rule
from minirl.tasks import Item
from minirl.tasks.add import Addition
from minirl.techniques import base
from minirl.techniques.base import (
    Credit,
    Examples,
    OnlinePhase,
    Pairs,
    PreferencePhase,
    SupervisedPhase,
    Teacher,
    turn_credit,
)
from minirl.techniques.baselines import MultiTurnRL

REINFORCE = OBJECTIVES["reinforce"]
TRAIN = TrainConfig(updates=4, prompts=3, samples=4, turns=2, learning_rate=1e-2)


def make_learner(seed: int = 0, policy: Policy | None = None, **changes) -> Learner:
    policy = policy or tiny_llama(16, 2, 4)
    rule = changes.pop("sampler", None)
    learner = Learner(policy, TaskConfig(name="add", level=1), TRAIN.model_copy(update=changes), seed, rule)
    learner.task = Lenient()
    return learner


def credit(rollouts: Rollouts) -> Credit:
    return turn_credit(rollouts, rollouts.scores, (0.3, 0.1), gamma=1.0)


def online(updates: int = 4, **changes) -> OnlinePhase:
    return OnlinePhase(**{"name": "RL", "updates": updates, "credit": credit, **changes})


def examples(learner: Learner) -> Examples:
    """Five sequences; of each, the tokens after the fourth are to be learned."""
    ids = torch.randint(3, 87, (5, 7), generator=torch.Generator().manual_seed(0))
    return Examples(ids, torch.arange(7).expand(5, 7) >= 4, generated_tokens=1000)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.policy.model.named_parameters()}


def train(learner: Learner, *phases) -> list[dict]:
    return list(run_phases(learner, list(phases or [online()])))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --- micro-batches --------------------------------------------------------------------------------------------------


def gradients(micro_batches: int) -> tuple[dict, dict]:
    """Gradient and record of one update on 20 episodes."""
    # Away from the reference, or the KL term would have no gradient.
    policy = tiny_llama(16, 2, 4, seed=1)
    learner = make_learner(policy=policy, prompts=5, micro_batches=micro_batches, max_grad_norm=1e9)
    learner.reference = tiny_llama(16, 2, 4, seed=2)
    (record,) = train(learner, online(1))
    return {name: p.grad for name, p in policy.model.named_parameters()}, record


@pytest.mark.parametrize("micro_batches", [3, 4, 7, 20, 50])  # pieces of 8 8 4, of 8 8 4, of 2, and of 1
def test_micro_batches_give_the_gradient_of_the_batch(micro_batches):
    (one, record), (many, records) = gradients(1), gradients(micro_batches)
    assert max(g.abs().max().item() for g in one.values()) > 0.01
    for name in one:
        torch.testing.assert_close(one[name], many[name], atol=1e-6, rtol=1e-5, msg=lambda t, name=name: f"{name}: {t}")
    assert records == {key: pytest.approx(value, abs=1e-5) for key, value in record.items()}


def test_micro_batches_give_the_parameters_of_the_batch():
    # Small steps: Adam divides by the size of the gradient, so where that is nearly 0 rounding shows in full.
    one, many = make_learner(learning_rate=1e-4), make_learner(learning_rate=1e-4, micro_batches=4)
    records = zip(train(one), train(many), strict=True)
    assert all(a["generated_tokens"] == b["generated_tokens"] for a, b in records)
    for name, parameter in weights(one).items():
        torch.testing.assert_close(parameter, weights(many)[name], atol=1e-6, rtol=0)


def test_the_batch_is_split_into_as_many_pieces(monkeypatch):
    sizes: list[int] = []
    monkeypatch.setattr(batches, "entropy", lambda logits: sizes.append(len(logits)) or torch.zeros(logits.shape[:-1]))
    train(make_learner(prompts=5, micro_batches=3), online(1))
    assert sizes == [8, 8, 4]  # 5 groups of 4: two, two and one


@pytest.mark.parametrize(
    ("micro_batches", "rows"),
    [(1, 20), (2, 12), (3, 8), (5, 4), (6, 4), (7, 2), (10, 2), (20, 1), (50, 1)],
)
def test_a_piece_is_whole_groups_or_an_even_part_of_one(micro_batches, rows):
    assert piece(20, 4, micro_batches) == rows


def test_odd_groups_split_evenly():
    assert [piece(18, 6, n) for n in (3, 4, 5, 9, 18)] == [6, 3, 3, 2, 1]  # ⌈18/4⌉ = 5 and ⌈18/5⌉ = 4: 3 divides 6


# --- parameters and seeds -------------------------------------------------------------------------------------------


def test_every_parameter_moves_and_the_reference_does_not():
    learner = make_learner()
    before, reference = weights(learner), copy.deepcopy(learner.reference.model.state_dict())
    train(learner, online(2))
    for name, parameter in weights(learner).items():
        assert not torch.equal(parameter, before[name]), name
    assert same(reference, learner.reference.model.state_dict())
    assert all(torch.equal(reference[name], before[name]) for name in before)


def test_the_seed_decides_bit_by_bit():
    one, again, other = make_learner(3), make_learner(3), make_learner(4)
    torch.manual_seed(1)
    records = train(one)
    torch.manual_seed(2)  # the global generator plays no part
    assert train(again) == records
    assert same(weights(one), weights(again))
    assert train(other) != records
    assert not same(weights(one), weights(other))


def test_seeds_are_well_mixed():
    seeds = [derive_seed(run, purpose, update) for run in range(5) for purpose in "ab" for update in range(5)]
    assert len(set(seeds)) == 50 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_every_generator_is_its_own():
    seeds = [
        make_learner(seed).generator(update, purpose).initial_seed()
        for seed in range(3)
        for update in range(3)
        for purpose in ("sampling", "shuffle", "minibatch")
    ]
    assert len(set(seeds)) == 27


def test_settings_reach_the_rollouts(monkeypatch):
    calls = []
    real = base.roll_out
    monkeypatch.setattr(base, "roll_out", lambda *a, **settings: calls.append(settings) or real(*a, **settings))
    train(make_learner(temperature=0.5, feedback="binary"), online(1))
    (settings,) = calls
    assert settings.pop("generator").initial_seed() == make_learner().generator(0, "sampling").initial_seed()
    assert settings == {"turns": 2, "samples": 4, "temperature": 0.5, "feedback": "binary"}


def test_a_phase_may_roll_out_in_its_own_way():
    calls, rolled, credited = [], [], []

    def single(policy, task, items, *, generator) -> Rollouts:
        calls.append((policy, task, items, generator.initial_seed()))
        rolled.append(roll_out(policy, task, items, turns=1, samples=6, generator=generator))
        return rolled[-1]

    def watch(rollouts: Rollouts) -> Credit:
        credited.append(rollouts)
        return turn_credit(rollouts, rollouts.scores, (0.1,), gamma=1.0)

    learner = make_learner()
    records = train(learner, online(2, roll_out=single, credit=watch))
    for update, (policy, task, items, seed) in enumerate(calls):
        assert policy is learner.policy and task is learner.task
        assert items == learner.problems(update, TRAIN.prompts)
        assert seed == learner.generator(update, "sampling").initial_seed()
    assert [id(rollouts) for rollouts in credited] == [id(rollouts) for rollouts in rolled]  # nothing comes between
    assert rolled[0].scores.shape == (3 * 6, 1)  # and not the four episodes of two turns that the settings ask for
    assert [record["generated_tokens"] for record in records] == [
        rolled[0].generated_tokens(),
        rolled[0].generated_tokens() + rolled[1].generated_tokens(),
    ]
    assert "accuracy@1" in records[0] and "accuracy@2" not in records[0]


def test_every_update_has_fresh_problems():
    learner = make_learner(0)
    indices = [[item.index for item in learner.problems(update, 3)] for update in range(3)]
    assert indices == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert learner.problems(1, 3) == learner.problems(1, 3)
    seeds = {make_learner(seed).problems(0, 1)[0].seed for seed in range(5)}
    assert len(seeds) == 5 and all(seed > 10**6 for seed in seeds)  # far from evaluation and pretraining seeds


def test_lora_moves_the_adapters_alone():
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    base = tiny_llama(16, 2, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy(peft.get_peft_model(base.model, settings), base.tokenizer)
    learner = make_learner(policy=policy)
    before = weights(learner)
    records = train(learner, online(2))
    moved = {name for name, parameter in weights(learner).items() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora" in name}
    assert records[0]["kl@1"] == 0.0


# --- objectives, passes and references ------------------------------------------------------------------------------


def test_the_objective_of_the_phase_is_used():
    # Clipped at ±0.001 a second pass over the same rollouts finds many ratios out of bounds; REINFORCE has no ratio.
    clipped = REINFORCE.model_copy(update={"surrogate": "clip", "clip_low": 1e-3, "clip_high": 1e-3})
    (record,) = train(make_learner(passes=2), online(1, objective=clipped))
    assert record["clipped_low"] + record["clipped_high"] > 0.2
    (record,) = train(make_learner(passes=1), online(1, objective=clipped))
    assert record["ratio"] == pytest.approx(1, abs=1e-5)
    assert record["clipped_low"] == record["clipped_high"] == 0
    (record,) = train(make_learner(passes=2), online(1))
    assert "ratio" not in record


def test_passes_are_steps_on_the_same_rollouts(monkeypatch):
    steps = []
    real = Learner.step
    monkeypatch.setattr(Learner, "step", lambda self, losses: steps.append(self.updates_done) or real(self, losses))
    learner = make_learner(passes=3)
    records = train(learner, online(2))
    assert steps == [0, 0, 0, 1, 1, 1] and learner.updates_done == 2
    once = train(make_learner(passes=1), online(2))
    assert records[0]["generated_tokens"] == once[0]["generated_tokens"]


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.0])
def test_the_reference_follows(decay):
    learner = make_learner()
    start = weights(learner)
    train(learner, online(1, reference_decay=decay))
    end = weights(learner)
    for name, parameter in learner.reference.model.named_parameters():
        expected = decay * start[name] + (1 - decay) * end[name]
        torch.testing.assert_close(parameter, expected, atol=1e-7, rtol=1e-6)
        assert not parameter.requires_grad
    records = train(make_learner(), online(2, reference_decay=decay))
    # At the start of an update the KL is that of the updates before it; against the policy itself it is 0.
    assert (records[1]["kl@1"] < 1e-9) == (decay == 0.0)


def test_without_a_penalty_the_reference_is_not_asked():
    learner = make_learner()
    learner.reference = None

    def free(rollouts: Rollouts) -> Credit:
        return turn_credit(rollouts, rollouts.scores, (0.0, 0.0), gamma=1.0)

    rollouts = roll_out(learner.policy, learner.task, learner.problems(0, 3), turns=2, samples=4)
    stats: dict[str, float] = {}
    list(policy_losses(learner, rollouts, free(rollouts), REINFORCE, stats))
    assert "kl@1" not in stats and "entropy" in stats


# --- other sequences than were sampled ------------------------------------------------------------------------------


def second_alone(rollouts: Rollouts) -> Credit:
    """The second attempt as if it had been the first; every token of it has its score as advantage."""
    sequences = rollouts.keep((rollouts.own.cumsum(1) == 0) | (rollouts.turn == 1))
    advantages = rollouts.scores[:, 1:].expand(sequences.ids.shape)
    return Credit(advantages, torch.zeros(sequences.ids.shape), sequences=sequences)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_loss_is_that_of_the_sequences_of_the_credit(micro_batches):
    kept = []

    def watch(rollouts: Rollouts) -> Credit:
        kept.append((rollouts, copy.deepcopy(learner.policy.model)))
        return second_alone(rollouts)

    learner = make_learner(micro_batches=micro_batches, max_grad_norm=1e9)
    (record,) = train(learner, online(1, credit=watch))
    ((rollouts, model),) = kept
    before = Policy(model, learner.policy.tokenizer)
    # Row by row: the prompt (four tokens), directly followed by the second attempt, and a mean over the 12 episodes.
    loss = torch.zeros(())
    for ids, turn, scores in zip(rollouts.ids, rollouts.turn, rollouts.scores, strict=True):
        attempt = ids[turn == 1]
        sequence = torch.cat([ids[:4], attempt])[None]
        logprobs = token_logprobs(before.logits(sequence)[:, 3:-1], attempt[None])
        loss = loss - scores[1] * logprobs.sum() / 12
    assert 0 < rollouts.scores[:, 1].mean().item() < 1
    assert record["loss/policy"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for (name, theirs), mine in zip(model.named_parameters(), learner.policy.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
    # What it cost and how well it went is said of the episodes.
    assert record["generated_tokens"] == rollouts.generated_tokens() > int((rollouts.turn == 1).sum())
    assert record["accuracy@1"] == pytest.approx(rollouts.scores[:, 0].mean().item())


# --- one optimiser step ---------------------------------------------------------------------------------------------


class OneWeight(torch.nn.Module):
    """A model whose only parameter starts at 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.device = torch.device("cpu")


def test_step_by_hand():
    learner = make_learner(policy=Policy(OneWeight(), None), learning_rate=0.4, warmup=3, max_grad_norm=1.0)
    (w,) = learner.parameters
    rates, norms = [], []
    for _ in range(5):
        # Two losses with gradients 3 and −8: their sum is −5, which is logged before it is clipped to −1.
        norms.append(learner.step(iter([3 * w.sum(), -8 * w.sum()])))
        learner.updates_done += 1
        rates.append(learner.optimizer.param_groups[0]["lr"])
        assert w.grad.item() == pytest.approx(-1.0, abs=1e-5)
    assert norms == [{"grad_norm": pytest.approx(5.0)}] * 5
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])  # 0.4 · (u + 1) / 4, then constant
    # Adam with a constant gradient moves by the learning rate: 1 + 0.1 + 0.2 + 0.3 + 0.4 + 0.4
    assert w.item() == pytest.approx(2.4, abs=1e-4)


def test_an_infinite_gradient_is_refused():
    learner = make_learner(policy=Policy(OneWeight(), None))
    (w,) = learner.parameters
    with pytest.raises(TrainingError, match="update 1: the gradient is inf"):
        learner.step(iter([w.sum() * math.inf]))
    assert w.item() == 1.0 and learner.updates_done == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_gradient_stops_the_run_and_names_the_update(bad):
    def spoiled(rollouts: Rollouts) -> Credit:
        good = credit(rollouts)
        return Credit(good.advantages * bad, good.kl) if learner.updates_done == 2 else good

    learner = make_learner(7)
    records = run_phases(learner, [online(credit=spoiled)])
    next(records), next(records)
    before = weights(learner)
    with pytest.raises(TrainingError, match=r"update 3: the gradient is (nan|inf).*seed 7"):
        next(records)
    assert learner.updates_done == 2 and same(before, weights(learner))  # the broken step was not taken


# --- what is logged -------------------------------------------------------------------------------------------------


def test_rollout_stats_by_hand():
    items = [Item("add", 0, i, 1, "1+2=", "03") for i in range(4)]
    rollouts = Rollouts(
        ids=torch.zeros(4, 3, dtype=torch.long),
        turn=torch.tensor([[0, 1, 2]] * 4),
        logprobs=torch.zeros(4, 3),
        scores=torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        group=torch.zeros(4, dtype=torch.long),
        # The last two attempts are equal in rows 1, 3 and 4; that row 2 repeats its first one does not count.
        answers=[["1", "03", "03"], ["7", "5", "7"], ["03", "3", "3"], ["1", "1", "1"]],
        items=items,
        longest=3,
    )
    expected = {"accuracy@1": 0.25, "accuracy@2": 0.25, "accuracy@3": 0.75, "copy_rate": 0.75}
    assert rollout_stats(rollouts) == expected
    rollouts.scores, rollouts.answers = rollouts.scores[:, :1], [row[:1] for row in rollouts.answers]
    assert rollout_stats(rollouts) == {"accuracy@1": 0.25}


def ended(scores: list[list[float]], answers: list[list[str]]) -> Rollouts:
    """Episodes of up to three turns, of which as many were made as there are answers: one token of prompt, then
    one an attempt. All rows are attempts at one problem."""
    turn = torch.tensor([[-1, *range(len(row)), *[-1] * (3 - len(row))] for row in answers])
    return Rollouts(
        ids=torch.zeros(turn.shape, dtype=torch.long),
        turn=turn,
        logprobs=torch.zeros(turn.shape),
        scores=torch.tensor(scores),
        group=torch.zeros(len(scores), dtype=torch.long),
        answers=answers,
        items=[Item("add", 0, 0, 1, "1+2=", "03")] * len(scores),
        longest=3,
    )


def test_stats_of_episodes_that_ended_early_by_hand():
    rollouts = ended(
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.25]],
        [["03"], ["1", "03"], ["7", "7", "7"], ["7", "5", "7"]],
    )
    assert rollout_stats(rollouts) == {
        "accuracy@1": 1 / 4,
        "accuracy@2": (1 + 1 + 0.5 + 0) / 4,  # the first row is still right, though it was not asked again
        "accuracy@3": (1 + 1 + 0 + 0.25) / 4,  # what is worse than before is worse: row 3 was asked, and forgot
        "copy_rate": 1 / 3,  # of the three with a second attempt, row 3 ends with a repetition
    }
    # Where nobody had a second attempt there is no rate, not a rate of 0.
    solved = ended([[1.0, 0.0, 0.0]] * 2, [["03"]] * 2)
    assert rollout_stats(solved) == {"accuracy@1": 1, "accuracy@2": 1, "accuracy@3": 1}


class Fixed:
    """A policy over two symbols that always has the same next-token distribution."""

    def __init__(self, probabilities):
        self.row = torch.tensor(probabilities).log().requires_grad_()

    def logits(self, ids, group=1, shared=0):
        return self.row.expand(ids.shape[0], ids.shape[1] - shared, 2)


def hand_made() -> tuple[SimpleNamespace, Rollouts, Credit]:
    """Two episodes over the symbols 0 and 1; π = (¾, ¼), π_ref = (½, ½).

    Row 1: context, then 0 and 1 in turn 1, context, 0 in turn 2. Row 2: context, 1 in turn 1, context, padding.
    """
    learner = SimpleNamespace(policy=Fixed([0.75, 0.25]), reference=Fixed([0.5, 0.5]), train=TRAIN)
    turn = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
    rollouts = Rollouts(
        ids=torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0]]),
        turn=turn,
        logprobs=torch.zeros(2, 5),
        scores=torch.zeros(2, 2),
        group=torch.tensor([0, 0]),
        answers=[["a", "b"], ["c", "d"]],
        items=[Item("add", 0, 0, 1, "", "")] * 2,
        longest=4,
    )
    # Every token has an advantage and a coefficient, so that a wrong mask shows.
    per_token = torch.tensor([[9.0, 2.0, 2.0, 9.0, 1.0], [9.0, -1.0, 9.0, 9.0, 9.0]])
    return learner, rollouts, Credit(per_token, per_token.abs() / 10)


def test_losses_and_metrics_by_hand():
    # ln ¾ = −0.287682, ln ¼ = −1.386294; KL(π ‖ π_ref) = 0.130812 a token; entropy 0.562335 a token.
    learner, rollouts, credit = hand_made()
    stats: dict[str, float] = {}
    (loss,) = policy_losses(learner, rollouts, credit, REINFORCE, stats)
    # −(2 ln ¾ + 2 ln ¼ + 1 ln ¾ − 1 ln ¼) / 2 = −(3 · −0.287682 − 1.386294) / 2 = 1.124670
    assert stats["loss/policy"] == pytest.approx(1.124670, abs=1e-5)
    assert stats["entropy"] == pytest.approx(0.562335, abs=1e-5)  # mean over own tokens
    assert stats["kl@1"] == pytest.approx(3 * 0.130812 / 2, abs=1e-5)  # three tokens in two episodes
    assert stats["kl@2"] == pytest.approx(1 * 0.130812 / 2, abs=1e-5)
    # 1.124670 + (0.2 + 0.2 + 0.1 + 0.1) · 0.130812 / 2
    assert loss.item() == pytest.approx(1.163914, abs=1e-5)
    assert set(stats) == {"loss/policy", "entropy", "kl@1", "kl@2"}


def test_micro_batches_log_what_the_batch_logs():
    learner, rollouts, credit = hand_made()
    one: dict[str, float] = {}
    two: dict[str, float] = {}
    whole = list(policy_losses(learner, rollouts, credit, REINFORCE, one))
    learner.train = TRAIN.model_copy(update={"micro_batches": 2})
    parts = list(policy_losses(learner, rollouts, credit, REINFORCE, two))
    assert (len(whole), len(parts)) == (1, 2)
    assert sum(part.item() for part in parts) == pytest.approx(whole[0].item())
    assert two == pytest.approx(one)


def test_temperature_by_hand():
    # At temperature 2 π ∝ (√3, 1): (0.633975, 0.366025) with logs −0.455746 and −1.005053, entropy 0.656807.
    # The reference (0.2, 0.8) becomes ∝ (1, 2): (1/3, 2/3). KL = 0.633975 · (ln 3 − 0.455746)
    # + 0.366025 · (ln 1.5 − 1.005053) = 0.407561 − 0.219464 = 0.188097.
    learner, rollouts, credit = hand_made()
    learner.train, learner.reference = TRAIN.model_copy(update={"temperature": 2.0}), Fixed([0.2, 0.8])
    stats: dict[str, float] = {}
    list(policy_losses(learner, rollouts, credit, REINFORCE, stats))
    assert stats["loss/policy"] == pytest.approx((3 * 0.455746 + 1.005053) / 2, abs=1e-5)
    assert stats["entropy"] == pytest.approx(0.656807, abs=1e-5)
    assert stats["kl@1"] == pytest.approx(3 * 0.188097 / 2, abs=1e-5)


def test_large_vocabularies_estimate_the_kl(monkeypatch):
    # k2 of the tokens written: (ln 1.5)²/2 = 0.082201 for symbol 0, (ln 2)²/2 = 0.240227 for symbol 1.
    monkeypatch.setattr(batches, "EXACT_UP_TO", 1)
    learner, rollouts, credit = hand_made()
    stats: dict[str, float] = {}
    list(policy_losses(learner, rollouts, credit, REINFORCE, stats))
    assert stats["kl@1"] == pytest.approx((0.082201 + 2 * 0.240227) / 2, abs=1e-5)
    assert stats["kl@2"] == pytest.approx(0.082201 / 2, abs=1e-5)


def test_the_reference_gets_no_gradient():
    learner, rollouts, credit = hand_made()
    (loss,) = policy_losses(learner, rollouts, credit, REINFORCE, {})
    loss.backward()
    assert learner.policy.row.grad is not None and learner.reference.row.grad is None


class Bigram:
    """A policy over two symbols whose next-token distribution depends on the last token alone: after 0, after 1."""

    def __init__(self, *rows: tuple[float, float]) -> None:
        self.table = torch.tensor(rows).log().requires_grad_()

    def logits(self, ids, group=1, shared=0):
        return self.table[ids[:, shared:]]


def test_k3_of_a_token_that_does_not_count_may_overflow():
    # After a 1 the policy all but never says 1 again: e⁻¹⁰⁰, where the reference says ½. Such a token stands in the
    # context, and k3 of it, about e⁹⁹, is infinite in single precision. Its derivative times a mask of 0 would be NaN.
    learner = SimpleNamespace(
        policy=Bigram((0.75, 0.25), (1.0, math.exp(-100))),
        reference=Bigram((0.5, 0.5), (0.5, 0.5)),
        train=TRAIN.model_copy(update={"kl": "k3"}),
    )
    rollouts = Rollouts(
        ids=torch.tensor([[0, 1, 1, 0]]),
        turn=torch.tensor([[-1, 0, -1, 1]]),
        logprobs=torch.zeros(1, 4),
        scores=torch.zeros(1, 2),
        group=torch.tensor([0]),
        answers=[["1", "0"]],
        items=[Item("add", 0, 0, 1, "", "")],
        longest=2,
    )
    stats: dict[str, float] = {}
    (loss,) = policy_losses(learner, rollouts, Credit(torch.zeros(1, 4), torch.full((1, 4), 0.5)), REINFORCE, stats)
    # 1 after 0: d = ln ¼ − ln ½ = −ln 2, e^ln 2 − 1 − ln 2 = 0.306853. 0 after 1: d = ln 2, ½ − 1 + ln 2 = 0.193147.
    assert stats["kl@1"] == pytest.approx(0.306853, abs=1e-6) and stats["kl@2"] == pytest.approx(0.193147, abs=1e-6)
    assert loss.item() == pytest.approx(0.5 * (0.306853 + 0.193147), abs=1e-6)
    loss.backward()
    # ∂k3/∂log π = 1 − e⁻ᵈ = −1 at the first token: 0.5 · (−1) · ((0, 1) − (¾, ¼)) = (0.375, −0.375). At the second
    # π is 1, and a probability that cannot rise has no gradient.
    expected = torch.tensor([[0.375, -0.375], [0.0, 0.0]])
    torch.testing.assert_close(learner.policy.table.grad, expected, atol=1e-6, rtol=0)


def test_a_uniform_policy_logs_the_entropy_of_its_vocabulary():
    policy = tiny_llama(16, 2, 4)
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
    record = train(make_learner(policy=policy), online(1))[0]
    assert record["entropy"] == pytest.approx(math.log(87), abs=1e-5)
    assert record["kl@1"] == record["kl@2"] == 0.0


def test_records():
    kept = []

    def watch(rollouts: Rollouts) -> Credit:
        kept.append(rollouts)
        return credit(rollouts)

    records = train(make_learner(), online(3, credit=watch))
    keys = "update phase generated_tokens accuracy@1 accuracy@2 copy_rate return loss/policy entropy kl@1 kl@2"
    assert all(set(record) == {*keys.split(), "grad_norm"} for record in records)
    assert [record["update"] for record in records] == [1, 2, 3]
    assert {record["phase"] for record in records} == {"RL"}
    spent = 0
    for record, rollouts in zip(records, kept, strict=True):
        spent += rollouts.generated_tokens()
        assert record["generated_tokens"] == spent
        assert record["accuracy@1"] == pytest.approx(rollouts.scores[:, 0].mean().item())
        assert record["return"] == pytest.approx(rollouts.scores.sum(1).mean().item())
    assert records[0]["kl@1"] == 0.0 and records[1]["kl@1"] > 0.0  # the first update starts at the reference
    assert all(0.0 < record["accuracy@1"] < 1.0 for record in records)


def test_shuffled_scores_are_permuted_and_nothing_else():
    kept: dict[bool, list[Rollouts]] = {False: [], True: []}

    def watch(shuffled: bool):
        def inner(rollouts: Rollouts) -> Credit:
            kept[shuffled].append(copy.deepcopy(rollouts))
            return credit(rollouts)

        return inner

    records = {
        shuffled: train(make_learner(), online(1, credit=watch(shuffled), shuffle_scores=shuffled))[0]
        for shuffled in (False, True)
    }
    (plain,), (shuffled,) = kept[False], kept[True]
    assert torch.equal(plain.ids, shuffled.ids) and plain.answers == shuffled.answers
    assert plain.scores.tolist() != shuffled.scores.tolist()
    assert sorted(plain.scores.tolist()) == sorted(shuffled.scores.tolist())  # rows stay together
    for key in ("accuracy@1", "accuracy@2", "copy_rate", "generated_tokens"):
        assert records[False][key] == records[True][key]  # what is logged is what happened


class Counting(Addition):
    """Scores 0, 1, 2, … in the order of scoring: first all first attempts, then all second ones."""

    calls = -1

    def score(self, item, completion):
        self.calls += 1
        return float(self.calls)


def test_every_update_is_shuffled_anew():
    orders = []

    def watch(rollouts: Rollouts) -> Credit:
        orders.append((rollouts.scores - 24 * len(orders)).tolist())  # 12 episodes of two attempts an update
        return Credit(torch.zeros(rollouts.ids.shape), torch.zeros(rollouts.ids.shape))

    learner = make_learner()
    learner.task = Counting()
    train(learner, online(3, credit=watch, shuffle_scores=True))
    for order in orders:
        assert sorted(order) == [[b, 12 + b] for b in range(12)]
    assert len({str(order) for order in [*orders, [[b, 12 + b] for b in range(12)]]}) == 4


# --- episodes that end early, and arms with their own number of turns -----------------------------------------------


def test_attempts_that_were_not_made_are_nobodys_baseline():
    # Right at once; right at the second attempt; never right. With γ = 1 the returns are (1, 0), (1, 1), (0, 0).
    rollouts = ended([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [["03"], ["1", "03"], ["7", "5"]])
    credit = turn_credit(rollouts, rollouts.scores, (0.3, 0.1), gamma=1.0)
    # Turn 1: 1 − (1 + 0)/2, 1 − (1 + 0)/2, 0 − (1 + 1)/2. Turn 2 was made twice: 1 − 0 and 0 − 1. Had the first row
    # counted there with its 0, the third would be compared with (0 + 1)/2.
    torch.testing.assert_close(credit.advantages, torch.tensor([[0, 0.5, 0, 0], [0, 0.5, 1, 0], [0, -1, -1, 0]]))
    torch.testing.assert_close(credit.kl, torch.tensor([[0, 0.3, 0, 0], [0, 0.3, 0.1, 0], [0, 0.3, 0.1, 0]]))
    # Who is alone in the second turn is compared with nobody.
    alone = ended([[1.0, 0.0], [0.0, 1.0]], [["03"], ["1", "03"]])
    assert turn_credit(alone, alone.scores, (0.0, 0.0), gamma=0.0).advantages.tolist() == [[0, 1, 0, 0], [0, -1, 0, 0]]


@pytest.mark.parametrize("baseline", ["none", "batch_mean", "group_mean", "leave_one_out", "group_normalised"])
def test_no_baseline_credits_attempts_that_were_not_made(baseline):
    # Two rows have ended; a stray reward there, such as a technique may give, must not reach anyone through them.
    rollouts = ended([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [["03"], ["3"], ["1", "03"], ["7", "5"]])
    one, other = (
        turn_credit(rollouts, rollouts.scores + stray * ~rollouts.alive, (0.0, 0.0), gamma=0.0, baseline=baseline)
        for stray in (0.0, 9.0)
    )
    assert torch.equal(one.advantages, other.advantages)
    assert one.advantages[2, 2] > one.advantages[3, 2]


@pytest.mark.parametrize(("turns", "samples"), [(1, 8), (2, 4), (4, 2), (None, 4)])
def test_arms_with_other_turns_make_as_many_attempts(turns, samples):
    (phase,) = MultiTurnRL(turns=turns).phases(TRAIN)
    learner = make_learner()
    rollouts = phase.roll_out(learner.policy, learner.task, learner.problems(0, 3), generator=learner.generator(0, "x"))
    assert rollouts.samples == samples
    assert rollouts.alive.all() and rollouts.alive.numel() == 3 * 4 * 2  # prompts × samples × turns of the settings
    assert phase.credit(rollouts).advantages.shape == rollouts.ids.shape
    (record,) = train(learner, dataclasses.replace(phase, updates=1))
    assert f"accuracy@{turns or 2}" in record and f"accuracy@{(turns or 2) + 1}" not in record


@pytest.mark.parametrize("turns", [3, 5, 8, 16])
def test_turns_that_do_not_make_groups_are_refused(turns):
    # 4 × 2 = 8 attempts: not divisible by 3 or 5; one episode of 8, which has nobody to be compared with; half a one.
    with pytest.raises(ConfigError, match=rf"turns: 4 × 2 attempts do not make groups of {turns} turns"):
        MultiTurnRL(turns=turns).phases(TRAIN)


def test_an_arm_may_end_its_episodes_with_success():
    (phase,) = MultiTurnRL(turns=4, until_solved=True).phases(TRAIN)
    (whole,) = MultiTurnRL(turns=4).phases(TRAIN)
    learner = make_learner()
    early, full = (
        p.roll_out(learner.policy, learner.task, learner.problems(0, 3), generator=learner.generator(0, "x"))
        for p in (phase, whole)
    )
    assert full.alive.all() and not early.alive.all()
    assert early.scores.sum(1).max() == 1 < full.scores.sum(1).max()  # one right attempt an episode, and no more
    (record,) = train(learner, dataclasses.replace(phase, updates=1))
    rates = [record[f"accuracy@{t}"] for t in (1, 2, 3, 4)]
    assert rates == sorted(rates) and rates[0] < rates[3]  # what is solved stays solved


# --- a teacher ------------------------------------------------------------------------------------------------------


def taught_by_hand(known: list[bool], beta: float) -> tuple[SimpleNamespace, Rollouts, Credit, Teacher]:
    """Two episodes over 0 and 1, no reward, and a reference that reads the same tokens after another context.

    ====== ============== ================================ ============== ================================
    row    student reads  and predicts its own tokens with teacher reads  and predicts these with
    ====== ============== ================================ ============== ================================
    0      1 [0 1]        (½, ½) after 1, (¾, ¼) after 0   1 0 [0 1]      (¼, ¾) after 0, (¼, ¾) after 0
    1      0 [1]          (¾, ¼) after 0                   0 1 [1]        (½, ½) after 1
    ====== ============== ================================ ============== ================================
    """
    learner = SimpleNamespace(
        policy=Bigram((0.75, 0.25), (0.5, 0.5)), reference=Bigram((0.25, 0.75), (0.5, 0.5)), train=TRAIN
    )
    rollouts = Rollouts(
        ids=torch.tensor([[1, 0, 1], [0, 1, 0]]),
        turn=torch.tensor([[-1, 0, 0], [-1, 0, -1]]),
        logprobs=torch.zeros(2, 3),
        scores=torch.zeros(2, 1),
        group=torch.tensor([0, 0]),
        answers=[["01"], ["1"]],
        items=[Item("add", 0, 0, 1, "", "")] * 2,
        longest=2,
    )
    teacher = Teacher(
        ids=torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]]),
        own=torch.tensor([[False, False, True, True], [False, False, True, False]]),
        known=torch.tensor(known),
        beta=beta,
    )
    return learner, rollouts, Credit(torch.zeros(2, 3), torch.zeros(2, 3)), teacher


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(
    ("known", "beta", "loss"),
    [
        # Reverse, KL(student ‖ teacher): ½ ln 2 + ½ ln ⅔ = 0.143841, ¾ ln 3 − ¼ ln 3 = 0.549306; row 1 has 0.130812.
        ([True, False], 1.0, (0.143841 + 0.549306) / 2),
        ([False, True], 1.0, 0.130812),
        ([True, True], 1.0, (0.143841 + 0.549306 + 0.130812) / 3),  # a mean over tokens, not over episodes
        # Forward, KL(teacher ‖ student): 0.130812 and 0.549306; row 1 has 0.143841.
        ([True, False], 0.0, (0.130812 + 0.549306) / 2),
        ([False, True], 0.0, 0.143841),
    ],
)
def test_the_teachers_loss_by_hand(known, beta, loss, micro_batches):
    learner, rollouts, credit, teacher = taught_by_hand(known, beta)
    learner.train = TRAIN.model_copy(update={"micro_batches": micro_batches})
    stats: dict[str, float] = {}
    parts = list(policy_losses(learner, rollouts, credit, REINFORCE, stats, teacher))
    assert len(parts) == micro_batches  # with two, a row without a teacher is a micro-batch of its own
    assert sum(part.item() for part in parts) == pytest.approx(loss, abs=1e-6)
    assert stats["loss/distillation"] == pytest.approx(loss, abs=1e-6)


def test_the_teachers_gradient_by_hand():
    # ∂KL(p ‖ q)/∂z_a = p_a (log p_a − log q_a − KL), a mean over the two tokens of row 0.
    # After 1: ½ (ln 2 − 0.143841) / 2 = 0.137327. After 0: ¾ (ln 3 − 0.549306) / 2 = 0.205990.
    learner, rollouts, credit, teacher = taught_by_hand([True, False], 1.0)
    (loss,) = policy_losses(learner, rollouts, credit, REINFORCE, {}, teacher)
    loss.backward()
    expected = torch.tensor([[0.205990, -0.205990], [0.137327, -0.137327]])
    torch.testing.assert_close(learner.policy.table.grad, expected, atol=1e-6, rtol=0)
    assert learner.reference.table.grad is None  # the teacher is not taught


def test_the_teachers_loss_is_added_to_the_others():
    learner, rollouts, credit, teacher = taught_by_hand([True, False], 1.0)
    credit = Credit(torch.ones(2, 3), torch.full((2, 3), 0.5))
    (alone,) = policy_losses(learner, rollouts, credit, REINFORCE, {})
    (both,) = policy_losses(learner, rollouts, credit, REINFORCE, {}, teacher)
    assert both.item() - alone.item() == pytest.approx((0.143841 + 0.549306) / 2, abs=1e-6)


def test_rows_without_a_teacher_are_not_even_looked_at():
    # Of row 1 the teacher has nothing: no own tokens, though the student has one.
    learner, rollouts, credit, teacher = taught_by_hand([True, False], 1.0)
    teacher.own[1] = False
    (loss,) = policy_losses(learner, rollouts, credit, REINFORCE, {}, teacher)
    assert loss.item() == pytest.approx((0.143841 + 0.549306) / 2, abs=1e-6)
    # Were it known, this would be a mistake that must not pass as a mean over fewer tokens.
    teacher.known[1] = True
    with pytest.raises(ValueError, match="row 1 has 1 own tokens, but 0 for the teacher"):
        list(policy_losses(learner, rollouts, credit, REINFORCE, {}, teacher))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_batch_without_any_teacher_is_a_batch_without_its_loss(micro_batches):
    learner, rollouts, credit, teacher = taught_by_hand([False, False], 1.0)
    learner.train = TRAIN.model_copy(update={"micro_batches": micro_batches})
    learner.reference = None  # there is nothing to ask
    stats: dict[str, float] = {}
    losses = list(policy_losses(learner, rollouts, credit, REINFORCE, stats, teacher))
    assert [loss.item() for loss in losses] == [0.0] * micro_batches
    assert set(stats) == {"loss/policy", "entropy"}  # no loss of 0, which would say that there is nothing to learn


def hint(policy: Policy, task: Addition, rollouts: Rollouts) -> Teacher:
    """The same attempts after the prompt and a hint of one to three tokens; every third row has no teacher."""
    rows, own = [], []
    for b, (ids, mine) in enumerate(zip(rollouts.ids, rollouts.own, strict=True)):
        context = ids[: int(mine.int().argmax())].tolist() + policy.encode_text(["abc"[: b % 3 + 1]])[0]
        rows.append(context + ids[mine].tolist())
        own.append([0] * len(context) + [1] * int(mine.sum()))
    known = torch.arange(len(rows)) % 3 > 0
    return Teacher(pad_rows(rows, policy.pad_id)[0], pad_rows(own, 0)[0].bool(), known, beta=0.5)


def no_reward(rollouts: Rollouts) -> Credit:
    return Credit(torch.zeros(rollouts.ids.shape), torch.zeros(rollouts.ids.shape))


def taught(**changes) -> tuple[dict, dict, list]:
    """Gradient and record of one update on 12 episodes whose only loss is the teacher's; what the teacher was asked."""
    policy, asked = tiny_llama(16, 2, 4, seed=1), []
    learner = make_learner(policy=policy, max_grad_norm=1e9, temperature=0.7, **changes)
    learner.reference = tiny_llama(16, 2, 4, seed=2).frozen_copy()

    def watch(*arguments) -> Teacher:
        asked.append((*arguments, copy.deepcopy(policy.model), learner.reference))
        return hint(*arguments)

    (record,) = train(learner, online(1, credit=no_reward, teacher=watch))
    return {name: p.grad for name, p in policy.model.named_parameters()}, record, asked


def test_the_teacher_is_the_reference_after_its_own_context():
    found, record, asked = taught()
    ((policy, _, rollouts, model, reference),) = asked
    before = Policy(model, policy.tokenizer)
    # Known row by known row, without padding: what the student says of its tokens and what the reference says of them.
    teacher = hint(policy, None, rollouts)
    rows = teacher.known.nonzero().flatten().tolist()
    assert len(rows) == 8
    tokens = int(rollouts.own[rows].sum())
    losses, agreement = [], 0.0
    for b in rows:
        said = []
        for speaker, ids, own in (
            (before, rollouts.ids[b], rollouts.own[b]),
            (reference, teacher.ids[b], teacher.own[b]),
        ):
            end = int(own.nonzero().max())  # position t predicts token t + 1
            said.append(speaker.logits(ids[None, :end])[:, own[1 : end + 1]] / 0.7)
        loss, stats = distillation(*said, torch.ones(said[0].shape[:2]).bool(), tokens, beta=0.5)
        losses.append(loss)
        agreement += stats["teacher_agreement"]
    total = torch.stack(losses).sum()
    assert record["loss/distillation"] == pytest.approx(total.item(), rel=1e-5)
    assert record["teacher_agreement"] == pytest.approx(agreement, abs=1e-6)
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-7, rtol=1e-4, msg=name)
    assert max(g.abs().max().item() for g in found.values()) > 1e-3


@pytest.mark.parametrize("micro_batches", [2, 3, 6, 12])  # pieces of 8 4, of 4, of 2, and of 1: some without a teacher
def test_micro_batches_of_taught_episodes_give_the_gradient_of_the_batch(micro_batches):
    one, record, _ = taught()
    many, records, _ = taught(micro_batches=micro_batches)
    for name in one:
        torch.testing.assert_close(one[name], many[name], atol=1e-7, rtol=1e-4, msg=lambda t, name=name: f"{name}: {t}")
    assert records == {key: pytest.approx(value, abs=1e-5) for key, value in record.items()}


def test_the_teacher_is_asked_once_an_update():
    _, _, asked = taught(passes=3)
    assert len(asked) == 1


# --- imitation ------------------------------------------------------------------------------------------------------


def test_imitation_learns_the_marked_tokens():
    kept = []
    learner = make_learner(max_grad_norm=1e9)
    policy, step = learner.policy, learner.step

    def watch(losses):
        kept.append(copy.deepcopy(policy.model))
        return step(losses)

    learner.step = watch
    (record,) = train(learner, SupervisedPhase("SFT", 1, examples))
    # The same minibatch by hand: 12 rows with replacement, mean over the three marked tokens of each.
    rows = torch.randint(5, (12,), generator=learner.generator(0, "minibatch"))
    ids = examples(learner).ids[rows]
    before = Policy(kept[0], policy.tokenizer)
    logprobs = token_logprobs(before.logits(ids)[:, 3:-1], ids[:, 4:])
    loss = -logprobs.mean()
    assert record == {
        "update": 1,
        "phase": "SFT",
        "generated_tokens": 1000,
        "loss/supervised": pytest.approx(loss.item(), abs=1e-5),
        "grad_norm": pytest.approx(record["grad_norm"]),
    }
    loss.backward()
    for (name, theirs), mine in zip(before.model.named_parameters(), policy.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_every_update_imitates_another_minibatch():
    learner, seen = make_learner(), []
    real = learner.policy.logits
    learner.policy.logits = lambda ids: seen.append(ids.tolist()) or real(ids)
    train(learner, SupervisedPhase("SFT", 3, examples))
    assert len({str(ids) for ids in seen}) == len(seen) == 3


def test_imitation_ignores_unmarked_tokens():
    # Only tokens 1 to 3 are marked: the three behind them are in nobody's context, and changing them changes nothing.
    def marked(ids):
        return lambda learner: Examples(ids, torch.tensor([0, 1, 1, 1, 0, 0, 0]).bool().expand(5, 7), 0)

    ids = examples(None).ids
    other = torch.cat([ids[:, :4], ids[:, 4:].flip(0)], 1)
    last = torch.cat([ids[:, :3], ids[:, 3:4].flip(0), ids[:, 4:]], 1)
    assert not torch.equal(ids, other)
    learners = [make_learner() for _ in range(3)]
    for learner, variant in zip(learners, (ids, other, last), strict=True):
        train(learner, SupervisedPhase("SFT", 3, marked(variant)))
    assert same(weights(learners[0]), weights(learners[1]))
    assert not same(weights(learners[0]), weights(learners[2]))


def test_imitation_learns():
    learner = make_learner()
    records = train(learner, SupervisedPhase("SFT", 30, examples))
    assert records[0]["loss/supervised"] == pytest.approx(math.log(87), rel=0.05)  # untrained: nearly uniform
    assert records[-1]["loss/supervised"] < 2.0


# --- preference -----------------------------------------------------------------------------------------------------

BETA = 0.5
WEIGHTED_DPO = functools.partial(cream, beta=BETA)  # with a confidence of 1 it is DPO


def some_pairs(learner: Learner | None = None, confidence: float = 1.0) -> Pairs:
    """Five pairs of seven tokens; of each row the tokens from the fourth on are a completion, of one to four tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 87, (10, 7), generator=generator)
    ends = 4 + torch.randint(4, (10, 1), generator=generator)
    own = (torch.arange(7) >= 3) & (torch.arange(7) < ends)
    return Pairs(ids, own, torch.full((5,), confidence), 500, {"agreement": 0.75})


def preferring(updates: int = 3, **changes) -> PreferencePhase:
    settings = {"name": "DPO", "updates": updates, "collect": some_pairs, "loss": WEIGHTED_DPO, **changes}
    return PreferencePhase(**settings)


def apart(micro_batches: int = 1, pairs: Pairs | None = None) -> Learner:
    """A learner in the middle of a preference phase: its policy has moved away from the reference."""
    learner = make_learner(policy=tiny_llama(16, 2, 4, seed=1), micro_batches=micro_batches, max_grad_norm=1e9)
    learner.reference = tiny_llama(16, 2, 4, seed=2).frozen_copy()
    learner.pairs = pairs or some_pairs()
    return learner


def log_ratio(policy: Policy, reference: Policy, ids: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """log π − log π_ref of one completion, token by token and without the loop's functions."""
    total = torch.zeros(())
    for speaker, sign in ((policy, 1), (reference, -1)):
        probabilities = speaker.logits(ids[None])[0].softmax(-1)
        for position in own.nonzero().flatten().tolist():  # what stands before it says how likely it is
            total = total + sign * probabilities[position - 1, ids[position]].log()
    return total


def test_preference_is_dpo_on_the_same_pairs():
    learner = apart()
    before = Policy(copy.deepcopy(learner.policy.model), learner.policy.tokenizer)
    (record,) = train(learner, preferring(1))
    pairs = some_pairs()
    # Half as many pairs as rollouts: 3 problems × 4 samples / 2 = 6, with replacement.
    drawn = torch.randint(5, (6,), generator=learner.generator(0, "minibatch")).tolist()
    assert len(set(drawn)) < 6
    chosen, rejected = (
        torch.stack([log_ratio(before, learner.reference, pairs.ids[row], pairs.own[row]) for row in rows])
        for rows in ([2 * i for i in drawn], [2 * i + 1 for i in drawn])
    )
    loss = -(BETA * (chosen - rejected)).sigmoid().log().mean()
    assert loss.item() != pytest.approx(math.log(2), abs=0.01)  # there are margins
    assert record == {
        "update": 1,
        "phase": "DPO",
        "generated_tokens": 0,  # these pairs were there before
        "loss/preference": pytest.approx(loss.item(), abs=1e-5),
        "preference/margin": pytest.approx((chosen - rejected).mean().item(), abs=1e-5),
        "preference/accuracy": pytest.approx((chosen > rejected).float().mean().item()),
        "preference/chosen": pytest.approx(chosen.mean().item(), abs=1e-5),
        "preference/rejected": pytest.approx(rejected.mean().item(), abs=1e-5),
        "grad_norm": pytest.approx(record["grad_norm"]),
    }
    loss.backward()
    for (name, theirs), mine in zip(before.model.named_parameters(), learner.policy.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert max(p.grad.abs().max().item() for p in learner.policy.model.parameters()) > 0.01


class Successors:
    """A policy over eight symbols that says something of its own after each of them."""

    def __init__(self, seed: int) -> None:
        self.table = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    def logits(self, ids, group=1, shared=0):
        return self.table[ids[:, shared:]]


def with_stand_ins(pairs: Pairs, policy, reference) -> SimpleNamespace:
    """What the loop needs of a learner, without an optimiser: a step adds up gradients and no more."""

    def step(losses) -> dict[str, float]:
        for loss in losses:
            loss.backward()
        return {}

    return SimpleNamespace(
        policy=policy, reference=reference, pairs=pairs, train=TRAIN, updates_done=0, step=step,
        generator=lambda update, purpose: torch.Generator().manual_seed(update),
    )  # fmt: skip


def test_preference_by_hand():
    # One pair: after 1 the policy says 0 with probability ½ and 1 with ½, after 0 it says (¾, ¼); the reference says
    # (¼, ¾) after 0 and (½, ½) after 1. The chosen one is 1 [0 1], the rejected one 0 [0], and then padding.
    pairs = Pairs(
        ids=torch.tensor([[1, 0, 1], [0, 0, 1]]),
        own=torch.tensor([[False, True, True], [False, True, False]]),
        confidence=torch.tensor([0.9]),
        generated_tokens=0,
    )
    policy, reference = Bigram((0.75, 0.25), (0.5, 0.5)), Bigram((0.25, 0.75), (0.5, 0.5))
    learner = with_stand_ins(pairs, policy, reference)
    (record,) = loops.preference(learner, preferring(1), 1)
    # ℓ(w) = ln ½ − ln ½ + ln ¼ − ln ¾ = −1.098612; ℓ(l) = ln ¾ − ln ¼ = 1.098612; m = −2.197225 = −ln 9.
    # βm = −ln 3: σ = ¼. All six pairs are this one: 0.9 ln 4 + 0.1 ln (4/3) = 1.276433.
    assert record == {
        "loss/preference": pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3)),
        "preference/margin": pytest.approx(-math.log(9)),
        "preference/accuracy": 0.0,
        "preference/chosen": pytest.approx(-math.log(3)),
        "preference/rejected": pytest.approx(math.log(3)),
    }
    # ∂/∂m = β (σ − 0.9) = −0.325. Of z after 0: ∂m = ((0, 1) − (¾, ¼)) − ((1, 0) − (¾, ¼)) = (−1, 1). After 1 the
    # chosen one says 0: (1, 0) − (½, ½) = (½, −½).
    expected = -0.325 * torch.tensor([[-1.0, 1.0], [0.5, -0.5]])
    torch.testing.assert_close(policy.table.grad, expected, atol=1e-6, rtol=0)
    assert reference.table.grad is None


def test_tokens_that_are_masked_have_no_gradient():
    # Context 1 2, completions 3 4 and 5, then what does not count: 6 and 7. Own tokens stand behind 2, 3 and 2.
    pairs = Pairs(
        ids=torch.tensor([[1, 2, 3, 4, 6, 7], [1, 2, 5, 6, 7, 6]]),
        own=torch.tensor([[0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]]).bool(),
        confidence=torch.ones(1),
        generated_tokens=0,
    )
    policy = Successors(0)
    list(loops.preference(with_stand_ins(pairs, policy, Successors(1)), preferring(1), 1))
    assert [symbol for symbol in range(8) if policy.table.grad[symbol].any()] == [2, 3]
    # Not even where what does not count is impossible: −∞ times 0 would be NaN.
    policy, grad = Successors(0), policy.table.grad
    with torch.no_grad():
        policy.table[4:, 6:] = -math.inf
        policy.table[1, 2] = -math.inf
    list(loops.preference(with_stand_ins(pairs, policy, Successors(1)), preferring(1), 1))
    torch.testing.assert_close(policy.table.grad[2:4], grad[2:4])


def test_what_stands_behind_a_completion_plays_no_part():
    pairs = some_pairs()
    behind = (torch.arange(7) >= 3) & ~pairs.own
    assert behind.any()
    other = dataclasses.replace(pairs, ids=pairs.ids.where(~behind, 5))
    first = dataclasses.replace(pairs, ids=torch.cat([pairs.ids[:, :1].flip(0), pairs.ids[:, 1:]], 1))
    one, same_one, another = (apart(pairs=some) for some in (pairs, other, first))
    records = [train(learner, preferring(2)) for learner in (one, same_one, another)]
    assert records[0] == records[1] != records[2]  # but what stands before it does
    assert same(weights(one), weights(same_one)) and not same(weights(one), weights(another))


@pytest.mark.parametrize("micro_batches", [2, 3, 4, 6, 50])  # of 3 3; of 2 2 2; of 2 2 2; of 1; of 1
def test_micro_batches_of_pairs_give_the_gradient_of_the_batch(micro_batches):
    one, many = apart(), apart(micro_batches)
    (record,), (other,) = (train(learner, preferring(1)) for learner in (one, many))
    for (name, a), b in zip(one.policy.model.named_parameters(), many.policy.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5, msg=name)
    assert other == {key: pytest.approx(value, abs=1e-5) for key, value in record.items()}


@pytest.mark.parametrize(
    ("micro_batches", "sizes"), [(1, [6]), (2, [3, 3]), (3, [2, 2, 2]), (4, [2, 2, 2]), (5, [2, 2, 2]), (50, [1] * 6)]
)
def test_what_the_loss_of_a_phase_is_given(micro_batches, sizes):
    # Every pair has a confidence of its own, which says who it is.
    pairs = dataclasses.replace(some_pairs(), confidence=torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    calls = []

    def listening(chosen, rejected, confidence, *, normaliser):
        calls.append((chosen.detach(), rejected.detach(), confidence, normaliser))
        return WEIGHTED_DPO(chosen, rejected, confidence, normaliser=normaliser)

    learner = apart(micro_batches, pairs)
    before = Policy(copy.deepcopy(learner.policy.model), learner.policy.tokenizer)
    train(learner, preferring(1, loss=listening))
    assert [len(confidence) for _, _, confidence, _ in calls] == sizes
    assert {normaliser for *_, normaliser in calls} == {6}  # of the batch, not of the piece
    drawn = torch.randint(5, (6,), generator=learner.generator(0, "minibatch")).tolist()
    assert torch.cat([confidence for _, _, confidence, _ in calls]).tolist() == pairs.confidence[drawn].tolist()
    for column, shift in ((0, 0), (1, 1)):
        said = torch.cat([call[column] for call in calls])
        by_hand = [
            log_ratio(before, learner.reference, pairs.ids[2 * i + shift], pairs.own[2 * i + shift]).item()
            for i in drawn
        ]
        assert said.tolist() == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize(("prompts", "samples", "pairs"), [(3, 4, 6), (3, 1, 1), (1, 1, 1), (5, 3, 7)])
def test_half_as_many_pairs_as_rollouts(prompts, samples, pairs):
    seen = []

    def listening(*ratios, normaliser):
        seen.append(len(ratios[0]))
        return WEIGHTED_DPO(*ratios, normaliser=normaliser)

    train(make_learner(prompts=prompts, samples=samples), preferring(2, loss=listening))
    assert seen == [pairs, pairs]


def test_every_update_compares_another_minibatch():
    pairs, seen = dataclasses.replace(some_pairs(), confidence=torch.arange(5) / 5), []

    def listening(chosen, rejected, confidence, *, normaliser):
        seen.append(confidence.tolist())
        return WEIGHTED_DPO(chosen, rejected, confidence, normaliser=normaliser)

    train(apart(pairs=pairs), preferring(3, loss=listening))
    assert len({str(minibatch) for minibatch in seen}) == len(seen) == 3


def test_the_reference_moves_to_the_policy_when_the_phase_begins_and_stays():
    learner = make_learner()
    start, seen = copy.deepcopy(learner.reference.model.state_dict()), []

    def collect(learner: Learner) -> Pairs:
        # Pairs are made while the reference is still the one of before: the phases before it have not moved it.
        seen.append(weights(learner))
        assert same(start, learner.reference.model.state_dict()) and not same(start, seen[0])
        return some_pairs()

    records = run_phases(learner, [online(2), preferring(3, collect=collect)])
    next(records), next(records)
    at_the_start, references = weights(learner), []
    for record in records:
        references.append({name: p.clone() for name, p in learner.reference.model.named_parameters()})
        assert record["phase"] == "DPO"
    assert len(seen) == 1 and same(seen[0], at_the_start)
    assert len(references) == 3 and all(same(at_the_start, reference) for reference in references)
    assert not same(at_the_start, weights(learner))  # the policy has gone on
    assert not any(p.requires_grad for p in learner.reference.model.parameters())


def test_preference_learns():
    learner = make_learner()
    records = train(learner, preferring(30))
    # At the start the policy is its reference: all margins are 0, and a tie counts as wrong.
    assert records[0]["loss/preference"] == pytest.approx(math.log(2))
    assert records[0]["preference/margin"] == pytest.approx(0, abs=1e-5) and records[0]["preference/accuracy"] == 0
    assert records[-1]["preference/margin"] > 5 and records[-1]["preference/accuracy"] == 1
    assert records[-1]["loss/preference"] < 0.1
    # The same pairs the other way round: what was chosen is unlearned.
    swapped = dataclasses.replace(some_pairs(), confidence=torch.zeros(5))
    records = train(make_learner(), preferring(30, collect=lambda learner: swapped))
    assert records[-1]["preference/margin"] < -5


def test_a_pair_of_which_nobody_is_sure_teaches_nothing():
    learner = make_learner()
    (record,) = train(learner, preferring(1, collect=lambda learner: some_pairs(confidence=0.5)))
    assert record["grad_norm"] == pytest.approx(0, abs=1e-6)


def test_what_pairs_cost_and_how_they_were_made_is_recorded_once():
    records = train(make_learner(), online(1), preferring(3), online(1))
    spent = [record["generated_tokens"] for record in records]
    assert spent[1] == spent[2] == spent[3] == spent[0] + 500 and spent[4] > spent[3] and spent[0] > 0
    assert [record.get("agreement") for record in records] == [None, 0.75, None, None, None]
    names = {"update", "phase", "generated_tokens", "loss/preference", "grad_norm"}
    names |= {f"preference/{name}" for name in ("margin", "accuracy", "chosen", "rejected")}
    assert set(records[2]) == set(records[3]) == names and set(records[1]) == names | {"agreement"}


def collecting(log: list):
    """A ``collect`` whose pairs depend on what the policy says, and which notes when it was asked."""

    def collect(learner: Learner) -> Pairs:
        log.append(learner.updates_done)
        problems, noise = learner.problems(learner.updates_done, 5), learner.generator(learner.updates_done, "pairs")
        rollouts = roll_out(learner.policy, learner.task, problems, samples=2, generator=noise)
        return Pairs(rollouts.ids, rollouts.own, torch.ones(5), rollouts.generated_tokens(), {"pairs": 5.0})

    return collect


def test_every_phase_compares_pairs_of_its_own():
    log: list[int] = []
    learner, phases = make_learner(), [SupervisedPhase("SFT", 2, examples)]
    phases += [preferring(2, name=name, collect=collecting(log)) for name in ("one", "two")]
    generator, kept, references = run_phases(learner, phases), {}, {}
    for record in generator:
        update = record["update"]
        kept[update] = learner.pairs
        references[update] = {name: p.clone() for name, p in learner.reference.model.named_parameters()}
        if update in (2, 4):  # where the next phase begins, and what its reference becomes
            references[f"policy {update}"] = weights(learner)
    assert log == [2, 4]
    # Pairs are kept while a phase lasts, and forgotten with its last update.
    assert kept[1] is kept[2] is kept[4] is kept[6] is None
    assert kept[3].ids.shape[0] == kept[5].ids.shape[0] == 10 and kept[3].ids.tolist() != kept[5].ids.tolist()
    assert same(references[3], references["policy 2"]) and same(references[5], references["policy 4"])
    assert not same(references[3], references[5]) and same(references[3], references[4])


def test_a_phase_without_updates_collects_nothing():
    records = train(make_learner(), preferring(0, collect=None), SupervisedPhase("SFT", 1, examples))
    assert [record["phase"] for record in records] == ["SFT"]


PREFERENCES = [2, 3, 2]  # updates of SFT and of two phases of preference


@pytest.mark.parametrize("stop", range(8))
def test_a_resumed_run_compares_the_same_pairs(stop, tmp_path):
    def phases(log: list) -> list:
        supervised, one, two = PREFERENCES
        return [
            SupervisedPhase("SFT", supervised, examples),
            preferring(one, name="one", collect=collecting(log)),
            preferring(two, name="two", collect=collecting(log)),
        ]

    asked, before, after = [], [], []
    whole = make_learner(1)
    records = train(whole, *phases(asked))
    assert asked == [2, 5]

    first = make_learner(1)
    generator = run_phases(first, phases(before))
    seen = [next(generator) for _ in range(stop)]
    save_checkpoint(tmp_path, first, 0, moving_reference=True)
    second = make_learner(1)
    load_newest_checkpoint(tmp_path, second)
    assert (second.pairs is None) == (first.pairs is None) == (stop not in (3, 4, 6))
    del first, generator

    assert seen + train(second, *phases(after)) == records
    assert same(weights(whole), weights(second))
    assert same(whole.reference.model.state_dict(), second.reference.model.state_dict())
    assert before + after == asked  # in the middle of a phase nobody collects again


# --- phases and resuming --------------------------------------------------------------------------------------------

PHASES = [online(2, name="first"), SupervisedPhase("second", 3, examples), online(0, name="empty"), online(2)]


def test_phases_follow_each_other():
    records = train(make_learner(), *PHASES)
    assert [record["phase"] for record in records] == ["first"] * 2 + ["second"] * 3 + ["RL"] * 2
    assert [record["update"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    spent = [record["generated_tokens"] for record in records]
    assert spent[2] == spent[3] == spent[4] == spent[1] + 1000  # collecting costs once
    assert spent[0] < spent[1] and spent[4] < spent[5] < spent[6]


@pytest.mark.parametrize("stop", range(8))
def test_a_resumed_run_is_the_undisturbed_run(stop):
    whole = make_learner(1)
    records = train(whole, *PHASES)

    first = make_learner(1)
    generator = run_phases(first, PHASES)
    seen = [next(generator) for _ in range(stop)]
    # What a checkpoint holds, put into a new learner; its reference is the base again.
    second = make_learner(1)
    second.policy.model.load_state_dict(first.policy.model.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.updates_done, second.generated_tokens = first.updates_done, first.generated_tokens
    del first, generator

    assert seen + train(second, *PHASES) == records
    assert same(weights(whole), weights(second))


@pytest.mark.parametrize("stop", range(5))
def test_a_resumed_run_whose_teacher_moves_is_the_undisturbed_run(stop, tmp_path):
    # The reference follows the policy and teaches it: what a checkpoint holds must include it.
    phases = [online(4, teacher=hint, reference_decay=0.9)]
    whole = make_learner(1)
    records = train(whole, *phases)
    assert all(record["loss/distillation"] > 0 for record in records)

    first = make_learner(1)
    generator = run_phases(first, phases)
    seen = [next(generator) for _ in range(stop)]
    save_checkpoint(tmp_path / "whole", first, 0, moving_reference=True)
    save_checkpoint(tmp_path / "part", first, 0, moving_reference=False)
    second, third = make_learner(1), make_learner(1)
    load_newest_checkpoint(tmp_path / "whole", second)
    load_newest_checkpoint(tmp_path / "part", third)
    del first, generator

    assert seen + train(second, *phases) == records
    assert same(weights(whole), weights(second))
    assert same(whole.reference.model.state_dict(), second.reference.model.state_dict())
    if 0 < stop < 4:  # whoever goes on from the base as teacher ends elsewhere
        assert seen + train(third, *phases) != records


def test_a_finished_run_has_nothing_left_to_do():
    learner = make_learner()
    train(learner, *PHASES)
    before = weights(learner)
    assert train(learner, *PHASES) == []
    assert same(before, weights(learner))


# --- memory ---------------------------------------------------------------------------------------------------------


class Moving:
    """A memory: a baseline that moves half of the way to every new mean score, and a snapshot of the first weight."""

    def __init__(self) -> None:
        self.baseline, self.weight = torch.zeros(()), torch.zeros(1)

    def credit(self, rollouts: Rollouts) -> Credit:
        before = self.baseline
        self.baseline = (before + rollouts.scores.mean()) / 2
        found = credit(rollouts)
        shift = dataclasses.replace(found, advantages=found.advantages + before + self.weight)
        shift.stats["baseline"] = before.item()
        return shift

    def learned(self, policy: Policy) -> None:
        self.weight = next(policy.model.parameters()).detach().flatten()[:1].clone()

    def state(self) -> dict[str, torch.Tensor]:
        return {"baseline": self.baseline, "deep/weight": self.weight}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.baseline, self.weight = state["baseline"], state["deep/weight"]


def remembering() -> list[OnlinePhase]:
    """Two phases, each with a memory of its own."""
    one, two = Moving(), Moving()
    return [online(3, credit=one.credit, memory=one), online(2, credit=two.credit, memory=two, name="again")]


def test_a_phase_begins_with_an_empty_memory():
    records = train(make_learner(), *remembering())
    baselines = [record["baseline"] for record in records]
    assert baselines[0] == baselines[3] == 0 and 0 not in (baselines[1], baselines[2], baselines[4])


@pytest.mark.parametrize("stop", range(6))
def test_a_resumed_run_remembers(stop, tmp_path):
    whole = make_learner(1)
    records = train(whole, *remembering())
    first = make_learner(1)
    generator = run_phases(first, remembering())
    seen = [next(generator) for _ in range(stop)]
    save_checkpoint(tmp_path, first, 0)
    second = make_learner(1)
    load_newest_checkpoint(tmp_path, second)
    assert second.memory.keys() == (set() if stop in (0, 3, 5) else {"baseline", "deep/weight"})
    assert seen + train(second, *remembering()) == records
    assert same(weights(whole), weights(second))


def test_a_phase_says_what_is_logged():
    (record,) = train(make_learner(), online(1, stats=lambda rollouts: {"rows": float(len(rollouts.items))}))
    assert record["rows"] == 12 and "accuracy@1" not in record
    (usual,) = train(make_learner(), online(1))
    assert "rows" not in usual and "accuracy@1" in usual


def test_what_a_memory_says_of_the_new_policy_is_logged():
    class Watching(Moving):
        def learned(self, policy: Policy) -> dict[str, float]:
            super().learned(policy)
            return {"weight": self.weight.item()}

    learner = make_learner()
    (record,) = train(learner, online(1, memory=Watching()))
    assert record["weight"] == next(iter(weights(learner).values())).flatten()[0]


# --- samplers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("pool", [None, 5])
def test_a_run_resumed_in_the_middle_of_a_curriculum_goes_on_as_if_nothing_had_happened(name, pool, tmp_path):
    rule = read_rule({"rule": name, "levels": [1, 2, 3], "pool": pool}, "here")
    phases = [online(2), online(3, name="again")]
    whole = make_learner(1, sampler=rule, updates=5)
    records = train(whole, *phases)
    assert all(record.keys() >= {"informative", "in_band", "chosen/1", "chosen/3"} for record in records)
    first = make_learner(1, sampler=rule, updates=5)
    generator = run_phases(first, phases)
    seen = [next(generator) for _ in range(3)]
    save_checkpoint(tmp_path, first, 0)
    second = make_learner(1, sampler=rule, updates=5)
    load_newest_checkpoint(tmp_path, second)
    assert seen + train(second, *phases) == records
    assert same(weights(whole), weights(second))
    assert second.sampler.state().keys() == whole.sampler.state().keys()
    for key, value in whole.sampler.state().items():
        assert value.numpy().tobytes() == second.sampler.state()[key].numpy().tobytes(), key


def test_a_sampler_sees_what_its_choice_led_to():
    """Scores that are shuffled are what everybody sees, the sampler, too."""
    for shuffled in (False, True):
        learner = make_learner(1, sampler=read_rule({"rule": "learnability", "rate": 1.0, "levels": [1, 2]}, "here"))
        (record,) = train(learner, online(1, shuffle_scores=shuffled))
        known = dict(zip((1, 2), learner.sampler.state()["success"].tolist(), strict=True))
        assert {level: record[f"score/{level}"] for level in known if f"score/{level}" in record} == pytest.approx(
            {level: known[level] for level in known if f"score/{level}" in record}
        )


def test_without_a_sampler_there_is_nothing_of_it_in_records_and_checkpoints(tmp_path):
    learner = make_learner()
    (record,) = train(learner, online(1))
    assert not [key for key in record if key.startswith(("chosen", "score", "in_band", "informative"))]
    save_checkpoint(tmp_path, learner, 0)
    assert b"sampler/" not in next(tmp_path.glob("*.safetensors")).read_bytes()


def test_supervised_phases_draw_from_the_sampler_too():
    learner = make_learner(sampler=read_rule({"rule": "uniform", "pool": 2}, "here"))
    assert {(item.level, item.index) for update in range(9) for item in learner.problems(update, 2)} == {(1, 0), (1, 1)}


def test_progress_is_that_of_tokens_where_they_are_limited():
    assert make_learner().progress(1) == 0.25
    learner = make_learner(tokens=100)
    learner.generated_tokens = 60
    assert learner.progress(1) == 0.6 and learner.progress(3) == 0.75


# --- budgets of tokens, losses of one's own, rounds of self-training -------------------------------------------------


def test_training_ends_with_the_update_that_reaches_the_budget_of_tokens(tmp_path):
    free = [record["generated_tokens"] for record in train(make_learner())]
    for budget, updates in ((free[1], 2), (free[1] + 1, 3), (free[-1] + 1, 4)):
        learner = make_learner(tokens=budget)
        assert [record["generated_tokens"] for record in train(learner)] == free[:updates]
        assert train(learner) == []  # and is over


def test_a_loss_of_its_own_takes_the_place_of_the_policy_gradient():
    asked = []

    def loss(logprobs, sampled, advantages, own, objective, totals):
        assert logprobs.shape == sampled.shape == advantages.shape == own.shape and objective is REINFORCE
        asked.append(totals.episodes)
        return logprobs[own].sum() / totals.tokens, {"loss/mine": 1.0 / 3}

    one, two = make_learner(micro_batches=3), make_learner()
    (record,) = train(one, online(1, loss=loss))
    assert asked == [12] * 3 and record["loss/mine"] == pytest.approx(1.0) and "loss/policy" not in record
    train(two, online(1))
    assert not same(weights(one), weights(two))


def test_a_round_of_self_training_collects_from_the_policy_as_it_is(tmp_path):
    def collect(learner: Learner) -> Examples:
        found = examples(learner)
        policy = next(iter(weights(learner).values())).sum().item()
        reference = next(learner.reference.model.parameters()).sum().item()
        collected.append((policy, reference))
        return dataclasses.replace(found, stats={"reference": reference})

    phases = [SupervisedPhase(name, 2, collect, from_policy=True) for name in ("one", "two")]
    collected: list[tuple[float, float]] = []
    records = train(make_learner(), *phases)
    assert all(policy == reference for policy, reference in collected)
    assert collected[0] != collected[1]
    assert [record.get("reference") for record in records] == [collected[0][1], None, collected[1][1], None]
    assert [record["generated_tokens"] for record in records] == [1000, 1000, 2000, 2000]

    first = make_learner()
    generator = run_phases(first, phases)
    seen = [next(generator) for _ in range(3)]
    save_checkpoint(tmp_path, first, 0, moving_reference=True)
    second = make_learner()
    load_newest_checkpoint(tmp_path, second)
    assert seen + train(second, *phases) == records
    assert collected[-1][1] == collected[1][1]  # from the policy with which the round began


def test_imitation_of_the_base_leaves_the_reference_alone():
    learner = make_learner()
    before = next(learner.reference.model.parameters()).clone()
    train(learner, SupervisedPhase("SFT", 2, examples), SupervisedPhase("more", 2, examples))
    assert torch.equal(next(learner.reference.model.parameters()), before)
