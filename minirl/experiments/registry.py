"""The registry: which techniques there are, read off the files themselves.

A technique is at home in four places under one slug. Nothing is registered by hand, so nothing can be forgotten.
"""

import ast
import builtins
import importlib
import keyword
import re
from dataclasses import dataclass
from pathlib import Path

import minirl
from minirl.config import nearest
from minirl.errors import ConfigError

FAMILIES = ("self_correction", "critique", "self_play", "curriculum", "self_evolution")


def project_root() -> Path:
    """Directory of the repository that the installed package belongs to, whatever the working directory.

    Raises :class:`ConfigError` if minirl was installed without its repository.
    """
    root = Path(minirl.__file__).resolve().parent.parent
    if not (root / "reproductions").is_dir():
        raise ConfigError(
            f"no reproductions/ beside {root / 'minirl'}: minirl was installed without its repository. "
            f"Clone it and install with `pip install -e .`"
        )
    return root


@dataclass(frozen=True)
class Technique:
    """One technique and where its four parts are."""

    slug: str
    family: str

    @property
    def module(self) -> Path:
        return project_root() / "minirl" / "techniques" / self.family / f"{module_name(self.slug)}.py"

    @property
    def notebook(self) -> Path:
        return project_root() / "notebooks" / self.family / f"{self.slug}.ipynb"

    @property
    def reproduction(self) -> Path:
        return project_root() / "reproductions" / self.slug

    @property
    def test(self) -> Path:
        return project_root() / "tests" / "techniques" / f"test_{module_name(self.slug)}.py"

    @property
    def title(self) -> str:
        """First line of the module's docstring. The module is not imported: a list of all has to appear at once."""
        docstring = ast.get_docstring(ast.parse(self.module.read_text(encoding="utf-8"))) or ""
        return docstring.partition("\n")[0].rstrip(".")

    def tiers(self) -> list[str]:
        """Tiers that have a config, smallest first."""
        return [tier for tier in ("smoke", "tiny", "small", "large") if (self.reproduction / f"{tier}.yaml").exists()]


def module_name(slug: str) -> str:
    """Python name of a slug: ``-`` becomes ``_``; keywords and builtins get a trailing ``_``."""
    name = slug.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) or hasattr(builtins, name) else name


def techniques() -> list[Technique]:
    """All techniques that have a module, in the order of families."""
    found = []
    for family in FAMILIES:
        folder = project_root() / "minirl" / "techniques" / family
        for path in sorted(folder.glob("[a-z]*.py")):
            slug = path.stem.rstrip("_").replace("_", "-")
            found.append(Technique(slug, family))
    return found


def technique(slug: str) -> Technique:
    """The technique called ``slug``. Raises :class:`ConfigError` with the nearest one."""
    known = {t.slug: t for t in techniques()}
    if not isinstance(slug, str) or slug not in known:
        raise ConfigError(f"unknown technique {slug!r}.{nearest(slug, known)}")
    return known[slug]


FRESH = "fresh"  # a variant with the tier's own config, on seeds that its claim does not name
BITS_16 = "bfloat16"  # a variant with the tier's arms, whose updates multiply matrices in 16 bits
RUNG = re.compile(r"\d+[kM]")  # variants called 700k, 4M, …: the tier's arms, from a base with so many parameters


def settles(variant: str) -> bool:
    """Whether results of a variant settle the tier's claim once more: with fresh seeds, with a base of another size, or
    with 16-bit updates. Other variants have arms that the claim does not name."""
    return variant in ("", FRESH, BITS_16) or RUNG.fullmatch(variant) is not None


def changed_in(variant: str) -> str:
    """In words, with what a variant settles the tier's claim once more."""
    return {FRESH: "fresh seeds", BITS_16: "16-bit updates"}.get(variant, f"{variant} parameters")


def label(tier: str, variant: str = "") -> str:
    """Name of a config, its runs and its results: the tier, or ``<tier>-<variant>`` for a second config of it."""
    return f"{tier}-{variant}" if variant else tier


def config_path(item: Technique, tier: str, variant: str = "") -> Path:
    """The config of a tier, or of its variant; the variant ``fresh`` is the tier's own."""
    return item.reproduction / f"{label(tier, '' if variant == FRESH else variant)}.yaml"


def run_directory(slug: str, tier: str, variant: str, seed: int) -> Path:
    """Where a run is kept unless told otherwise."""
    return project_root() / "runs" / slug / label(tier, variant) / f"seed-{seed}"


def results_directory(item: Technique, tier: str, variant: str = "") -> Path:
    """Where the results of a config are committed."""
    return item.reproduction / "results" / label(tier, variant)


def result_files(item: Technique, tier: str, variant: str = "") -> list[Path]:
    """The committed per-seed files of a config, in the order of seeds."""
    folder = results_directory(item, tier, variant)
    return sorted(folder.glob("seed-*.json"), key=lambda path: int(path.stem.split("-")[1]))


def published(item: Technique) -> list[tuple[str, str]]:
    """``(tier, variant)`` of every directory of results, the tiers themselves first."""
    folders = [path.name for path in sorted((item.reproduction / "results").glob("*")) if path.is_dir()]
    pairs = [(tier, variant) for name in folders for tier, _, variant in [name.partition("-")]]
    return sorted(pairs, key=lambda pair: (pair[1] != "", pair))


def claim_path(item: Technique, tier: str) -> Path:
    """``claim.yaml`` holds the claim at tiny, ``claim-<tier>.yaml`` that of another tier."""
    return item.reproduction / ("claim.yaml" if tier == "tiny" else f"claim-{tier}.yaml")


def governing_claim(item: Technique, tier: str) -> Path:
    """The claim that says which seeds and conditions a run at ``tier`` is about: its own, or else that at tiny."""
    own = claim_path(item, tier)
    return own if own.exists() else claim_path(item, "tiny")


def draft_path(item: Technique) -> Path:
    """A claim at tiny that is still being written: its name registers nothing."""
    return item.reproduction / "claim.draft.yaml"


def to_register(item: Technique) -> str:
    """What is still to be done by whoever has no claim at tiny."""
    return (
        f"{item.slug} has no registered claim yet: finish {draft_path(item).name}, rename it to "
        f"{claim_path(item, 'tiny').name} and commit it before the first run at tiny"
    )


def load_module(item: Technique):
    """The technique's Python module."""
    return importlib.import_module(f"minirl.techniques.{item.family}.{module_name(item.slug)}")


def method_class(name: str) -> type:
    """The :class:`~minirl.techniques.base.Method` that configs call ``name``. Raises :class:`ConfigError`."""
    from minirl.techniques import baselines  # noqa: F401 – importing defines its methods
    from minirl.techniques.base import Method

    for item in techniques():
        load_module(item)
    known: dict[str, type] = {}
    pending = list(Method.__subclasses__())
    while pending:
        cls = pending.pop()
        known[cls.name] = cls
        pending += cls.__subclasses__()
    if name not in known:
        raise ConfigError(f"unknown method {name!r}.{nearest(name, known)}")
    return known[name]
