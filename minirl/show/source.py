"""The source of a function as a cell of a notebook: pages show the code they run, never a pasted copy."""

import html
import inspect
import re
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

LINTERS = re.compile(r"  # (?:noqa|type: ignore).*$", re.MULTILINE)
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True, repr=False)
class SourceView:
    """Highlighted source in a notebook, the source itself as text."""

    name: str
    source: str

    def __repr__(self) -> str:
        return self.source

    def _repr_html_(self) -> str:
        # Inline styles: a page's own style sheet, or a notebook that is not trusted, would drop a <style> element.
        code = highlight(self.source, PythonLexer(), HtmlFormatter(noclasses=True, style="friendly", nowrap=True))
        return (
            '<div style="border:1px solid #d8dde3;border-radius:6px;overflow:hidden;margin:0.5em 0;background:#fafbfc;'
            'color:#222;text-align:left">'
            f'<div style="font:12.5px {MONOSPACE};color:#0b62a3;background:#eef2f6;padding:5px 12px;'
            f'border-bottom:1px solid #d8dde3">{html.escape(self.name)}</div>'
            f'<pre style="font:11.5px/1.5 {MONOSPACE};margin:0;padding:9px 10px;border:0;background:#fafbfc;'
            f'color:#222;overflow-x:auto;white-space:pre">{code}</pre></div>'
        )


def show_source(obj: Any) -> SourceView:
    """The source of a function, class, method or module, docstring included, without remarks to linters.

    Raises ``TypeError`` or ``OSError`` like ``inspect.getsource`` if there is none (built-ins, code typed at a prompt).
    """
    source = LINTERS.sub("", textwrap.dedent(inspect.getsource(obj))).rstrip() + "\n"
    if isinstance(obj, ModuleType):
        return SourceView(obj.__name__, source)
    return SourceView(f"{obj.__module__}.{obj.__qualname__}", source)
