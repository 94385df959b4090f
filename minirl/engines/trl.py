"""Engine ``trl``: a method on TRL's GRPOTrainer, for models that one process cannot train.

:class:`PhaseTrainer` replaces two methods of the trainer. The one that generates and scores makes the batch of an
update: rollouts and their credit, examples to imitate, or pairs of which one is preferred. The one for the loss calls
the objective of the phase. So problems, rollouts, credit and loss are the functions that the local engine
(:mod:`minirl.loops`) calls, and a :class:`~minirl.loops.Learner` knows what it knows there: reference, pairs, memory,
sampler. The rest is TRL's, transformers' and accelerate's: accumulation of gradients, several processes, checkpoints,
loggers. Several ranks share out rollouts as on the local engine (:mod:`minirl.ranks`).

How a run differs from one on the local engine
----------------------------------------------
1. Before it splits a batch into micro-batches, TRL shuffles its rows: sums are rounded otherwise, and the weight
   ``micro_batch`` of an objective, which is a statistic of the split, has another value if there is more than one.
2. The reference of a policy with a fresh adapter, if it never moves, is its model with the adapter disabled.
3. TRL saves after optimiser steps, and a resumed run rolls out anew: with ``train.passes`` above 1 a checkpoint within
   an update resumes with fresh rollouts of it. Rollouts are in no checkpoint; what the learner knows is.
4. Its checkpoints hold optimiser and random numbers as torch pickles them, which is TRL's way; they are read with
   ``weights_only`` and only if they are what was written.
5. A phase of imitation or preference takes one step an update, and TRL takes ``train.passes`` in all: they must be 1.
"""

from __future__ import annotations

import contextlib
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from minirl import ranks
from minirl.batches import Batch, online_batch, precision, preference_batch, supervised_batch
from minirl.config import TaskConfig, TrainConfig, nearest
from minirl.engines.state import moves, restore_side, side_tensors
from minirl.errors import ConfigError, TrainingError
from minirl.loops import Learner, Record, rollout_stats
from minirl.loops import accumulate as accumulate_parts
from minirl.policy.models import Policy, follow
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.samplers import Rule, read_rule
from minirl.techniques.base import (
    Credit,
    Examples,
    Method,
    OnlinePhase,
    Phase,
    PreferencePhase,
    SupervisedPhase,
    episodes,
)

try:
    from trl import GRPOConfig, GRPOTrainer
    from trl.models.utils import unwrap_model_for_generation
except ImportError as error:
    raise ConfigError(f"engine trl: TRL is not installed ({error}): pip install 'minirl[trl]'") from error

EXTRAS = "learner.safetensors"  # in a checkpoint: what the learner knows besides its policy


def check_phases(phases: list[Phase], train: TrainConfig) -> None:
    """Raise :class:`ConfigError` for what GRPOTrainer has no place for."""
    for phase in phases:
        if train.passes > 1 and not isinstance(phase, OnlinePhase):
            raise ConfigError(
                f"engine trl: key 'train.passes': phase {phase.name!r} takes one step an update, and GRPOTrainer takes "
                f"{train.passes} in all of them; set it to 1, or use the local engine"
            )


def rows_of_a_part(train: TrainConfig, count: int) -> int:
    """Rollouts in a micro-batch of each of ``count`` ranks. Raises :class:`ConfigError` if parts would not be equal."""
    rows, left = divmod(train.prompts * train.samples, count * train.micro_batches)
    if left:
        raise ConfigError(
            f"engine trl: {train.prompts} × {train.samples} rollouts are not {count} × {train.micro_batches} equal "
            "parts: change train.prompts or train.micro_batches"
        )
    return rows


def grpo_config(train: TrainConfig, seed: int, directory: str | Path, count: int = 1, **settings: Any) -> GRPOConfig:
    """``train`` in TRL's words, for ``count`` ranks, and further ``settings`` of a GRPOConfig. Raises
    :class:`ConfigError`."""
    given: dict[str, Any] = {
        "max_steps": train.updates * train.passes,
        "num_generations": train.samples,
        "per_device_train_batch_size": rows_of_a_part(train, count),
        "gradient_accumulation_steps": train.micro_batches,
        "num_iterations": train.passes,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "temperature": train.temperature,
        "seed": seed,
        "shuffle_dataset": False,  # problems come in the order of updates
        "bf16": False,  # `train.autocast` says so of the loss, and nothing else is to change
        "beta": 0.0,  # the KL penalty and its reference are ours
        "use_vllm": False,  # and so is sampling
    }
    if taken := sorted(given.keys() & settings.keys()):
        raise ConfigError(f"engine trl: {', '.join(taken)}: follows from the train section of the config or from seed")
    known = {field.name for field in fields(GRPOConfig)}
    for name in settings.keys() - known:
        raise ConfigError(f"engine trl: GRPOConfig has no setting {name!r}.{nearest(name, known)}")
    # Without dropout: attempts are sampled from the policy that the loss is about.
    plain = {"logging_steps": 1, "report_to": "none", "gradient_checkpointing": False, "disable_dropout": True}
    return GRPOConfig(str(directory), **given, **{**plain, **settings})


class WithoutAdapter(Policy):
    """The policy as it was before training, by the same weights without their LoRA adapter."""

    def logits(self, ids: Tensor, group: int = 1, shared: int = 0) -> Tensor:
        with self.model.disable_adapter():
            return super().logits(ids, group, shared)


def has_fresh_adapter(policy: Policy) -> bool:
    """Whether ``policy`` has an adapter that adds nothing yet: then its reference is the model without."""
    added = [p for name, p in policy.model.named_parameters() if "lora_B" in name]
    return bool(added) and not any(p.any() for p in added)


def score(**_: Any) -> list[float | None]:
    """TRL wants a reward function and shows its name. Scores come with the rollouts, so nobody calls it."""
    raise NotImplementedError


class PhaseTrainer(GRPOTrainer):
    """GRPOTrainer that trains ``policy`` with the phases of ``method``; :meth:`train` runs all of them.

    ``sampler`` says which problems come next, if it is not the method's own. ``settings`` are further ones of a
    GRPOConfig (``save_steps``, ``report_to`` …). ``on_record`` is called after every update with the record
    that the local engine would make of it, ``on_checkpoint`` with every directory that was saved. Raises
    :class:`ConfigError` for what TRL cannot express.
    """

    model: Any  # TRL's annotations allow for what is not there before training
    optimizer: Any
    _logs: Any

    def __init__(
        self,
        policy: Policy,
        method: Method,
        task: TaskConfig,
        train: TrainConfig,
        seed: int,
        directory: str | Path,
        *,
        sampler: Rule | None = None,
        **settings: Any,
    ) -> None:
        self.settings, self.phases = train, method.phases(train)
        check_phases(self.phases, train)
        self.ends = list(accumulate(phase.updates for phase in self.phases))
        if sampler is None and method.sampler is not None:
            sampler = read_rule(method.sampler, "sampler")
        if policy.device.type == "cpu":
            settings = {"use_cpu": True, **settings}
        place = PartialState(cpu=settings.get("use_cpu", False))
        # Its copy of the policy comes first: TRL gives the model another `forward`, and a copy would run the original.
        self.learner = Learner(policy, task, train, seed, sampler)
        fresh = has_fresh_adapter(policy) and not moves(self.phases)
        base = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
        forward = vars(base).get("forward")
        super().__init__(
            model=policy.model,
            reward_funcs=[score],
            args=grpo_config(train, seed, directory, place.num_processes, **settings),
            train_dataset=Dataset.from_dict({"index": list(range(train.updates * train.prompts))}),
            processing_class=policy.tokenizer,
            callbacks=[EndOfStep(self)],
        )
        # That `forward` computes log-probs without logits, and only TRL's own loss asks for it.
        del base.forward
        if forward is not None:
            base.forward = forward
        self.policy = self.learner.policy = replace(policy, model=self.model)
        if fresh:
            self.learner.reference = WithoutAdapter(self.model, policy.tokenizer, policy.name)
        self.on_record: Callable[[Record], None] = lambda _: None
        self.on_checkpoint: Callable[[Path], None] = lambda _: None
        self.record: Record = {}  # of the update whose batch TRL has in its buffer, as far as it has come
        self.batch: Batch | None = None  # that batch, of all ranks
        self.losses: dict[str, float] = {}  # of an optimiser step, as far as it has come
        self.examples: tuple[SupervisedPhase, Examples] | None = None  # those of the current phase

    def train(self, *arguments: Any, **settings: Any) -> Any:
        """All phases. The ranks are those that accelerate has joined."""
        with ranks.adopted(self.accelerator.process_index, self.accelerator.num_processes):
            return super().train(*arguments, **settings)

    # --- The batch of an update ---------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The rows of an update that are this rank's, as TRL's batch; it shuffles and splits them."""
        update = inputs[0]["index"] // self.settings.prompts
        assert update == self.learner.updates_done
        phase, first = self.phase_at(update)
        self.record = {"update": update + 1, "phase": phase.name, "generated_tokens": 0}
        before = self.learner.generated_tokens
        self.model.eval()  # a model in training mode may keep no cache
        if isinstance(phase, OnlinePhase):
            self.batch = self.to_credit(phase, update)
        elif isinstance(phase, SupervisedPhase):
            self.batch = self.to_imitate(phase, update, update == first)
        else:
            self.batch = self.to_prefer(phase, update)
        self.model.train()
        self.record["generated_tokens"] = self.learner.generated_tokens
        self.note({"tokens": float(self.learner.generated_tokens - before)})
        rows, parts = len(self.batch), ranks.here().count * self.settings.micro_batches
        if rows % parts:
            raise ConfigError(
                f"engine trl: phase {phase.name!r} learns from {rows} rows, which are not {parts} equal parts: change "
                "train.micro_batches, or use the local engine"
            )
        return self.batch.take(ranks.own_run(rows))

    def phase_at(self, update: int) -> tuple[Phase, int]:
        """The phase of ``update``, and its first update."""
        number = bisect_right(self.ends, update)
        return self.phases[number], self.ends[number - 1] if number else 0

    def to_credit(self, phase: OnlinePhase, update: int) -> Batch:
        """Rollouts and their credit as in :func:`minirl.loops.online`."""
        learner, train = self.learner, self.settings
        items, noise = learner.problems(update, train.prompts), learner.generator(update, "sampling")
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            roll_out, policy = phase.roll_out or episodes(train), replace(self.policy, model=model)
            rollouts = roll_out(policy, learner.task, items, generator=noise)
            learner.generated_tokens += rollouts.generated_tokens()
            self.note((phase.stats or rollout_stats)(rollouts))
            if phase.shuffle_scores:
                order = torch.randperm(len(rollouts.items), generator=learner.generator(update, "shuffle"))
                rollouts.scores = rollouts.scores[order.to(rollouts.scores.device)]
            if learner.sampler:
                self.note(learner.sampler.observe(rollouts, learner.generator(update, "observe")))
            credit = phase.credit(rollouts)
            teacher = phase.teacher(policy, learner.task, rollouts) if phase.teacher else None
        self.note(credit.stats)
        self.show(rollouts, credit)
        sequences = credit.sequences or rollouts
        return online_batch(train, sequences, credit, phase.objective, teacher, phase.loss)

    def to_imitate(self, phase: SupervisedPhase, update: int, first: bool) -> Batch:
        """A minibatch of examples as in :func:`minirl.loops.supervised`."""
        learner = self.learner
        if first and phase.from_policy:
            follow(learner.reference, learner.policy, 0.0)
        if self.examples is None or self.examples[0] is not phase:
            self.examples = (phase, phase.collect(learner))
        examples = self.examples[1]
        if first:
            learner.generated_tokens += examples.generated_tokens
            self.note(examples.stats)
        batch = self.settings.prompts * self.settings.samples
        rows = torch.randint(len(examples.ids), (batch,), generator=learner.generator(update, "minibatch"))
        return supervised_batch(examples, rows)

    def to_prefer(self, phase: PreferencePhase, update: int) -> Batch:
        """A minibatch of pairs as in :func:`minirl.loops.preference`."""
        learner, size = self.learner, max(1, self.settings.prompts * self.settings.samples // 2)
        if learner.pairs is None:
            learner.pairs = phase.collect(learner)
            follow(learner.reference, learner.policy, 0.0)
            learner.generated_tokens += learner.pairs.generated_tokens
            self.note(learner.pairs.stats)
        pairs = learner.pairs
        chosen = torch.randint(len(pairs.confidence), (size,), generator=learner.generator(update, "minibatch"))
        return preference_batch(pairs, chosen, phase.loss)

    # --- Its loss, a micro-batch at a time ----------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss of a micro-batch; those of an update add up."""
        assert self.batch is not None
        # Rows were shuffled, so none can share its prompt with its neighbours.
        with precision(self.settings, inputs["ids"].device):
            loss, parts = self.batch.loss(replace(self.policy, model=model), self.learner.reference, inputs, 1)
        accumulate_parts(self.losses, parts)
        if self.accelerator.sync_gradients:  # the last micro-batch of an optimiser step
            self.note(ranks.add(self.losses))
            self.losses = {}
        return loss * ranks.here().count  # whose gradients are averaged, not added

    # --- What is logged and kept --------------------------------------------------------------------------------------

    def end_of_step(self) -> bool:
        """After an optimiser step; the last one of an update ends it. Returns whether the budget of tokens is spent."""
        if self.state.global_step % self.settings.passes:
            return False
        learner = self.learner
        phase, first = self.phase_at(learner.updates_done)
        learner.updates_done += 1
        last = learner.updates_done == first + phase.updates
        if isinstance(phase, OnlinePhase):
            follow(learner.reference, learner.policy, phase.reference_decay)
            if phase.memory:
                self.note(phase.memory.learned(self.policy) or {})
                learner.memory = {} if last else phase.memory.state()
        elif last:
            learner.pairs = None
        return bool(self.settings.tokens and learner.generated_tokens >= self.settings.tokens)

    def note(self, stats: Mapping[str, float]) -> None:
        """Log ``stats``, which are the same on all ranks, beside what TRL logs."""
        for name, value in stats.items():
            self.record[name] = value
            self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "grad_norm" in logs and self.state.global_step % self.settings.passes == 0:  # else amid an update, or after
            self.on_record({**self.record, "grad_norm": logs["grad_norm"]})

    def show(self, rollouts: Rollouts, credit: Credit) -> None:
        """Fill TRL's table of completions, which ``log_completions`` writes."""
        self._logs["prompt"].extend(item.prompt for item in rollouts.items)
        self._logs["completion"].extend("\n".join(answers) for answers in rollouts.answers)
        self._logs["rewards"]["score"].extend(rollouts.scores[:, -1].tolist())
        own, worth = (credit.sequences or rollouts).own, credit.advantages
        means = ((worth * own).sum(1) / own.sum(1).clamp_min(1)).tolist()
        self._logs["advantages"].extend(means[: len(rollouts.items)])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.accelerator.is_main_process:
            directory = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            known = side_tensors(self.learner, moves(self.phases))
            counts = torch.tensor([self.learner.updates_done, self.learner.generated_tokens])
            save_file({name: t.contiguous() for name, t in {**known, "counts": counts}.items()}, directory / EXTRAS)
            self.on_checkpoint(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        known = load_file(Path(resume_from_checkpoint) / EXTRAS)
        learner = self.learner
        learner.updates_done, learner.generated_tokens = known.pop("counts").tolist()
        restore_side(learner, known)
        if learner.updates_done < self.ends[-1]:
            phase, _ = self.phase_at(learner.updates_done)
            if isinstance(phase, OnlinePhase) and phase.memory and learner.memory:
                phase.memory.load(learner.memory)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """All: the local engine spares no norms."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        """The learning rate of :meth:`minirl.loops.Learner.step`: it rises linearly, update by update."""
        if self.lr_scheduler is None:
            warmup, passes = self.settings.warmup, self.settings.passes
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: min(1.0, (step // passes + 1) / (warmup + 1))
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        """Nothing: TRL would tell its makers of every trainer."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16 and norm is not None and not math.isfinite(norm):  # float16 expects it, and rescales
            raise TrainingError(
                f"optimiser step {self.state.global_step + 1}: the gradient is {norm}. The last checkpoint is in "
                f"{self.args.output_dir}. Lower train.learning_rate."
            )
        return norm


@contextlib.contextmanager
def launched(rank: int, count: int, port: int) -> Iterator[None]:
    """Be one of ``count`` processes of this machine as accelerate sees them, as if it had launched this one."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    before = {name: os.environ.get(name) for name in names}
    AcceleratorState._reset_state(reset_partial_state=True)  # what it found earlier in this process
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        with ranks.adopted(rank, count):  # before accelerate joins them: a policy is loaded onto its rank's device
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


class EndOfStep(TrainerCallback):
    """Ends an update before it is logged and saved."""

    def __init__(self, trainer: PhaseTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self.trainer.end_of_step():
            control.should_training_stop = True
