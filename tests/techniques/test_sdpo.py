"""SDPO: who teaches whom, what the teacher reads letter by letter, and the loss that comes of it.

The two groups of two attempts that most is worked out on; ``|`` is the token that ends an attempt::

    row   problem   code   attempt   score   corrections
    0     A=        abc    abd|      0       -..c
    1     A=        abc    abc|      1       +
    2     B=        def    aef|      0       -d..
    3     B=        def    ab|       0       -           (no code at all)
"""

import math
from types import SimpleNamespace

import pytest
import torch

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.loops import policy_losses
from minirl.objectives.distillation import align, divergence
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item
from minirl.tasks.lookup import Lookup
from minirl.techniques.base import Teacher
from minirl.techniques.self_correction.sdpo import SDPO, TARGET, another_problem, evaluate, learning, right_siblings

A, B = Item("lookup", 0, 0, 1, "A=", "abc"), Item("lookup", 0, 1, 1, "B=", "def")
ATTEMPTS = [(A, "abd|"), (A, "abc|"), (B, "aef|"), (B, "ab|")]
TASK = Lookup()


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A model that knows nothing."""
    return tiny_llama(32, 1, 2)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 2, "samples": 2, "learning_rate": 1e-3, **changes})


def rollouts(policy: Policy, attempts=ATTEMPTS) -> Rollouts:
    """Groups of two. An attempt without ``|`` was cut off."""
    texts = [text.removesuffix("|") for _, text in attempts]
    own = [policy.encode_text([text.replace("|", "<eos>")])[0] for _, text in attempts]
    prompts = [policy.encode_prompts([item.prompt])[0] for item, _ in attempts]
    ids, _ = pad_rows([p + o for p, o in zip(prompts, own, strict=True)], policy.pad_id)
    turn, _ = pad_rows([[CONTEXT] * len(p) + [0] * len(o) for p, o in zip(prompts, own, strict=True)], CONTEXT)
    return Rollouts(
        ids=ids,
        turn=turn,
        logprobs=torch.zeros(ids.shape),
        scores=torch.tensor([[TASK.score(item, text)] for (item, _), text in zip(attempts, texts, strict=True)]),
        group=torch.arange(len(attempts)) // 2,
        answers=[[text] for text in texts],
        items=[item for item, _ in attempts],
        longest=4,
    )


def read(policy: Policy, teacher: Teacher) -> list[tuple[str, str]]:
    """For every row what stands before the attempt, and the attempt: what is not padding, and what is own."""
    found = []
    for row, own in zip(teacher.ids.tolist(), teacher.own.tolist(), strict=True):
        start = own.index(True)
        end = len(own) - own[::-1].index(True)
        assert all(own[start:end])  # the attempt is one piece, and it is the last
        assert set(row[end:]) <= {policy.pad_id}
        parts = (policy.tokenizer.decode(ids, skip_special_tokens=False) for ids in (row[:start], row[start:end]))
        found.append(tuple(part.replace("<eos>", "|") for part in parts))
    return found


# --- siblings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "samples", "siblings"),
    [
        ([0, 0, 0], 3, [None, None, None]),  # nobody is right
        ([0, 1, 0, 0], 4, [1, None, 1, 1]),  # one is right: all look at it, but not it at itself
        ([1, 0, 1, 0], 4, [2, 2, 0, 0]),  # the next one, and behind the last comes the first
        ([1, 1, 1], 3, [1, 2, 0]),
        ([0, 1, 0, 0], 2, [1, None, None, None]),  # a right attempt at another problem is no sibling
        ([0, 0, 1, 1, 0, 1], 2, [None, None, 3, 2, 5, None]),
        ([0.5, 0], 2, [None, None]),  # half right is not right
    ],
)
def test_right_siblings_by_hand(scores, samples, siblings):
    assert right_siblings(torch.tensor(scores).float(), samples) == siblings


# --- what the teacher reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "contexts"),
    [
        # A right answer and praise for it. Row 1 is the only right attempt at A, and nobody is right about B.
        ({}, ["A=abc|+A=", None, None, None]),
        # The failed attempt and what is wrong with it. A right attempt has not failed.
        ({"demonstration": False, "feedback": True}, ["A=abd|-..cA=", None, "B=aef|-d..B=", "B=ab|-B="]),
        # First the one, then the other.
        ({"feedback": True}, ["A=abc|+A=abd|-..cA=", None, "B=aef|-d..B=", "B=ab|-B="]),
        ({"demonstration": False}, [None, None, None, None]),
        # What belongs to the same place in the next group, before the own problem: row 0 reads what row 2 would have
        # read, 1 of 3, 2 of 0, and 3 of 1, of which nothing is known.
        ({"feedback": True, "foreign": True}, ["A=aef|-d..A=", "A=ab|-A=", "B=abc|+B=abd|-..cB=", None]),
        ({"foreign": True}, [None, None, "B=abc|+B=", None]),
    ],
)
def test_what_the_teacher_reads(policy, settings, contexts):
    teacher = SDPO(**settings).teacher(policy, TASK, rollouts(policy), grade="corrected")
    assert teacher.known.tolist() == [context is not None for context in contexts]
    expected = [
        (item.prompt if context is None else context, attempt)
        for context, (item, attempt) in zip(contexts, ATTEMPTS, strict=True)
    ]
    assert read(policy, teacher) == expected


def test_feedback_is_of_the_grade_of_the_run(policy):
    method = SDPO(demonstration=False, feedback=True)
    teacher = method.teacher(policy, TASK, rollouts(policy), grade="binary")
    assert [context for context, _ in read(policy, teacher)] == ["A=abd|-A=", "A=", "B=aef|-B=", "B=ab|-B="]


def test_the_demonstration_is_the_next_right_one(policy):
    # Both are right: each reads the other, though they say the same. Of the second group one was cut off.
    data = rollouts(policy, [(A, "abc|"), (A, "abc|"), (B, "defd"), (B, "def|")])
    teacher = SDPO().teacher(policy, TASK, data, grade="corrected")
    assert read(policy, teacher) == [
        ("A=abc|+A=", "abc|"),
        ("A=abc|+A=", "abc|"),
        ("B=def|+B=", "defd"),
        ("B=", "def|"),
    ]
    assert teacher.known.tolist() == [True, True, True, False]
    # A failed attempt that was cut off is closed before anything is said of it; as the attempt to be judged it is not.
    teacher = SDPO(feedback=True).teacher(policy, TASK, data, grade="corrected")
    assert read(policy, teacher)[2] == ("B=def|+B=defd|-B=", "defd")


def test_rollouts_stay_as_they_were(policy):
    data, before = rollouts(policy), rollouts(policy)
    SDPO(feedback=True, foreign=True).teacher(policy, TASK, data, grade="corrected")
    assert torch.equal(data.ids, before.ids) and torch.equal(data.turn, before.turn)
    assert torch.equal(data.scores, before.scores) and data.answers == before.answers


def test_another_problem_is_the_next_one_with_another_prompt():
    # Groups of two: A A B A; the row keeps its place in the group.
    data = Rollouts(
        ids=torch.zeros(8, 1, dtype=torch.long),
        turn=torch.zeros(8, 1, dtype=torch.long),
        logprobs=torch.zeros(8, 1),
        scores=torch.zeros(8, 1),
        group=torch.arange(8) // 2,
        answers=[[""]] * 8,
        items=[A, A, A, A, B, B, A, A],
        longest=1,
    )
    assert [another_problem(data, row) for row in range(8)] == [4, 5, 4, 5, 6, 7, 4, 5]
    data.items = [A] * 8
    assert another_problem(data, 3) == 3


@pytest.mark.parametrize(("foreign", "alone"), [(False, [6, 9, 18, 21]), (True, [2, 5, 13, 17])])
def test_the_tokens_it_judges_are_those_of_the_rollouts(policy, foreign, alone):
    # Attempts of all lengths, with or without the token that ends them, some of which are called right.
    data = roll_out(policy, TASK, TASK.items(0, range(6), 2), samples=4, generator=torch.Generator().manual_seed(0))
    data.scores = (torch.arange(24)[:, None] % 3 == 0).float()
    assert len(set(data.own.sum(1).tolist())) > 1
    teacher = SDPO(feedback=True, foreign=foreign).teacher(policy, TASK, data, grade="corrected")
    ours, theirs, mask = align(data.ids, data.own, teacher.ids, teacher.own)
    assert torch.equal(ours[mask], theirs[mask])
    assert int(mask.sum()) == data.generated_tokens()
    # Groups of four, right are 0 3 | 6 | 9 | 12 15 | 18 | 21: who is right alone has nothing to read, nor has who would
    # read what is said of it: four rows before or, as the fourth and the fifth group ask for the same key, eight.
    assert (~teacher.known).nonzero().flatten().tolist() == alone


# --- credit and loss -------------------------------------------------------------------------------------------------


def test_reward_itself_is_no_credit(policy):
    data = rollouts(policy)
    credit = SDPO().credit(data)
    assert credit.advantages.shape == credit.kl.shape == data.ids.shape
    assert not credit.advantages.any() and not credit.kl.any()
    assert (credit.sequences, credit.stats) == (None, {})


def losses(policy: Policy, reference: Policy, method: SDPO, data: Rollouts, **changes):
    """The loss of a batch and its statistics, as the loop has them."""
    train = train_config(feedback="corrected", **changes)
    learner = SimpleNamespace(policy=policy, reference=reference, train=train)
    teacher, stats = method.teacher(policy, TASK, data, grade=train.feedback), {}
    parts = list(policy_losses(learner, data, method.credit(data), OBJECTIVES["grpo"], stats, teacher))
    return sum(parts), stats


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_by_hand(policy, beta):
    # Three attempts have a teacher; they have 4, 4 and 3 tokens. The student reads the problem, the teacher the rest.
    reference = tiny_llama(32, 1, 2, seed=1)
    data = rollouts(policy)
    total = 0.0
    texts = [("A=", "A=abc|+A=abd|-..cA=", "abd|"), ("B=", "B=aef|-d..B=", "aef|"), ("B=", "B=ab|-B=", "ab|")]
    for problem, context, attempt in texts:
        predictions = []
        for model, before in ((policy, problem), (reference, context)):
            (ids,) = model.encode_text([(before + attempt).replace("|", "<eos>")])
            predictions.append(model.logits(torch.tensor([ids[:-1]]))[0, -len(attempt) :])
        total += divergence(*predictions, beta).sum()
    found, stats = losses(policy, reference, SDPO(feedback=True, beta=beta), data)
    torch.testing.assert_close(found, total / 11)
    assert stats["loss/distillation"] == pytest.approx(found.item(), rel=1e-5)
    assert stats["loss/policy"] == 0
    in_two, _ = losses(policy, reference, SDPO(feedback=True, beta=beta), data, micro_batches=2)
    torch.testing.assert_close(in_two, found)


def test_where_nothing_is_known_nothing_is_learned(policy):
    # Nobody is right, and nothing is said: the arm without feedback in groups without luck.
    data = rollouts(policy, [(A, "abd|"), (A, "fff|"), (B, "aef|"), (B, "ab|")])
    policy.model.zero_grad()
    loss, stats = losses(policy, policy.frozen_copy(), SDPO(), data)
    loss.backward()
    assert loss == 0
    assert not any(p.grad.any() for p in policy.model.parameters() if p.grad is not None)
    assert "teacher_agreement" not in stats
    loss, _ = losses(policy, policy.frozen_copy(), SDPO(feedback=True), data)
    loss.backward()
    assert loss > 0
    assert any(p.grad.any() for p in policy.model.parameters())
    policy.model.zero_grad()


# --- phases and settings ---------------------------------------------------------------------------------------------


def test_one_phase_with_the_settings_of_the_run(policy):
    # Single attempts, as many as the run would make in all its turns.
    method = SDPO(feedback=True, decay=0.9, beta=0.25, shuffle_scores=True)
    train = train_config(samples=4, turns=2, temperature=0.5, feedback="corrected")
    (phase,) = method.phases(train)
    assert (phase.name, phase.updates, phase.shuffle_scores, phase.reference_decay) == ("SDPO", 10, True, 0.9)
    assert phase.objective == OBJECTIVES["grpo"]
    assert phase.roll_out.keywords == {"turns": 1, "samples": 8, "temperature": 0.5, "feedback": "corrected"}
    data = rollouts(policy)
    mine, theirs = phase.teacher(policy, TASK, data), method.teacher(policy, TASK, data, grade="corrected")
    assert torch.equal(mine.ids, theirs.ids) and torch.equal(mine.own, theirs.own)
    assert mine.beta == theirs.beta == 0.25


def test_by_default_the_teacher_stays_where_it_is():
    (phase,) = SDPO().phases(train_config())
    assert (phase.reference_decay, phase.shuffle_scores) == (1.0, False)
    assert SDPO().evaluation() == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 1.5},
        {"beta": -0.1},
        {"beta": float("nan")},
        {"beta": True},
        {"decay": 2},
        {"decay": -1},
        {"feedback": "corrected"},
        {"demonstration": 3},
        {"foreign": None},
        {"demonstrations": True},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(SDPO, bad, "arms.sdpo")


# --- learning --------------------------------------------------------------------------------------------------------


def records(*accuracies):
    return [{"accuracy@1": value, "generated_tokens": 64 * i} for i, value in enumerate(accuracies, 1)]


def test_learning_is_the_price_of_the_target():
    assert TARGET == 0.25
    # The means of five updates are 0, 0.1, 0.2 and 0.3: the fourth of them, after 8 updates and 512 tokens.
    assert learning(records(0, 0, 0, 0, 0, 0.5, 0.5, 0.5, 1)) == {"log2_tokens_to_target": 9.0}
    # Exactly the target will do; whoever never gets there has paid all there was.
    assert learning(records(0.25, 0.25, 0.25, 0.25, 0.25, 0)) == {"log2_tokens_to_target": math.log2(320)}
    assert learning(records(0, 0, 0, 0)) == {"log2_tokens_to_target": 8.0}


def test_the_runner_finds_an_evaluation():
    assert evaluate.__module__ == "minirl.evaluation.attempts"
