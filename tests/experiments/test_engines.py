"""Whole runs on engine trl and with an adapter: what they leave behind is what other runs leave behind."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("trl")

from safetensors.torch import load_file

from minirl.config import LoraConfig
from minirl.errors import ConfigError, MinirlError
from minirl.experiments import training
from minirl.experiments.resolve import load_experiment
from minirl.experiments.run import open_run
from minirl.policy.models import load_policy, with_adapter

TRAIN = {"updates": 4, "prompts": 4, "samples": 4, "learning_rate": 1e-4, "checkpoint_every": 2, "passes": 2}
ONE_ARM = {"naive": None, "shuffled": None, "pair_sft": None}
LORA = {"rank": 4, "alpha": 8.0}


def run_of(out, **changes):
    overrides = {"train": TRAIN, "arms": ONE_ARM, **changes}
    return open_run("score", tier="smoke", seed=0, out=out, overrides=overrides)


def records(directory):
    return [json.loads(line) for line in (directory / "arms/score/metrics.jsonl").open()]


def finish(run):
    for arm in ["base", *run.arms]:
        if arm != "base":
            run.train(arm)
        run.evaluate(arm)
    results = run.finish()
    run.close()
    return results


def interrupted(run, update):
    def interrupt(arm, record):
        if record["update"] == update:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train("score", interrupt)
    run.close()


# --- Engine trl -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_trl(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "trl"
    finish(run_of(directory, engine="trl"))
    return directory


@pytest.fixture(scope="module")
def on_local(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "local"
    finish(run_of(directory))
    return directory


def test_both_engines_leave_the_same_behind(on_trl, on_local):
    assert sorted(p.name for p in (on_trl / "arms/score").iterdir()) == sorted(
        p.name for p in (on_local / "arms/score").iterdir()
    )
    theirs, ours = records(on_trl), records(on_local)
    for record, other in zip(theirs, ours, strict=True):
        assert record.keys() - {"tokens"} == other.keys()
        assert [record[key] for key in ("update", "phase")] == [other[key] for key in ("update", "phase")]
    for name, value in ours[0].items():  # before any step: the same attempts, the same losses
        if name not in ("update", "phase", "grad_norm") and not name.startswith(("loss", "kl@", "entropy")):
            assert theirs[0][name] == pytest.approx(value, rel=1e-4), name


def test_the_manifest_of_a_run_on_trl_names_its_versions(on_trl, on_local):
    there, here = (json.loads((d / "manifest.json").read_text()) for d in (on_trl, on_local))
    assert {"trl", "accelerate"} <= there["packages"].keys() - here["packages"].keys()
    assert "minirl/engines/trl.py" in there["fingerprint"].keys() - here["fingerprint"].keys()


def test_a_run_on_trl_that_was_interrupted_goes_on(on_trl, tmp_path):
    interrupted(run_of(tmp_path / "run", engine="trl"), update=3)
    assert [p.name for p in (tmp_path / "run/arms/score/checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    run = run_of(tmp_path / "run", engine="trl")
    seen = []
    run.train("score", lambda arm, record: seen.append(record["update"]))
    assert seen == [1, 2, 3, 4]
    for ours, theirs in zip(records(tmp_path / "run"), records(on_trl), strict=True):
        assert ours.pop("phase") == theirs.pop("phase")
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_damaged_checkpoint_of_trl_is_left_out(on_trl, tmp_path, capsys):
    interrupted(run_of(tmp_path / "run", engine="trl"), update=3)
    path = tmp_path / "run/arms/score/checkpoints/checkpoint-4/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    run = run_of(tmp_path / "run", engine="trl")
    run.train("score")
    assert "checkpoint-4 is damaged (checksum differs)" in capsys.readouterr().err
    assert len(records(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"pair_sft": {"method": "pair_sft"}}}, "arms.pair_sft: engine trl: .*online phases only"),
        ({"sampler": "uniform"}, "key 'sampler': engine trl has none"),
        (
            {"train.tokens": 1000, "arms": {"score": None, "rl": {"method": "multi_turn_rl"}}},
            "arms.rl: engine trl: key '",
        ),
        ({"train.micro_batches": 3}, "are not 1 × 3 equal parts"),
    ],
)
def test_what_trl_cannot_express_is_refused_before_anything_is_computed(changes, said):
    overrides = {"engine": "trl", "train.prompts": 4, "train.samples": 4, "arms": ONE_ARM}
    changes = {**changes, "arms": {**ONE_ARM, **changes.get("arms", {})}}
    with pytest.raises(ConfigError, match=said):
        load_experiment("score", "smoke", {**overrides, **changes})


# --- Adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "lora"
    finish(run_of(directory, lora=LORA))
    return directory


def test_only_the_adapter_is_written(with_lora):
    policy = with_lora / "arms/score/policy"
    names = {path.name for path in policy.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names
    assert json.loads((policy / "adapter_config.json").read_text())["base_model_name_or_path"] == "add-repeating"
    assert all("lora" in name for name in load_file(policy / "adapter_model.safetensors"))


def test_an_adapter_that_was_written_says_what_it_said(tmp_path):
    ids = torch.arange(40).view(2, 20)
    policy = with_adapter(load_policy("add-repeating"), LoraConfig(**LORA), seed=1)
    with torch.no_grad():
        assert torch.equal(policy.logits(ids), load_policy("add-repeating").model(ids).logits)  # it adds nothing yet
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        policy.save(tmp_path / "policy")
        assert torch.equal(load_policy(tmp_path / "policy").logits(ids), policy.logits(ids))


def test_a_run_with_an_adapter_resumes_to_the_last_bit(with_lora, tmp_path):
    interrupted(run_of(tmp_path / "run", lora=LORA), update=3)
    (checkpoint,) = (tmp_path / "run/arms/score/checkpoints").glob("*.safetensors")
    assert all("lora" in name for name in load_file(checkpoint))
    run_of(tmp_path / "run", lora=LORA).train("score")
    for name in ("metrics.jsonl", "policy/adapter_model.safetensors", "policy/adapter_config.json"):
        assert (tmp_path / "run/arms/score" / name).read_bytes() == (with_lora / "arms/score" / name).read_bytes(), name


def test_an_adapter_is_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys, pathlib; from minirl.config import LoraConfig;"
        "from minirl.policy.models import load_policy, with_adapter;"
        "with_adapter(load_policy('add-repeating'), LoraConfig(rank=2, alpha=4.0), 1).save(pathlib.Path(sys.argv[1]))"
    )
    for hash_seed in ("1", "2"):  # PEFT keeps the names of layers in a set
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / hash_seed)], env={"PYTHONHASHSEED": hash_seed}, check=True
        )
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_the_reference_shares_the_weights_that_are_not_trained():
    policy = with_adapter(load_policy("add-repeating"), LoraConfig(**LORA), seed=1)
    reference = policy.frozen_copy()
    for (name, ours), theirs in zip(policy.model.named_parameters(), reference.model.parameters(), strict=True):
        assert (ours.data_ptr() == theirs.data_ptr()) == ("lora" not in name), name
        assert not theirs.requires_grad


def test_a_base_in_16_bits_learns_through_its_adapter(tmp_path):
    run = run_of(tmp_path / "run", lora=LORA, dtype="bfloat16")
    policy = run.train("score")
    kinds = {("lora" in name, parameter.dtype) for name, parameter in policy.model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(record["grad_norm"] > 0 for record in records(tmp_path / "run"))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"rank": 4}, "key 'lora.alpha' is missing"),
        ({"rnak": 4, "alpha": 8}, "unknown key 'lora.rnak'. Did you mean 'rank'"),
        ({"rank": 4, "alpha": 8, "targets": []}, "key 'lora.targets'"),
    ],
)
def test_mistakes_in_an_adapter_are_named(lora, said):
    with pytest.raises(ConfigError, match=said):
        load_experiment("score", "smoke", {"lora": lora})


def test_layers_that_the_model_lacks_are_named():
    with pytest.raises(ConfigError, match=r"no linear layer 'q_porj'\. Did you mean 'q_proj'"):
        with_adapter(load_policy("add-repeating"), LoraConfig(**LORA, targets=["q_porj"]), seed=0)


def test_a_damaged_adapter_is_one_clear_error(tmp_path):
    with_adapter(load_policy("add-repeating"), LoraConfig(**LORA), seed=1).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MinirlError, match="the adapter cannot be loaded"):
        load_policy(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(MinirlError, match="the adapter cannot be loaded"):
        load_policy(tmp_path)


def test_a_job_is_what_other_processes_need(with_lora):
    experiment = load_experiment("score", "smoke", {"train": TRAIN, "arms": ONE_ARM, "lora": LORA})
    first, second = (training.Job(experiment, "score", 0).policy() for _ in range(2))
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # also the adapter, which is drawn
