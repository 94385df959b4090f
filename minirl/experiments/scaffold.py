"""``minirl new``: the parts of a technique that is still to be written, from the files in ``skeleton/``.

The skeleton runs at once, and does nothing new: its rewards are the scores, so it equals its baseline exactly. Every
place that needs a thought says TODO, and the tests of the registry fail with the list of them. Its claim is a draft
under another name, which registers nothing.
"""

import re
from pathlib import Path

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.experiments.registry import FAMILIES, Technique, draft_path, method_class, module_name, techniques
from minirl.experiments.rundir import write_atomically

SKELETON = Path(__file__).parent / "skeleton"
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def lay_out(slug: str, family: str) -> list[Path]:
    """Write module, notebook, configs, draft of the claim and test of the technique ``slug``; the files.

    Raises :class:`ConfigError` for an unknown family, a slug that is none or is taken, and rather than overwrite.
    """
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}.{nearest(family, FAMILIES)}")
    if not SLUG.fullmatch(slug):
        raise ConfigError(f"{slug!r} is no slug: lower-case letters, digits and single hyphens, such as 'my-idea'")
    if slug in (item.slug for item in techniques()):
        raise ConfigError(f"there is a technique {slug!r} already")
    item, method = Technique(slug, family), slug.replace("-", "_")
    if _is_method(method):
        raise ConfigError(f"there is a method {method!r} already, so {slug!r} is taken; choose another slug")
    files = {
        item.module: "technique.py",
        item.notebook: "notebook.ipynb",
        item.reproduction / "smoke.yaml": "smoke.yaml",
        item.reproduction / "tiny.yaml": "tiny.yaml",
        draft_path(item): "claim.draft.yaml",
        item.test: "test_technique.py",
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise ConfigError(f"nothing was written, because this is there already: {', '.join(there)}")
    words = {
        "new_family.new_idea": f"{family}.{module_name(slug)}",
        "new-idea": slug,
        "new_idea": method,
        "NewIdea": module_name("".join(part.capitalize() for part in slug.split("-"))),
        "New idea": slug.replace("-", " ").capitalize(),
    }
    for path, source in files.items():
        text = (SKELETON / source).read_text(encoding="utf-8")
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        write_atomically(path, text)
    package = item.module.parent / "__init__.py"
    if not package.exists():  # the first technique of its family
        write_atomically(package, "")
    return list(files)


def _is_method(name: str) -> bool:
    try:
        method_class(name)
    except ConfigError:
        return False
    return True
