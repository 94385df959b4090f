"""Games to look at: a board before every move, how likely the mover found each of its moves, what both could expect.

::

    strategy = strategy_of(policy, game, level)
    show_game(game, "i:1322", strategy, values_along(game, "i", "1322", [strategy, strategy]))

Like the rollout viewer, the HTML stands alone (inline styles, no script), brings its own light background, and says
nothing by colour alone: every probability is a number, the move that was made has a frame.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minirl.show.rollouts import GREY, RolloutView
from minirl.show.source import MONOSPACE

if TYPE_CHECKING:
    from minirl.tasks.game import Game

LIKELY = (0x4F, 0xA3, 0xD9)
CARD = "display:inline-block;vertical-align:top;margin:5px;padding:8px 10px;border:1px solid #e1e5e9;border-radius:6px"
CELL = "width:30px;min-width:30px;height:30px;text-align:center;border:1px solid #b8c0c8;padding:0"


def show_game(
    game: Game,
    record: str,
    strategy: Mapping[str, Mapping[str, float]],
    values: Sequence[Sequence[float]] | None = None,
) -> RolloutView:
    """The game ``record`` (``deal:moves``, as in the items of :func:`minirl.rollouts.games.play`), one board a move.

    ``strategy`` says how likely the mover found every move (a view that it lacks: nothing is said). ``values`` are what
    every player can expect before each move and at the end, one row more than there are moves.
    """
    deal, _, moves = record.partition(":")
    boards, lines, paid, made = list[str](), list[str](), list[Sequence[float]](), 0
    while (movers := game.to_move(deal, moves[:made])) and made < len(moves):
        before, chosen = moves[:made], moves[made : made + len(movers)]
        chances = [dict(strategy.get(game.view(deal, before, player), {})) for player in movers]
        names = " and ".join(f"player {player + 1}" for player in movers)
        expected = _expected(values, len(boards))
        drawn = game.name == "tictactoe"  # its board holds the probabilities
        bars = "" if drawn else "".join(map(_chances, chances, chosen))
        boards.append(
            f'<div style="{CARD}"><div style="color:#555;font-size:12px">{len(boards) + 1}. {names}</div>'
            f"{_board(game.name, deal, before, chances[0], chosen, movers[0])}"
            f"{bars}{expected}</div>"
        )
        said = "; ".join(" ".join(f"{move} {p:.2f}" for move, p in some.items()) for some in chances)
        lines.append(f"{len(lines) + 1}. {names}: {chosen}  ({said})".replace("  ()", ""))
        made += len(movers)
        paid.append(game.rewards(deal, moves[:made]))
    going_on = game.to_move(deal, moves) if made == len(moves) and "?" not in moves else ()
    brought = [sum(column) for column in zip(*paid, strict=True)] if "?" not in moves else []
    payoffs = ", ".join(f"{value:+g}" for value in brought)
    result = f"payoffs: {payoffs}" if brought else "ended by a move that is not legal"
    if going_on:
        result = f"player {going_on[0] + 1} is to move: {', '.join(game.legal(deal, moves))}"
    boards.append(
        f'<div style="{CARD}"><div style="color:#555;font-size:12px">{"now" if going_on else "the end"}</div>'
        f"{_board(game.name, deal, moves, {}, '', 0)}<div>{result}</div></div>"
    )
    page = (
        '<div style="background:#fff;color:#222;border:1px solid #d8dde3;border-radius:6px;overflow-x:auto;'
        'margin:0.5em 0;padding:4px;font-size:13px;line-height:1.5;text-align:left">'
        f'<div style="padding:4px 8px;color:#555;font-size:12.5px">{html.escape(game.name)} · '
        f"framed: the move that was made · shaded: how likely it was</div>{''.join(boards)}</div>"
    )
    return RolloutView(page, "\n".join([f"{game.name} {record}", *lines, result]))


def _expected(values: Sequence[Sequence[float]] | None, row: int) -> str:
    if values is None:
        return ""
    said = ", ".join(f"{value:+.2f}" for value in values[row])
    return f'<div style="color:{GREY};font-size:12px">can expect {said}</div>'


def _shade(p: float) -> str:
    red, green, blue = (round(255 + (part - 255) * min(1.0, p)) for part in LIKELY)
    return f"background:#{red:02x}{green:02x}{blue:02x}"


def _chances(chances: Mapping[str, float], chosen: str) -> str:
    """One small bar a move, with its number."""
    bars = "".join(
        f'<tr><td style="padding:0 5px;font-family:{MONOSPACE};{_frame(move == chosen)}">{html.escape(move)}</td>'
        f'<td style="padding:0 4px"><span style="display:inline-block;height:9px;width:{max(1, round(60 * p))}px;'
        f'background:#4fa3d9"></span></td><td style="padding:0;font-size:12px">{p:.2f}</td></tr>'
        for move, p in chances.items()
        if p >= 0.005 or move == chosen
    )
    return (
        f'<table style="border-collapse:collapse;border:0;margin:3px 0;background:#fff">{bars}</table>' if bars else ""
    )


def _frame(chosen: bool) -> str:
    return "outline:2px solid #222;outline-offset:-2px" if chosen else ""


def _board(name: str, deal: str, moves: str, chances: Mapping[str, float], chosen: str, player: int) -> str:
    """How the game stands after ``moves``; games without a drawing of their own are shown as text."""
    draw = {"tictactoe": _cross, "nim": _heap, "kuhn": _cards, "dilemma": _rounds}.get(name)
    if draw is None:
        return f'<div style="font-family:{MONOSPACE}">{html.escape(f"{deal}:{moves}")}</div>'
    return draw(deal, moves, chances, chosen, player)


def _cross(deal: str, moves: str, chances: Mapping[str, float], chosen: str, player: int) -> str:  # noqa: ARG001
    made, rows = deal + moves, []
    for start in (0, 3, 6):
        cells = ""
        for cell in "abcdefghi"[start : start + 3]:
            taken = cell in made
            content = f"<b>{'X' if made.index(cell) % 2 == 0 else 'O'}</b>" if taken else f"{chances.get(cell, 0):.2f}"
            look = f"{_shade(0 if taken else chances.get(cell, 0))};{_frame(cell == chosen)}"
            size = "font-size:16px" if taken else f"font-size:10px;color:{'#333' if chances else '#fff'}"
            cells += f'<td style="{CELL};{look};{size}">{content}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return f'<table style="border-collapse:collapse;margin:4px 0">{"".join(rows)}</table>'


def _heap(deal: str, moves: str, chances: Mapping[str, float], chosen: str, player: int) -> str:  # noqa: ARG001
    left = ord(deal) - ord("a") + 1 - sum(int(move) for move in moves if move.isdigit())
    sticks = '<span style="display:inline-block;width:5px;height:24px;background:#8a6d3b;margin-right:5px"></span>'
    return f'<div style="min-height:28px;margin:4px 0;white-space:nowrap">{sticks * left}<b>{left}</b></div>'


def _cards(deal: str, moves: str, chances: Mapping[str, float], chosen: str, player: int) -> str:  # noqa: ARG001
    faces = ""
    for i, card in enumerate(deal):
        look = "border:2px solid #222" if i == player and chances else f"border:1px solid #b8c0c8;color:{GREY}"
        faces += (
            f'<span style="display:inline-block;{look};border-radius:4px;padding:6px 9px;margin-right:5px;'
            f'font-size:17px">{card}</span>'
        )
    words = [f"{1 + i % 2} {'bets' if move == 'b' else 'passes'}" for i, move in enumerate(moves) if move in "pb"]
    return (
        f'<div style="margin:4px 0">{faces}</div><div style="font-size:12px">{", ".join(words) or "antes are in"}</div>'
    )


def _rounds(deal: str, moves: str, chances: Mapping[str, float], chosen: str, player: int) -> str:  # noqa: ARG001
    rows = ""
    for who in (0, 1):
        cells = "".join(
            f'<td style="width:1.5em;text-align:center;border:1px solid #b8c0c8;padding:0 2px;'
            f'background:{"#e8f1f8" if move == "c" else "#f6c9a4"}">{html.escape(move)}</td>'
            for move in moves[who::2]
        )
        rows += f'<tr><td style="padding:0 5px;color:{GREY}">{who + 1}</td>{cells}</tr>'
    return f'<table style="border-collapse:collapse;margin:4px 0">{rows}</table>'
