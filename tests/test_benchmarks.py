"""The speed benchmark runs, and compares like with like. No test is timed: ratios are for ``benchmarks/`` to print."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from minirl.experiments.registry import project_root

SCRIPT = project_root() / "benchmarks" / "speed.py"
REAL_MODEL = project_root() / "benchmarks" / "real_model.py"
SMALL = ["--sizes", "0.1M", "--repeats", "1", "--prompts", "2", "--samples", "2", "--tokens", "4"]


def loaded(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def speed():
    return loaded(SCRIPT)


@pytest.fixture
def work(speed):
    torch.manual_seed(0)
    return speed.Workload("0.1M", prompts=3, samples=4, tokens=5, device="cpu")


def test_it_prints_the_ratios():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), *SMALL], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| 0.1M")]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["sampler", "generate"],
        ["step", "TRL GRPOTrainer"],
        ["step, bfloat16", "TRL, bf16"],
    ]


def test_both_samplers_write_the_same_number_of_attempts(speed, work):
    # 12 attempts of at most 5 tokens; a stop token ends one early, seldom with random weights.
    for sampler in (speed.our_sampler(work), speed.transformers_generate(work)):
        assert 48 <= sampler() <= 60


def test_our_step_is_one_update_with_trls_default_loss(speed, work):
    method = speed.our_method()
    learner = speed.our_learner(work)
    (phase,) = method.phases(learner.train)
    assert (phase.objective.surrogate, phase.objective.weight) == ("clip", "token")
    before = [p.detach().clone() for p in work.policy.model.parameters()]
    tokens = speed.our_step(work)()
    assert 48 <= tokens <= 60
    # The attempts of random weights all score 0, so only centred advantages of 0 arise: nothing may move.
    assert all(torch.equal(a, b) for a, b in zip(before, work.policy.model.parameters(), strict=True))


def test_summary_by_hand(speed):
    # Ours: 100 tokens in 1, 2 and 4 s; theirs: 50 tokens in 2 s each. Rates 100, 50, 25 against 25: ratios 4, 2, 1.
    ours, theirs = [(1.0, 100), (2.0, 100), (4.0, 100)], [(2.0, 50)] * 3
    found = speed.summary(ours, theirs, limit=1.0)
    assert found["ratio"] == 2.0 and found["ratio_range"] == [1.0, 4.0]
    assert found["limit_s"] == 1.0 and found["share_of_limit"] == 0.5
    assert found["ratio_at_limit"] == 4.0  # 100 tokens a second against 25
    assert found["ours_tokens_per_s"] == 50 and found["theirs_tokens_per_s"] == 25


def test_shares_of_time_are_all_of_it(speed, work):
    for shares in speed.profile(work).values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.005)
        assert shares["matrix products"] > 0 and shares["elementwise"] > 0


def test_the_tables_of_limits_by_hand(speed):
    parts = {
        "sampler": {"ratio": 1.5, "ours_s": 0.2},
        "step": {"ratio": 1.6, "ours_s": 0.7},
        "profile": {"sampler": {"matrix products": 0.4, "attention products": 0.1, "other": 0.5}},
        "compiled": {"sampler": [0.2, 0.15], "update": [0.4, 0.25]},
    }
    results = {"sizes": {"4M": parts}}
    # 1.5 / 0.5 = 3; 1.5 · 0.2 / 0.15 = 2; the step gains 0.2 of its 0.7 seconds: 1.6 · 0.7 / 0.5 = 2.24.
    assert "| 4M | sampler | 40% | 10% | 50% | 3.0 |" in speed.profile_table(results)
    assert "| 4M | 0.200 | 0.150 | 2.00 | 0.400 | 0.250 | 2.24 |" in speed.compiler_table(results)


def test_every_way_to_update_is_measured_on_its_own_terms(speed, work, monkeypatch):
    made = []
    monkeypatch.setattr(speed, "our_update", lambda work, **changes: lambda: made.append(changes) or 0)
    assert list(speed.ways_to_update(work, repeats=2)) == ["whole", "2 parts", "bfloat16"]  # of three prompts
    assert made == 3 * [{}, {"micro_batches": 2}, {"autocast": "bfloat16"}]  # once to warm up, then in turns


def test_the_table_of_updates_by_hand(speed):
    results = {"sizes": {"4M": {"update_s": {"whole": 2.0, "4 parts": 1.5, "bfloat16": 0.75}}}}
    table = speed.update_table(results)
    assert "| size | update: whole, s | 4 parts, s | bfloat16, s |" in table
    assert "| 4M | 2.000 | 1.500 | 0.750 |" in table


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_the_compiler_is_compared_on_the_same_work(speed, work):
    found = speed.with_compiler(work, repeats=1)
    assert set(found) == {"sampler", "update"} and all(seconds > 0 for pair in found.values() for seconds in pair)
    assert not hasattr(speed.fast.forward, "_torchdynamo_orig_callable")  # put back as it was


def test_the_page_shows_the_committed_results(speed):
    text = (project_root() / "benchmarks" / "README.md").read_text(encoding="utf-8")
    start, end = speed.MARKERS
    assert text.split(start)[1].split(end)[0].strip() == speed.page().strip()
    assert list(speed.RESULTS.glob("*.json"))


def test_what_steps_on_a_real_model_took(tmp_path):
    records = [{"update": n, "generated_tokens": 30 * n, "grad_norm": 0.5, "accuracy@1": 0.25} for n in (1, 2)]
    costs = [{"update": n, "wall_s": seconds} for n, seconds in ((1, 9.0), (1, 3.0), (2, 4.0))]  # the first made twice
    for name, lines in (("metrics", records), ("timing", costs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    rest = {"tokens": 30, "grad_norm": 0.5, "accuracy@1": 0.25}
    assert loaded(REAL_MODEL).steps(tmp_path) == [
        {"update": 1, "wall_s": 3.0, **rest},
        {"update": 2, "wall_s": 4.0, **rest},
    ]
