"""The loops: micro-batches, seeds, resuming, what is logged, and what stops a run.

The policies are untrained and tiny. So that they earn something, an attempt counts as right when it begins with a
lower-case letter (26 of the 87 tokens).
"""

import copy
import math
from types import SimpleNamespace

import peft
import pytest
import torch

from minirl import loops
from minirl.config import TaskConfig, TrainConfig
from minirl.errors import TrainingError
from minirl.loops import Learner, derive_seed, piece, policy_losses, rollout_stats, run_phases
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.add import Addition
from minirl.techniques.base import Credit, Examples, OnlinePhase, SupervisedPhase, turn_credit


class Lenient(Addition):
    def check(self, item, answer):
        return answer[:1].islower()


REINFORCE = OBJECTIVES["reinforce"]
TRAIN = TrainConfig(updates=4, prompts=3, samples=4, turns=2, learning_rate=1e-2)


def make_learner(seed: int = 0, policy: Policy | None = None, **changes) -> Learner:
    policy = policy or tiny_llama(16, 2, 4)
    learner = Learner(policy, TaskConfig(name="add", level=1), TRAIN.model_copy(update=changes), seed)
    learner.task = Lenient()
    return learner


def credit(rollouts: Rollouts) -> Credit:
    return turn_credit(rollouts, rollouts.scores, (0.3, 0.1), TRAIN.samples, gamma=1.0)


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
    monkeypatch.setattr(loops, "entropy", lambda logits: sizes.append(len(logits)) or torch.zeros(logits.shape[:-1]))
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
    real = loops.roll_out
    monkeypatch.setattr(loops, "roll_out", lambda *a, **settings: calls.append(settings) or real(*a, **settings))
    train(make_learner(temperature=0.5, feedback="binary"), online(1))
    (settings,) = calls
    assert settings.pop("generator").initial_seed() == make_learner().generator(0, "sampling").initial_seed()
    assert settings == {"turns": 2, "samples": 4, "temperature": 0.5, "feedback": "binary"}


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
        return turn_credit(rollouts, rollouts.scores, (0.0, 0.0), TRAIN.samples, gamma=1.0)

    rollouts = loops.roll_out(learner.policy, learner.task, learner.problems(0, 3), turns=2, samples=4)
    stats: dict[str, float] = {}
    list(policy_losses(learner, rollouts, free(rollouts), REINFORCE, stats))
    assert "kl@1" not in stats and "entropy" in stats


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
        ids=torch.zeros(4, 1, dtype=torch.long),
        turn=torch.full((4, 1), -1),
        logprobs=torch.zeros(4, 1),
        scores=torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        group=torch.zeros(4, dtype=torch.long),
        # The last two attempts are equal in rows 1, 3 and 4; that row 2 repeats its first one does not count.
        answers=[["1", "03", "03"], ["7", "5", "7"], ["03", "3", "3"], ["1", "1", "1"]],
        items=items,
        longest=1,
    )
    expected = {"accuracy@1": 0.25, "accuracy@2": 0.25, "accuracy@3": 0.75, "copy_rate": 0.75}
    assert rollout_stats(rollouts) == expected
    rollouts.scores = rollouts.scores[:, :1]
    assert rollout_stats(rollouts) == {"accuracy@1": 0.25}


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
    monkeypatch.setattr(loops, "EXACT_UP_TO", 1)
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


def test_a_finished_run_has_nothing_left_to_do():
    learner = make_learner()
    train(learner, *PHASES)
    before = weights(learner)
    assert train(learner, *PHASES) == []
    assert same(before, weights(learner))
