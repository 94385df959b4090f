"""Whether this machine can run each tier, in plain words."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence

from minirl.errors import MinirlError

# Names to import, not to install. Nothing above imports them: this module must run where they are missing.
PACKAGES = (
    *("torch", "transformers", "safetensors", "papermill", "nbconvert", "ipykernel", "matplotlib", "scipy"),
    *("datasets", "pydantic", "yaml", "tqdm", "pygments"),
)
GIB = 1024**3


def diagnose() -> tuple[list[str], bool]:
    """Lines to print, and whether the tiers for laptops (smoke, tiny) can run."""
    problems: list[str] = []
    lines = [f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB memory"]
    missing = _missing(PACKAGES)
    if missing:
        problems.append(f"Not installed: {', '.join(missing)}. Run `pip install -e .` in the repository.")
    else:
        problems += _repository_problems(lines)
    if _memory_gib() < 2:
        problems.append("Less than 2 GiB of memory: tiny needs about 1 GiB for each run.")

    gpus = []
    if not missing:
        import torch

        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        lines.append(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {len(gpus)} GPU(s)")
    trl = not _missing(("trl",))
    lines += [
        "",
        f"smoke  {'yes' if not problems else 'no'}: seconds, any laptop",
        f"tiny   {'yes' if not problems else 'no'}: minutes on two cores; carries the claims",
        f"small  {_gpu_tier(problems, len(gpus), 1, trl)}",
        f"large  {_gpu_tier(problems, len(gpus), 2, trl)}",
    ]
    return lines + ([""] + [f"Problem: {problem}" for problem in problems] if problems else []), not problems


def _repository_problems(lines: list[str]) -> list[str]:
    """What is wrong with checkout and disk; adds what was found to ``lines``."""
    from minirl.experiments.registry import project_root
    from minirl.policy.models import base_names

    problems: list[str] = []
    try:
        root = project_root()
        free = shutil.disk_usage(root).free / GIB
        lines.append(f"repository found, {free:.0f} GiB free on its disk")
        if free < 1:
            problems.append("Less than 1 GiB of disk is free: a run would stop when it writes a checkpoint.")
    except MinirlError as error:
        problems.append(str(error))
    if not base_names():
        problems.append("No shipped base found: the checkout is incomplete (git status tells what is missing).")
    return problems


def _gpu_tier(problems: Sequence[str], gpus: int, needed: int, trl: bool) -> str:
    if problems:
        return "no: solve the problems below first"
    if gpus < needed:
        return f"no: needs {needed} GPU{'s' if needed > 1 else ''}, {gpus or 'none'} found"
    return "yes" if trl else "no: run `pip install -e '.[trl]'`"


def _missing(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
