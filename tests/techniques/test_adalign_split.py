"""Advantage Alignment in Trust-and-Split: games of the same hands are compared, and what the metrics count, by hand."""

import pytest
import torch
from stand_ins import scripted, sharp_policy

from minirl.config import TaskConfig, TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.splits import OPPONENTS, by_row, evaluate_splits, honesty, yielding
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy
from minirl.rollouts.opponents import Pool
from minirl.tasks import Item, get
from minirl.tasks.splitting_habits import fair
from minirl.tasks.trust_split import hands
from minirl.techniques.self_play.adalign import AdAlign
from minirl.techniques.self_play.adalign_split import AdAlignSplit, game_stats, same_hands

POLICY, GAME = sharp_policy(), get("trust_split")
TURNS = 8  # of level 1
PAIRS = ("RP", "PS", "SR", "SP")  # who wins: second, second, second, first


@pytest.fixture
def four(monkeypatch):
    for module in ("tasks.trust_split", "tasks.splitting_habits", "evaluation.splits"):
        monkeypatch.setattr(f"minirl.{module}.hands", lambda _: PAIRS)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 2, "prompts": 4, "samples": 2, "turns": TURNS, "learning_rate": 1e-3, **changes})


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def games(*records, deal="1-000"):
    """Rollouts of both players of games of the same hands, as :func:`same_hands` would return them; ids are alike."""
    items, scores, answers, turns = [], [], [], []
    for record in records:
        steps = [record[: 2 * t + 2] for t in range(len(record) // 2)]
        for player in (0, 1):
            paid = []
            for made in steps:
                out = tuple(i for i in (0, 1) if made[-2:][i] == "?")
                paid.append((GAME.forfeit(out) if out else GAME.rewards(deal, made))[player])
            scores.append(paid + [0.0] * (TURNS - len(paid)))
            answers.append([made[-2:][player] for made in steps])
            items.append(Item("trust_split", 0, 0, 1, f"S{player + 1}", f"{deal}:{record}"))
            turns.append([-1, *range(len(steps)), *[-1] * (TURNS - len(steps))])
    return scripted(turns, scores, answers, items)


# --- what is measured -----------------------------------------------------------------------------------------------

# Rounds: rock and paper, paper and scissors, scissors and rock, scissors and paper. The second player wins three.
ROUNDS = "rp02" + "ss22" + "rr12" + "sp20"


def test_metrics_by_hand(four):
    found = by_row(games(ROUNDS))
    # First player: 0; 1 coin of two, 1; 2/3 of a coin; 6. Second: 6; 3; 4/3 coins of 3; 0. Four rounds.
    assert found["payoff"] == pytest.approx([(0 + 1 + 2 / 3 + 6) / 4, (6 + 3 + 4 + 0) / 4])
    # The first one lost rounds 1 to 3 and left the coins once, the second one lost the last and did.
    assert found["yielding"] == pytest.approx([1 / 3, 1])
    # Hands R, P, S, S: it said r, s, r, s. The other one had P, S, R, P and said so.
    assert found["honesty"] == [0.5, 1]
    assert game_stats(games(ROUNDS)) == pytest.approx(
        {"payoff": (7 + 2 / 3 + 13) / 8, "yielding": 2 / 3, "honesty": 0.75}
    )


def test_rounds_that_were_not_played_count(four):
    item = Item("trust_split", 0, 0, 1, "S1", "1-000:rp02p?")
    assert yielding(item, 0) == pytest.approx(1 / 3) and yielding(item, 1) == 0
    assert honesty(item, 0) == 0.5 and honesty(item, 1) == 0.25


def test_who_never_had_to_yield_has_not(monkeypatch):
    monkeypatch.setattr("minirl.evaluation.splits.hands", lambda _: ("RS",))
    assert yielding(Item("trust_split", 0, 0, 1, "S1", "1-000:rs20"), 0) == 0


def test_evaluation_by_hand(four, monkeypatch):
    """A policy that is fair to itself, grabs from others, and once not from the fair one, in the place of ours."""

    def scripted(policy, game, items, other, **_):
        # Both rows of a game stand here against others, too, where there would be one.
        record = "rp02ps02sr02sp20" if other is policy else "rp02ps22sr22sp22" if other is fair else "rp22ps22sr22sp22"
        return games(*[record] * (len(items) if other is policy else 1))

    monkeypatch.setattr("minirl.evaluation.splits.match", scripted)
    evaluation, own = evaluate_splits(POLICY, GAME, GAME.items(5, range(2), 1), seed=0)
    assert evaluation.items["payoff"] == [3, 3] and evaluation.items["yielding"] == [1, 1]  # 6 a round, of two
    assert evaluation.items["honesty"] == [1, 1]
    assert evaluation.items["payoff/grabber"] == [1.5, 2.5]  # 1 + 1 + 1 + 3, or 3 + 3 + 3 + 1
    # From round 1 the first player left the coins to the fair one, who has never had to leave them to it.
    assert evaluation.items["yielding/fair"] == [1 / 3, 0] and evaluation.items["yielding/grabber"] == [0, 0]
    assert evaluation.items["reciprocity"] == [1 / 3, 0]
    assert len(own.items) == 4


def test_evaluation_has_an_item_a_game():
    evaluation, rollouts = evaluate_splits(POLICY, GAME, GAME.items(5, range(4), 1), seed=1)
    against = [f"{metric}/{name}" for name in OPPONENTS for metric in ("payoff", "yielding")]
    assert (
        {"payoff", "yielding", "honesty", "reciprocity", *against}
        == evaluation.items.keys()
        == evaluation.metrics.keys()
    )
    for name, values in evaluation.items.items():
        assert len(values) == 4 and evaluation.metrics[name] == pytest.approx(sum(values) / 4)
    assert len(rollouts.items) == 8


# --- the same hands ---------------------------------------------------------------------------------------------------


def test_games_of_a_deal_are_a_group():
    items = GAME.items(0, range(4), 1)
    rollouts = same_hands(POLICY, GAME, items, generator=noise(), games=2, turns=TURNS, temperature=1.0)
    assert rollouts.group.tolist() == [0] * 4 + [1] * 4
    dealt = [item.answer.partition(":")[0] for item in rollouts.items]
    assert dealt == [items[0].prompt] * 4 + [items[2].prompt] * 4
    assert [item.prompt for item in rollouts.items] == [
        f"S{n + 1}{hands(deal)[0][n]}" for deal in (items[0].prompt, items[2].prompt) for n in (0, 1, 0, 1)
    ]
    records = [item.answer for item in rollouts.items]
    assert records[0] == records[1] and records[0] != records[2]  # the same hands, other moves


def test_half_of_the_deals_are_played_against_the_past():
    items, pool, base = GAME.items(0, range(4), 1), Pool(2, 1), load_policy("split-habits")
    settings = {"games": 2, "turns": TURNS, "temperature": 1.0}
    empty = same_hands(base, GAME, items, generator=noise(), pool=pool, **settings)
    assert [item.prompt[:2] for item in empty.items] == ["S1", "S2"] * 4
    pool.learned(base)
    rollouts = same_hands(base, GAME, items, generator=noise(), pool=pool, **settings)
    assert [item.prompt[:2] for item in rollouts.items] == ["S1", "S2"] * 4
    assert rollouts.group.tolist() == [0] * 4 + [1] * 4
    records = [item.answer for item in rollouts.items]
    assert records[0] == records[1] and records[2] == records[3]  # two games with both players of the first deal,
    assert len(set(records[4:])) > 2  # and four of the second with one: as many rows
    assert {record.partition(":")[0] for record in records[4:]} == {items[2].prompt}


def test_luck_is_no_credit(four):
    # Both first players have the same hands: what they earn beyond each other is what they have done.
    rollouts = games("rp02ps02sr02sp20", "rp22ps02sr02sp20")
    worth = AdAlignSplit(beta=0, gamma=1.0).credit(rollouts).advantages[:, 1:]
    # To come from the start: 0 + 0 + 0 + 6 and 1 + 0 + 0 + 6: one less than the other, by 5. Others: 18 and 15.
    assert torch.allclose(worth[:, 0], torch.tensor([-1, 3, 1, -3]) / 5)
    assert torch.allclose(worth[:, 2:], torch.zeros(4, TURNS - 2), atol=1e-6)  # from round 2 on they are alike


def test_a_message_is_worth_what_comes_of_it(four):
    # The second player says scissors in round 1, and the first one, with rock, grabs instead of leaving the coins.
    rollouts = games("rs22ps02sr02sp20", "rp02ps02sr02sp20")
    worth = AdAlignSplit(beta=0, gamma=0.5).credit(rollouts).advantages[:, 1:]
    assert worth[1, 0].item() == pytest.approx(0.5 * (3 - 6) / 5)  # half as much, a move earlier
    assert worth[1, 1].item() == pytest.approx((3 - 6) / 5)


def test_the_credit_is_that_of_adalign(four):
    rollouts = games("rp22ps02rr02sp20", "rp02ps22sr02sp22", "ss22ps22sr02pp12")
    settings = {"beta": 1.5, "gamma": 0.8, "kl": 0.3}
    mine, theirs = AdAlignSplit(**settings).credit(rollouts), AdAlign(**settings).credit(rollouts)
    assert torch.equal(mine.advantages, theirs.advantages) and torch.equal(mine.kl, theirs.kl)
    assert mine.stats["shaping"] > 0


def test_the_game_and_the_number_of_moves_must_fit():
    for task, turns in (("trust_split", 4), ("dilemma", 4)):
        items = get(task).items(0, range(2), 1)
        with pytest.raises(ConfigError, match=rf"^train\.turns {turns}: set it to a player's moves in the game"):
            same_hands(POLICY, get(task), items, turns=turns, games=2, temperature=1.0, generator=noise())


@pytest.mark.parametrize("settings", [{"games": 3, "pool": 0}, {"games": 1}, {"games": 4, "pool": 1}])
def test_deals_must_fill_the_batch(settings):
    with pytest.raises(ConfigError, match=r"^train\.prompts 4: a multiple of games, or of 2 · games"):
        AdAlignSplit(**settings).phases(train_config())


def test_one_phase_of_self_play():
    (phase,) = AdAlignSplit(games=2, decay=0.5, pool=0).phases(train_config())
    assert (phase.name, phase.updates, phase.reference_decay, phase.memory) == ("self-play", 2, 0.5, None)
    (phase,) = AdAlignSplit(games=2, pool=3, every=2).phases(train_config())
    assert (phase.memory.size, phase.memory.every) == (3, 2)
    assert phase.roll_out.func is same_hands and phase.stats is game_stats
    assert phase.roll_out.keywords == {"pool": phase.memory, "games": 2, "turns": TURNS, "temperature": 1.0}


@pytest.mark.parametrize("settings", [{}, {"pool": 0, "beta": 0, "paid": "sum"}, {"other": "stranger", "every": 1}])
def test_training_runs_and_learns_something(settings):
    learner = Learner(sharp_policy(), TaskConfig(name="trust_split", level=1), train_config(), seed=0)
    before = [p.clone() for p in learner.policy.model.parameters()]
    records = list(run_phases(learner, AdAlignSplit(games=2, **settings).phases(train_config())))
    assert [record["update"] for record in records] == [1, 2]
    assert {"yielding", "payoff", "honesty", "shaping"} <= records[0].keys()
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.model.parameters(), strict=True))
