"""Engine trl beside the local engine: the same losses and gradients, the same ten steps, and what it refuses.

Float32 on the CPU. The engines add up rows in another order (TRL shuffles them), so nothing is equal to the last bit.
The learning rate is 1e-3 where nothing else is said: AdamW moves a parameter by about as much in a step.
"""

import copy
import importlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from stand_ins import Lenient, sharp_policy
from transformers import TrainerCallback

from minirl.config import LoraConfig, TaskConfig, TrainConfig
from minirl.errors import ConfigError, TrainingError
from minirl.loops import Learner, derive_seed, policy_losses, run_phases
from minirl.policy.models import Policy, load_policy, with_adapter
from minirl.rollouts.episodes import roll_out
from minirl.techniques.baselines import AnswerSFT, MultiTurnRL, WatchedRL
from minirl.techniques.critique.critique_rl import CritiqueRL
from minirl.techniques.hard_prompts import GroupRL
from minirl.techniques.self_correction.rltf_text import RLTF
from minirl.techniques.self_correction.score import Score
from minirl.techniques.self_correction.sdpo import SDPO
from minirl.techniques.self_play.spiral import Spiral

pytest.importorskip("trl")

from minirl.engines.trl import PhaseTrainer, grpo_config, online_phases

ADD, GAPS = TaskConfig(name="add", level=5), TaskConfig(name="gaps", level=3)
CHAT = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def trainer(policy, method, task, train, directory, seed=100, **settings) -> PhaseTrainer:
    """A trainer that writes no checkpoints. The policy is copied: the other engine begins with the same one."""
    policy = Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.name)
    settings = {"save_strategy": "no", "disable_tqdm": True, **settings}
    return PhaseTrainer(policy, method, task, train, seed, directory, **settings)


class Steps(TrainerCallback):
    """Parameters after every optimiser step, and gradients before it."""

    def __init__(self, parameters):
        self.watched, self.parameters, self.gradients = list(parameters), [], []

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.gradients.append([p.grad.clone() for p in self.watched])

    def on_step_end(self, *args, **kwargs):
        self.parameters.append([p.detach().clone() for p in self.watched])


def watch(engine: PhaseTrainer) -> Steps:
    steps = Steps(p for p in engine.model.parameters() if p.requires_grad)
    engine.add_callback(steps)
    return steps


def largest(ours, theirs) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def distance(ours, theirs) -> float:
    return math.sqrt(sum((a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True)))


def snapshots(learner: Learner) -> list:
    """The learner's parameters after every optimiser step, from now on."""
    after, step = [], learner.step

    def watched(losses):
        norm = step(losses)
        after.append([p.detach().clone() for p in learner.parameters])
        return norm

    learner.step = watched
    return after


def assert_same_curve(records, history, passes=1) -> None:
    """What the local engine logged once an update is what TRL logged, which is once an optimiser step."""
    logs = [entry for entry in history if "entropy" in entry]
    assert len(logs) == passes * len(records)
    for u, record in enumerate(records):
        of_update = {name: value for entry in logs[passes * u : passes * (u + 1)] for name, value in entry.items()}
        wanted = {name: v for name, v in record.items() if name not in ("update", "phase", "generated_tokens")}
        assert {name: of_update[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        assert sum(entry.get("tokens", 0) for entry in logs[: passes * (u + 1)]) == record["generated_tokens"]


def moved(policy: Policy, amount: float) -> Policy:
    """``policy`` with every parameter moved a little, so that it differs from its reference."""
    with torch.no_grad():
        for n, parameter in enumerate(policy.model.parameters()):
            parameter += amount * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n))
    return policy


# --- The same rollouts: loss and gradient ---------------------------------------------------------------------------

SCORE = Score(alpha=0.5, beta_1=0.05, beta_2=0.5, stage_1=0.5)
SAME = {
    "group_rl": ("gaps-guessing", GroupRL(beta=0.05), GAPS, {"samples": 8}, 0),
    "SCoRe, stage I": ("add-repeating", SCORE, ADD, {"turns": 2}, 0),
    "SCoRe, stage II": ("add-repeating", SCORE, ADD, {"turns": 2, "temperature": 0.9}, 1),
    "DAPO, with k2": ("add-repeating", MultiTurnRL(objective="dapo", beta=0.1), ADD, {"turns": 2, "kl": "k2"}, 0),
    "GSPO, with k3": ("add-repeating", MultiTurnRL(objective="gspo", beta=0.1), ADD, {"turns": 2, "kl": "k3"}, 0),
}


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("case", SAME)
def test_the_same_rollouts_have_the_same_loss_and_gradient(case, micro_batches, tmp_path):
    """To 1e-6 of the loss and of the gradient's norm."""
    base, method, task, changes, which = SAME[case]
    train = train_config(updates=2, micro_batches=micro_batches, max_grad_norm=1e9, **changes)
    learner = Learner(load_policy(base), task, train, seed=100)
    phase = method.phases(train)[which]
    items = learner.problems(0, train.prompts)
    rolls = phase.roll_out or roll_out
    settings = {} if phase.roll_out else {"turns": train.turns, "samples": train.samples}
    rollouts = rolls(learner.policy, learner.task, items, generator=learner.generator(0, "sampling"), **settings)
    credit = phase.credit(rollouts)
    assert credit.advantages[rollouts.own].any()
    assert credit.kl.any()
    engine = trainer(learner.policy, method, task, train, tmp_path)
    for policy in (learner.policy, engine.policy):  # both are other than the reference and than what sampled
        moved(policy, 0.02)

    stats: dict[str, float] = {}
    losses = list(policy_losses(learner, rollouts, credit, phase.objective, stats, None, phase.loss))
    loss = sum(losses)
    loss.backward()
    gradient = [p.grad for p in learner.parameters]

    engine.phases, engine.ends = [replace(phase, updates=2, roll_out=lambda *_, **__: rollouts)], [2]
    engine.args.max_steps = 1
    steps, seen = watch(engine), []
    compute = engine._compute_loss
    engine._compute_loss = lambda *arguments: seen.append(compute(*arguments)) or seen[-1]
    engine.train()

    assert len(seen) == len(losses) == micro_batches
    assert sum(seen).item() == pytest.approx(loss.item(), abs=1e-6 * max(1, abs(loss.item())))
    (theirs,) = steps.gradients
    norm = sum(g.square().sum() for g in gradient).sqrt().item()
    assert norm > 1e-2
    assert largest(gradient, theirs) < 1e-6 * max(1.0, norm)
    logged = engine.state.log_history[0]
    assert {name: logged[name] for name in stats} == pytest.approx(stats, abs=1e-5)


# --- Ten steps ------------------------------------------------------------------------------------------------------

TEN = {
    "SCoRe": ("add-repeating", SCORE, ADD, {"turns": 2, "micro_batches": 2, "warmup": 3, "weight_decay": 0.1}),
    "group_rl": ("gaps-guessing", GroupRL(beta=0.05), GAPS, {"samples": 8, "updates": 5, "passes": 2}),
    "shuffled": (
        "add-repeating",
        MultiTurnRL(objective="grpo", shuffle_scores=True),
        ADD,
        {"turns": 2, "learning_rate": 3e-4},
    ),
}


@pytest.mark.parametrize("case", TEN)
def test_ten_steps_are_the_same_on_both_engines(case, tmp_path):
    """After every step: no parameter differs by a tenth of a step, and all together by a thousandth of the way."""
    base, method, task, changes = TEN[case]
    train = train_config(**changes)
    learner = Learner(load_policy(base), task, train, seed=100)
    after, start = snapshots(learner), [p.detach().clone() for p in learner.parameters]
    engine = trainer(learner.policy, method, task, train, tmp_path)
    steps = watch(engine)
    records = list(run_phases(learner, method.phases(train)))
    engine.train()
    assert len(after) == len(steps.parameters) == 10
    for ours, theirs in zip(after, steps.parameters, strict=True):
        assert largest(ours, theirs) < 0.1 * train.learning_rate
        assert distance(ours, theirs) < 1e-3 * distance(ours, start)
    assert_same_curve(records, engine.state.log_history, train.passes)
    assert len({entry["learning_rate"] for entry in engine.state.log_history[:-1]}) == train.warmup + 1


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    train, base = train_config(turns=2, updates=6), load_policy("add-repeating")
    whole = trainer(base, SCORE, ADD, train, tmp_path, save_strategy="steps", save_steps=3)
    whole.train()
    resumed = trainer(base, SCORE, ADD, train, tmp_path / "again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert largest(whole.model.parameters(), resumed.model.parameters()) == 0.0
    assert whole.policy.name == base.name


# --- Models in hub format, with LoRA --------------------------------------------------------------------------------

LORA = LoraConfig(rank=4, alpha=8, targets=["q_proj", "v_proj"])


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A directory in hub format with a chat template; its untrained model gets some problems of ADD right."""
    for engine in ("minirl.loops", "minirl.engines.trl"):
        monkeypatch.setattr(f"{engine}.get", lambda name: Lenient())
    policy = sharp_policy()
    policy.tokenizer.chat_template = CHAT
    policy.save(tmp_path / "model")
    return tmp_path / "model"


def test_lora_on_a_model_in_hub_format_with_a_chat_template(saved, tmp_path):
    """Five steps as on the local engine, whose reference is a copy; here it is the model without its adapter."""
    train, task = train_config(turns=2, updates=5, learning_rate=1e-2), TaskConfig(name="add", level=1)
    before = load_policy(saved)
    assert before.has_template
    learner = Learner(with_adapter(load_policy(saved), LORA, seed=7), task, train, seed=100)
    after = snapshots(learner)
    records = list(run_phases(learner, SCORE.phases(train)))

    engine = trainer(with_adapter(load_policy(saved), LORA, seed=7), SCORE, task, train, tmp_path / "run")
    steps = watch(engine)
    engine.train()
    assert len(steps.watched) == 2 * 2 * 2  # A and B of two projections in two layers
    start, ids = [torch.zeros_like(p) for p in after[0]], torch.arange(40).view(2, 20)
    for ours, theirs in zip(after, steps.parameters, strict=True):
        assert largest(ours, theirs) < 0.1 * train.learning_rate
        assert distance(ours, theirs) < 1e-3 * distance(ours, start)
    assert_same_curve(records, engine.state.log_history)
    assert records[-1]["kl@1"] > 1e-3  # and so the KL penalty was there

    with torch.no_grad():
        model = engine.policy.logits(ids)
        assert largest([engine.reference.logits(ids)], [before.logits(ids)]) < 1e-5
        assert largest([model], [before.logits(ids)]) > 1e-3
        engine.save_model(str(tmp_path / "adapter"))
        reloaded = PeftModel.from_pretrained(load_policy(saved).model, str(tmp_path / "adapter"))
        assert largest([reloaded(ids).logits], [model]) < 1e-5


def test_the_reference_of_a_model_that_brings_an_adapter_is_that_model(saved, tmp_path):
    """Without its adapter it would be the base, which is not where training began."""
    adapted = moved(with_adapter(load_policy(saved), LORA, seed=7), 0.1)
    train, ids = train_config(updates=2), torch.arange(40).view(2, 20)
    with torch.no_grad():
        wanted = adapted.logits(ids)
        engine = trainer(adapted, MultiTurnRL(), TaskConfig(name="add"), train, tmp_path / "run")
        with torch.enable_grad():
            engine.train()
        assert torch.equal(engine.reference.logits(ids), wanted)
        assert largest([engine.policy.logits(ids)], [wanted]) > 1e-4


def test_the_model_is_left_as_it_was_but_for_its_weights(tmp_path):
    """TRL replaces `forward`; in a copy that would still run the weights of the original."""
    engine = trainer(sharp_policy(), MultiTurnRL(), TaskConfig(name="add"), train_config(updates=1), tmp_path)
    engine.train()
    ids = torch.arange(40).view(2, 20)
    copied = engine.policy.frozen_copy()
    with torch.no_grad():
        wanted = copied.model(ids).logits
        moved(engine.policy, 0.1)
        assert torch.equal(copied.model(ids).logits, wanted)


def test_trl_writes_its_table_of_completions(tmp_path):
    train = train_config(updates=1, turns=2)
    engine = trainer(load_policy("add-repeating"), SCORE, ADD, train, tmp_path, log_completions=True)
    engine.train()
    (path,) = (tmp_path / "completions").glob("*.parquet")
    table = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    items = engine.task.items(derive_seed(100, "problems"), range(train.prompts), ADD.level)
    assert table["prompt"] == [item.prompt for item in items for _ in range(train.samples)]
    scores = [engine.task.score(items[row // 4], text.split("\n")[1]) for row, text in enumerate(table["completion"])]
    assert table["score"] == scores
    assert 0 < sum(scores) < len(scores)


# --- What is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "second learner": (Spiral(), {"samples": 2}, "second learner"),
    "memory": (WatchedRL(task="add", levels=(1,)), {}, "remembers earlier updates"),
    "teacher": (SDPO(), {}, "another prompt than the sampled one"),
    "moving reference": (CritiqueRL(actor="tally-critics"), {}, "a reference that moves"),
    "supervised": (AnswerSFT(), {}, "online phases only, not SupervisedPhase"),
    "sampler": (MultiTurnRL(sampler="bandit"), {}, "key 'sampler'"),
    "tokens": (MultiTurnRL(), {"tokens": 1000}, "key 'train.tokens'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_trl_cannot_express_is_refused(case):
    method, changes, message = REFUSED[case]
    with pytest.raises(ConfigError, match=f"engine trl: .*({message}).*[Ll]ocal engine"):
        online_phases(method, train_config(**changes))


ON_THE_WAY = {
    "other sequences": (RLTF(self_distillation=1.0), "other sequences than those sampled"),
    "branches": (MultiTurnRL(turns=1), "made 32 rollouts, and GRPOTrainer has 16"),
}


@pytest.mark.parametrize("case", ON_THE_WAY)
def test_what_only_rollouts_show_is_refused_in_the_first_update(case, tmp_path):
    method, message = ON_THE_WAY[case]
    engine = trainer(load_policy("add-repeating"), method, ADD, train_config(turns=2), tmp_path)
    with pytest.raises(ConfigError, match=f"{message}.*local engine"):
        engine.train()


def test_a_mistyped_setting_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"'save_step'. Did you mean 'save_steps'"):
        grpo_config(train_config(), 0, tmp_path, save_step=5)


def test_settings_that_contradict_the_config_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="beta, num_generations: follows from the train section"):
        grpo_config(train_config(), 0, tmp_path, num_generations=2, beta=0.1)
    with pytest.raises(ConfigError, match="4 × 4 rollouts are not 1 × 3 equal parts"):
        grpo_config(train_config(micro_batches=3), 0, tmp_path)
    with pytest.raises(ConfigError, match="5 × 4 rollouts are not 2 × 1 equal parts with whole groups"):
        grpo_config(train_config(prompts=5), 0, tmp_path, ranks=2)


def test_a_gradient_that_is_not_finite_stops_training(tmp_path):
    method = MultiTurnRL()
    engine = trainer(load_policy("add-repeating"), method, ADD, train_config(turns=2), tmp_path)
    broken = replace(engine.phases[0], loss=lambda logprobs, *_: (logprobs.sum() * math.inf, {}))
    engine.phases = [broken]
    before = [p.detach().clone() for p in engine.model.parameters()]
    with pytest.raises(TrainingError, match="optimiser step 1: the gradient is nan"):
        engine.train()
    assert largest(engine.model.parameters(), before) == 0.0


def test_without_trl_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "minirl.engines.trl")
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'minirl\[trl\]'"):
        importlib.import_module("minirl.engines.trl")


# --- Several ranks --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_are_one_rank_with_the_same_batch(tmp_path):
    """Where ranks have unequal numbers of tokens, over all of which the loss is a mean. One rank runs the written-out
    forward pass, two run the model's own, which rounds otherwise."""
    script, root = Path(__file__).with_name("two_ranks.py"), Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ends = []
    for ranks, command in (("one", [sys.executable]), ("two", launched)):
        (tmp_path / ranks).mkdir()
        done = subprocess.run(
            [*command, str(script), str(tmp_path / ranks)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        ends.append(load_file(tmp_path / ranks / "end"))
    start = {name: p.detach() for name, p in load_policy("add-repeating").model.named_parameters()}
    one, two, begun = ([end[name] for name in start] for end in (*ends, start))
    assert largest(one, two) < 0.5 * 1e-3
    assert distance(one, two) < 5e-3 * distance(one, begun)
    for name in ends[0].keys() - start.keys():  # what was logged
        assert ends[0][name].tolist() == pytest.approx(ends[1][name].tolist(), rel=1e-3)
