"""The rollout viewer: what the policy read, what it wrote, how sure it was, and how each attempt scored.

The HTML stands alone: styles are inline, there is no script and nothing is loaded. Whatever a model wrote is escaped
before it reaches the page, and its control characters are spelled out before they reach a terminal.
"""

import html
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from torch import Tensor

from minirl.policy.models import Policy
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.show.source import MONOSPACE

Colour = Literal["probability", "advantage"]

LIKELY, UNLIKELY = (0xE8, 0xF1, 0xF8), (0xEE, 0x85, 0x2F)  # background of own tokens at probability 1 and 0
POSITIVE, NEUTRAL, NEGATIVE = (0x4F, 0xA3, 0xD9), (0xF2, 0xF2, 0xF2), (0xEE, 0x85, 0x2F)
STACK_BEYOND = 40  # characters of an attempt; longer ones stand below one another instead of side by side
TEXT_WIDTH = 60  # characters of an attempt that the plain-text view shows

CELL = "padding:5px 10px;text-align:left;vertical-align:top;border:0;border-bottom:1px solid #e6e9ec;color:#222"
HEAD = f"{CELL};font-weight:600;color:#555;background:#f5f7f9"
CODE = f"font-family:{MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere"


@dataclass(frozen=True, repr=False)
class RolloutView:
    """A table of rollouts: HTML in a notebook, plain text in a terminal."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def _right(rollouts: Rollouts) -> Tensor:
    """[B, turns] bool: attempts with full score."""
    return rollouts.scores >= 1.0


def _last_right(rollouts: Rollouts) -> Tensor:
    """[B] bool: the last attempt that was made has full score."""
    return _right(rollouts).gather(1, (rollouts.alive.sum(1) - 1)[:, None])[:, 0]


def rescued(rollouts: Rollouts) -> list[int]:
    """Rows whose first attempt is wrong and whose last one is right."""
    return (~_right(rollouts)[:, 0] & _last_right(rollouts)).nonzero().flatten().tolist()


def spoiled(rollouts: Rollouts) -> list[int]:
    """Rows whose first attempt is right and whose last one is wrong."""
    return (_right(rollouts)[:, 0] & ~_last_right(rollouts)).nonzero().flatten().tolist()


def repeated(rollouts: Rollouts) -> list[int]:
    """Rows that give the same wrong answer in two successive attempts."""
    right = _right(rollouts).tolist()
    return [
        b
        for b, answers in enumerate(rollouts.answers)
        if any(answers[t].strip() == answers[t - 1].strip() and not right[b][t] for t in range(1, len(answers)))
    ]


def show_rollouts(
    rollouts: Rollouts,
    policy: Policy,
    *,
    rows: int = 8,
    colour: Colour | None = "probability",
    advantages: Tensor | None = None,
    select: Callable[[Rollouts], list[int]] | None = None,
) -> RolloutView:
    """A table of at most ``rows`` rollouts, exactly as the policy read and wrote them.

    ``select`` names the rows (:func:`rescued`, :func:`spoiled`, :func:`repeated`, or any function that returns row
    indices); without it the first ones are shown. ``colour`` paints the policy's own tokens by the probability with
    which they were sampled or by ``advantages``, of shape [B], [B, turns] or [B, L]. Raises ``ValueError`` for another
    ``colour``, and for ``advantage`` without advantages or with another shape.
    """
    if colour not in ("probability", "advantage", None):
        raise ValueError(f"unknown colour {colour!r}; one of: probability, advantage, None")
    per_token = _advantage_per_token(rollouts, advantages) if advantages is not None else None  # [B, L]
    if colour == "advantage" and per_token is None:
        raise ValueError("colour='advantage' needs advantages=, of shape [B], [B, turns] or [B, L]")
    chosen = list(range(len(rollouts.items))) if select is None else list(select(rollouts))
    count = f"{min(rows, len(chosen))} of {len(chosen)}" + (" rollouts" if select is None else " selected rollouts")
    if select is not None:
        count += f" (of {len(rollouts.items)} in all)"
    shown = chosen[:rows]
    scale = 1.0
    if per_token is not None and shown:
        scale = float(per_token[shown][rollouts.own[shown]].abs().max()) or 1.0
    parts = [_parts(rollouts, policy, b, colour, per_token, scale) for b in shown]
    return RolloutView(_table(parts, count, _legend(colour, scale)), _plain(parts, count))


@dataclass
class _Attempt:
    before: str  # context between the previous attempt and this one: feedback
    pieces: list[tuple[str, str, str]]  # own tokens: text, CSS on top of the common style, tooltip
    answer: str  # what was scored
    score: float


@dataclass
class _Parts:
    row: int
    prompt: str
    attempts: list[_Attempt]
    reference: str


def _advantage_per_token(rollouts: Rollouts, advantages: Tensor) -> Tensor:
    """[B], [B, turns] or [B, L] as [B, L]; what it says about context tokens is never shown."""
    advantages = advantages.detach().float().to(rollouts.ids.device)
    batch, length = rollouts.ids.shape
    if advantages.shape == (batch, length):
        return advantages
    if advantages.shape == (batch,):
        return advantages[:, None].expand(batch, length)
    if advantages.shape == rollouts.scores.shape:
        return advantages.gather(1, rollouts.turn.clamp_min(0))
    raise ValueError(
        f"advantages of shape {tuple(advantages.shape)}; expected {(batch,)}, {tuple(rollouts.scores.shape)} or "
        f"{(batch, length)}, that is [B], [B, turns] or [B, L]"
    )


def _text(policy: Policy, ids: list[int]) -> str:
    """What ``ids`` say, special tokens included: the viewer hides nothing that the policy read or wrote."""
    return str(policy.tokenizer.decode(ids)) if ids else ""


def _token_texts(policy: Policy, ids: list[int]) -> list[str]:
    """The text each token adds. A character that spans several tokens appears with the last of them."""
    texts = []
    for i in range(len(ids)):
        # Decoded with the tokens before it, because what a token means depends on them (leading spaces, UTF-8 bytes);
        # eight suffice, and keep this linear in the length.
        context = ids[max(0, i - 8) : i]
        before = _text(policy, context).rstrip("\ufffd")
        text = _text(policy, [*context, ids[i]])
        incomplete = text.endswith("\ufffd") and i + 1 < len(ids)
        texts.append("" if incomplete else text[len(before) :])
    return texts


def _parts(
    rollouts: Rollouts, policy: Policy, b: int, colour: Colour | None, advantages: Tensor | None, scale: float
) -> _Parts:
    ids, turn = rollouts.ids[b].tolist(), rollouts.turn[b].tolist()
    probabilities = rollouts.logprobs[b].detach().float().exp().tolist()
    prompt, attempts, context = None, [], ""
    for turn_index, run in groupby(range(len(ids)), key=turn.__getitem__):
        positions = list(run)
        if turn_index == CONTEXT:
            while positions and positions[-1] == len(ids) - 1 and ids[positions[-1]] == policy.pad_id:
                ids.pop()
                positions.pop()
            context = _text(policy, [ids[p] for p in positions])
            if prompt is None:
                prompt, context = context, ""
            continue
        pieces = []
        special = policy.tokenizer.all_special_ids
        for position, text in zip(positions, _token_texts(policy, [ids[p] for p in positions]), strict=True):
            tooltip = f"p = {probabilities[position]:.3f}"
            css = f";background:{_mix(UNLIKELY, LIKELY, probabilities[position])}" if colour == "probability" else ""
            if advantages is not None:
                advantage = float(advantages[b, position])
                tooltip += f", advantage {advantage:+.3f}"
                if colour == "advantage":
                    hue = POSITIVE if advantage > 0 else NEGATIVE
                    css = f";background:{_mix(NEUTRAL, hue, abs(advantage) / scale)}"
            if ids[position] in special:
                css += ";color:#666;font-size:75%"
            pieces.append((text, css, tooltip))
        attempts.append(
            _Attempt(context, pieces, rollouts.answers[b][turn_index], float(rollouts.scores[b, turn_index]))
        )
        context = ""
    return _Parts(b, prompt or "", attempts, rollouts.items[b].answer)


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], share: float) -> str:
    share = min(1.0, max(0.0, share))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _visible(text: str, keep: str = "") -> str:
    """``text`` with control and direction characters spelled out: they could repaint a terminal or reorder a page."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c).startswith("C") and c not in keep else c for c in text)


def _escape(text: str) -> str:
    return html.escape(_visible(text, keep="\n\t"))


def _mark(score: float) -> str:
    return "✓" if score >= 1.0 else "✗"


def _attempt_html(attempt: _Attempt) -> str:
    feedback = f'<span style="color:#8a8f94">{_escape(attempt.before)}</span> ' if attempt.before else ""
    tokens = "".join(
        f'<span title="{tooltip}" style="border-bottom:1px solid #9aa4ad;margin-right:1px;padding:1px 0.5px{css}">'
        f"{_escape(text)}</span>"
        for text, css, tooltip in attempt.pieces
    )
    hue = "#0b62a3" if attempt.score >= 1.0 else "#b34700"
    return (
        f'<span style="{CODE}">{feedback}{tokens}</span> '
        f'<span style="color:{hue};white-space:nowrap"><b>{_mark(attempt.score)}</b>&nbsp;{attempt.score:.2g}</span>'
    )


def _table(rows: list[_Parts], count: str, legend: str) -> str:
    turns = max((len(row.attempts) for row in rows), default=0)
    longest = max((sum(len(t) for t, _, _ in a.pieces) for row in rows for a in row.attempts), default=0)
    stacked = longest > STACK_BEYOND
    heads = ["attempts"] if stacked else [f"attempt {t + 1}" for t in range(turns)]
    lines = []
    for row in rows:
        attempts = [_attempt_html(attempt) for attempt in row.attempts]
        if stacked:
            attempts = ["".join(f'<div style="margin-bottom:6px">{attempt}</div>' for attempt in attempts)]
        cells = [
            f'<td style="{CELL};color:#8a8f94">{row.row}</td>',
            f'<td style="{CELL};{CODE};min-width:{min(len(row.prompt), 24)}ch">{_escape(row.prompt)}</td>',
            *(f'<td style="{CELL}">{attempt}</td>' for attempt in attempts),
            *[f'<td style="{CELL}"></td>'] * (len(heads) - len(attempts)),
            f'<td style="{CELL};{CODE};border-left:1px solid #e6e9ec">{_escape(row.reference)}</td>',
        ]
        lines.append(f'<tr style="background:#fff">{"".join(cells)}</tr>')
    head = "".join(f'<th style="{HEAD}">{name}</th>' for name in ["row", "prompt", *heads, "reference"])
    return (
        '<div style="background:#fff;color:#222;border:1px solid #d8dde3;border-radius:6px;overflow-x:auto;'
        'margin:0.5em 0;font-size:13.5px;line-height:1.6;text-align:left">'
        f'<div style="padding:7px 10px;color:#555;font-size:12.5px">{count}{legend}</div>'
        '<table style="border-collapse:collapse;border:0;margin:0;width:100%;font-size:13.5px">'
        f'<thead><tr style="background:#f5f7f9">{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _legend(colour: Colour | None, scale: float) -> str:
    """Swatches for the scale in use, and how own tokens differ from the rest."""
    if colour == "probability":
        stops = [(f"{p:g}", _mix(UNLIKELY, LIKELY, p)) for p in (0, 0.25, 0.5, 0.75, 1)]
        name = "token probability"
    elif colour == "advantage":
        stops = [(f"{-scale:+.2g}", _mix(NEUTRAL, NEGATIVE, 1)), ("", _mix(NEUTRAL, NEGATIVE, 0.5))]
        stops += [("0", _mix(NEUTRAL, POSITIVE, 0)), ("", _mix(NEUTRAL, POSITIVE, 0.5))]
        stops += [(f"{scale:+.2g}", _mix(NEUTRAL, POSITIVE, 1))]
        name = "advantage"
    else:
        stops, name = [], ""
    swatches = "".join(
        f'<span style="background:{background};color:#222;padding:1px 7px">{label or "&nbsp;"}</span>'
        for label, background in stops
    )
    scale_text = f" &nbsp;·&nbsp; {name} {swatches}" if stops else ""
    return (
        f'{scale_text} &nbsp;·&nbsp; <span style="border-bottom:1px solid #9aa4ad">underlined</span>: own '
        'tokens &nbsp;·&nbsp; <span style="color:#8a8f94">grey</span>: feedback'
    )


def _plain(rows: list[_Parts], count: str) -> str:
    def clip(text: str) -> str:
        text = _visible(text)
        return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"

    turns = max((len(row.attempts) for row in rows), default=0)
    table = [["row", "prompt", *(f"attempt {t + 1}" for t in range(turns)), "reference"]]
    for row in rows:
        attempts = []
        for attempt in row.attempts:
            feedback = f"[{clip(attempt.before)}] " if attempt.before else ""
            attempts.append(f"{feedback}{clip(attempt.answer)} {_mark(attempt.score)} {attempt.score:.2g}")
        attempts += [""] * (turns - len(attempts))
        table.append([str(row.row), clip(row.prompt), *attempts, clip(row.reference)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([count, *lines])
