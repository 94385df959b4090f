"""The rivals: multi-turn RL by hand, and correction pairs whose token ids are written out."""

from types import SimpleNamespace

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig
from minirl.errors import TrainingError
from minirl.loops import Learner, run_phases
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item
from minirl.tasks.add import Addition
from minirl.techniques import baselines
from minirl.techniques.baselines import MultiTurnRL, PairSFT, attempt_ids, correction_pairs

POLICY = tiny_llama(16, 1, 2)
TRAIN = TrainConfig(updates=1, prompts=2, samples=2, turns=2, learning_rate=1e-2)
ITEMS = [Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14"), Item("add", 0, 2, 1, "1+1=", "02")]


def encode(text: str) -> list[int]:
    """Token ids; ``$`` stands for the stop token."""
    return POLICY.tokenizer.convert_tokens_to_ids(["<eos>" if c == "$" else c for c in text])


def attempts(*answers: str, samples: int = 4) -> Rollouts:
    """Single-turn episodes in groups of ``samples``; an answer ends with ``$`` unless it was cut off."""
    items = [ITEMS[b // samples] for b in range(len(answers))]
    ids = [encode(item.prompt + answer) for item, answer in zip(items, answers, strict=True)]
    turn = [[CONTEXT] * 4 + [0] * len(answer) for answer in answers]
    texts = [answer.removesuffix("$") for answer in answers]
    scores = [[Addition().score(item, text)] for item, text in zip(items, texts, strict=True)]
    return Rollouts(
        ids=pad_rows(ids, POLICY.pad_id)[0],
        turn=pad_rows(turn, CONTEXT)[0],
        logprobs=torch.zeros(1),
        scores=torch.tensor(scores),
        group=torch.arange(len(answers)) // samples,
        answers=[[text] for text in texts],
        items=items,
        longest=8,
    )


# --- multi-turn RL --------------------------------------------------------------------------------------------------


def test_multi_turn_rl_by_hand():
    # Scores (0, 1, 1) and (1, 0, 0): returns (2, 2, 1) and (1, 0, 0), advantages ±1, ±2, ±1.
    rollouts = Rollouts(
        ids=torch.zeros(2, 8, dtype=torch.long),
        turn=torch.tensor([[-1, 0, 0, -1, 1, -1, 2, -1], [-1, 0, -1, 1, 1, -1, 2, 2]]),
        logprobs=torch.zeros(2, 8),
        scores=torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        group=torch.tensor([0, 0]),
        answers=[["a", "b", "c"]] * 2,
        items=ITEMS[:1] * 2,
        longest=6,
    )
    method, train = MultiTurnRL(beta=0.5), TRAIN.model_copy(update={"turns": 3, "updates": 6})
    (phase,) = method.phases(train)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RL", 6, False)
    credit = phase.credit(rollouts)
    assert credit.advantages.tolist() == [[0, 1, 1, 0, 2, 0, 1, 0], [0, -1, 0, -2, -2, 0, -1, -1]]
    assert credit.kl.tolist() == [[0, 0.5, 0.5, 0, 0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5, 0.5, 0, 0.5, 0.5]]
    assert credit.stats == {"return": 1.5}
    # gamma 0: every attempt for itself
    credit = MultiTurnRL(gamma=0.0).credit(rollouts)
    assert credit.advantages[0].tolist() == [0, -1, -1, 0, 1, 0, 1, 0]


def test_shuffled_control():
    assert MultiTurnRL(shuffle_scores=True).phases(TRAIN)[0].shuffle_scores


# --- correction pairs -----------------------------------------------------------------------------------------------


def test_correction_pairs_by_hand():
    rollouts = SimpleNamespace(
        scores=torch.tensor([0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]).float()[:, None]
    )
    # Groups of six. Rows 0–5: wrong 0, 2, 4; right 1, 3, 5 in turn. Rows 6–11: wrong 10, 11; right 6, 7 first.
    # Rows 12–17 have no right answer.
    assert correction_pairs(rollouts, 6) == [(0, 1), (2, 3), (4, 5), (10, 6), (11, 7)]


def test_few_right_answers_serve_many_wrong_ones():
    rollouts = SimpleNamespace(scores=torch.tensor([[0.0], [0.0], [1.0], [0.0], [1.0], [0.0]]))
    assert correction_pairs(rollouts, 6) == [(0, 2), (1, 4), (3, 2), (5, 4)]
    assert correction_pairs(rollouts, 3) == [(0, 2), (1, 2), (3, 4), (5, 4)]
    assert correction_pairs(rollouts, 2) == [(3, 2), (5, 4)]


def test_attempt_ids_by_hand():
    rollouts = attempts("8$", "07$", "141", "$")
    assert attempt_ids(rollouts, 0) == encode("3+4=8$")
    assert attempt_ids(rollouts, 0, own_only=True) == encode("8$")
    assert attempt_ids(rollouts, 2) == encode("3+4=141")  # cut off: no stop token
    assert attempt_ids(rollouts, 3) == encode("3+4=$")
    assert attempt_ids(rollouts, 3, own_only=True) == encode("$")


# --- supervised fine-tuning on pairs --------------------------------------------------------------------------------


def make_learner(**changes) -> Learner:
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="add", level=1), TRAIN.model_copy(update=changes), 0)
    learner.problems = lambda update, count: ITEMS[update * count : (update + 1) * count]
    return learner


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(rollouts, …)`` makes these the next roll-outs; returns the list of calls."""

    def install(*batches: Rollouts) -> list[dict]:
        calls: list[dict] = []

        def fake(policy, task, items, **settings):
            calls.append({"policy": policy, "items": items, **settings})
            return batches[len(calls) - 1]

        monkeypatch.setattr(baselines, "roll_out", fake)
        return calls

    return install


@pytest.mark.parametrize(("feedback", "sign"), [("nudge", "?"), ("binary", "-")])
def test_examples_by_hand(scripted, feedback, sign):
    # Groups of samples × turns = 4. First problem: 08 and 9 are wrong, 07 and 7 right. Second: one right, one cut off.
    calls = scripted(attempts("07$", "08$", "9$", "7$", "14$", "141", "5$", "$"))
    learner = make_learner(feedback=feedback)
    examples = PairSFT().collect(learner)
    # Every pair restates the problem of its own item.
    texts = [
        (f"3+4=08${sign}3+4=", "07$"),
        (f"3+4=9${sign}3+4=", "7$"),
        (f"5+9=141{sign}5+9=", "14$"),
        (f"5+9=5${sign}5+9=", "14$"),
        (f"5+9=${sign}5+9=", "14$"),
    ]
    rows = [encode(context + second) for context, second in texts]
    assert examples.ids.tolist() == pad_rows(rows, POLICY.pad_id)[0].tolist()
    assert examples.learn.tolist() == [
        [len(context) <= i < len(context + second) for i in range(15)] for context, second in texts
    ]
    assert examples.generated_tokens == 3 + 3 + 2 + 2 + 3 + 3 + 2 + 1
    (call,) = calls
    assert call["policy"] is learner.reference  # the frozen base, not the policy in training
    assert call["items"] == ITEMS[:2] and call["samples"] == 4 and call["temperature"] == 1.0
    assert call.get("turns", 1) == 1


def test_examples_are_what_an_episode_would_be(scripted, monkeypatch):
    # Roll out two turns for real, with a policy scripted to give the pair's attempts: the same ids, the same mask.
    from minirl.rollouts import episodes

    class Script:
        said = -1

        def append(self, ids, counts):
            self.said += 1
            return 50.0 * torch.nn.functional.one_hot(torch.tensor([encode("08$07$")[min(self.said, 5)]]), 87)

    monkeypatch.setattr(episodes, "make_decoder", lambda *arguments: Script())
    scripted(attempts("08$", "07$", "07$", "07$"))
    examples = PairSFT().collect(make_learner(prompts=1))
    episode = roll_out(POLICY, Addition(), ITEMS[:1], turns=2)
    assert episode.answers == [["08", "07"]]
    assert examples.ids.tolist() == episode.ids.tolist()
    assert examples.learn.tolist() == (episode.turn == 1).tolist()


def test_all_updates_contribute(scripted):
    calls = scripted(
        attempts("08$", "07$", samples=2), attempts("08$", "9$", samples=2), attempts("9$", "7$", samples=2)
    )
    learner = make_learner(updates=3, prompts=1, samples=2, turns=1)
    examples = PairSFT().collect(learner)
    assert examples.ids.tolist() == [encode("3+4=08$?3+4=07$"), [*encode("3+4=9$?3+4=7$"), 0, 0]]
    assert examples.generated_tokens == 6 + 5 + 4  # attempts without a partner were paid for, too
    assert [call["items"] for call in calls] == [[ITEMS[0]], [ITEMS[1]], [ITEMS[2]]]
    states = [call["generator"].initial_seed() for call in calls]
    assert len(set(states)) == 3


def test_without_pairs_there_is_nothing_to_learn(scripted):
    scripted(attempts("07$", "7$", "007", "07$", "9$", "8$", "7$", "$"))  # all right, then all wrong
    with pytest.raises(TrainingError, match="no pairs"):
        PairSFT().collect(make_learner())


def test_shuffled_scores_pair_attempts_at_random(scripted):
    answers = ["08$", "07$", "9$", "7$", "14$", "141", "5$", "$"]
    scripted(attempts(*answers), attempts(*answers))
    learner = make_learner()
    shuffled = PairSFT(shuffle_scores=True).collect(learner)
    order = torch.randperm(8, generator=learner.generator(0, "shuffle"))
    rollouts = attempts(*answers)
    rollouts.scores = rollouts.scores[order]
    assert len(shuffled.ids) == len(correction_pairs(rollouts, 4))
    assert shuffled.ids.tolist() != PairSFT().collect(make_learner()).ids.tolist()


class Lenient(Addition):
    def check(self, item, answer):
        return answer[:1].islower()


def test_pair_sft_runs():
    # From an untrained policy, end to end: what is charged is what was generated, and the loss falls.
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="add"), TRAIN.model_copy(update={"updates": 12}), 0)
    learner.task = Lenient()
    records = list(run_phases(learner, PairSFT().phases(learner.train)))
    assert [record["phase"] for record in records] == ["SFT"] * 12
    assert {record["generated_tokens"] for record in records} == {PairSFT().collect(learner).generated_tokens}
    assert records[-1]["loss/supervised"] < records[0]["loss/supervised"]
