"""What ``minirl plan`` says is what is there: numbers by hand, real tensors, committed results, every config."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import LlamaConfig

from minirl.cli import main
from minirl.config import TaskConfig, TrainConfig
from minirl.errors import ConfigError, MinirlError
from minirl.experiments import plan as planning
from minirl.experiments.plan import (
    BEYOND,
    MB,
    Batch,
    Machine,
    compared,
    memory_of,
    peak,
    plan,
    seconds_of,
    shape_of,
    work_of,
)
from minirl.experiments.registry import project_root, techniques
from minirl.experiments.run import load_experiment
from minirl.loops import Learner, policy_losses
from minirl.policy.models import load_policy, tiny_llama
from minirl.techniques.base import episodes
from minirl.techniques.baselines import MultiTurnRL

BATCH = Batch(rows=6, micro=3, prompts=2, prompt=4, own=5, context=10)
MACHINE = Machine("abacus", memory=1000 * MB, devices=1, generating=1e3, learning=2e3, bandwidth=1e4)


@pytest.fixture
def llama(tmp_path):
    """A directory that holds nothing but the config.json of a Llama of two layers."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path)
    return str(tmp_path)


def shape(base, **overrides):
    return shape_of(load_experiment("score", "tiny", {"base": base, **overrides}))


# --- By hand --------------------------------------------------------------------------------------------------------


def test_parameters_of_a_llama_by_hand(llama):
    # A layer: q and o 8·8, k and v 8·4 (one of two heads), MLP 3·8·16, two norms of 8. Embedding and output 32·8 each.
    layer = 2 * 64 + 2 * 32 + 384 + 16
    found = shape(llama)
    assert found.parameters == found.trained == 2 * layer + 8 + 2 * 256 == 1704
    assert found.matmul == 1704 - 256  # a token meets one row of the embedding
    assert (found.layers, found.width, found.heads, found.kv_width, found.mlp) == (2, 8, 2, 4, 16)
    # Rank 2: 2·(in + out) of q and o (8, 8), k and v (8, 4), gate and up (8, 16), down (16, 8).
    lora = {"rank": 2, "alpha": 4}
    assert shape(llama, lora=lora).trained == 2 * 2 * (2 * 16 + 2 * 12 + 3 * 24) == 512
    assert shape(llama, lora={**lora, "targets": ["q_proj"]}).trained == 2 * 2 * 16
    with pytest.raises(ConfigError, match=r"no linear layer called p_proj"):
        shape(llama, lora={**lora, "targets": ["p_proj"]})


def test_memory_by_hand(llama):
    assert memory_of(shape(llama), BATCH) == {
        "weights": 4 * 1704,
        "gradients": 4 * 1704,
        "optimiser": 8 * 1704,
        "reference": 4 * 1704,
        "cache": 2 * 2 * 4 * 4 * 6 * 10,  # keys and values, two layers, four wide, 4 bytes, 6 rows of 10
        "activations": 4 * 3 * 10 * 2 * (80 + 64 + 20),
        "logits": 4 * 3 * 32 * (10 + 3 * 6),
    }
    assert peak(memory_of(shape(llama), BATCH)) == 5 * 4 * 1704 + 39360 + 10752
    assert peak(memory_of(shape(llama), BATCH, cached_rows=600)) == 5 * 4 * 1704 + 384000


def test_memory_with_an_adapter_by_hand(llama):
    found = memory_of(shape(llama, lora={"rank": 2, "alpha": 4}, dtype="bfloat16"), BATCH)
    assert found["weights"] == 2 * 1704 + 4 * 512
    assert (found["gradients"], found["optimiser"], found["reference"]) == (4 * 512, 8 * 512, 0)
    assert (found["cache"], found["activations"], found["logits"]) == (1920, 19680, 10752)


def test_work_and_time_by_hand(llama):
    full, lora = shape(llama), shape(llama, lora={"rank": 2, "alpha": 4})
    read, learned = 2 * 4 + 6 * 6, 6 * 10  # a prompt is read once for all attempts at it
    assert work_of(full, BATCH, 1) == {"generating": 2 * 1448 * read, "learning": (6 + 2) * 1448 * learned}
    assert work_of(full, BATCH, 3)["learning"] == 3 * 8 * 1448 * learned
    assert work_of(lora, BATCH, 1)["learning"] == (4 + 2) * 1448 * learned
    work = work_of(full, BATCH, 1)
    assert seconds_of(full, BATCH, work, MACHINE) == {"generating": 127.424, "learning": 347.52}
    # Five steps of reading all weights and half of a full cache, from a slow memory.
    slow = seconds_of(full, BATCH, work, replace(MACHINE, bandwidth=100))
    assert slow["generating"] == 5 * (4 * 1704 + 3840 / 2) / 100


# --- Real tensors ---------------------------------------------------------------------------------------------------


def size_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_what_training_holds_is_as_planned():
    """Weights, reference, gradients, moments of AdamW and the cache of a real step, to the byte."""
    train = TrainConfig(updates=1, prompts=3, samples=4, turns=2, learning_rate=1e-3)
    learner = Learner(load_policy("add-repeating"), TaskConfig(name="add", level=5), train, 0)
    items = learner.problems(0, train.prompts)
    rollouts = episodes(train)(learner.policy, learner.task, items, generator=learner.generator(0, "sampling"))
    credit = MultiTurnRL().credit(rollouts)
    (phase,) = MultiTurnRL().phases(train)
    held = {}

    def losses():
        yield from policy_losses(learner, rollouts, credit, phase.objective, {})
        held["gradients"] = size_of(p.grad for p in learner.parameters)

    learner.step(losses())
    moments = [m for state in learner.optimizer.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    held["optimiser"] = size_of(moments)
    held["weights"] = size_of(learner.policy.model.parameters())
    held["reference"] = size_of(learner.reference.model.parameters())
    cache = learner.policy.model(input_ids=rollouts.ids, use_cache=True).past_key_values
    held["cache"] = size_of(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    batch = Batch(rows=12, micro=12, prompts=3, prompt=0, own=0, context=rollouts.ids.shape[1])
    planned = memory_of(shape("add-repeating"), batch)
    assert held == {name: planned[name] for name in held}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("width", "layers", "length"), [(64, 2, 32), (128, 3, 100)])
def test_what_autograd_keeps_is_about_as_planned(width, layers, length, fast):
    policy, found = tiny_llama(width, layers, 4), {}
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, 80, (6, length))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = policy.logits(ids) if fast else policy.model(input_ids=ids, use_cache=False).logits
    del logits
    model = shape("add-repeating")
    model = replace(model, width=width, layers=layers, heads=4, mlp=2 * width)
    planned = memory_of(model, Batch(6, 6, 1, 0, 0, length))["activations"]
    assert 0.7 < planned / sum(found.values()) < 1.4


# --- Committed results ----------------------------------------------------------------------------------------------


def test_the_plan_is_of_the_order_of_what_was_measured():
    """Tokens are the most there can be. Time is of the order, whatever the machine was that measured it."""
    for row in compared(["score", "nft", "co-reward"]):
        assert 0.95 < row["tokens"][0] / row["tokens"][1] < 1.2, row
        assert 0.4 < row["peak_mb"][0] / row["peak_mb"][1] < 1.5, row
        assert 1 / 20 < row["core_s"][0] / row["core_s"][1] < 20, row


# --- Every config ---------------------------------------------------------------------------------------------------

SCALED = [(item.slug, tier) for item in techniques() for tier in item.tiers() if tier in BEYOND]


@pytest.mark.parametrize(("slug", "tier"), SCALED)
def test_a_dry_run_of_every_config_beyond_this_machine(slug, tier):
    found = plan(slug, tier, machine=replace(MACHINE, memory=10**15))
    assert found.shape.parameters > 10**8 and found.shape.trained < 0.1 * found.shape.parameters
    assert found.batch.context < 4096
    assert found.peak < 80e9  # of one GPU
    assert MB * found.budget["peak_mb"] > found.peak / 1.5
    assert found.why == ("" if torch.cuda.is_available() else "the config's device is cuda, and there is no GPU")


def test_every_technique_has_a_config_or_a_reason(capsys):
    reasons = yaml.safe_load((project_root() / "reproductions" / "scale.yaml").read_text())
    assert set(reasons) == {"both", *BEYOND}
    for tier in BEYOND:
        without = [*reasons["both"], *(reasons[tier] or {})]
        configs = [item.slug for item in techniques() if tier in item.tiers()]
        assert sorted([*configs, *without]) == sorted(item.slug for item in techniques())
    assert main(["plan", "mars", "--tier", "large"]) == 1
    assert capsys.readouterr().err == f"minirl: mars has no config at large: {reasons['both']['mars']}\n"
    assert main(["plan", "mars", "--tier", "huge"]) == 1
    assert "mars has no config huge.yaml" in capsys.readouterr().err


# --- Words ----------------------------------------------------------------------------------------------------------


def test_the_command_says_it_in_words_and_as_json(capsys):
    assert main(["plan", "score"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "score at tiny: add-repeating, add, level 5, 4 arms, device cpu\n101 k parameters; trained: "
    )
    assert "\nThis machine: yes, it fits." in said and "3.23 M a seed with all arms" in said
    assert main(["plan", "score", "--json", "--set", "train.updates=3", "--set", "task.level=6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["fits"], found["updates"], found["task"]) == (1, True, 3, "add, level 6")
    assert found["tokens"]["seed"] == 3 * found["tokens"]["update"] * found["arms"]
    assert found["peak"] == peak(found["memory"])


def test_a_model_whose_size_is_not_known(capsys):
    assert main(["plan", "score", "--set", "base=nobody/nothing"]) == 1
    said = capsys.readouterr().err
    assert "config.json of 'nobody/nothing' is not on this machine" in said and "`hf download nobody/nothing" in said


def test_why_it_does_not_fit(monkeypatch):
    small = replace(MACHINE, memory=100 * MB)
    assert plan("score", "tiny", machine=small).why.startswith("it needs ")
    twice = plan("score", "tiny", {"ranks": 2}, machine=small)
    assert (twice.batch.rows, twice.tokens["update"]) == (96, plan("score", "tiny", machine=small).tokens["update"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan("score", "tiny", {"device": "cuda", "ranks": 2}, machine=MACHINE).why == "it needs 2 GPUs, 1 found"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan("score", "tiny", {"device": "cuda"}, machine=MACHINE).why.endswith("there is no GPU")


def test_what_is_assumed_is_said(monkeypatch):
    found = plan("score", "tiny", {"base": "Qwen/Qwen2.5-1.5B-Instruct"}, machine=MACHINE)
    assert found.assumed.startswith("the tokenizer of Qwen/Qwen2.5-1.5B-Instruct is not here: 3 characters")
    task = planning.get("add")

    def missing(*_):
        raise MinirlError("no data here")

    monkeypatch.setattr(task, "items", missing)
    said = "the problems of add are not here: prompts of 256 tokens are assumed"
    assert plan("score", "tiny", machine=MACHINE).assumed == said


@pytest.mark.parametrize(
    ("changes", "learning"), [({}, torch.float32), ({"train.autocast": "bfloat16"}, torch.bfloat16)]
)
def test_an_update_is_measured_in_its_own_precision(changes, learning, monkeypatch):
    measured = []
    monkeypatch.setattr(planning, "_rate", lambda rows, shape, where, dtype: measured.append(dtype) or 1e9)
    planning.measure(planning.shape_of(load_experiment("score", "tiny", changes)), BATCH, "cpu", 1)
    assert measured == [torch.float32, learning]


def test_measured_rates_are_rates():
    found = planning.measure(shape("add-repeating"), BATCH, "cuda", 1)  # of the processor, without a GPU
    assert min(found.generating, found.learning, found.bandwidth) > 1e6 and found.memory > 100 * MB


@pytest.mark.parametrize(
    ("value", "said"), [(900 * MB, "900 MB"), (1536 * MB, "1.5 GB"), (0, "0 MB")], ids=["MB", "GB", "none"]
)
def test_sizes_in_words(value, said):
    assert planning.size(value) == said


def test_amounts_and_durations_in_words():
    assert [planning.amount(x) for x in (12, 1540, 2.5e12)] == ["12", "1.54 k", "2.5 T"]
    assert [planning.duration(x) for x in (0.25, 90, 600, 9000, 5e5)] == [
        "0.25 s",
        "90 s",
        "10 min",
        "2.5 h",
        "5.79 days",
    ]
