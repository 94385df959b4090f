"""How fast minirl samples and trains, side by side with transformers and TRL, in one run.

    python benchmarks/speed.py                         # sizes 0.1M, 0.7M, 4M on this machine's CPU, one thread
    python benchmarks/speed.py --device cuda --sizes 0.7M 30M 135M
    python benchmarks/speed.py --profile               # where the time of one step goes

Two ratios, each the median over ``--repeats`` pairs measured in turns, so that what else the machine does hits both:

- **sampler**: our sampler against ``generate`` of transformers: same weights, prompts, number of samples and tokens;
- **step**: one online step (roll out, score, advantage, loss, gradient, AdamW) against TRL's ``GRPOTrainer`` with its
  default loss (DAPO, no KL term): same model, tokenizer, task and batch.

The **limit** is what matrix products alone would take at the speed this machine reaches on large ones (measured in the
same run). Random weights will do: nothing here depends on what the model has learned. Absolute times are of this
machine and this hour; only the ratios are meant to travel.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

from minirl.config import TaskConfig, TrainConfig
from minirl.loops import Learner, online, policy_losses
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import tiny_llama
from minirl.policy.sampler import complete, make_decoder
from minirl.tasks import Item, Task, get
from minirl.tasks.countdown import Countdown
from minirl.techniques.baselines import MultiTurnRL

RESULTS = Path(__file__).parent / "results"
SIZES = {  # hidden, layers, heads
    "0.1M": (96, 1, 6),
    "0.7M": (128, 4, 4),
    "4M": (256, 6, 8),
    "30M": (512, 12, 8),
    "135M": (1024, 13, 16),
}
TASK, LEVEL = "countdown", 2


class Workload:
    """The same problem for every contender: ``prompts`` × ``samples`` attempts of at most ``tokens`` tokens."""

    def __init__(self, size: str, prompts: int, samples: int, tokens: int, device: str) -> None:
        hidden, layers, heads = SIZES[size]
        self.policy = tiny_llama(hidden, layers, heads)
        self.policy.model.to(device)
        self.prompts, self.samples, self.tokens, self.device = prompts, samples, tokens, device
        self.items = get(TASK).items(0, range(prompts), LEVEL)

    @property
    def matmul_parameters(self) -> int:
        """Parameters that a token is multiplied with: all but the norms (the embedding is also the output head)."""
        return sum(p.numel() for p in self.policy.model.parameters() if p.dim() == 2)

    def prompt_tokens(self) -> int:
        return sum(map(len, self.policy.encode_prompts([item.prompt for item in self.items])))


class Lengthy(Countdown):
    """Countdown whose attempts may have as many tokens as the workload says."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def max_answer_chars(self, level: int) -> int:  # noqa: ARG002
        return self.tokens - 1


def our_sampler(work: Workload) -> Callable[[], int]:
    """One call: encode the prompts, prefill once a group, sample; returns the number of tokens."""
    policy, generator = work.policy, torch.Generator().manual_seed(0)

    def sample() -> int:
        contexts = policy.encode_prompts([item.prompt for item in work.items])
        decoder = make_decoder(policy.model, work.prompts)
        logits = decoder.append(*pad_rows(contexts, policy.pad_id, work.device))
        decoder.expand(work.samples)
        rows = work.prompts * work.samples
        noise = torch.rand(rows, work.tokens, generator=generator).to(work.device)
        limits = torch.full((rows,), work.tokens, device=work.device)
        logits = logits.repeat_interleave(work.samples, 0)
        done = complete(decoder, logits, noise, limits=limits, stop_id=policy.stop_id, pad_id=policy.pad_id)
        return int(done.lengths.sum())

    return sample


def transformers_generate(work: Workload) -> Callable[[], int]:
    """The same with ``generate``: left-padded prompts, ``num_return_sequences``, its own cache."""
    policy = work.policy

    def sample() -> int:
        texts = [item.prompt for item in work.items]
        inputs = policy.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        inputs = {key: inputs[key].to(work.device) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            output = policy.model.generate(
                **inputs,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                num_return_sequences=work.samples,
                max_new_tokens=work.tokens,
                pad_token_id=policy.pad_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        return int((new != policy.pad_id).sum())

    return sample


def our_learner(work: Workload) -> Learner:
    train = TrainConfig(updates=10**6, prompts=work.prompts, samples=work.samples, learning_rate=1e-5)
    learner = Learner(work.policy, TaskConfig(name=TASK, level=LEVEL), train, 0)
    learner.task = Lengthy(work.tokens)
    return learner


def our_method() -> MultiTurnRL:
    return MultiTurnRL(objective="dapo", baseline="group_normalised", beta=0.0)


def our_step(work: Workload) -> Callable[[], int]:
    """One call: one update of the loop with TRL's default loss and advantage; returns the number of tokens."""
    learner = our_learner(work)
    (phase,) = our_method().phases(learner.train)
    records = online(learner, phase, 10**6)

    def step() -> int:
        before = learner.generated_tokens
        next(records)
        return learner.generated_tokens - before

    return step


def trl_steps(work: Workload, steps: int, between: Callable[[], None]) -> list[tuple[float, int]]:
    """(seconds, tokens) of ``steps`` steps of TRL's GRPOTrainer; ``between`` runs, untimed, after each of them."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    task: Task = Lengthy(work.tokens)
    items = task.items(1, range(work.prompts * (steps + 2)), LEVEL)
    of_prompt: dict[str, Item] = {item.prompt: item for item in items}
    measured: list[tuple[float, int]] = []
    tokens = 0

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        nonlocal tokens
        tokens = sum(map(len, completion_ids))
        return [task.score(of_prompt[p], c) for p, c in zip(prompts, completions, strict=True)]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize(work.device)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize(work.device)
            measured.append((time.perf_counter() - self.start, tokens))
            between()

    with tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=work.prompts * work.samples,
            num_generations=work.samples,
            max_completion_length=work.tokens,
            learning_rate=1e-5,
            max_steps=steps,
            use_cpu=work.device == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            beta=0.0,
        )
        trainer = GRPOTrainer(
            model=work.policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": item.prompt} for item in items]),
            processing_class=work.policy.tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return measured


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def timed(call: Callable[[], int], device: str) -> tuple[float, int]:
    """(seconds, what ``call`` returned)."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def matmul_speed(device: str) -> float:
    """Floating-point operations a second in large float32 matrix products: the best of several shapes."""
    best = 0.0
    for m, k, n in ((4096, 128, 512), (4096, 256, 1024), (1024, 1024, 1024), (4096, 1024, 4096)):
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        for _ in range(12):
            seconds, _ = timed(lambda a=a, b=b: (a @ b).shape[0], device)
            best = max(best, 2 * m * k * n / seconds)
    return best


def summary(ours: list[tuple[float, int]], theirs: list[tuple[float, int]], flops: float, peak: float) -> dict:
    """Medians, the ratio of rates with its range over pairs, and how far from the limit we are."""
    rates = [(a_tokens / a_s) / (b_tokens / b_s) for (a_s, a_tokens), (b_s, b_tokens) in zip(ours, theirs, strict=True)]
    seconds = statistics.median(s for s, _ in ours)
    return {
        "ours_s": round(seconds, 4),
        "theirs_s": round(statistics.median(s for s, _ in theirs), 4),
        "ours_tokens_per_s": round(statistics.median(t / s for s, t in ours)),
        "theirs_tokens_per_s": round(statistics.median(t / s for s, t in theirs)),
        "ratio": round(statistics.median(rates), 2),
        "ratio_range": [round(min(rates), 2), round(max(rates), 2)],
        "limit_s": round(flops / peak, 4),
        "share_of_limit": round(flops / peak / seconds, 2),
        "ratio_at_limit": round(statistics.median(s for s, _ in theirs) / (flops / peak), 1),
    }


def compare(work: Workload, repeats: int, peak: float) -> dict[str, dict]:
    """Both ratios for one size; contenders take turns."""
    mine, generate = our_sampler(work), transformers_generate(work)
    mine(), generate()  # warm up
    sampled = [(timed(mine, work.device), timed(generate, work.device)) for _ in range(repeats)]
    tokens = statistics.median(tokens for (_, tokens), _ in sampled)
    read = work.prompt_tokens()
    sampling_flops = 2.0 * work.matmul_parameters * (read + tokens)
    result = {
        "sampler": summary([a for a, _ in sampled], [b for _, b in sampled], sampling_flops, peak),
    }
    step = our_step(work)
    step()
    ours: list[tuple[float, int]] = []
    theirs = trl_steps(work, repeats + 1, lambda: ours.append(timed(step, work.device)))
    # Three passes (forward, and backward twice) over every token: prompts once a group, attempts in full.
    training_flops = 6.0 * work.matmul_parameters * (read + tokens)
    result["step"] = summary(ours[1:], theirs[1:], sampling_flops + training_flops, peak)  # the first warms up
    return result


def peak_memory(arguments: argparse.Namespace, size: str, who: str) -> float:
    """MiB at the peak of three steps, in a process of their own (on a GPU: of its memory)."""
    command = [sys.executable, __file__, "--memory-of", who, "--sizes", size, "--device", arguments.device]
    for name in ("prompts", "samples", "tokens", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def own_peak_mb(device: str) -> float:
    """MiB at the peak. On Linux from /proc, because ``getrusage`` starts from what the parent process had."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_for_memory(work: Workload, who: str) -> None:
    if who == "ours":
        step = our_step(work)
        for _ in range(3):
            step()
    else:
        trl_steps(work, 3, lambda: None)
    print(own_peak_mb(work.device))


def growth(arguments: argparse.Namespace) -> list[dict]:
    """Seconds of both samplers as one of batch, length and size grows; the others stay as the arguments say."""
    size = "0.7M" if "0.7M" in arguments.sizes else arguments.sizes[0]
    points = [("prompts", n, size, n, arguments.tokens) for n in (4, 8, 16, 32, 64)]
    points += [("tokens", n, size, arguments.prompts, n) for n in (8, 16, 32, 64)]
    points += [("size", SIZES[name][0], name, arguments.prompts, arguments.tokens) for name in arguments.sizes]
    rows = []
    for axis, value, name, prompts, tokens in points:
        work = Workload(name, prompts, arguments.samples, tokens, arguments.device)
        row: dict[str, Any] = {"axis": axis, "value": work.matmul_parameters if axis == "size" else value}
        for who, call in (("minirl", our_sampler(work)), ("transformers", transformers_generate(work))):
            call()
            row[who] = round(statistics.median(timed(call, arguments.device)[0] for _ in range(3)), 4)
        rows.append(row)
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Log-log panels of :func:`growth`: batch, length, size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = {"prompts": "prompts", "tokens": "new tokens", "size": "parameters in matrix products"}
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for panel, (axis, label) in zip(panels, labels.items(), strict=True):
        points = [row for row in rows if row["axis"] == axis]
        for who, marker in (("transformers", "s"), ("minirl", "o")):
            panel.plot([p["value"] for p in points], [p[who] for p in points], marker=marker, label=who)
        panel.set(xlabel=label, ylabel="seconds", xscale="log", yscale="log")
        panel.grid(alpha=0.3, which="both")
    panels[0].legend(frameon=False)
    figure.suptitle("Sampling: how time grows")
    figure.savefig(path, dpi=110)


def profile(work: Workload) -> dict[str, float]:
    """Share of one step's operator time by kind of operation, sampling and training together."""
    step = our_step(work)
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as recorded:
        step()
    kinds = {
        "matrix products": ("aten::mm", "aten::addmm"),
        "attention products": ("aten::bmm",),
        "softmax": ("softmax",),
        "elementwise": ("mul", "add", "silu", "sub", "neg", "exp", "pow", "div", "sum", "where", "sigmoid", "cat"),
        "copies": ("copy_", "clone", "fill_", "zero_", "index", "gather", "scatter"),
    }
    shares = dict.fromkeys([*kinds, "other"], 0.0)
    for event in recorded.key_averages():
        name = event.key
        kind = next((kind for kind, words in kinds.items() if any(word in name for word in words)), "other")
        if name in ("aten::mm", "aten::addmm"):
            kind = "matrix products"
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: round(value / total, 3) for kind, value in shares.items()}


def update_alone(work: Workload) -> float:
    """Seconds of loss, gradient and optimiser step on given rollouts: what of a step is not sampling and scoring."""
    learner = our_learner(work)
    method = our_method()
    (phase,) = method.phases(learner.train)
    from minirl.rollouts.episodes import roll_out

    generator = learner.generator(0, "sampling")
    rollouts = roll_out(work.policy, learner.task, work.items, samples=work.samples, generator=generator)
    credit = phase.credit(rollouts)

    def update() -> int:
        learner.step(policy_losses(learner, rollouts, credit, phase.objective, {}))
        return 0

    update()
    return round(statistics.median(timed(update, work.device)[0] for _ in range(5)), 4)


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "| size | what | rival | minirl s | rival s | minirl tokens/s | **ratio** (range) | limit s | of limit "
        "| ratio at limit | MiB, minirl | MiB, rival |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, parts in results["sizes"].items():
        for what, rival in (("sampler", "generate"), ("step", "TRL GRPOTrainer")):
            part = parts[what]
            low, high = part["ratio_range"]
            memory = parts["peak_mb"] if what == "step" else {"ours": "", "theirs": ""}
            lines.append(
                f"| {size} | {what} | {rival} | {part['ours_s']:.3f} | {part['theirs_s']:.3f} "
                f"| {part['ours_tokens_per_s']:,} | **{part['ratio']:.2f}** ({low:.2f}–{high:.2f}) "
                f"| {part['limit_s']:.3f} | {part['share_of_limit']:.0%} | {part['ratio_at_limit']:.1f} "
                f"| {memory['ours']} | {memory['theirs']} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.1M", "0.7M", "4M"])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens per attempt")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of every contender (a run of minirl uses one)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", help="write benchmarks/results/NAME.json, NAME.md and NAME.png")
    parser.add_argument("--profile", action="store_true", help="only show where the time of one step goes")
    parser.add_argument("--memory-of", choices=["ours", "trl"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def workload(size: str) -> Workload:
        torch.manual_seed(0)
        return Workload(size, arguments.prompts, arguments.samples, arguments.tokens, arguments.device)

    if arguments.memory_of:
        run_for_memory(workload(arguments.sizes[0]), arguments.memory_of)
        return
    if arguments.profile:
        for size in arguments.sizes:
            print(size, json.dumps(profile(workload(size))), f"update alone: {update_alone(workload(size))} s")
        return
    import transformers
    import trl

    peak = matmul_speed(arguments.device)
    results: dict[str, Any] = {
        "machine": {
            "processor": torch.cuda.get_device_name() if arguments.device != "cpu" else platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "matmul_gflops": round(peak / 1e9, 1),
        },
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)},
        "workload": {k: getattr(arguments, k) for k in ("prompts", "samples", "tokens", "repeats")},
        "sizes": {},
    }
    for size in arguments.sizes:
        print(f"{size} …", file=sys.stderr, flush=True)
        results["sizes"][size] = {
            **compare(workload(size), arguments.repeats, peak),
            "update_s": update_alone(workload(size)),
            "profile": profile(workload(size)) if arguments.device == "cpu" else {},
            "peak_mb": {
                who: round(peak_memory(arguments, size, name)) for who, name in (("ours", "ours"), ("theirs", "trl"))
            },
        }
    print(table(results))
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        results["growth"] = growth(arguments)
        (RESULTS / f"{arguments.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / f"{arguments.name}.md").write_text(table(results) + "\n")
        draw(results["growth"], RESULTS / f"{arguments.name}.png")


if __name__ == "__main__":
    main()
