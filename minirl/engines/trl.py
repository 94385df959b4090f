"""Engine ``trl``: the online phases of a method on TRL's GRPOTrainer, for models that one process cannot train.

:class:`PhaseTrainer` replaces two methods of the trainer. The one that generates and scores asks minirl for problems,
rollouts and credit; the one for the loss calls minirl's objective and KL penalty. So rollouts, credit and loss are the
functions that the local engine (:func:`minirl.loops.online`) calls: token ids end to end, own tokens alone learned
from, rewards and KL by turn. The rest is TRL's, transformers' and accelerate's: LoRA through PEFT, accumulation of
gradients, mixed precision, checkpoints, loggers. Same seed, same problems and same sampling noise as on the local
engine.

How a run differs from one on the local engine
----------------------------------------------
1. Before it splits a batch into micro-batches, TRL shuffles its rows: sums are rounded otherwise, and the weight
   ``micro_batch`` of an objective, which is a statistic of the split, has another value if there is more than one.
2. The reference of a policy with a fresh adapter is its model with the adapter disabled; others are frozen copies.
3. TRL saves after optimiser steps, and a resumed run rolls out anew: with ``train.passes`` above 1 a checkpoint within
   an update resumes with fresh rollouts of it. Neither rollouts nor the reference are in the checkpoint.
4. Its checkpoints hold optimiser and random numbers as torch pickles them, which is TRL's way; they are read with
   ``weights_only`` and only if they are what was written.

What is refused (:func:`online_phases`, and :class:`~minirl.errors.ConfigError` on the way) runs on the local engine.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from minirl.config import TaskConfig, TrainConfig, nearest
from minirl.errors import ConfigError, TrainingError
from minirl.loops import Record, derive_seed, rollout_stats
from minirl.objectives.kl import EXACT_UP_TO, estimated_kl, exact_kl, kl_penalty
from minirl.objectives.policy_gradient import Totals, token_weights
from minirl.policy.logprobs import entropy, token_logprobs
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import get
from minirl.techniques.base import Credit, Method, OnlinePhase, episodes

try:
    from trl import GRPOConfig, GRPOTrainer
    from trl.models.utils import unwrap_model_for_generation
except ImportError as error:
    raise ConfigError(f"engine trl: TRL is not installed ({error}): pip install 'minirl[trl]'") from error

LOCAL = "Run it on the local engine (minirl.loops)."


def online_phases(method: Method, train: TrainConfig) -> list[OnlinePhase]:
    """The phases of ``method``. Raises :class:`ConfigError` for what a GRPOTrainer has no place for: phases that are
    not online, a memory, a teacher, a reference that moves, a sampler, a budget of tokens."""
    found = []
    for phase in method.phases(train):
        where = f"engine trl: {method.name}, phase {phase.name!r}"
        if not isinstance(phase, OnlinePhase):
            raise ConfigError(f"{where}: GRPOTrainer has online phases only, not {type(phase).__name__}. {LOCAL}")
        if phase.memory is not None:
            raise ConfigError(
                f"{where} remembers earlier updates (a second learner, past opponents, moving baselines, a buffer), "
                f"and GRPOTrainer trains one policy, whose checkpoints would not hold that. {LOCAL}"
            )
        if phase.teacher is not None:
            raise ConfigError(
                f"{where} learns from a teacher that reads another prompt than the sampled one, and GRPOTrainer has "
                f"one prompt a sample. {LOCAL}"
            )
        if phase.reference_decay < 1:
            raise ConfigError(f"{where} has a reference that moves, which is in none of TRL's checkpoints. {LOCAL}")
        found.append(phase)
    if method.sampler is not None:
        raise ConfigError(
            f"engine trl: key 'sampler': {method.name} chooses problems by what it has seen, and GRPOTrainer reads a "
            f"dataset in its order. {LOCAL}"
        )
    if train.tokens is not None:
        raise ConfigError(f"engine trl: key 'train.tokens': GRPOTrainer counts steps, not generated tokens. {LOCAL}")
    return found


def grpo_config(train: TrainConfig, seed: int, directory: str | Path, ranks: int = 1, **settings: Any) -> GRPOConfig:
    """``train`` in TRL's words, and further ``settings`` of a GRPOConfig. Raises :class:`ConfigError`."""
    rows, left = divmod(train.prompts * train.samples, ranks * train.micro_batches)
    if left or train.prompts % ranks:
        raise ConfigError(
            f"engine trl: {train.prompts} × {train.samples} rollouts are not {ranks} × {train.micro_batches} equal "
            "parts with whole groups on every rank: change train.prompts or train.micro_batches"
        )
    given: dict[str, Any] = {
        "max_steps": train.updates * train.passes,
        "num_generations": train.samples,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": train.micro_batches,
        "num_iterations": train.passes,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "temperature": train.temperature,
        "seed": seed,
        "shuffle_dataset": False,  # problems come in the order of updates
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


@dataclass(frozen=True)
class Update:
    """What the loss has to know of an update besides the rows themselves: of all micro-batches and ranks."""

    phase: OnlinePhase
    totals: Totals
    penalised: bool  # some KL coefficient is not 0
    shared: int  # position before which nothing predicts an own token
    turns: int


class PhaseTrainer(GRPOTrainer):
    """GRPOTrainer that trains ``policy`` with the online phases of ``method``; :meth:`train` runs all of them.

    ``settings`` are further ones of a GRPOConfig (``save_steps``, ``bf16``, ``report_to`` …). ``on_record`` is called
    after every update with the record that the local engine would make of it, ``on_checkpoint`` with every directory
    that was saved. Raises :class:`ConfigError` for what TRL cannot express.
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
        **settings: Any,
    ) -> None:
        self.phases, self.settings = online_phases(method, train), train
        self.ends = list(accumulate(phase.updates for phase in self.phases))
        self.task, self.level, self.run_seed = get(task.name), task.level, seed
        if policy.device.type == "cpu":
            settings = {"use_cpu": True, "bf16": False, **settings}
        ranks = PartialState(cpu=settings.get("use_cpu", False)).num_processes
        # The copy comes first: TRL gives the model another `forward`, and a copy of that would run the original.
        frozen = None if has_fresh_adapter(policy) else policy.frozen_copy()
        base = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
        forward = vars(base).get("forward")
        super().__init__(
            model=policy.model,
            reward_funcs=[score],
            args=grpo_config(train, seed, directory, ranks, **settings),
            train_dataset=Dataset.from_dict({"index": list(range(train.updates * train.prompts))}),
            processing_class=policy.tokenizer,
        )
        # That `forward` computes log-probs without logits, and only TRL's own loss asks for it.
        del base.forward
        if forward is not None:
            base.forward = forward
        self.policy = replace(policy, model=self.model)
        self.reference = frozen or WithoutAdapter(self.model, policy.tokenizer, policy.name)
        self.on_record: Callable[[Record], None] = lambda _: None
        self.on_checkpoint: Callable[[Path], None] = lambda _: None
        self.generated_tokens = 0  # so far; a caller that resumes knows how many there were
        self.record: Record = {}  # of the update, as far as it has come
        self.update: Update | None = None  # the one whose rollouts TRL has in its buffer
        self.losses: dict[str, float] = defaultdict(float)  # of an optimiser step, as far as it has come

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Rollouts of an update and their credit as TRL's batch: tensors [B, L], whose rows it shuffles and splits."""
        train, rank = self.settings, self.accelerator.process_index
        indices = [row["index"] for row in inputs[:: train.samples]]  # every problem stands there once a sample
        update = indices[0] // train.prompts
        phase = self.phases[bisect_right(self.ends, update)]
        items = self.task.items(derive_seed(self.run_seed, "problems"), indices, self.level)
        self.model.eval()  # a model in training mode may keep no cache
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            roll_out, policy = phase.roll_out or episodes(train), replace(self.policy, model=model)
            rollouts = roll_out(policy, self.task, items, generator=self.random("sampling", update, rank))
        self.model.train()
        stats = (phase.stats or rollout_stats)(rollouts)
        if phase.shuffle_scores:
            order = torch.randperm(len(rollouts.items), generator=self.random("shuffle", update, rank))
            rollouts.scores = rollouts.scores[order.to(rollouts.scores.device)]
        credit = phase.credit(rollouts)
        self.check_shape(phase, rollouts, credit, len(inputs))
        everywhere = gather_object([(len(inputs), rollouts.generated_tokens(), rollouts.longest)])
        episodes_of, tokens, longest = zip(*everywhere, strict=True)
        totals = Totals(sum(episodes_of), max(1, sum(tokens)), max(longest))
        penalised = any(gather_object([bool(credit.kl.any())]))
        self.update = Update(phase, totals, penalised, rollouts.shared, rollouts.scores.shape[1])
        self.generated_tokens += sum(tokens)
        self.record = {"update": update + 1, "phase": phase.name, "generated_tokens": self.generated_tokens}
        self.note({**stats, **credit.stats}, mean=True)
        self.note({"tokens": float(rollouts.generated_tokens())})
        self.show(rollouts, credit)
        batch = {name: getattr(rollouts, name) for name in ("ids", "turn", "logprobs")}
        return {**batch, "advantages": credit.advantages, "kl": credit.kl}

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss of a micro-batch, as :func:`minirl.loops.policy_losses` has it; those of an update add up."""
        update, temperature = self.update, self.settings.temperature
        assert update is not None
        phase, totals, shared = update.phase, update.totals, update.shared
        # Position t predicts token t + 1. Rows were shuffled, so none can share its prompt with its neighbours.
        ids, columns = inputs["ids"], slice(shared + 1, None)
        turns, sampled, advantages, coefficients = (
            inputs[name][:, columns] for name in ("turn", "logprobs", "advantages", "kl")
        )
        own, ranks = turns >= 0, self.accelerator.num_processes
        logits = replace(self.policy, model=model).logits(ids[:, :-1], 1, shared) / temperature
        logprobs = token_logprobs(logits, ids[:, columns])
        loss, parts = phase.loss(logprobs, sampled, advantages, own, phase.objective, totals)
        if update.penalised:
            with torch.no_grad():
                reference_logits = self.reference.logits(ids[:, :-1], 1, shared) / temperature
            kl_of = self.settings.kl or ("exact" if logits.shape[-1] <= EXACT_UP_TO else "k2")
            if kl_of == "exact":
                kl = exact_kl(logits, reference_logits)
            else:
                # Nothing may overflow at a token that does not count: NaN there would survive any mask.
                theirs = token_logprobs(reference_logits, ids[:, columns]).where(own, 0.0)
                kl = estimated_kl(logprobs.where(own, 0.0), theirs, kl_of)
            loss = loss + kl_penalty(kl, coefficients, token_weights(own, phase.objective.weight, totals), own)
            for turn in range(update.turns):
                parts[f"kl@{turn + 1}"] = kl.detach()[turns == turn].sum().item() / totals.episodes
        parts["entropy"] = entropy(logits.detach())[own].sum().item() / totals.tokens
        for name, value in parts.items():
            self.losses[name] += value
        if self.accelerator.sync_gradients:  # the last micro-batch of an optimiser step
            self.note(self.losses)
            self.losses.clear()
        return loss * ranks  # whose gradients are averaged, not added

    def check_shape(self, phase: OnlinePhase, rollouts: Rollouts, credit: Credit, rows: int) -> None:
        """Raises :class:`ConfigError` if the rollouts are not one sequence for every row of TRL's batch."""
        if credit.sequences is not None and credit.sequences is not rollouts:
            raise ConfigError(
                f"engine trl: phase {phase.name!r} learns from other sequences than those sampled, and GRPOTrainer has "
                f"one prompt a sample. {LOCAL}"
            )
        if len(rollouts.items) != rows:
            raise ConfigError(
                f"engine trl: phase {phase.name!r} made {len(rollouts.items)} rollouts, and GRPOTrainer has {rows}: "
                f"train.samples for every prompt, without branches. {LOCAL}"
            )

    def random(self, purpose: str, update: int, rank: int) -> torch.Generator:
        """The random numbers of :meth:`minirl.loops.Learner.generator`; ranks after the first have others."""
        seed = derive_seed(self.run_seed, purpose, update, *([rank] if rank else []))
        return torch.Generator().manual_seed(seed)

    def note(self, stats: Mapping[str, float], mean: bool = False) -> None:
        """Log ``stats`` beside what TRL logs: the sum over ranks, or the mean over those that have it."""
        found: dict[str, list[float]] = defaultdict(list)
        for part in gather_object([dict(stats)]):
            for name, value in part.items():
                found[name].append(value)
        for name, values in found.items():
            self.record[name] = sum(values) / (len(values) if mean else 1)
            self._metrics["train"][name].append(self.record[name])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "grad_norm" in logs and self.state.global_step % self.settings.passes == 0:  # else amid an update, or after
            self.on_record({**self.record, "grad_norm": logs["grad_norm"]})

    def show(self, rollouts: Rollouts, credit: Credit) -> None:
        """Fill TRL's table of completions, which ``log_completions`` writes."""
        self._logs["prompt"].extend(gather_object([item.prompt for item in rollouts.items]))
        self._logs["completion"].extend(gather_object(["\n".join(answers) for answers in rollouts.answers]))
        self._logs["rewards"]["score"].extend(gather_object(rollouts.scores[:, -1].tolist()))
        worth = (credit.advantages * rollouts.own).sum(1) / rollouts.own.sum(1).clamp_min(1)
        self._logs["advantages"].extend(gather_object(worth.tolist()))

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

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.on_checkpoint(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")
