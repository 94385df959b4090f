"""Games played in a batch: what becomes a row, whose tokens are whose, and who gets what.

The policies that play here are untrained, or follow a script through :func:`scripted`.
"""

import random

import pytest
import torch
from stand_ins import sharp_policy

from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import tiny_llama
from minirl.rollouts.games import play, random_mover, roles
from minirl.rollouts.opponents import Pool
from minirl.tasks import get
from minirl.techniques.base import Memory

POLICY, KUHN, NIM, DILEMMA, TTT = sharp_policy(), get("kuhn"), get("nim"), get("dilemma"), get("tictactoe")


def fixed(*moves):
    """A mover that makes these moves in turn, whatever happens."""
    left = list(moves)
    return lambda *_: left.pop(0)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


class Script:
    """Replaces the choice of tokens: what the policy writes is what the script says, row by row."""

    def __init__(self, monkeypatch, policy, moves):
        self.tokens = iter([ids[0] for ids in policy.encode_text(list(moves))])
        monkeypatch.setattr("minirl.rollouts.games.choose", self.choose)

    def choose(self, logits, *_):
        tokens = torch.tensor([next(self.tokens) for _ in logits])
        return tokens, torch.full((len(logits),), -0.5)


def text(policy, ids):
    return "".join(policy.decode([[token] for token in ids])).replace("<pad>", "")


def test_a_game_of_kuhn_by_hand(monkeypatch):
    """Queen against jack: pass, bet, call. The first player wins 2."""
    Script(monkeypatch, POLICY, "pbb")  # three plies of one row each
    item = KUHN.item(0, 0, 1)
    item = type(item)(**{**vars(item), "prompt": "QJ"})
    rollouts = play(KUHN, [item], [(POLICY, POLICY)], learner=POLICY, generator=noise())
    assert [text(POLICY, ids) for ids in rollouts.ids.tolist()] == ["K1Qpbb", "K2Jpb"]
    # Own tokens are the moves, numbered; the card and what the other does are context.
    assert rollouts.turn.tolist() == [[-1, -1, -1, 0, -1, 1], [-1, -1, -1, -1, 0, -1]]
    assert rollouts.logprobs.tolist() == [[0, 0, 0, -0.5, 0, -0.5], [0, 0, 0, 0, -0.5, 0]]
    assert rollouts.scores.tolist() == [[0, 2], [-2, 0]]
    assert rollouts.answers == [["p", "b"], ["b"]]
    assert [(i.prompt, i.answer) for i in rollouts.items] == [("K1Q", "QJ:pbb"), ("K2J", "QJ:pbb")]
    assert roles(rollouts).tolist() == [0, 1] and rollouts.longest == 2


def test_what_comes_after_a_move_belongs_to_it(monkeypatch):
    """Two rounds of the dilemma: both cooperate (3, 3), then the second defects (0, 5)."""
    monkeypatch.setattr("minirl.tasks.dilemma.ROUNDS", 2)
    Script(monkeypatch, POLICY, "cccd")
    rollouts = play(DILEMMA, DILEMMA.items(0, [0], 1), [(POLICY, POLICY)], learner=POLICY, generator=noise())
    assert [text(POLICY, ids) for ids in rollouts.ids.tolist()] == ["D1ccc", "D2ccd"]  # the last reply is not read
    assert rollouts.turn.tolist() == [[-1, -1, 0, -1, 1]] * 2
    assert rollouts.scores.tolist() == [[3, 0], [3, 5]]


@pytest.mark.parametrize(
    ("deal", "moves", "record", "scores"),
    [
        ("QJ", ["p", "x", ""], "QJ:p?", [[2, 0], [-2, 0]]),  # a letter that is no move: the other gets the stake
        ("QJ", ["3"], "QJ:?", [[0, 0], [0, 0]]),  # at once: the first pays below
    ],
)
def test_an_illegal_move_ends_the_game(monkeypatch, deal, moves, record, scores):
    Script(monkeypatch, POLICY, "".join(moves))
    item = KUHN.item(0, 0, 1)
    item = type(item)(**{**vars(item), "prompt": deal})
    rollouts = play(KUHN, [item], [(POLICY, POLICY)], learner=POLICY, generator=noise())
    assert [i.answer for i in rollouts.items] == [record] * 2
    if record == "QJ:?":
        scores = [[-2, 0], [0, 0]]  # the second player, who never moved, has no token that the win could teach
    assert rollouts.scores.tolist() == scores


def test_rows_are_those_of_the_learner_in_the_order_of_games(monkeypatch):
    Script(monkeypatch, POLICY, "1" * 9)
    other = tiny_llama(16, 1, 2)
    items = NIM.items(0, range(3), 2)
    rollouts = play(
        NIM, items, [(POLICY, fixed("1")), (fixed("1"), POLICY), (other, POLICY)], learner=POLICY, generator=noise()
    )
    assert roles(rollouts).tolist() == [0, 1, 1]
    assert [i.answer for i in rollouts.items] == ["b:11"] * 3
    assert [text(POLICY, ids) for ids in rollouts.ids.tolist()] == ["N1b1", "N2b1a1", "N2b1a1"]
    assert rollouts.scores.tolist() == [[-1], [1], [1]]


@pytest.mark.parametrize("game", [KUHN, NIM, DILEMMA, TTT], ids=lambda game: game.name)
def test_probabilities_are_those_of_the_whole_row(game):
    level = game.levels.start
    items = game.items(0, range(6), level)
    table = [(POLICY, POLICY), (POLICY, random_mover), (random_mover, POLICY)] * 2
    # An untrained policy hardly ever makes a legal move: let any letter be one.
    rollouts = play(game, items, table, learner=POLICY, generator=noise(1))
    found = token_logprobs(POLICY.logits(rollouts.ids[:, :-1]), rollouts.ids[:, 1:])
    own = rollouts.own[:, 1:]
    assert own.any()
    torch.testing.assert_close(found[own], rollouts.logprobs[:, 1:][own], atol=1e-5, rtol=0)


@pytest.fixture
def lenient(monkeypatch):
    """A game that goes on for five moves each, whatever is said: untrained policies can play it."""
    monkeypatch.setattr(type(DILEMMA), "legal", lambda *_: "".join(chr(i) for i in range(32, 127)))
    monkeypatch.setattr("minirl.tasks.dilemma.ROUNDS", 5)
    return DILEMMA


def test_long_games_have_the_probabilities_of_the_whole_row(lenient):
    rollouts = play(lenient, lenient.items(0, range(8), 1), [(POLICY, POLICY)] * 8, learner=POLICY, generator=noise(2))
    assert rollouts.own.sum() > 40  # some games end with a token that is no character
    found = token_logprobs(POLICY.logits(rollouts.ids[:, :-1]), rollouts.ids[:, 1:])
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(found[own], rollouts.logprobs[:, 1:][own], atol=1e-5, rtol=0)


def test_a_game_does_not_depend_on_the_games_beside_it(lenient):
    items = lenient.items(0, range(8), 1)
    table = [(POLICY, random_mover if i % 2 else POLICY) for i in range(8)]
    alone = play(lenient, items[:3], table[:3], learner=POLICY, generator=noise(3))
    among = play(lenient, items, table, learner=POLICY, generator=noise(3))
    assert [i.answer for i in alone.items] == [i.answer for i in among.items[: len(alone.items)]]


def test_without_noise_the_likeliest_move_is_made():
    row = play(KUHN, KUHN.items(0, [0], 1), [(POLICY, random_mover)], learner=POLICY)
    first = POLICY.logits(row.ids[:, :3])[0, -1].argmax().item()
    assert row.ids[0, 3] == first


def test_temperature_is_that_of_the_distribution():
    row = play(
        KUHN, KUHN.items(0, [0], 1), [(POLICY, random_mover)], learner=POLICY, generator=noise(), temperature=0.5
    )
    expected = (POLICY.logits(row.ids[:, :3])[0, -1] / 0.5).log_softmax(-1)[row.ids[0, 3]]
    torch.testing.assert_close(row.logprobs[0, 3], expected.detach(), atol=1e-5, rtol=0)


def test_a_random_mover_makes_every_legal_move():
    assert {random_mover(NIM, "b", "", 0, random.Random(seed)) for seed in range(20)} == {"1", "2"}


# --- opponents from the past -----------------------------------------------------------------------------------------


def changed(policy, by):
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += by


def first_weight(policy):
    return next(policy.model.parameters()).flatten()[0].item()


def test_a_pool_keeps_the_newest_snapshots():
    policy, pool = tiny_llama(16, 1, 2), Pool(size=2, every=2)
    start = first_weight(policy)
    for _ in range(7):  # snapshots after updates 2, 4 and 6, when 2, 4 and 6 have been added
        changed(policy, 1.0)
        pool.learned(policy)
    assert len(pool) == 2
    assert [first_weight(pool.member(policy, i)) - start for i in range(2)] == pytest.approx([4, 6], abs=1e-4)
    assert first_weight(policy) - start == pytest.approx(7, abs=1e-4)  # a member is a copy
    assert not any(p.requires_grad for p in pool.member(policy, 0).model.parameters())


def test_a_pool_comes_back_from_its_state():
    policy, pool = tiny_llama(16, 1, 2), Pool(size=3, every=1)
    memory: Memory = pool
    for _ in range(2):
        changed(policy, 1.0)
        memory.learned(policy)
    again = Pool(size=3, every=1)
    again.load(pool.state())
    assert len(again) == 2 and again.updates == 2
    for i in range(2):
        for ours, theirs in zip(
            pool.member(policy, i).model.parameters(), again.member(policy, i).model.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
    empty = Pool(size=3, every=5)
    empty.load(Pool(size=3, every=5).state())
    assert len(empty) == 0
