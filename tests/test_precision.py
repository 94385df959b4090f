"""``train.autocast``: updates whose matrix products have 16 bits, and all that they must not change."""

import math
from dataclasses import replace

import pytest
import torch

from minirl.batches import precision
from minirl.config import LoraConfig, TaskConfig, TrainConfig
from minirl.errors import ConfigError
from minirl.experiments.resolve import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy, with_adapter
from minirl.techniques.baselines import MultiTurnRL
from minirl.techniques.self_correction.score import Score

BASE, BITS_16, CPU = "add-repeating", {"autocast": "bfloat16"}, torch.device("cpu")
LORA = LoraConfig(rank=4, alpha=8, targets=["q_proj", "v_proj"])  # what it is put on, the fast forward pass cannot do


def train_config(**changes) -> TrainConfig:
    train = {"updates": 1, "prompts": 16, "samples": 8, "turns": 2, "learning_rate": 1e-3, "max_grad_norm": 1e9}
    return TrainConfig(**{**train, **changes})


def first_update(method, lora: LoraConfig | None = None, **changes) -> tuple[torch.Tensor, dict]:
    """Gradient and record of an update from a shipped base."""
    policy, train = load_policy(BASE), train_config(**changes)
    if lora:
        policy = with_adapter(policy, lora, seed=0)
    learner = Learner(policy, TaskConfig(name="add", level=1), train, seed=0)
    record = next(run_phases(learner, method.phases(train)))
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in learner.parameters)
    return torch.cat([p.grad.flatten() for p in learner.parameters]), record


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "an adapter"])
def test_the_gradient_is_nearly_that_of_float32(lora):
    method = MultiTurnRL(objective="dapo", beta=0.1)
    (exact, _), (rounded, record) = first_update(method, lora), first_update(method, lora, **BITS_16)
    assert not torch.equal(exact, rounded)  # or nothing had happened
    assert cosine(exact, rounded) > 0.95
    assert 0 < abs(record["ratio"] - 1) < 0.01  # of the policy in 16 bits to the one that sampled


def test_what_is_sampled_does_not_change():
    (_, exact), (_, rounded) = first_update(MultiTurnRL()), first_update(MultiTurnRL(), **BITS_16)
    sampled = ["generated_tokens", "accuracy@1", "accuracy@2", "copy_rate", "return"]
    assert [rounded[name] for name in sampled] == [exact[name] for name in sampled]
    assert exact["accuracy@1"] > 0


def test_a_policy_does_not_diverge_from_itself():
    # The reference is rounded as the policy is, so their difference is not that of two precisions.
    _, record = first_update(MultiTurnRL(beta=0.1), **BITS_16)
    assert record["kl@1"] == record["kl@2"] == 0


def test_micro_batches_still_add_up_to_the_batch():
    (one, _), (four, _) = (first_update(MultiTurnRL(), **BITS_16, micro_batches=n) for n in (1, 4))
    assert (one - four).norm() < 0.01 * one.norm()


@pytest.mark.parametrize(("slug", "arm"), [("score", "pair_sft"), ("spin", "spin"), ("sdpo", "sdpo")])
def test_imitation_preferences_and_teachers_learn_in_16_bits_too(slug, arm):
    records = {}
    for autocast in (None, "bfloat16"):
        experiment = load_experiment(slug, "smoke", {"train.autocast": autocast})
        method, train = load_method(experiment, arm), experiment.train
        learner = Learner(load_policy(experiment.base), experiment.task, train, seed=100)
        records[autocast] = list(run_phases(learner, method.phases(train)))
    norms = [[record["grad_norm"] for record in those] for those in records.values()]
    assert all(math.isfinite(norm) for those in norms for norm in those)
    assert norms[0] != norms[1]
    assert norms[0][0] == pytest.approx(norms[1][0], rel=0.1)


def test_without_it_nothing_is_said_and_nothing_done():
    assert "autocast" not in train_config().model_dump()  # older results keep the hash of their config
    with precision(train_config(), CPU):
        assert not torch.is_autocast_enabled("cpu")
    with precision(train_config(**BITS_16), CPU):
        assert torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_an_error_that_names_the_key():
    with pytest.raises(ConfigError, match=r"train\.autocast"):
        load_experiment("score", "smoke", {"train.autocast": "float8"})


def test_engine_trl_computes_its_loss_in_16_bits_too(tmp_path):
    trl = pytest.importorskip("minirl.engines.trl")
    seen = []
    method, train = Score(alpha=0.5, beta_1=0.05, beta_2=0.5, stage_1=0.5), train_config(prompts=4, **BITS_16)
    engine = trl.PhaseTrainer(
        load_policy(BASE), method, TaskConfig(name="add", level=1), train, 0, tmp_path, save_strategy="no"
    )
    made = engine._generate_and_score_completions

    def watched(inputs):
        rows = made(inputs)
        loss = engine.batch.loss
        engine.batch = replace(engine.batch, loss=lambda *a: seen.append(torch.is_autocast_enabled("cpu")) or loss(*a))
        return rows

    engine._generate_and_score_completions = watched
    engine.train()
    assert seen == [True]
    with pytest.raises(ConfigError, match="bf16: follows from the train section"):
        trl.grpo_config(train, 0, tmp_path, bf16=True)
