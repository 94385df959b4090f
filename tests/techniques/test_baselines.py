"""The rivals: multi-turn RL by hand, and the examples of supervised fine-tuning, token by token.

The attempts that examples are worked out on, two problems with four attempts each (``$`` is the stop token)::

    row    0    1    2   3     4    5    6   7
    3+4=  07$  08$  9$  7$    5+9=  14$  15$  5$  $
           ✓    ✗   ✗   ✓            ✓    ✗   ✗  ✗
"""

import pytest
import stand_ins
import torch

from minirl.config import TaskConfig, TrainConfig
from minirl.errors import TrainingError
from minirl.loops import Learner, run_phases
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import tiny_llama
from minirl.rollouts import episodes
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item
from minirl.tasks.add import Addition
from minirl.techniques import base
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.baselines import AnswerSFT, MultiTurnRL, PairSFT, correction_pairs, prompt_and_attempt

POLICY = tiny_llama(16, 1, 2)
TRAIN = TrainConfig(updates=1, prompts=2, samples=2, turns=2, learning_rate=1e-2)
ITEMS = [Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14"), Item("add", 0, 2, 1, "1+1=", "02")]
ANSWERS = ["07$", "08$", "9$", "7$", "14$", "15$", "5$", "$"]
TOKENS = 3 + 3 + 2 + 2 + 3 + 3 + 2 + 1  # what writing them costs, used or not
BOTH = pytest.mark.parametrize("method", [AnswerSFT, PairSFT])


def encode(text: str) -> list[int]:
    return stand_ins.encode(POLICY, text)


def attempts(*answers: str, samples: int = 4, first: int = 0, task: Addition | None = None) -> Rollouts:
    """Single-turn episodes in groups of ``samples``, from ITEMS[first] on."""
    return stand_ins.written(POLICY, ITEMS[first:], list(answers), samples, task=task)


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


@pytest.mark.parametrize(
    ("method", "turns", "samples"),
    [(MultiTurnRL(), 2, 2), (MultiTurnRL(turns=1), 1, 4), (MultiTurnRL(turns=2, until_solved=True), 2, 2)],
)
def test_the_episodes_of_an_arm(method, turns, samples):
    # Two turns of two samples are four attempts, however an arm divides them; the rest is what all arms share.
    (phase,) = method.phases(TRAIN.model_copy(update={"temperature": 0.5, "feedback": "binary"}))
    assert phase.roll_out.keywords == {
        "turns": turns, "samples": samples, "temperature": 0.5, "feedback": "binary",
        "until_solved": method.until_solved,
    }  # fmt: skip


# --- correction pairs ------------------------------------------------------------------------------------------------


def scored(*groups: list[float]) -> Rollouts:
    """Single attempts with these scores, one list a prompt."""
    scores = torch.tensor([score for group in groups for score in group])
    return Rollouts(
        ids=torch.zeros(len(scores), 2, dtype=torch.long),
        turn=torch.tensor([[CONTEXT, 0]] * len(scores)),
        logprobs=torch.zeros(len(scores), 2),
        scores=scores[:, None],
        group=torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
        answers=[["a"]] * len(scores),
        items=ITEMS[:1] * len(scores),
        longest=1,
    )


@pytest.mark.parametrize(
    ("groups", "pairs"),
    [
        # Wrong 0, 2, 4; right 1, 3, 5 in turn. Wrong 10, 11; right 6, 7 first. Then no right answer, and no wrong one.
        (
            [[0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
            [(0, 1), (2, 3), (4, 5), (10, 6), (11, 7)],
        ),
        # Few right answers serve many wrong ones; each group begins with its first right answer again.
        ([[0, 0, 1, 0, 1, 0]], [(0, 2), (1, 4), (3, 2), (5, 4)]),
        ([[0, 0, 1], [0, 1, 0]], [(0, 2), (1, 2), (3, 4), (5, 4)]),
        ([[0, 0], [1, 0], [1, 0]], [(3, 2), (5, 4)]),  # never with an answer to another problem
        # Only what is entirely right is learned, and everything else is to be corrected.
        ([[0.5, 0.99, 1, 0]], [(0, 2), (1, 2), (3, 2)]),
        ([[0.5, 0.99, 0.75, 0]], []),
        ([[0, 0], [1, 1]], []),
        ([[0], [1], [0]], []),  # one attempt each
    ],
)
def test_correction_pairs_by_hand(groups, pairs):
    assert correction_pairs(scored(*groups)) == pairs


def test_prompt_and_attempt_by_hand():
    rollouts = attempts("8$", "07$", "141", "$")
    assert rollouts.ids.shape == (4, 7)
    assert prompt_and_attempt(rollouts, 0) == (encode("3+4="), encode("8$"))  # without padding
    assert prompt_and_attempt(rollouts, 1) == (encode("3+4="), encode("07$"))
    assert prompt_and_attempt(rollouts, 2) == (encode("3+4="), encode("141"))  # cut off: no stop token
    assert prompt_and_attempt(rollouts, 3) == (encode("3+4="), encode("$"))


def test_what_follows_an_attempt_is_no_part_of_it():
    # As where a cut-off attempt is closed, or in rows that are longer than others: context, whatever it holds.
    rollouts = attempts("141", "07$")
    rollouts.ids[0, 6], rollouts.turn[0, 6] = POLICY.stop_id, CONTEXT
    assert prompt_and_attempt(rollouts, 0) == (encode("3+4="), encode("14"))


# --- supervised fine-tuning -----------------------------------------------------------------------------------------


def make_learner(seed: int = 0, **changes) -> Learner:
    train = TRAIN.model_copy(update=changes)
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="add", level=1), train, seed)
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

        monkeypatch.setattr(base, "roll_out", fake)
        return calls

    return install


def check(examples, texts: list[tuple[str, str]]) -> None:
    """The examples are these (context, what is learned after it), in this order, and padded on the right."""
    rows = [encode(context + target) for context, target in texts]
    assert examples.ids.tolist() == pad_rows(rows, POLICY.pad_id)[0].tolist()
    width = max(map(len, rows))
    assert examples.learn.dtype == torch.bool
    assert examples.learn.tolist() == [
        [len(encode(context)) <= i < len(encode(context + target)) for i in range(width)] for context, target in texts
    ]


def test_answers_token_by_token(scripted):
    scripted(attempts(*ANSWERS))
    examples = AnswerSFT().collect(make_learner())
    # The digits are 3 to 12, + is 13, = is 17, the stop token 1 and padding 0.
    #                                 3   +  4   =  0   7  $
    assert examples.ids.tolist() == [[6, 13, 7, 17, 3, 10, 1], [6, 13, 7, 17, 10, 1, 0], [8, 13, 12, 17, 4, 7, 1]]
    assert examples.learn.int().tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]]
    assert examples.generated_tokens == TOKENS
    check(examples, [("3+4=", "07$"), ("3+4=", "7$"), ("5+9=", "14$")])  # the same, and what other tests compare with


def test_a_pair_token_by_token(scripted):
    scripted(attempts("08$", "7$", samples=2))
    examples = PairSFT().collect(make_learner(prompts=1, samples=2, turns=1))
    #                                 3   +  4   =  0   8  $   ?  3   +  4   =   7  $
    assert examples.ids.tolist() == [[6, 13, 7, 17, 3, 11, 1, 20, 6, 13, 7, 17, 10, 1]]
    assert examples.learn.int().tolist() == [[0] * 12 + [1, 1]]
    assert examples.generated_tokens == 3 + 2


@pytest.mark.parametrize(("feedback", "sign"), [("nudge", "?"), ("binary", "-")])
def test_pairs_by_hand(scripted, feedback, sign):
    scripted(attempts(*ANSWERS))
    examples = PairSFT().collect(make_learner(feedback=feedback))
    # Every pair restates the problem of its own item. The right answers to the first problem take turns.
    texts = [
        (f"3+4=08${sign}3+4=", "07$"),
        (f"3+4=9${sign}3+4=", "7$"),
        (f"5+9=15${sign}5+9=", "14$"),
        (f"5+9=5${sign}5+9=", "14$"),
        (f"5+9=${sign}5+9=", "14$"),
    ]
    check(examples, texts)
    assert examples.generated_tokens == TOKENS


@BOTH
def test_the_base_makes_as_many_attempts_as_the_online_methods(scripted, method):
    calls = scripted(attempts(*ANSWERS))
    learner = make_learner(temperature=0.7)
    method().collect(learner)
    (call,) = calls
    assert call["policy"] is learner.reference  # the frozen base, not the policy in training
    assert call["items"] == ITEMS[:2] and call["temperature"] == 0.7
    assert (call["turns"], call["samples"]) == (1, 4)  # two turns of two samples


def test_attempts_that_were_cut_off(scripted):
    # 007 is right, and where it ends was the limit's choice: no stop token is learned that nobody wrote.
    scripted(attempts("007", "141"))
    check(AnswerSFT().collect(make_learner(prompts=1)), [("3+4=", "007")])
    scripted(attempts("007", "8$"))
    check(PairSFT().collect(make_learner(prompts=1)), [("3+4=8$?3+4=", "007")])


class Generous(Addition):
    """Half the credit for what is nearly right."""

    def check(self, item, answer):
        return 0.5 if answer == "08" else super().check(item, answer)


def test_what_is_right_in_part_is_wrong(scripted):
    rollouts = attempts("08$", "07$", "9$", "08$", task=Generous())
    assert rollouts.scores[:, 0].tolist() == [0.5, 1, 0, 0.5]
    scripted(rollouts)
    check(AnswerSFT().collect(make_learner(prompts=1)), [("3+4=", "07$")])
    scripted(rollouts)
    pairs = [("3+4=08$?3+4=", "07$"), ("3+4=9$?3+4=", "07$"), ("3+4=08$?3+4=", "07$")]
    check(PairSFT().collect(make_learner(prompts=1)), pairs)


@pytest.mark.parametrize(("line", "said"), [("08$07$", "08$"), ("$07$", "$"), ("08907$", "089")])
def test_pairs_are_what_an_episode_would_be(scripted, monkeypatch, line, said):
    # Roll out two turns for real, with a policy scripted to give the pair's attempts: the same ids, the same mask.
    class Script:
        spoken = -1

        def append(self, ids, counts):
            self.spoken += 1
            return 50.0 * torch.nn.functional.one_hot(torch.tensor([encode(line)[min(self.spoken, len(line) - 1)]]), 87)

    monkeypatch.setattr(episodes, "make_decoder", lambda *arguments: Script())
    episode = roll_out(POLICY, Addition(), ITEMS[:1], turns=2)
    assert episode.answers == [[said.removesuffix("$"), "07"]]
    scripted(attempts(said, "07$", samples=2))
    examples = PairSFT().collect(make_learner(prompts=1))
    assert examples.ids.tolist() == episode.ids.tolist()
    assert examples.learn.tolist() == (episode.turn == 1).tolist()


@pytest.mark.parametrize(
    ("method", "texts"),
    [
        (AnswerSFT, [("3+4=", "07$"), ("1+1=", "2$")]),
        (PairSFT, [("3+4=08$?3+4=", "07$"), ("1+1=9$?1+1=", "2$")]),
    ],
)
def test_all_updates_contribute(scripted, method, texts):
    # The second problem gets wrong answers alone: no example, but its attempts were paid for, too.
    batches = [("08$", "07$"), ("08$", "9$"), ("9$", "2$")]
    calls = scripted(*[attempts(*answers, samples=2, first=i) for i, answers in enumerate(batches)])
    examples = method().collect(make_learner(updates=3, prompts=1, samples=2, turns=1))
    check(examples, texts)
    assert examples.generated_tokens == 6 + 5 + 4
    assert [call["items"] for call in calls] == [[ITEMS[0]], [ITEMS[1]], [ITEMS[2]]]
    assert len({call["generator"].initial_seed() for call in calls}) == 3


RIGHT, WRONG, NEARLY = ["07$", "7$", "007", "07$"], ["9$", "8$", "17$", "$"], ["08$", "08$", "9$", "08$"]


@pytest.mark.parametrize(
    ("method", "answers"),
    [(AnswerSFT, WRONG), (AnswerSFT, NEARLY), (PairSFT, WRONG), (PairSFT, NEARLY), (PairSFT, RIGHT)],
)
def test_where_nothing_is_right_or_nothing_is_wrong_there_is_nothing_to_learn(scripted, method, answers):
    scripted(attempts(*answers, task=Generous()))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        method().collect(make_learner(prompts=1))


def test_right_and_wrong_answers_to_different_problems_make_no_pair(scripted):
    scripted(attempts(*RIGHT, "9$", "8$", "7$", "$"))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        PairSFT().collect(make_learner())


def test_answers_need_no_wrong_ones(scripted):
    scripted(attempts(*RIGHT))
    check(AnswerSFT().collect(make_learner(prompts=1)), [("3+4=", answer) for answer in RIGHT])


# --- the shuffled control -------------------------------------------------------------------------------------------


def shuffled_order(learner: Learner, update: int = 0) -> list[int]:
    """Whose score each of eight rows gets."""
    return torch.randperm(8, generator=learner.generator(update, "shuffle")).tolist()


def test_shuffled_answers_are_any_attempts(scripted):
    # Rows 0, 3 and 4 are right, so three rows count as right: those that get the scores of 0, 3 and 4.
    scripted(attempts(*ANSWERS), attempts(*ANSWERS))
    learner = make_learner(updates=2)
    examples = AnswerSFT(shuffle_scores=True).collect(learner)
    chosen = [[row for row, whose in enumerate(shuffled_order(learner, u)) if whose in (0, 3, 4)] for u in (0, 1)]
    assert [0, 3, 4] not in chosen and chosen[0] != chosen[1]
    check(examples, [(ITEMS[row // 4].prompt, ANSWERS[row]) for rows in chosen for row in rows])
    assert examples.generated_tokens == 2 * TOKENS  # no cheaper than with the scores in their places


def test_shuffled_pairs_are_any_two_attempts_and_feedback_stays_true(scripted):
    scripted(attempts(*ANSWERS))
    learner = make_learner(feedback="binary")
    examples = PairSFT(shuffle_scores=True).collect(learner)
    scores = [float(whose in (0, 3, 4)) for whose in shuffled_order(learner)]
    pairs = correction_pairs(scored(scores[:4], scores[4:]))
    assert any(first in (0, 3, 4) for first, _ in pairs) and any(second not in (0, 3, 4) for _, second in pairs)
    texts = []
    for first, second in pairs:
        prompt, sign = ITEMS[first // 4].prompt, "+" if first in (0, 3, 4) else "-"
        texts.append((f"{prompt}{ANSWERS[first]}{sign}{prompt}", ANSWERS[second]))
    check(examples, texts)


def test_scores_stay_in_their_places_unless_they_are_to_be_shuffled(scripted):
    scripted(attempts(*ANSWERS), attempts(*ANSWERS))  # one each: shuffling writes to the batch
    learner = make_learner()
    plain, shuffled = (AnswerSFT(shuffle_scores=shuffle).attempts(learner, 0) for shuffle in (False, True))
    assert plain.scores[:, 0].tolist() == [1, 0, 0, 1, 1, 0, 0, 0]
    order = shuffled_order(learner)
    assert shuffled.scores[:, 0].tolist() == [float(whose in (0, 3, 4)) for whose in order]
    assert shuffled.scores.shape == plain.scores.shape and shuffled.answers == plain.answers


# --- with a real policy ---------------------------------------------------------------------------------------------


def lenient(seed: int = 0, **changes) -> Learner:
    learner = Learner(
        tiny_llama(16, 1, 2), TaskConfig(name="add"), TRAIN.model_copy(update={"updates": 3, **changes}), seed
    )
    learner.task = stand_ins.Lenient()
    return learner


@BOTH
@pytest.mark.parametrize("shuffle", [False, True])
def test_examples_depend_on_the_base_and_the_seed_alone(method, shuffle):
    collect = method(shuffle_scores=shuffle).collect
    learner = lenient()
    examples = collect(learner)
    # As in a run that is resumed: the policy has moved on, and other random numbers have been drawn.
    with torch.no_grad():
        for parameter in learner.policy.model.parameters():
            parameter += 1.0
    learner.updates_done = 2
    torch.rand(5)
    again = collect(learner)
    assert torch.equal(again.ids, examples.ids) and torch.equal(again.learn, examples.learn)
    assert again.generated_tokens == examples.generated_tokens
    other = collect(lenient(seed=1))
    assert other.ids.tolist() != examples.ids.tolist()


def test_both_learn_from_the_same_attempts():
    learner = lenient()
    for update in (0, 1):
        one, two = AnswerSFT().attempts(learner, update), PairSFT().attempts(learner, update)
        assert one.ids.tolist() == two.ids.tolist() and one.scores.tolist() == two.scores.tolist()
    assert AnswerSFT().collect(learner).generated_tokens == PairSFT().collect(learner).generated_tokens


@BOTH
def test_supervised_fine_tuning_runs(method):
    # From an untrained policy, end to end: what is charged is what was generated, and the loss falls.
    learner = lenient(updates=12)
    (phase,) = method().phases(learner.train)
    assert isinstance(phase, SupervisedPhase) and phase.updates == 12
    records = list(run_phases(learner, [phase]))
    assert [record["phase"] for record in records] == ["SFT"] * 12
    assert {record["generated_tokens"] for record in records} == {method().collect(learner).generated_tokens}
    assert records[-1]["loss/supervised"] < records[0]["loss/supervised"]
