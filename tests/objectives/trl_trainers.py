"""TRL's own trainers on the CPU around a tiny Llama, so that its code computes what ours is compared with."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest

from minirl.policy.models import Policy


def online_trainer(method: str, policy: Policy, reward, examples: list[dict], directory, **settings):
    """TRL's ``grpo`` or ``rloo`` trainer without a KL term; ``settings`` go to its config. Skips without TRL."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    trainer, config = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[method]
    return trainer(
        model=policy.model,
        reward_funcs=reward,
        args=config(
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            beta=0.0,
            **settings,
        ),
        train_dataset=Dataset.from_list(examples),
        processing_class=policy.tokenizer,
    )
