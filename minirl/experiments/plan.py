"""What a config needs, before anything is loaded: memory, tokens, floating-point operations and time.

All of it follows from the resolved config and from the model's ``config.json``: the model is built on torch's meta
device, where parameters have shapes and no numbers. Rates are measured here, in a second. This is arithmetic, not a
measurement of training: memory is meant to be right within half, time to its order of magnitude
(``python -m minirl.experiments.plan`` compares both with committed results).

Memory of one rank, in bytes. P parameters of b bytes (2 in bfloat16, else 4), of which T are trained (with LoRA those
of the adapter, beside the P); R episodes on this rank, M of them in a micro-batch, C tokens in an episode, of which the
first S are the prompt; L layers of width H, with A heads, keys and values of width K and an MLP of width F; V tokens in
the vocabulary.

=========== ==============================================================================================
weights     b·P, and 4·T for an adapter
gradients   4·T
optimiser   8·T, the two moments of AdamW
reference   b·P, a copy; nothing with an adapter, where it is the same weights with the adapter switched off
cache       2·L·K·b·R·C, keys and values while a batch is rolled out
activations b·M·C·L·(10·H + 4·F + A·C), what one layer keeps for the backward pass, attention written out
logits      4·M·V·(C + 3·(C − S)): the model's, then scaled ones, their gradient and the reference's
=========== ==============================================================================================

The cache and the last two are never there at the same time: the peak is the first four, and the larger of the two.

Work, in floating-point operations, of N = P parameters without the input embedding (unless it is the output layer,
too): 2·N a token that is read or generated and 6·N a token learned from, 4·N with an adapter; 2·N more for the
reference. Attention is left out. Generating is also bound by reading weights and cache from memory, once a step.
Every phase is counted as if it rolled out a batch for every update, and every attempt as long as it may be.
"""

import contextlib
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import torch
import transformers
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from minirl.config import Experiment
from minirl.errors import ConfigError, MinirlError
from minirl.experiments.registry import Technique, config_path, project_root, result_files, technique
from minirl.experiments.run import load_experiment, load_method
from minirl.experiments.rundir import read_json
from minirl.loops import piece
from minirl.policy.fetched import fetched
from minirl.policy.models import Policy, base_directory
from minirl.tasks import get
from minirl.tasks.game import Game

SHAPES = Path(__file__).with_name("shapes.json")  # config.json of the models that our configs name
CHARACTERS_A_TOKEN = 3  # of a prompt, where the tokenizer is not here
TEMPLATE_TOKENS = 32
PROMPT_TOKENS = 256  # where the problems are not here either
SOME_ITEMS = 32
BEYOND = ("small", "large")  # tiers that need another machine than a laptop
MB = 1024**2
MEASURE_S = 0.3


@dataclass(frozen=True)
class Shape:
    """What of a model matters here."""

    parameters: int
    trained: int
    matmul: int  # parameters that every token meets: all but the input embedding
    layers: int
    width: int
    heads: int
    kv_width: int
    mlp: int
    vocabulary: int
    adapter: bool
    bytes: int  # of a parameter that is not trained
    autocast: bool  # whether an update multiplies in 16 bits


@dataclass(frozen=True)
class Batch:
    """Episodes of an update on one rank, in tokens; ``own`` and ``context`` are the most there can be."""

    rows: int
    micro: int  # rows of a micro-batch
    prompts: int
    prompt: int
    own: int
    context: int


@dataclass(frozen=True)
class Machine:
    """What this machine has. Rates are of operations and of bytes a second."""

    name: str
    memory: int  # bytes, of one device
    devices: int
    generating: float
    learning: float
    bandwidth: float


@dataclass(frozen=True)
class Plan:
    """See the module's docstring. Bytes, tokens, operations, seconds; ``why`` it does not fit, "" if it does."""

    slug: str
    tier: str
    base: str
    task: str
    arms: int
    updates: int
    ranks: int
    device: str
    shape: Shape
    batch: Batch
    memory: dict[str, int]
    tokens: dict[str, int]
    operations: dict[str, float]
    seconds: dict[str, float]
    machine: Machine
    budget: dict[str, float]
    assumed: str
    why: str

    @property
    def peak(self) -> int:
        return peak(self.memory)

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "peak": self.peak, "fits": not self.why}


# --- The model ------------------------------------------------------------------------------------------------------


def model_config(base: str) -> Any:
    """The transformers config of a base: shipped, a directory, in the hub's cache, or known to :data:`SHAPES`.

    Nothing is fetched. Raises :class:`MinirlError` that says how to get it.
    """
    path = base_directory(base) or fetched(base) or Path(base)
    try:
        return AutoConfig.from_pretrained(str(path) if path.exists() else base, local_files_only=True)
    except Exception as error:  # whatever transformers makes of the files: it has no error of its own
        known = json.loads(SHAPES.read_text(encoding="utf-8"))
        if base in known:
            return AutoConfig.for_model(**known[base])
        raise MinirlError(
            f"the config.json of {base!r} is not on this machine, so its size is not known. Where there is a network, "
            f"`hf download {base} config.json` fetches it; or name a directory with --set base=DIR"
        ) from error


def shape_of(experiment: Experiment) -> Shape:
    """Parameters and widths of the experiment's model, which is never given any memory."""
    config = model_config(experiment.base)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    trained, lora = parameters, experiment.lora
    if lora:
        head = model.get_output_embeddings()
        linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
        chosen = [m for n, m in linear.items() if lora.targets is None or n.rpartition(".")[2] in lora.targets]
        if not chosen:
            raise ConfigError(
                f"key 'lora.targets': the model has no linear layer called {', '.join(lora.targets or [])}"
            )
        trained = sum(lora.rank * (m.in_features + m.out_features) for m in chosen)
    text = config.get_text_config()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters=parameters,
        trained=trained,
        matmul=parameters - (0 if tied else model.get_input_embeddings().weight.numel()),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_width=dim * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        mlp=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        adapter=lora is not None,
        bytes=2 if experiment.dtype == "bfloat16" else 4,
        autocast=experiment.train.autocast is not None,
    )


# --- The batch ------------------------------------------------------------------------------------------------------


def batch_of(experiment: Experiment) -> tuple[Batch, str]:
    """Tokens of an update's episodes, and what had to be assumed about them."""
    train, task, level = experiment.train, get(experiment.task.name), experiment.task.level
    ranks = experiment.ranks or 1
    episodes = math.ceil(train.prompts / ranks) * train.samples
    assumed = ""
    if isinstance(task, Game):
        (item,) = task.items(0, [0], level)
        prompt, own = len(task.view(item.prompt, "", 0)), task.turns(level)
        feedback, turns = 2, own  # of a view, between two moves
    else:
        turns, limit = train.turns, 1 + task.max_answer_chars(level)
        own = turns * limit
        try:
            items = task.items(0, range(SOME_ITEMS), level)
            texts = [item.prompt for item in items]
            answers = [task.feedback(item, item.answer, train.feedback) for item in items]
            prompt, feedback, assumed = _tokens(experiment.base, texts, answers)
        except MinirlError:  # a data set that is not here
            prompt, feedback = PROMPT_TOKENS, PROMPT_TOKENS
            assumed = f"the problems of {task.name} are not here: prompts of {PROMPT_TOKENS} tokens are assumed"
    context = prompt + own + (turns - 1) * feedback
    micro = piece(episodes, train.samples, train.micro_batches)
    return Batch(episodes, micro, math.ceil(train.prompts / ranks), prompt, own, context), assumed


def _tokens(base: str, prompts: list[str], feedback: list[str]) -> tuple[int, int, str]:
    """Tokens of the longest prompt and feedback, and what was assumed if the base's tokenizer is not here."""
    path = base_directory(base) or fetched(base) or Path(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path) if path.exists() else base, local_files_only=True)
        policy = Policy(None, tokenizer)
        rows, after = policy.encode_prompts(prompts), policy.encode_feedback(feedback)
        return max(map(len, rows)), max(map(len, after)), ""
    except Exception:  # as in model_config
        lengths = (math.ceil(max(map(len, texts)) / CHARACTERS_A_TOKEN) for texts in (prompts, feedback))
        said = (
            f"the tokenizer of {base} is not here: {CHARACTERS_A_TOKEN} characters of a prompt are taken for a token, "
            f"and {TEMPLATE_TOKENS} tokens for its chat template"
        )
        prompt, reply = (length + TEMPLATE_TOKENS for length in lengths)
        return prompt, reply, said


# --- Memory and work ------------------------------------------------------------------------------------------------


def memory_of(shape: Shape, batch: Batch, cached_rows: int | None = None) -> dict[str, int]:
    """Bytes on one rank, by what they are for. ``cached_rows`` are those generated for at once."""
    layer = 10 * shape.width + 4 * shape.mlp + shape.heads * batch.context
    positions = batch.context + 3 * (batch.context - batch.prompt)
    return {
        "weights": shape.bytes * shape.parameters + (4 * shape.trained if shape.adapter else 0),
        "gradients": 4 * shape.trained,
        "optimiser": 8 * shape.trained,
        "reference": 0 if shape.adapter else shape.bytes * shape.parameters,
        "cache": 2 * shape.layers * shape.kv_width * shape.bytes * (cached_rows or batch.rows) * batch.context,
        "activations": shape.bytes * batch.micro * batch.context * shape.layers * layer,
        "logits": 4 * batch.micro * shape.vocabulary * positions,
    }


def peak(memory: dict[str, int]) -> int:
    """The most that is there at once."""
    moving = {"cache", "activations", "logits"}
    standing = sum(size for name, size in memory.items() if name not in moving)
    return standing + max(memory["cache"], memory["activations"] + memory["logits"])


def work_of(shape: Shape, batch: Batch, passes: int) -> dict[str, float]:
    """Floating-point operations of an update on one rank."""
    once = 2.0 * shape.matmul
    read = batch.prompts * batch.prompt + batch.rows * (batch.context - batch.prompt)
    learned = batch.rows * batch.context * passes
    return {"generating": once * read, "learning": learned * (once * (2 if shape.adapter else 3) + once)}


def seconds_of(shape: Shape, batch: Batch, work: dict[str, float], machine: Machine) -> dict[str, float]:
    """Seconds of an update: generating, as slow as its operations or as reading weights and cache, and learning."""
    cache = memory_of(shape, batch)["cache"] / 2  # half full, on average
    reading = batch.own * (shape.bytes * shape.parameters + cache) / machine.bandwidth
    return {
        "generating": max(work["generating"] / machine.generating, reading),
        "learning": work["learning"] / machine.learning,
    }


# --- This machine ---------------------------------------------------------------------------------------------------


def measure(shape: Shape, batch: Batch, device: str, threads: int) -> Machine:
    """Memory and rates of ``device``, or of the processor if there is no such device here.

    Rates are those of matrix products of the sizes that this model needs, measured for a second in all.
    """
    gpu = device.startswith("cuda") and torch.cuda.is_available()
    where = torch.device(device if gpu else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dtype = torch.bfloat16 if shape.bytes == 2 else torch.float32
        in_update = torch.bfloat16 if shape.autocast else dtype
        generating = _rate(batch.rows, shape, where, dtype)
        learning = _rate(min(batch.micro * batch.context, 4096), shape, where, in_update)
        data, copy = torch.zeros(2, 64 * MB, dtype=torch.uint8, device=where)
        copies, seconds = _repeated(lambda: copy.copy_(data), where)
    finally:
        torch.set_num_threads(before)
    rates = (generating, learning, 2 * len(data) * copies / seconds)
    if gpu:
        about = torch.cuda.get_device_properties(where)
        return Machine(about.name, about.total_memory, torch.cuda.device_count(), *rates)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(f"processor, {threads} of {os.cpu_count()} cores", memory, 1, *rates)


def _rate(rows: int, shape: Shape, where: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the product of the MLP, the largest there is in a layer."""
    x = torch.zeros(rows, shape.width, device=where, dtype=dtype)
    weight = torch.zeros(shape.width, 2 * shape.mlp, device=where, dtype=dtype)
    times, seconds = _repeated(lambda: x @ weight, where)
    return 2.0 * rows * shape.width * 2 * shape.mlp * times / seconds


def _repeated(act: Any, where: torch.device) -> tuple[int, float]:
    """How often ``act`` was done in about :data:`MEASURE_S` seconds, and in how many exactly."""

    def wait() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    act()
    wait()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < MEASURE_S:
        for _ in range(4):
            act()
        wait()
        times += 4
    return times, time.perf_counter() - start


@functools.cache
def _program() -> int:
    """Bytes that Python and what a run imports hold before any model is loaded; 0 where the system does not say.

    Asked of a process of its own: this one may hold much more, as when the book is built.
    """
    if not Path("/proc/self/statm").exists():
        return 0
    code = "import minirl.experiments.run; print(open('/proc/self/statm').read().split()[1])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return int(said) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Nothing is fetched: without a network every attempt would take half a minute."""
    switches: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


# --- All together ---------------------------------------------------------------------------------------------------


def absent(item: Technique, tier: str) -> str:
    """Why a technique has no config at ``tier``: what ``reproductions/scale.yaml`` says, "" if nothing."""
    path = project_root() / "reproductions" / "scale.yaml"
    reasons = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() and tier in BEYOND else {}
    return next((reasons[key][item.slug] for key in ("both", tier) if item.slug in reasons.get(key, {})), "")


def plan(slug: str, tier: str, overrides: Any = None, variant: str = "", machine: Machine | None = None) -> Plan:
    """The plan of a config. ``machine`` is measured if it is not given. Raises :class:`MinirlError`."""
    item = technique(slug)
    if not config_path(item, tier, variant).exists() and (reason := absent(item, tier)):
        raise ConfigError(f"{slug} has no config at {tier}: {reason}")
    experiment = load_experiment(slug, tier, overrides, variant)
    train, ranks = experiment.train, experiment.ranks or 1
    with offline():
        shape = shape_of(experiment)
        batch, assumed = batch_of(experiment)
    trained = [arm for arm in experiment.arms if load_method(experiment, arm).phases(train)]
    if not trained:
        shape = replace(shape, trained=0)
    memory = memory_of(shape, batch, max(batch.rows, min(experiment.evaluation.batch, experiment.evaluation.items)))
    if not trained:
        memory |= dict.fromkeys(("reference", "activations", "logits"), 0)
    if not experiment.device.startswith("cuda"):
        memory = {"program": _program(), **memory}
    machine = machine or measure(shape, batch, experiment.device, experiment.threads)

    tokens = batch.rows * ranks * batch.own
    of_an_arm = min(tokens * train.updates, train.tokens or math.inf)
    updates = math.ceil(of_an_arm / tokens) if trained else 0
    work = work_of(shape, batch, train.passes)
    items = experiment.evaluation.items
    held_out = replace(batch, rows=items, prompts=items)
    evaluation = work_of(shape, held_out, 0)["generating"] * (len(experiment.arms) + 1)
    spent = seconds_of(shape, batch, work, machine)
    return Plan(
        slug=slug,
        tier=tier,
        base=experiment.base,
        task=f"{experiment.task.name}, level {experiment.task.level}",
        arms=len(experiment.arms),
        updates=updates,
        ranks=ranks,
        device=experiment.device,
        shape=shape,
        batch=batch,
        memory=memory,
        tokens={"update": tokens, "seed": round(of_an_arm) * len(trained), "evaluation": items * batch.own},
        operations={"update": sum(work.values()) * ranks, "evaluation": evaluation},
        seconds={
            **spent,
            "update": sum(spent.values()),
            "seed": sum(spent.values()) * updates * len(trained) + evaluation / machine.generating,
        },
        machine=machine,
        budget=experiment.budget.model_dump(),
        assumed=assumed,
        why=_why_not(experiment, peak(memory), machine),
    )


def _why_not(experiment: Experiment, needed: int, machine: Machine) -> str:
    """Why the machine cannot run it, "" if it can."""
    ranks = experiment.ranks or 1
    if experiment.device.startswith("cuda"):
        if not torch.cuda.is_available():
            return f"the config's device is {experiment.device}, and there is no GPU"
        if machine.devices < ranks:
            return f"it needs {ranks} GPUs, {machine.devices} found"
    else:
        needed *= ranks
    if needed > machine.memory:
        return f"it needs {size(needed)} of memory, and there are {size(machine.memory)}"
    return ""


# --- Words ----------------------------------------------------------------------------------------------------------


def size(count: float) -> str:
    """``512 MB``, ``1.5 GB``."""
    return f"{count / MB:,.0f} MB" if count < 1000 * MB else f"{count / 1024**3:,.1f} GB"


def amount(value: float) -> str:
    """A count to three digits: ``1.54 G``."""
    for unit, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2 days``."""
    for unit, factor in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.2g} s"


def render(plan: Plan) -> str:
    """The plan as text."""
    shape, batch, machine = plan.shape, plan.batch, plan.machine
    which = "an adapter of " if shape.adapter else ""
    lines = [
        f"{plan.slug} at {plan.tier}: {plan.base}, {plan.task}, {plan.arms} arms, device {plan.device}",
        f"{amount(shape.parameters)} parameters; trained: {which}{amount(shape.trained)}",
        f"an update: {batch.rows} episodes of up to {batch.context} tokens ({batch.prompt} prompt, {batch.own} own), "
        f"{batch.micro} in a micro-batch" + (f", on each of {plan.ranks} ranks" if plan.ranks > 1 else ""),
        "",
        "memory" + (" of a rank" if plan.ranks > 1 else ""),
        *(f"  {name:<12} {size(value):>10}" for name, value in plan.memory.items()),
        f"  {'peak':<12} {size(plan.peak):>10}   (declared: {plan.budget['peak_mb']:,.0f} MB)",
        "",
        "work, at most",
        f"  tokens generated  {amount(plan.tokens['update'])} an update, {amount(plan.tokens['seed'])} a seed with all "
        f"arms, {amount(plan.tokens['evaluation'])} an evaluation",
        f"  operations        {amount(plan.operations['update'])} an update, {plan.updates} updates an arm",
        f"  time              {duration(plan.seconds['update'])} an update, {duration(plan.seconds['seed'])} a seed "
        f"with all arms   (declared: {duration(plan.budget['core_s'])})",
        f"  by what was measured on this machine's {machine.name}: {amount(machine.generating)}FLOP/s generating, "
        f"{amount(machine.learning)}FLOP/s learning, {amount(machine.bandwidth)}B/s",
        "",
        f"This machine: no, {plan.why}." if plan.why else "This machine: yes, it fits.",
    ]
    return "\n".join(lines + ([f"Assumed: {plan.assumed}."] if plan.assumed else []))


def compared(slugs: Iterable[str], tier: str = "tiny") -> list[dict[str, Any]]:
    """Plan and committed results of some configs: what was planned and measured, a seed with all arms."""
    rows = []
    for slug in slugs:
        made = plan(slug, tier)
        documents = [read_json(path) for path in result_files(technique(slug), tier)]
        mean = {key: sum(d[key] for d in documents) / len(documents) for key in ("core_s", "peak_mb")}
        tokens = sum(arm["generated_tokens"] for arm in documents[0]["arms"].values())
        row = {"slug": slug, "tokens": (made.tokens["seed"], tokens), "peak_mb": (made.peak / MB, mean["peak_mb"])}
        training = {"core_s": (made.seconds["update"] * made.tokens["seed"] / made.tokens["update"], mean["core_s"])}
        rows.append({**row, **training})
    return rows


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print("planned / measured, a seed with all arms (committed results at tiny)")
    for row in compared(["score", "ufo", "raft", "nft", "spiral", "sec", "co-reward", "spin"]):
        pairs = (f"{key} {a:,.0f} / {b:,.0f} = {a / max(b, 1):.2f}" for key, (a, b) in list(row.items())[1:])
        print(f"{row['slug']:<12} " + "   ".join(pairs))
