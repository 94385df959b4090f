"""Check the built book: every page is there, nothing is loaded from the network, every internal link resolves.

``python -m book.check DIRECTORY``, the last step of ``make book``. Links that a reader may follow to other sites are
fine; scripts, styles, images, fonts and frames from there are not.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from book.assemble import BOOK, toc_files

# What a browser fetches by itself when it meets the tag.
LOADS = {
    ("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"), ("iframe", "src"),
    ("video", "src"), ("video", "poster"), ("audio", "src"), ("track", "src"), ("embed", "src"), ("object", "data"),
    ("input", "src"), ("link", "href"), ("use", "href"), ("image", "href"), ("form", "action"),
}  # fmt: skip
FOLLOWED = {("a", "href"), ("area", "href")}
REMOTE = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
STYLE_LOADS = re.compile(
    r"url\(\s*['\"]?\s*((?:https?:)?//[^)'\"]+)|@import\s+(?:url\()?\s*['\"]((?:https?:)?//[^'\"]+)"
)
# An address in a script of a page may be fetched later (Jupyter Book's thebe is started by a button), so none is
# allowed there, except names that are never fetched.
ADDRESS = re.compile(r"""['"`]((?:https?:)?//[^'"`\s]+)""")
NAMES_ONLY = ("http://www.w3.org/", "https://www.w3.org/", "https://schema.org")
# In a library under _static/ an address may stand in a message; only one that is handed to a loader counts.
SCRIPT_LOADS = re.compile(
    r"""(?:\bfetch|\bimport|\bimportScripts|\.open\(\s*['"`][A-Z]+['"`]\s*,|\.src\s*=|\bfrom)\s*\(?\s*['"`]((?:https?:)?//[^'"`\s]+)"""
)


@dataclass
class Page(HTMLParser):
    """What a page loads, where it links to, and which anchors it has."""

    loads: list[tuple[str, str]] = field(default_factory=list)  # (where, address)
    links: list[tuple[str, str]] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    remote: list[tuple[str, str]] = field(default_factory=list)
    without_text: list[str] = field(default_factory=list)  # images

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in ("script", "style") else ""
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "img" and "alt" not in given:
            self.without_text.append(given.get("src", "?")[:80])
        for name, value in given.items():
            name = name.removeprefix("xlink:")
            if (tag, name) in LOADS and not (tag == "link" and given.get("rel") in ("canonical", "author", "license")):
                addresses = re.split(r"\s*,\s+", value) if name == "srcset" else [value]
                self.loads += [(f"<{tag} {name}>", address.split()[0]) for address in addresses if address.strip()]
            elif (tag, name) in FOLLOWED:
                self.links.append((f"<{tag} {name}>", value))
            elif name == "style":
                self.remote += [(f"style of <{tag}>", address) for address in style_loads(value)]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.remote += [("<style>", address) for address in style_loads(data)]
        elif self._inside == "script":
            found = (address for address in ADDRESS.findall(data) if not address.startswith(NAMES_ONLY))
            self.remote += [("<script>", address) for address in found if re.match(r"(https?:)?//[\w.-]+\.\w", address)]


def style_loads(css: str) -> list[str]:
    """Addresses on the network that a style sheet fetches."""
    return [first or second for first, second in STYLE_LOADS.findall(css)]


def script_loads(script: str) -> list[str]:
    """Addresses on the network that a script hands to something that fetches."""
    return [address for address in SCRIPT_LOADS.findall(script) if not address.startswith(NAMES_ONLY)]


def read_page(text: str) -> Page:
    """The parsed page."""
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    return parsed


def broken(root: Path, path: Path, address: str, pages: dict[Path, Page]) -> str:
    """What is wrong with an internal ``address`` on the page ``path``; empty if nothing is."""
    parts = urlsplit(address)
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    if parts.path.startswith("/"):
        return "begins with /, which leads out of the book when it is opened from a folder"
    if not target.is_relative_to(root):
        return "leads out of the book"
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"no anchor {anchor!r} there"
    return ""


def problems(root: Path, expected: Iterable[str]) -> list[str]:
    """Everything that is wrong with the book in ``root``, which should have the ``expected`` pages; one line each."""
    root = root.resolve()
    found = [f"{name}.html: the page is missing" for name in expected if not (root / f"{name}.html").is_file()]
    files = [path for path in sorted(root.rglob("*.html")) if is_page(root, path)]
    pages = {path: read_page(path.read_text(encoding="utf-8")) for path in files}
    for path, parsed in pages.items():
        name = path.relative_to(root)
        found += [f"{name}: {where} names {address} on the network" for where, address in parsed.remote]
        found += [f"{name}: the image {source} has no alternative text" for source in parsed.without_text]
        for where, address in [*parsed.loads, *parsed.links]:
            if REMOTE.match(address):
                if (where, address) in parsed.loads:
                    found.append(f"{name}: {where} loads {address} from the network")
            elif not re.match(r"(data|mailto|javascript|about):", address):
                wrong = broken(root, path, address, pages)
                found += [f"{name}: {where} {address!r}: {wrong}"] if wrong else []
    for path in sorted([*root.rglob("*.css"), *root.rglob("*.js")]):
        loads = style_loads if path.suffix == ".css" else script_loads
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(root)}: loads {address} from the network" for address in loads(text)]
    return list(dict.fromkeys(found))


def is_page(root: Path, path: Path) -> bool:
    """A page of the book, not one that a library brings along or the source of one."""
    return path.relative_to(root).parts[0] not in ("_static", "_sources")


def main(directory: str) -> int:
    """Print what is wrong; 1 if anything is."""
    root, toc = Path(directory), yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    expected = list(toc_files(toc))
    found = problems(root, expected)
    right = f"{len(expected)} pages, nothing from the network, every link resolves: {root / 'index.html'}"
    print("\n".join(found) or right)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
