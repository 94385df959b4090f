"""MARS: what a move is given, what is subtracted from it, and what that leaves."""

from functools import partial

import pytest
import torch

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation import pairs
from minirl.evaluation.games import exploitability, illegal, strategy_of, uniform_strategy, values
from minirl.evaluation.pairs import game_stats
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import roles
from minirl.rollouts.seats import self_play
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.self_play import mars
from minirl.techniques.self_play.mars import GAMES, RIVALS, Mars, evaluate, learning, turn_advantages

HANABI = get("hanabi")
BASE = load_policy("partners", "cpu")
# Two games of one kind, two seats each, three turns. The first seat is paid 3, 0 and 1, then 1, 2 and 3; the second
# pays it all, and in its second game it has no third turn.
REWARDS = torch.tensor([[3.0, 0, 1], [-3, 0, -1], [1, 2, 3], [-1, -5, 0]])
MADE = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [True, True, False]])
SEAT = torch.tensor([0, 1, 0, 1])
ONE_GAME = torch.zeros(4, dtype=torch.long)


def found(credit="turn", mean="player", rewards=REWARDS, game=ONE_GAME, made=MADE, seat=SEAT) -> list[list[float]]:
    return turn_advantages(rewards, made, game, seat, credit, mean).tolist()


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 4, "prompts": 8, "samples": 2, "turns": 1, "learning_rate": 1e-3, **changes})


def noise(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def played(games=GAMES, deals=8) -> Rollouts:
    return self_play(BASE, HANABI, HANABI.items(0, range(deals), 1), games=games, generator=noise())


# --- what a move is given -------------------------------------------------------------------------------------------


def test_a_move_is_given_what_follows_less_the_mean_of_its_seat():
    # First seat: returns 4, 1, 1 and 6, 5, 3: mean 20/6. Second: -4, -1, -1 and -6, -5: mean -17/5.
    first, second = 20 / 6, -17 / 5
    assert found() == [
        pytest.approx([4 - first, 1 - first, 1 - first]),
        pytest.approx([-4 - second, -1 - second, -1 - second]),
        pytest.approx([6 - first, 5 - first, 3 - first]),
        pytest.approx([-6 - second, -5 - second, 0]),
    ]


def test_the_total_is_the_same_for_all_moves_of_a_game():
    # Totals 4 and 6, mean of six moves 5; and -4 three times, -6 twice: -24/5.
    assert found("game") == [
        pytest.approx([-1, -1, -1]),
        pytest.approx([0.8, 0.8, 0.8]),
        pytest.approx([1, 1, 1]),
        pytest.approx([-1.2, -1.2, 0]),
    ]


def test_one_mean_for_both_seats():
    # Returns add up to 20 - 17 = 3, over eleven moves.
    assert found(mean="game")[0] == pytest.approx([4 - 3 / 11, 1 - 3 / 11, 1 - 3 / 11])


def test_a_mean_for_each_turn():
    # First seat: 4 and 6, 1 and 5, 1 and 3. Second: -4 and -6, -1 and -5, -1 alone.
    assert found(mean="turn") == [[-1, -2, -1], [1, 2, 0], [1, 2, 1], [-1, -2, 0]]


def test_rewards_centred_before_they_are_added_up():
    # First seat: rewards have mean 10/6. What is left of them: 8/6, -10/6, -4/6 and -4/6, 2/6, 8/6. Added up from the
    # end: -6/6, -14/6, -4/6 and 6/6, 10/6, 8/6, whose mean is 0.
    assert found(mean="rewards")[0] == pytest.approx([-1, -14 / 6, -4 / 6])
    assert found(mean="rewards")[2] == pytest.approx([1, 10 / 6, 8 / 6])


def test_centred_rewards_put_a_price_on_every_further_turn():
    # Two games with one payment of 1 at the end, one after a turn, one after three: the same outcome.
    rewards, made = torch.tensor([[1.0, 0, 0], [0, 0, 1]]), torch.tensor([[True, False, False], [True] * 3])
    two = {"rewards": rewards, "made": made, "game": ONE_GAME[:2], "seat": SEAT[:2] * 0}
    assert found(mean="player", **two) == [[0, 0, 0], [0, 0, 0]]
    # The mean reward is ½: the short game has ½, and the long one -½, 0, ½ by turn; their mean is ⅛.
    assert found(mean="rewards", **two) == [[0.375, 0, 0], [-0.625, -0.125, 0.375]]


def test_games_and_seats_do_not_share_a_mean():
    game = torch.tensor([0, 0, 1, 1])
    # Every seat of either game is alone: returns 4, 1, 1 have mean 2, and so on.
    assert found(game=game) == [
        pytest.approx([2, -1, -1]),
        pytest.approx([-2, 1, 1]),
        pytest.approx([6 - 14 / 3, 5 - 14 / 3, 3 - 14 / 3]),
        pytest.approx([-0.5, 0.5, 0]),
    ]
    assert found(mean="game", game=game)[0] == [4, 1, 1]  # what one seat gets the other pays: the mean is 0


@pytest.mark.parametrize("mean", ["player", "game", "turn", "rewards"])
@pytest.mark.parametrize("credit", ["turn", "game"])
def test_turns_that_were_not_made_count_nowhere(credit, mean):
    again = REWARDS.clone()
    assert found(credit, mean)[3][2] == 0
    longer = torch.cat([again, torch.zeros(4, 1)], 1), torch.cat([MADE, torch.zeros(4, 1, dtype=torch.bool)], 1)
    more = found(credit, mean, rewards=longer[0], made=longer[1])
    assert [row[:3] for row in more] == found(credit, mean) and not any(row[3] for row in more)


@pytest.mark.parametrize("mean", ["player", "game", "turn"])
def test_with_one_payment_at_the_end_turns_change_nothing(mean):
    """The identity: then what follows from a move is the total, whichever move it is."""
    last = torch.zeros_like(REWARDS)
    last[0, 2], last[1, 2], last[2, 2], last[3, 1] = 1, -1, 2, -2
    assert found("turn", mean, rewards=last) == found("game", mean, rewards=last)
    assert found("turn", mean) != found("game", mean)


@pytest.mark.parametrize("games", [{"kuhn": 1}, {"nim": 9}])
def test_with_one_payment_at_the_end_both_learn_the_same(games):
    rollouts = self_play(
        load_policy("players", "cpu"), HANABI, HANABI.items(0, range(6), 1), games=games, generator=noise()
    )
    one, two = (Mars(games=games, credit=credit).worth(rollouts) for credit in ("turn", "game"))
    assert torch.equal(one.advantages, two.advantages) and one.advantages.any()
    rollouts = played()
    one, two = (Mars(credit=credit).worth(rollouts) for credit in ("turn", "game"))
    assert not torch.equal(one.advantages, two.advantages)


# --- credit ---------------------------------------------------------------------------------------------------------


def test_tokens_have_the_advantage_of_their_move_and_context_none():
    rollouts = played()
    credit = Mars(beta=0.5).worth(rollouts)
    assert not credit.advantages[~rollouts.own].any() and not credit.kl[~rollouts.own].any()
    game = torch.tensor([int(item.task == "chase") for item in rollouts.items])
    per_turn = turn_advantages(rollouts.scores, rollouts.alive, game, roles(rollouts), "turn", "player")
    for row in range(len(rollouts.items)):
        assert torch.equal(credit.advantages[row][rollouts.own[row]], per_turn[row][rollouts.alive[row]])
    assert credit.kl[rollouts.own].unique().tolist() == [0.5]


def test_what_is_logged_is_the_mean_square_of_each_choice():
    rollouts = played()
    stats = Mars(credit="game").worth(rollouts).stats
    assert set(stats) == {f"{game}_a2{rest}" for game in GAMES for rest in ("", *(f"/{rival}" for rival in RIVALS))}
    assert stats["chase_a2"] == stats["chase_a2/trajectory"] != stats["chase_a2/mars"]
    chase = [item.task == "chase" for item in rollouts.items]
    worth = Mars().worth(rollouts).advantages[chase]
    assert stats["chase_a2/mars"] == pytest.approx(worth.square().sum().item() / rollouts.own[chase].sum().item())


def test_in_the_chase_one_mean_leaves_the_seats_in():
    stats = Mars().worth(played(deals=60)).stats
    assert stats["chase_a2/one_mean"] > 2 * stats["chase_a2/mars"] > 2 * stats["chase_a2/by_turn"]
    assert stats["hanabi_a2/one_mean"] == pytest.approx(stats["hanabi_a2/mars"], rel=0.1)  # both get the same


# --- what was played ------------------------------------------------------------------------------------------------


def row(task: str, prompt: str, answer: str) -> Item:
    return Item(task, 0, 0, GAMES[task], prompt, answer)


def test_what_the_first_seat_got_and_which_steps_were_right():
    scores = torch.tensor([[1.0, 1.0], [1.0, 0.0], [2.0, -1.0], [-2.0, 1.0]])
    items = [row("hanabi", "H1b", "rbRB:pppp"), row("hanabi", "H2r", "rbRB:pppp")]
    items += [row("chase", "C12", "22:rlr?"), row("chase", "C22", "22:rlr?")]
    rollouts = Rollouts(
        *(torch.zeros(4, 1) for _ in range(3)), scores=scores, group=torch.arange(4), answers=[], items=items, longest=1
    )
    # Right (towards), wrong (caught), no side is better; no move is wrong, too. The second seat's row is the same game.
    assert game_stats(rollouts) == {"hanabi_got": 2, "chase_got": 1, "chase_right": pytest.approx(1 / 3)}


def test_without_a_chase_there_are_no_right_steps():
    assert game_stats(played({"hanabi": 1})).keys() == {"hanabi_got"}


def test_metrics_of_players_who_draw(monkeypatch):
    monkeypatch.setattr(pairs, "strategy_of", lambda policy, game, level: uniform_strategy(game, level))
    found = pairs.pair_metrics(BASE, 1, 2)
    drawn = {name: [uniform_strategy(get(name), level)] * 2 for name, level in (("hanabi", 1), ("chase", 2))}
    assert found["hanabi_score"] == values(HANABI, 1, drawn["hanabi"])[0]
    assert found["chase_value"] == values(get("chase"), 2, drawn["chase"])[0] > 2
    assert found["chase_exploitability"] == exploitability(get("chase"), 2, drawn["chase"][0]) > 0.5
    assert found["hanabi_illegal"] == found["chase_illegal"] == 0


def test_the_base_draws_its_moves():
    chase = get("chase")
    strategy = strategy_of(BASE, chase, 2)
    assert illegal(chase, 2, strategy) < 0.02
    assert exploitability(chase, 2, strategy) == pytest.approx(
        exploitability(chase, 2, uniform_strategy(chase, 2)), abs=0.1
    )


def test_evaluation_is_exact_and_shows_games(monkeypatch):
    asked = []
    monkeypatch.setattr(mars, "pair_metrics", lambda *what: asked.append(what) or {"hanabi_score": 1.0})
    found, drawn = evaluate(BASE, HANABI, HANABI.items(3, range(4), 1), seed=1)
    assert asked == [(BASE, GAMES["hanabi"], GAMES["chase"])]
    assert (found.metrics, found.items) == ({"hanabi_score": 1.0}, {})
    assert [item.task for item in drawn.items] == ["hanabi"] * 4 + ["chase"] * 4


def test_what_is_learned():
    sizes = {"mars": 4e6, "trajectory": 8e6, "one_mean": 16e6, "by_turn": 1e6, "centred": 2e6}
    record = {f"{game}_a2/{rival}": size for game in GAMES for rival, size in sizes.items()}
    got = [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    records = [
        {**record, "hanabi_got": x, "chase_right": 0.5, "generated_tokens": 16 * (i + 1)} for i, x in enumerate(got)
    ]
    learned = learning(records)
    assert learned["hanabi_mean"] == 13 / 8 and learned["chase_mean"] == 0.5
    # Five updates in a row have a mean of 1.5 after the sixth (1, 2, 2, 2, 2): 96 moves. The chase is never learned.
    assert learned["hanabi_log2"] == pytest.approx(torch.tensor(96.0).log2().item())
    assert learned["chase_log2"] == 7
    for game in GAMES:
        assert [learned[f"{game}_{what}"] for what in ("past", "seats", "trend", "code")] == pytest.approx([1, 2, 2, 1])


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_of_self_play():
    (phase,) = Mars(shuffle_scores=True).phases(train_config(temperature=0.5))
    assert isinstance(phase, OnlinePhase) and phase.memory is None and phase.stats is game_stats
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("self-play", 4, True)
    assert isinstance(phase.roll_out, partial)
    assert phase.roll_out.keywords == {"games": GAMES, "samples": 2, "temperature": 0.5}


@pytest.mark.parametrize("bad", [{"samples": 4}, {"turns": 2}])
def test_a_deal_has_two_rows(bad):
    with pytest.raises(ConfigError, match=r"^train\.samples, train\.turns: .*; set them to 2 and 1$"):
        Mars().phases(train_config(**bad))


@pytest.mark.parametrize("games", [{"chain": 2}, {"chase": 99}])
def test_games_are_games(games):
    with pytest.raises(ConfigError, match=r"^games: '(chain|chase)' at level \d+ is no game$"):
        Mars(games=games).phases(train_config())


@pytest.mark.parametrize("bad", [{"mean": "seat"}, {"credit": "trajectory"}, {"beta": -1}, {"games": {}}, {"gamma": 1}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Mars, bad, "arms.mars")


def records_of(arm: str, updates: int = 2) -> list[dict]:
    experiment = load_experiment("mars", "smoke", [f"train.updates={updates}", "train.prompts=8"])
    learner = Learner(load_policy(experiment.base, "cpu"), experiment.task, experiment.train, seed=1)
    return list(run_phases(learner, load_method(experiment, arm).phases(experiment.train)))


def test_a_smoke_run_logs_what_was_played():
    one, two = records_of("mars")
    assert one["phase"] == "self-play" and {"hanabi_got", "chase_right", "chase_a2/by_turn", "kl@1"} <= one.keys()
    assert one["chase_a2"] == one["chase_a2/mars"] and two["generated_tokens"] > one["generated_tokens"] >= 16


def test_before_anything_is_learned_arms_play_the_same_games():
    arms = [records_of(arm, 1)[0] for arm in ("mars", "trajectory", "shuffled")]
    assert len({(record["generated_tokens"], record["hanabi_got"]) for record in arms}) == 1
