"""SPIN: texts that face each other, where a game would end, how far players can be told apart, and what is logged.

Texts are sums of one step, ``3+7=`` and ``+70``; ``$`` ends an answer.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.imitation import demonstrations, loglikelihoods, padded, told_apart, written
from minirl.loops import Learner, run_phases
from minirl.objectives.preference import spin as spin_loss
from minirl.policy.logprobs import token_logprobs
from minirl.rollouts.episodes import roll_out
from minirl.tasks import Item, get
from minirl.techniques.base import PreferencePhase, SupervisedPhase
from minirl.techniques.self_play import spin
from minirl.techniques.self_play.spin import Spin, against, face_off, ideal, learning, referee

POLICY, CHAIN = sharp_policy(), get("chain")
ONE, TWO = Item("chain", 0, 0, 1, "3+7=", "+70"), Item("chain", 0, 1, 1, "4+6=", "+60")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 8, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- where an iteration would end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "wanted"),
    [
        (1.0, [0.8, 0.2]),  # at the data, at once
        (2.0, [2 / 3, 1 / 3]),  # odds 1 → √4 = 2: half of the way in log-odds
        (0.5, [16 / 17, 1 / 17]),  # odds 4² = 16: as far beyond the data as it came from before
    ],
)
def test_ideal_by_hand(beta, wanted):
    assert ideal(torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]), beta).tolist() == pytest.approx(wanted)


@given(st.floats(0.2, 9), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_the_data_is_where_the_game_rests(beta, weights):
    data = torch.tensor(weights) / sum(weights)
    assert torch.allclose(ideal(data, data, beta), data, atol=1e-5)


@pytest.mark.parametrize(("beta", "nearer"), [(5.0, True), (1.0, True), (0.6, True), (0.4, False)])
def test_games_come_nearer_to_the_data_above_a_half(beta, nearer):
    """The distance in log-odds is multiplied by |1 − 1/β| each time: ⅘, 0, ⅔, and 1½."""
    data, policy = torch.tensor([0.8, 0.2]), torch.tensor([0.6, 0.4])

    def distance(p):
        return abs((p[0] / p[1]).log() - math.log(4)).item()

    after = ideal(policy, data, beta)
    assert distance(after) == pytest.approx(abs(1 - 1 / beta) * distance(policy), abs=1e-5)
    assert (distance(after) < distance(policy)) is nearer


def test_the_loss_is_least_at_the_ideal():
    """Two answers, all pairs of data and sample weighed as they come: the gradient in the log-odds is 0 there."""
    policy, data, beta = torch.tensor([0.6, 0.4]), torch.tensor([0.8, 0.2]), 0.7
    odds = ideal(policy, data, beta).log().requires_grad_()
    ratio = odds.log_softmax(-1) - policy.log()
    loss = sum(
        data[i] * policy[j] * against(ratio[i, None], ratio[j, None], torch.ones(1), normaliser=1, beta=beta)[0]
        for i in range(2)
        for j in range(2)
    )
    loss.backward()
    assert odds.grad.abs().max() < 1e-6


# --- the first gradient is that of imitation --------------------------------------------------------------------------


def test_the_first_gradient_is_on_average_that_of_imitation_times_half_beta():
    """At π_θ = π_t every pair has weight β/2, and Σ π(y') ∇ log π(y') = 0."""
    start, y, beta = torch.tensor([0.3, 1.0, -0.5]), 2, 0.8
    logits = start.clone().requires_grad_()
    ratio = logits.log_softmax(-1) - start.log_softmax(-1)
    probabilities = start.softmax(-1)
    loss = sum(
        probabilities[j] * spin_loss(ratio[y, None], ratio[j, None], normaliser=1, beta=beta)[0] for j in range(3)
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    imitation = probabilities - torch.eye(3)[y]  # ∇ (−log π(y))
    assert torch.allclose(gradient, beta / 2 * imitation, atol=1e-6)


def test_a_sample_that_is_the_demonstration_teaches_nothing():
    ratio = torch.tensor([0.4], requires_grad=True)
    loss, stats = against(ratio, ratio, torch.ones(1), normaliser=1, beta=1.0)
    (gradient,) = torch.autograd.grad(loss, ratio)
    assert gradient.item() == 0 and loss.item() == pytest.approx(math.log(2))
    assert stats["preference/margin"] == 0


def test_confidence_does_not_count():
    data, samples = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    sure, unsure = (against(data, samples, torch.full((2,), c), normaliser=2, beta=1.0)[0] for c in (1.0, 0.5))
    assert sure.item() == unsure.item() == pytest.approx((math.log(1 + math.e) + math.log(1 + 1 / math.e)) / 2)


# --- told apart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margins", "share"),
    [
        ([1.0, 2.0], 1.0),
        ([-1.0, 2.0], 0.5),
        ([0.0, 0.0], 0.5),  # equal texts
        ([3.0, 0.0, -1.0, 5.0], 0.625),  # two and a half of four
        ([5e-5, -5e-5], 0.5),  # rounding is no opinion
        ([-1.0], 0.0),
    ],
)
def test_told_apart_by_hand(margins, share):
    assert told_apart(torch.tensor(margins)) == share


# --- texts ------------------------------------------------------------------------------------------------------------


def test_demonstrations_end_as_the_policy_would_end_them():
    assert demonstrations(POLICY, [ONE, TWO]) == [
        (encode(POLICY, "3+7="), encode(POLICY, "+70$")),
        (encode(POLICY, "4+6="), encode(POLICY, "+60$")),
    ]


def test_what_was_written_is_read_back():
    drawn = roll_out(POLICY, CHAIN, [ONE, TWO], samples=2, generator=noise())
    for (prompt, answer), item, said in zip(written(drawn), drawn.items, drawn.answers, strict=True):
        assert prompt == encode(POLICY, item.prompt)
        assert POLICY.decode([answer]) == said


def test_padding_is_no_answer():
    ids, own = padded([([1, 2], [3]), ([4], [5, 6, 7])], POLICY)
    assert ids.tolist() == [[1, 2, 3, POLICY.pad_id], [4, 5, 6, 7]]
    assert own.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_data_and_samples_stand_in_turn():
    a, b, c, d = (([k], [k]) for k in range(4))
    assert face_off([a, b], [c, d]) == [a, c, b, d]
    with pytest.raises(ValueError, match="shorter"):
        face_off([a, b], [c])


def test_loglikelihood_by_hand():
    texts = demonstrations(POLICY, [ONE, TWO])
    for (prompt, answer), found in zip(texts, loglikelihoods(POLICY, texts).tolist(), strict=True):
        log_p = POLICY.logits(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        # Position 3, the last of the prompt, predicts the first token of the answer.
        wanted = sum(log_p[3 + i, token].item() for i, token in enumerate(answer))
        assert found == pytest.approx(wanted, abs=1e-4)
    assert torch.allclose(loglikelihoods(POLICY, texts, batch=1), loglikelihoods(POLICY, texts), atol=1e-4)


# --- phases and settings ----------------------------------------------------------------------------------------------


def test_games_are_equally_long():
    phases = Spin(iterations=4).phases(train_config(updates=8))
    assert all(isinstance(phase, PreferencePhase) for phase in phases)
    assert [(phase.name, phase.updates) for phase in phases] == [(f"iteration {t}", 2) for t in (1, 2, 3, 4)]
    # At βm = 1: log(1 + e⁻¹).
    loss, _ = phases[0].loss(torch.ones(1), torch.zeros(1), torch.ones(1), normaliser=1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_imitation_comes_first():
    first, *games = Spin(iterations=2, imitation=0.75).phases(train_config(updates=8))
    assert isinstance(first, SupervisedPhase) and (first.name, first.updates) == ("SFT", 6)
    assert [phase.updates for phase in games] == [1, 1]
    (alone,) = Spin(imitation=1).phases(train_config(updates=8))
    assert isinstance(alone, SupervisedPhase) and alone.updates == 8


@pytest.mark.parametrize("changes", [{"updates": 9}, {"turns": 2}])
def test_phases_that_do_not_fit(changes):
    with pytest.raises(ConfigError, match=r"^train: 4 equal games need the \d updates after imitation to be"):
        Spin().phases(train_config(**changes))


def test_scores_that_nobody_sees_cannot_be_shuffled():
    with pytest.raises(ConfigError, match=r"^shuffle_scores: nobody sees scores; the control is data: self"):
        Spin(shuffle_scores=True).phases(train_config())


@pytest.mark.parametrize(
    "bad",
    [
        {"data": "teacher"},
        {"beta": 0},
        {"iterations": 0},
        {"imitation": 1.5},
        {"imitation": True},
        {"demonstrations": 0},
        {"iteration": 2},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Spin, bad, "arms.spin")


# --- with a policy ----------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(monkeypatch):
    """Chains of one step, refereed on six problems."""
    monkeypatch.setattr(spin, "FRESH", 6)
    return Learner(sharp_policy(), TaskConfig(name="chain", level=1), train_config(), 0)


def texts_of(ids, own, policy):
    return [policy.decode([row[mask].tolist()])[0] for row, mask in zip(ids, own, strict=True)]


def test_demonstrations_are_the_same_for_all_arms_and_cost_nothing(learner):
    made = Spin(demonstrations=5).demonstrate(learner)
    items = learner.problems(0, 5)
    assert texts_of(made.ids, made.learn, learner.policy) == [item.answer for item in items]
    assert made.generated_tokens == 0
    pairs = Spin(demonstrations=5).play(learner, t=1)
    assert texts_of(pairs.ids[::2], pairs.own[::2], learner.policy) == [item.answer for item in items]


def test_the_opponent_is_the_policy_as_it_is(learner):
    pairs = Spin(demonstrations=5).play(learner, t=1)
    drawn = roll_out(learner.policy, learner.task, learner.problems(0, 5), generator=learner.generator(1, "opponent"))
    assert texts_of(pairs.ids[1::2], pairs.own[1::2], learner.policy) == [said[0] for said in drawn.answers]
    assert pairs.generated_tokens == drawn.generated_tokens()
    assert pairs.confidence.tolist() == [1.0] * 5
    again = Spin(demonstrations=5).play(learner, t=2)  # other samples, the same problems
    assert texts_of(again.ids[1::2], again.own[1::2], learner.policy) != [said[0] for said in drawn.answers]


def test_the_control_has_samples_on_both_sides(learner):
    pairs = Spin(demonstrations=5, data="self").play(learner, t=1)
    twin = roll_out(learner.policy, learner.task, learner.problems(0, 5), generator=learner.generator(1, "twin"))
    assert texts_of(pairs.ids[::2], pairs.own[::2], learner.policy) == [said[0] for said in twin.answers]
    alone = Spin(demonstrations=5).play(learner, t=1)
    assert pairs.generated_tokens == alone.generated_tokens + twin.generated_tokens()
    assert torch.equal(pairs.ids[1::2][:, :4], alone.ids[1::2][:, :4])


def test_identical_pairs_are_counted(learner, monkeypatch):
    """Of a policy that always writes the demonstration, all pairs are ties."""
    monkeypatch.setattr(spin, "written", lambda drawn: demonstrations(learner.policy, drawn.items))
    assert Spin(demonstrations=4).play(learner, t=1).stats["identical"] == 1
    assert Spin(demonstrations=4).play(learner, t=2).stats["told_apart"] == 0.5


def test_the_referee_asks_problems_that_nobody_has_seen(learner, monkeypatch):
    asked = []
    draw = spin.roll_out
    monkeypatch.setattr(spin, "roll_out", lambda p, t, items, **k: asked.append(items) or draw(p, t, items, **k))
    found = referee(learner, 5, t=1)
    assert found.keys() == {"accuracy@1"}
    assert asked[0] == learner.problems(0, 11)[5:]


def test_a_player_is_refereed_against_its_last_opponent(learner):
    """Worked out anew: the policy has moved since, the reference has not."""
    with torch.no_grad():
        for parameter in learner.policy.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise(3))
    items = learner.problems(0, 11)[5:]
    samples = roll_out(learner.reference, learner.task, items, generator=learner.generator(2, "referee"))
    wins = 0.0
    for item, said in zip(items, written(samples), strict=True):
        rewards = []
        for prompt, answer in (demonstrations(learner.policy, [item])[0], said):
            ids = torch.tensor([prompt + answer])
            ratio = [token_logprobs(p.logits(ids[:, :-1]), ids[:, 1:]) for p in (learner.policy, learner.reference)]
            rewards.append((ratio[0] - ratio[1])[0, len(prompt) - 1 :].sum().item())
        wins += 0.5 if abs(rewards[0] - rewards[1]) < 1e-4 else float(rewards[0] > rewards[1])
    assert referee(learner, 5, t=2)["told_apart"] == pytest.approx(wins / 6)


def test_a_whole_run(learner):
    """Imitation, then two games; in each the reference is the player that wrote the samples."""
    learner.train = train_config(updates=8)
    method = Spin(iterations=2, imitation=0.5, demonstrations=6)
    records = list(run_phases(learner, method.phases(learner.train)))
    assert [r["phase"] for r in records] == ["SFT"] * 4 + ["iteration 1"] * 2 + ["iteration 2"] * 2
    assert [r["update"] for r in records if "identical" in r] == [5, 7]
    assert [records[i]["preference/margin"] for i in (4, 6)] == [0.0, 0.0]
    assert records[5]["preference/margin"] != 0
    tokens = [r["generated_tokens"] for r in records]
    assert tokens[3] == 0 < tokens[4] == tokens[5] < tokens[6] == tokens[7]
    assert learning(records).keys() == {"gain@1", "told_apart@1", "fading", "blurring", "edge", "chosen", "margin"}


# --- what is read off training ----------------------------------------------------------------------------------------


def game(t, accuracy, apart, chosen=0.0):
    """Two records of iteration ``t``; the margin is 1 in the second."""
    start = {"phase": f"iteration {t}", "identical": 0.5, "accuracy@1": accuracy, **apart}
    rest = {"preference/chosen": chosen, "preference/margin": 1.0}
    return [{**start, "preference/chosen": 9.0, "preference/margin": 0.0}, {"phase": f"iteration {t}", **rest}]


def test_learning_by_hand():
    records = [{"phase": "SFT"}, *game(1, 0.25, {}), *game(2, 0.5, {"told_apart": 0.75})]
    records += game(3, 0.625, {"told_apart": 0.625}, chosen=-0.5)
    assert learning(records) == {
        "gain@1": 0.25,
        "gain@2": 0.125,
        "told_apart@1": 0.75,
        "told_apart@2": 0.625,
        "fading": 0.125,
        "blurring": 0.125,
        "edge": 0.125,
        "chosen": -0.5,  # of the second half of the last game
        "margin": 1.0,
    }
    assert learning(game(1, 0.25, {}, chosen=-1.0)) == {"chosen": -1.0, "margin": 1.0}
    assert learning([{"phase": "SFT", "loss": 1.0}]) == {}


def test_evaluation_by_hand(monkeypatch):
    """What begins with a plus is right."""
    monkeypatch.setattr(type(CHAIN), "check", lambda _, __, answer: answer[:1] in "+-*0123456789")
    evaluation, rollouts = spin.evaluate(POLICY, CHAIN, [ONE, TWO], seed=1)
    right = [CHAIN.score(item, said[0]) == 1 for item, said in zip(rollouts.items, rollouts.answers, strict=True)]
    assert evaluation.items["accuracy@1"] == [sum(right[:4]) / 4, sum(right[4:]) / 4]
    greedy = [said[0] for said in roll_out(POLICY, CHAIN, [ONE, TWO]).answers]
    assert evaluation.items["greedy"] == [
        CHAIN.score(item, text) for item, text in zip((ONE, TWO), greedy, strict=True)
    ]
    wanted = loglikelihoods(POLICY, demonstrations(POLICY, [ONE, TWO])).tolist()
    assert evaluation.items["loglikelihood"] == pytest.approx(wanted)
    assert evaluation.metrics["loglikelihood"] == pytest.approx(sum(wanted) / 2)
    assert evaluation.generated_tokens == rollouts.generated_tokens()
    assert Spin().evaluation() == {}
