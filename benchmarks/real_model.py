"""Ten optimisation steps of SCoRe and of GRPO on a real language model and two CPU cores: what they need.

The config is ``reproductions/score/small.yaml`` with what stands in :data:`CHANGES`: SmolLM2-135M-Instruct with an
adapter on ``gym.chain_sum``. This is no experiment, only the proof that the path is open, and its price.

    minirl models get smollm2
    python benchmarks/real_model.py --write
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from minirl.experiments.run import open_run

RESULT = Path(__file__).parent / "results" / "real-model.json"
GRPO = {"method": "multi_turn_rl", "objective": "grpo", "baseline": "group_normalised", "beta": 0.03, "turns": 1}
TRAIN = {"updates": 10, "prompts": 4, "samples": 4, "micro_batches": 8, "temperature": 0.7, "warmup": 0}
OTHERS = ("naive", "shuffled", "pair_sft")
CHANGES = {"device": "cpu", "threads": 2, "train": TRAIN, "arms": {**dict.fromkeys(OTHERS), "grpo": GRPO}}


def steps(directory: Path) -> list[dict[str, float]]:
    """Every update of an arm: its record, and what it cost."""
    records, costs = (
        {line["update"]: line for line in map(json.loads, (directory / f"{name}.jsonl").open())}
        for name in ("metrics", "timing")
    )  # of an update that was made twice because a run was interrupted, the second time
    found, before = [], 0
    for update, record in records.items():
        tokens, before = record["generated_tokens"] - before, record["generated_tokens"]
        logged = {name: record[name] for name in record if name.startswith("accuracy@")}
        found.append({**costs[update], "tokens": tokens, "grad_norm": record["grad_norm"], **logged})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", help="train this one alone, in this process, and keep nothing")
    parser.add_argument("--write", action="store_true", help=f"keep the result as {RESULT.name}")
    parser.add_argument(
        "--out", help="directory of the run, which continues if it was interrupted (default: a new one)"
    )
    arguments = parser.parse_args()
    out = Path(arguments.out or tempfile.mkdtemp(prefix="minirl-real-model-"))
    run = open_run("score", tier="small", seed=0, overrides=CHANGES, out=out)
    if arguments.arm:
        run.train(arguments.arm, lambda arm, now: print(f"{arm}: step {now['update']} of {now['updates']}", flush=True))
        return
    run.close()  # whoever has a run directory open has it alone
    found: dict[str, Any] = {}
    for arm in run.arms:  # each in a process of its own, whose peak is then that of this arm
        subprocess.run([sys.executable, __file__, "--arm", arm, "--out", str(out)], check=True)
        found[arm] = steps(run.arm_directory(arm))
        costs = {key: statistics.mean(step[key] for step in found[arm]) for key in ("core_s", "tokens")}
        peak = max(step["peak_mb"] for step in found[arm])
        print(
            f"{arm}: {costs['core_s']:.0f} core-seconds and {costs['tokens']:.0f} tokens a step, at most {peak:.0f} MB"
        )
    manifest = json.loads((out / "manifest.json").read_text())
    kept = {key: manifest[key] for key in ("config", "seed", "commit", "packages", "hardware", "threads")}
    if arguments.write:
        RESULT.write_text(json.dumps({**kept, "arms": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
