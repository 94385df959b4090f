"""The rollout viewer: what the policy read, what it wrote, how sure it was, and how each attempt scored.

Four views of the same episodes: :func:`show_rollouts` (a line an episode), :func:`show_turns` (a line a turn, with who
spoke), :func:`show_side_by_side` (several policies on the same problems) and :func:`show_group` (all samples of one
prompt). The policy's own tokens are coloured by probability, advantage, divergence from a reference, or reward. Colour
is never alone: every token has its numbers as a tooltip, every attempt one number beside its score, and dashes under a
token say what the warm colour says.

The HTML stands alone: styles are inline, there is no script and nothing is loaded. It brings its own light background,
so it reads the same on a dark page. Whatever a model wrote is escaped before it reaches the page, and its control
characters are spelled out before they reach a terminal.
"""

import html
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor

from minirl.objectives.kl import exact_kl
from minirl.policy.models import Policy
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.show.source import MONOSPACE

Colour = Literal["probability", "advantage", "kl", "reward"]
Colours = tuple[int, int, int]

LIKELY, UNLIKELY = (0xE8, 0xF1, 0xF8), (0xEE, 0x85, 0x2F)  # background of own tokens at probability 1 and 0
POSITIVE, NEUTRAL, NEGATIVE = (0x4F, 0xA3, 0xD9), (0xF2, 0xF2, 0xF2), (0xEE, 0x85, 0x2F)
STACK_BEYOND = 40  # characters of an attempt; longer ones stand below one another instead of side by side
TEXT_WIDTH = 60  # characters of an attempt that the plain-text view shows

GREY = "#667079"  # on white 5:1, enough to be read
CELL = "padding:5px 10px;text-align:left;vertical-align:top;border:0;border-bottom:1px solid #e6e9ec;color:#222"
HEAD = f"{CELL};font-weight:600;color:#555;background:#f5f7f9"
CODE = f"font-family:{MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere"
UNDERLINE, DASHED = "border-bottom:2px solid #9aa4ad", ";border-bottom:2px dashed #333"


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


def gained(before: Rollouts, after: Rollouts, *_: Rollouts) -> list[int]:
    """Rows of the same problems whose last attempt is wrong ``before`` and right ``after``."""
    return (~_last_right(before) & _last_right(after)).nonzero().flatten().tolist()


def lost(before: Rollouts, after: Rollouts, *_: Rollouts) -> list[int]:
    """Rows of the same problems whose last attempt is right ``before`` and wrong ``after``."""
    return gained(after, before)


def show_rollouts(
    rollouts: Rollouts,
    policy: Policy,
    *,
    rows: int = 8,
    colour: Colour | None = "probability",
    advantages: Tensor | None = None,
    rewards: Tensor | None = None,
    reference: Policy | None = None,
    select: Callable[[Rollouts], list[int]] | None = None,
) -> RolloutView:
    """A table of at most ``rows`` rollouts, exactly as the policy read and wrote them.

    ``select`` names the rows (:func:`rescued`, :func:`spoiled`, :func:`repeated`, or any function that returns row
    indices); without it the first ones are shown. ``colour`` paints the policy's own tokens by

    - ``probability``: with which they were sampled;
    - ``advantage``: what ``advantages`` says, of shape [B], [B, turns] or [B, L];
    - ``reward``: that of the turn, ``rewards`` of one of these shapes, or the scores;
    - ``kl``: KL(policy ‖ ``reference``) at each token, in nats (:func:`token_kl`).

    Raises ``ValueError`` for another ``colour``, for ``advantage`` without advantages, for ``kl`` without a reference,
    and for another shape.
    """
    shown, count = _select(rollouts, rows, None if select is None else select(rollouts))
    paint = _paint(rollouts, policy, shown, colour, advantages, rewards, reference)
    parts = [_parts(rollouts, policy, b, paint) for b in shown]
    turns = max((len(part.attempts) for part in parts), default=0)
    longest = max((sum(len(t) for t, _, _ in a.pieces) for part in parts for a in part.attempts), default=0)
    stacked = longest > STACK_BEYOND
    heads = ["attempts"] if stacked else [f"attempt {t + 1}" for t in range(turns)]
    lines = []
    for part in parts:
        cells = [_attempt_cell(attempt) for attempt in part.attempts]
        cells = [_stack(cells)] if stacked else cells + [_Cell()] * (turns - len(cells))
        lines.append([_Cell.grey(str(part.row)), _Cell.code(part.prompt), *cells, _Cell.code(part.reference)])
    return _view(count, _legend(paint), ["row", "prompt", *heads, "reference"], lines)


def show_turns(
    rollouts: Rollouts,
    policy: Policy,
    *,
    rows: int = 3,
    colour: Colour | None = "probability",
    advantages: Tensor | None = None,
    rewards: Tensor | None = None,
    reference: Policy | None = None,
    select: Callable[[Rollouts], list[int]] | None = None,
) -> RolloutView:
    """The same as :func:`show_rollouts`, read like a conversation: one line a turn, with who spoke."""
    shown, count = _select(rollouts, rows, None if select is None else select(rollouts))
    paint = _paint(rollouts, policy, shown, colour, advantages, rewards, reference)
    lines = []
    for b in shown:
        part = _parts(rollouts, policy, b, paint)
        lines.append([_Cell.grey(str(b)), _Cell.grey("task"), _Cell.code(part.prompt)])
        for t, attempt in enumerate(part.attempts):
            if attempt.before:
                lines.append([_Cell(), _Cell.grey("task"), _Cell.code(attempt.before)])
            attempt.before = ""
            lines.append([_Cell(), _Cell.grey(f"policy {t + 1}"), _attempt_cell(attempt)])
        lines.append([_Cell(), _Cell.grey("reference"), _Cell.code(part.reference)])
    return _view(count, _legend(paint), ["row", "who", "what"], lines)


def show_side_by_side(
    episodes: Mapping[str, tuple[Rollouts, Policy]],
    *,
    rows: int = 8,
    colour: Literal["probability"] | None = "probability",
    select: Callable[..., list[int]] | None = None,
) -> RolloutView:
    """Several policies on the same problems, a column each: ``{"before": (rollouts, policy), "after": …}``.

    ``select`` is called with all the rollouts, in order, and names the rows (:func:`gained`, :func:`lost`). Raises
    ``ValueError`` unless every row is about the same problem in all of them.
    """
    everything = [rollouts for rollouts, _ in episodes.values()]
    if not everything or any(rollouts.items != everything[0].items for rollouts in everything):
        raise ValueError("side by side needs at least one policy, and rollouts of the same problems in the same order")
    shown, count = _select(everything[0], rows, None if select is None else select(*everything))
    paints = [_paint(rollouts, policy, shown, colour) for rollouts, policy in episodes.values()]
    lines = []
    for b in shown:
        parts = [
            _parts(rollouts, policy, b, paint)
            for (rollouts, policy), paint in zip(episodes.values(), paints, strict=True)
        ]
        cells = [_stack([_attempt_cell(attempt) for attempt in part.attempts]) for part in parts]
        lines.append([_Cell.grey(str(b)), _Cell.code(parts[0].prompt), *cells, _Cell.code(parts[0].reference)])
    return _view(count, _legend(paints[0]), ["row", "prompt", *episodes, "reference"], lines)


def show_group(
    rollouts: Rollouts,
    policy: Policy,
    advantages: Tensor,
    *,
    group: int = 0,
    colour: Colour | None = "advantage",
    rewards: Tensor | None = None,
    reference: Policy | None = None,
) -> RolloutView:
    """All samples of one prompt with their scores and ``advantages`` ([B], [B, turns] or [B, L], of all rows).

    ``group`` counts prompts from 0. Raises ``ValueError`` for a group that is not there, else as
    :func:`show_rollouts`.
    """
    shown = (rollouts.group == group).nonzero().flatten().tolist()
    if not shown:
        raise ValueError(f"there is no group {group}; groups are 0 to {int(rollouts.group.max())}")
    paint = _paint(rollouts, policy, shown, colour, advantages, rewards, reference)
    parts = [_parts(rollouts, policy, b, paint) for b in shown]
    given = _per_token(rollouts, advantages, "advantages")
    turns = max(len(part.attempts) for part in parts)
    lines = []
    for part in parts:
        line = [_Cell.grey(str(part.row))]
        for t, attempt in enumerate(part.attempts):
            mean = float(given[part.row][rollouts.turn[part.row] == t].mean())
            if colour == "advantage":
                attempt.number = attempt.in_text = ""  # it has a column
            line += [_attempt_cell(attempt), _Cell(_signed(mean, 3), _signed(mean, 3))]
        lines.append(line + [_Cell()] * (1 + 2 * turns - len(line)))
    scores = ", ".join(f"{score:.2f}" for score in rollouts.scores[shown].mean(0).tolist())
    count = f"prompt {_visible(parts[0].prompt)} · reference {_visible(parts[0].reference)} · {len(shown)} samples, "
    count += f"mean score {scores}"
    heads = [name for t in range(turns) for name in (f"attempt {t + 1}", "advantage")]
    return _view(count, _legend(paint), ["row", *heads], lines)


@torch.no_grad()
def token_kl(rollouts: Rollouts, policy: Policy, reference: Policy) -> Tensor:
    """[B, L] KL(π ‖ π_ref) in nats of the choice of every token, given what stands before it; 0 outside own tokens.

    Exact over the vocabulary, at temperature 1.
    """
    ids = rollouts.ids[:, :-1]
    kl = exact_kl(policy.logits(ids), reference.logits(ids))  # [B, L − 1]; the first token is never the policy's own
    return torch.where(rollouts.own, torch.nn.functional.pad(kl, (1, 0)), 0.0)


# --- What is shown of an episode ------------------------------------------------------------------------------------


@dataclass
class _Attempt:
    before: str  # context between the previous attempt and this one: feedback
    pieces: list[tuple[str, str, str]]  # own tokens: text, CSS on top of the common style, tooltip
    answer: str  # what was scored
    score: float
    number: str  # what the colour says, of the attempt as a whole
    in_text: str  # the same for the plain-text view, if it is shown there


@dataclass
class _Parts:
    row: int
    prompt: str
    attempts: list[_Attempt]
    reference: str


@dataclass(frozen=True)
class _Paint:
    """How a number at every own token becomes a colour, and what is said of it in words."""

    name: str  # in the legend; "" paints nothing
    values: Tensor  # [B, L]
    stops: tuple[tuple[float, Colours], ...]  # the colour changes linearly from one to the next
    dashed: Callable[[float], bool]  # the warm end: underlined with dashes
    dashes: str  # which values these are
    number: Callable[[Tensor], str]  # values at the tokens of an attempt → what stands beside its score
    known: Mapping[str, Tensor]  # format → [B, L]: the tooltips
    in_text: bool = True  # the number stands in the plain-text view, too

    def css(self, value: float) -> str:
        if not self.name:
            return ""
        return f";background:{self.background(value)}" + (DASHED if self.dashed(value) else "")

    def background(self, value: float) -> str:
        (low, one), (high, other) = next(
            (pair for pair in zip(self.stops, self.stops[1:], strict=False) if value <= pair[1][0]), self.stops[-2:]
        )
        return _mix(one, other, (value - low) / (high - low))


def _paint(
    rollouts: Rollouts,
    policy: Policy,
    shown: list[int],
    colour: Colour | None,
    advantages: Tensor | None = None,
    rewards: Tensor | None = None,
    reference: Policy | None = None,
) -> _Paint:
    """The scale of ``colour``, as wide as the rows ``shown`` need; without a colour, tooltips only."""
    if colour is not None and colour not in get_args(Colour):
        raise ValueError(f"unknown colour {colour!r}; one of: {', '.join(get_args(Colour))}, None")
    known = {"p = {:.3f}": rollouts.logprobs.detach().float().exp()}
    if advantages is not None:
        known["advantage {:+.3f}"] = _per_token(rollouts, advantages, "advantages")
    elif colour == "advantage":
        raise ValueError("colour='advantage' needs advantages=, of shape [B], [B, turns] or [B, L]")
    if rewards is not None or colour == "reward":
        known["reward {:+.3f}"] = _per_token(rollouts, rollouts.scores if rewards is None else rewards, "rewards")
    if reference is not None:
        known["KL {:.3f}"] = token_kl(rollouts, policy, reference)
    elif colour == "kl":
        raise ValueError("colour='kl' needs reference=, the policy to compare with")

    def top(values: Tensor) -> float:
        return float(values[shown][rollouts.own[shown]].abs().max()) or 1.0 if shown else 1.0

    if colour == "kl":
        values = known["KL {:.3f}"]
        far = top(values)
        stops = ((0.0, NEUTRAL), (far, UNLIKELY))
        name = "KL to the reference, nats"
        return _Paint(name, values, stops, lambda v: v > far / 2, "the far half", lambda v: f"KL {v.sum():.2g}", known)
    if colour in ("advantage", "reward"):
        values, letter = known[f"{colour} {{:+.3f}}"], "A" if colour == "advantage" else "r"
        far = top(values)
        diverging = ((-far, NEGATIVE), (0.0, NEUTRAL), (far, POSITIVE))
        return _Paint(
            colour,
            values,
            diverging,
            lambda v: v < 0,
            "negative",
            lambda v: f"{letter} {_signed(float(v.mean()))}",
            known,
        )
    name = "token probability" if colour else ""
    stops, number = ((0.0, UNLIKELY), (1.0, LIKELY)), "p {:.2g}" if colour else ""  # p of writing exactly this
    values = known["p = {:.3f}"]
    return _Paint(
        name, values, stops, lambda v: v < 0.5, "below 0.5", lambda v: number.format(v.prod()), known, in_text=False
    )


def _select(rollouts: Rollouts, rows: int, selected: list[int] | None) -> tuple[list[int], str]:
    """The rows to show, and a sentence that says how many of how many they are."""
    everything = len(rollouts.items)
    chosen = list(range(everything)) if selected is None else list(selected)
    count = f"{min(rows, len(chosen))} of {len(chosen)}"
    count += " rollouts" if selected is None else f" selected rollouts (of {everything} in all)"
    return chosen[:rows], count


def _per_token(rollouts: Rollouts, values: Tensor, name: str) -> Tensor:
    """[B], [B, turns] or [B, L] as [B, L]; what it says about context tokens is never shown."""
    values = values.detach().float().to(rollouts.ids.device)
    batch, length = rollouts.ids.shape
    if values.shape == (batch, length):
        return values
    if values.shape == (batch,):
        return values[:, None].expand(batch, length)
    if values.shape == rollouts.scores.shape:
        return values.gather(1, rollouts.turn.clamp_min(0))
    raise ValueError(
        f"{name} of shape {tuple(values.shape)}; expected {(batch,)}, {tuple(rollouts.scores.shape)} or "
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


def _parts(rollouts: Rollouts, policy: Policy, b: int, paint: _Paint) -> _Parts:
    ids, turn = rollouts.ids[b].tolist(), rollouts.turn[b].tolist()
    known = [(words, values[b].tolist()) for words, values in paint.known.items()]
    special = policy.tokenizer.all_special_ids
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
        for position, text in zip(positions, _token_texts(policy, [ids[p] for p in positions]), strict=True):
            css = paint.css(float(paint.values[b, position]))
            if ids[position] in special:
                css += ";color:#333;font-size:75%"
            pieces.append((text, css, ", ".join(words.format(values[position]) for words, values in known)))
        score, number = float(rollouts.scores[b, turn_index]), paint.number(paint.values[b, positions])
        answer = rollouts.answers[b][turn_index]
        attempts.append(_Attempt(context, pieces, answer, score, number, f" {number}" if paint.in_text else ""))
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


@dataclass(frozen=True)
class _Cell:
    """One cell of a table, as HTML and as text."""

    html: str = ""
    text: str = ""
    css: str = ""

    @staticmethod
    def code(text: str) -> "_Cell":
        """What the policy read, as it is."""
        return _Cell(_escape(text), _clip(text), f";{CODE};min-width:{min(len(text), 24)}ch")

    @staticmethod
    def grey(text: str) -> "_Cell":
        return _Cell(text, text, f";color:{GREY};width:1%;white-space:nowrap")


def _attempt_cell(attempt: _Attempt) -> _Cell:
    feedback = f'<span style="color:{GREY}">{_escape(attempt.before)}</span> ' if attempt.before else ""
    tokens = "".join(
        f'<span title="{tooltip}" style="{UNDERLINE};margin-right:1px;padding:1px 0.5px{css}">{_escape(text)}</span>'
        for text, css, tooltip in attempt.pieces
    )
    hue = "#0b62a3" if attempt.score >= 1.0 else "#b34700"
    number = f' <span style="color:{GREY};font-size:11.5px">{attempt.number}</span>' if attempt.number else ""
    before = f"[{_clip(attempt.before)}] " if attempt.before else ""
    return _Cell(
        f'<span style="{CODE}">{feedback}{tokens}</span> '
        f'<span style="white-space:nowrap"><span style="color:{hue}"><b>{_mark(attempt.score)}</b>&nbsp;'
        f"{attempt.score:.2g}</span>{number}</span>",
        f"{before}{_clip(attempt.answer)} {_mark(attempt.score)} {attempt.score:.2g}{attempt.in_text}",
    )


def _stack(cells: list[_Cell]) -> _Cell:
    """Attempts below one another in one cell."""
    below = "".join(f'<div style="margin-bottom:6px">{cell.html}</div>' for cell in cells)
    return _Cell(below if len(cells) > 1 else cells[0].html, " | ".join(cell.text for cell in cells))


def _view(count: str, legend: str, heads: list[str], lines: list[list[_Cell]]) -> RolloutView:
    """The table that all views are."""
    body = "".join(
        f'<tr style="background:#fff">{"".join(f"""<td style="{CELL}{c.css}">{c.html}</td>""" for c in line)}</tr>'
        for line in lines
    )
    head = "".join(f'<th style="{HEAD}">{_escape(name)}</th>' for name in heads)
    page = (
        '<div style="background:#fff;color:#222;border:1px solid #d8dde3;border-radius:6px;overflow-x:auto;'
        'margin:0.5em 0;font-size:13.5px;line-height:1.6;text-align:left">'
        f'<div style="padding:7px 10px;color:#555;font-size:12.5px">{_escape(count)}{legend}</div>'
        '<table style="border-collapse:collapse;table-layout:auto;border:0;margin:0;width:100%;font-size:13.5px">'
        f'<thead><tr style="background:#f5f7f9">{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    table = [heads, *([cell.text for cell in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return RolloutView(page, "\n".join([count, *text]))


def _legend(paint: _Paint) -> str:
    """Swatches for the scale in use, what dashes mean, and how own tokens differ from the rest."""
    low, high = paint.stops[0][0], paint.stops[-1][0]
    steps = [low + (high - low) * i / 4 for i in range(5)]
    swatches = "".join(
        f'<span style="background:{paint.background(value)};color:#222;padding:1px 7px;'
        f'{UNDERLINE}{DASHED if paint.dashed(value) else ""}">'
        f"{_signed(value) if low < 0 else format(value, '.2g')}</span>"
        for value in steps
    )
    scale = f" &nbsp;·&nbsp; {paint.name} {_nowrap(swatches)}" if paint.name else ""
    dashes = f', <span style="{UNDERLINE}{DASHED}">dashed</span>: {paint.dashes}' if paint.name else ""
    return (
        f'{scale} &nbsp;·&nbsp; <span style="{UNDERLINE}">underlined</span>: own tokens{dashes} &nbsp;·&nbsp; '
        f'<span style="color:{GREY}">grey</span>: feedback'
    )


def _signed(value: float, digits: int = 2) -> str:
    """Zero has no sign: nothing is pushed either way."""
    return f"{value:+.{digits}g}" if value else "0"


def _nowrap(page: str) -> str:
    return f'<span style="white-space:nowrap">{page}</span>'


def _clip(text: str) -> str:
    text = _visible(text)
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"
