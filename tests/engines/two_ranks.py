"""Train four updates on engine trl with as many ranks as were launched; the first one writes the parameters."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from safetensors.torch import save_file

from minirl.config import TaskConfig, TrainConfig
from minirl.engines.trl import PhaseTrainer
from minirl.policy.models import load_policy
from minirl.techniques.baselines import MultiTurnRL

torch.set_num_threads(1)
target = sys.argv[1]
train = TrainConfig(updates=4, prompts=4, samples=4, turns=2, learning_rate=1e-3, micro_batches=2, kl="k2")
# The mean over all tokens of the batch: ranks have different numbers of them.
method = MultiTurnRL(objective="dapo", beta=0.5, until_solved=True)
engine = PhaseTrainer(
    load_policy("add-repeating"), method, TaskConfig(name="add", level=5), train, 100, target, save_strategy="no"
)
engine.train()
if engine.accelerator.is_main_process:
    logged = {name: [e[name] for e in engine.state.log_history[:-1]] for name in ("tokens", "entropy", "accuracy@2")}
    state = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    save_file(state | {name: torch.tensor(v, dtype=torch.float64) for name, v in logged.items()}, f"{target}/end")
