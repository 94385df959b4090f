"""The horizon by hand, texts with errors in them, and what a policy expects after them.

One problem is worked out throughout: ``3+7-4*2=`` → ``+70-46*22``, for 3+7 = 10 → 0, 0-4 → 6, 6*2 = 12 → 2.
"""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_all
from minirl.loops import Learner
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item
from minirl.tasks.ledger import Ledger
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.baselines import AnswerSFT
from minirl.techniques.self_correction import illusion_horizon
from minirl.techniques.self_correction.illusion_horizon import (
    SHARES,
    Recovery,
    evaluate,
    horizon,
    injected,
    last_result,
)

TASK = Ledger()
ITEM = Item("ledger", 0, 0, 3, "3+7-4*2=", "+70-46*22")
SHORT = Item("ledger", 0, 1, 1, "3+7=", "+70")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_llama(32, 1, 2)


class Repeater(Policy):
    """A policy by hand: with probability ½ the next character is the one before, else any other, all alike."""

    def logits(self, ids, group=1, shared=0):
        vocabulary = len(self.tokenizer)
        same = torch.nn.functional.one_hot(ids, vocabulary).bool()
        return torch.full(same.shape, 0.5 / (vocabulary - 1)).masked_fill(same, 0.5).log()


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 4, "samples": 2, "learning_rate": 1e-3, **changes})


def rollouts(policy, items, answers, scores=None) -> Rollouts:
    """Single attempts as if ``policy`` had written them."""
    prompts, said = policy.encode_prompts([item.prompt for item in items]), policy.encode_text(answers)
    width = max(len(prompt) + len(text) for prompt, text in zip(prompts, said, strict=True))
    ids, turn = [], []
    for prompt, text in zip(prompts, said, strict=True):
        rest = width - len(prompt) - len(text)
        ids.append([*prompt, *text, *[0] * rest])
        turn.append([CONTEXT] * len(prompt) + [0] * len(text) + [CONTEXT] * rest)
    found = [TASK.score(item, text) for item, text in zip(items, answers, strict=True)]
    return Rollouts(
        ids=torch.tensor(ids),
        turn=torch.tensor(turn),
        logprobs=torch.zeros(len(ids), width),
        scores=torch.tensor(scores or found)[:, None],
        group=torch.arange(len(ids)),
        answers=[[text] for text in answers],
        items=list(items),
        longest=width,
    )


# --- the horizon -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "success", "steps"),
    [
        (0.5, 0.5, 1.0),  # one step is right half the time
        (0.5, 0.25, 2.0),  # two are, a quarter of the time
        (0.25, 0.5, 0.5),  # not even one
        (0.9, 0.729, 3.0),  # 0.9³
        (0.99, 0.5, 68.9676),  # ln ½ / ln 0.99 = 0.693147 / 0.0100503
        (0.0, 0.5, 0.0),  # nothing is ever right
        (1.0, 0.5, math.inf),
    ],
)
def test_the_horizon_by_hand(p, success, steps):
    assert horizon(p, success) == pytest.approx(steps, rel=1e-5)


def test_half_of_all_texts_of_that_length_have_no_error():
    assert horizon(0.97) == horizon(0.97, 0.5)
    for p in (0.3, 0.8, 0.99):
        assert p ** horizon(p) == pytest.approx(0.5)


def test_halving_the_errors_doubles_the_horizon():
    # ln 0.98 = −0.020203 and ln 0.99 = −0.010050: the factor is 2.010, whatever success is asked for.
    assert horizon(0.99) / horizon(0.98) == pytest.approx(2.0101, abs=1e-4)
    assert horizon(0.99, 0.9) / horizon(0.98, 0.9) == pytest.approx(2.0101, abs=1e-4)


# --- texts with errors -----------------------------------------------------------------------------------------------


def test_without_errors_it_is_the_right_answer():
    assert injected(ITEM, 0.0) == ITEM.answer


def test_with_all_errors_only_the_last_step_is_right():
    text = injected(ITEM, 1.0)
    assert TASK.steps(ITEM, text) == [False, False, True]
    assert (text[:2], text[3:5], text[6:8]) == ("+7", "-4", "*2")  # every operation is restated
    assert int(text[8]) == int(text[5]) * 2 % 10  # from what is displayed


def test_the_last_step_is_never_wrong_and_alone_it_is_the_answer():
    for item in TASK.items(0, range(20), 4):
        for share in SHARES:
            assert TASK.steps(item, injected(item, share))[-1]
    assert injected(SHORT, 1.0) == "+70"


def test_an_item_always_gets_the_same_errors_and_another_item_others():
    again = Item("ledger", 0, 0, 3, "3+7-4*2=", "+70-46*22")
    assert injected(again, 1.0) == injected(ITEM, 1.0)
    texts = {injected(Item("ledger", 0, index, 3, "3+7-4*2=", "+70-46*22"), 1.0) for index in range(10)}
    assert len(texts) > 5  # 9 · 9 pairs of wrong digits


def test_fewer_errors_are_some_of_the_more():
    for item in TASK.items(0, range(50), 12):
        wrong = [{i for i, good in enumerate(TASK.steps(item, injected(item, share))) if not good} for share in SHARES]
        assert all(fewer <= more for fewer, more in itertools.pairwise(wrong))
        assert (wrong[0], wrong[-1]) == (set(), set(range(11)))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_share_is_what_was_asked_for(share):
    # 400 items with 11 steps before the last: the standard error is at most 0.5 / √4400 = 0.0075.
    errors = [TASK.steps(item, injected(item, share)).count(False) for item in TASK.items(0, range(400), 12)]
    assert sum(errors) / (400 * 11) == pytest.approx(share, abs=0.025)


# --- the probability of the last character ---------------------------------------------------------------------------


def test_the_probability_of_the_last_character_by_hand(policy):
    # …*22: the 2 follows a 2, ½. +70: the 0 follows a 7, and shares the other half with all but the 7.
    fake = Repeater(policy.model, policy.tokenizer)
    found = last_result(fake, [ITEM, SHORT], ["+70-46*22", "+70"])
    other = 0.5 / (len(policy.tokenizer) - 1)
    assert found.tolist() == pytest.approx([0.5, other])
    assert last_result(fake, [ITEM], ["+70-46*20"]).tolist() == pytest.approx([other])  # what is asked, right or wrong


def test_answers_of_all_lengths_side_by_side(policy):
    # One row is padded and the other is not; each by itself gives the same.
    items, texts = [SHORT, ITEM, ITEM], ["+70", "+71-47*24", "+70-46"]
    together = last_result(policy, items, texts)
    alone = [last_result(policy, [item], [text]).item() for item, text in zip(items, texts, strict=True)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_it_is_read_off_the_distribution_behind_all_that_is_written(policy):
    ids = torch.tensor([policy.encode_text(["3+7-4*2=+71-47*2"])[0]])
    digit = policy.encode_text(["4"])[0][0]
    with torch.no_grad():
        expected = policy.logits(ids)[0, -1].softmax(-1)[digit].item()
    assert last_result(policy, [ITEM], ["+71-47*24"]).item() == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_all_characters_add_up_to_one(policy):
    symbols = [t for t in policy.tokenizer.get_vocab() if len(t) == 1]
    rest = 1 - last_result(policy, [ITEM] * len(symbols), ["+70-46*2" + c for c in symbols]).sum().item()
    assert 0 < rest < 0.2  # of <pad>, <eos> and <unk>


def test_nothing_is_kept_for_a_gradient(policy):
    assert not last_result(policy, [ITEM], [ITEM.answer]).requires_grad


# --- recovery --------------------------------------------------------------------------------------------------------


def recovery_examples(policy, items, seed=0, update=0, answers=None, scores=None, errors=True):
    """What :class:`Recovery` learns: (text given, text learned, whether a stop token follows) of every row."""
    data = rollouts(policy, items, answers or [item.answer for item in items], scores)
    learner = SimpleNamespace(seed=seed, reference=policy)
    found = []
    for (context, target), item in zip(Recovery(errors=errors).examples(learner, data, update), items, strict=True):
        before = policy.decode([context])[0]
        assert before.startswith(item.prompt)
        assert target[-1] == policy.stop_id
        found.append((before.removeprefix(item.prompt), policy.decode([target])[0]))
    return found


def test_every_attempt_gives_one_example_whose_continuation_is_right(policy):
    items = TASK.items(0, range(60), 4)
    for item, (given, learned) in zip(items, recovery_examples(policy, items), strict=True):
        assert len(given) % 3 == 0 and len(learned) > 0 and len(given) + len(learned) == 12
        right = TASK.steps(item, given + learned)
        assert all(right[len(given) // 3 :])  # each step from the result displayed before it


def test_what_is_given_has_any_length_and_any_number_of_errors(policy):
    items = TASK.items(0, range(300), 3)
    seen = set()
    for item, (given, learned) in zip(items, recovery_examples(policy, items), strict=True):
        seen.add((len(given) // 3, TASK.steps(item, given + learned).count(False)))
    # Nothing given; one step, right or wrong; two, with no, one or two errors. The whole answer is never given.
    assert seen == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}


def test_without_errors_an_example_is_a_right_answer_in_two_parts(policy):
    items = TASK.items(0, range(40), 4)
    found = recovery_examples(policy, items, errors=False)
    assert [given + learned for given, learned in found] == [item.answer for item in items]
    assert {len(given) for given, _ in found} == {0, 3, 6, 9}


def test_the_errors_depend_on_seed_and_update_alone(policy):
    items = TASK.items(0, range(20), 4)
    first = recovery_examples(policy, items, seed=1, update=2)
    assert recovery_examples(policy, items, seed=1, update=2) == first
    assert recovery_examples(policy, items, seed=1, update=3) != first
    assert recovery_examples(policy, items, seed=2, update=2) != first


def test_what_the_base_wrote_does_not_matter(policy):
    items = TASK.items(0, range(6), 4)
    nonsense = recovery_examples(policy, items, answers=["?"] * 6, scores=[1.0, 0.0] * 3)
    assert nonsense == recovery_examples(policy, items)


def test_only_the_continuation_is_learned():
    # Collected as by a run: 3 updates of 4 prompts × 2 samples, one example each, tokens counted as they were written.
    policy = tiny_llama(32, 1, 2)
    learner = Learner(policy, TaskConfig(name="ledger", level=4), train_config(), seed=0)
    examples = Recovery().collect(learner)
    assert examples.ids.shape == examples.learn.shape and len(examples.ids) == 3 * 4 * 2
    problems = [item for update in range(3) for item in learner.problems(update, 4) for _ in range(2)]
    for item, ids, learn in zip(problems, examples.ids, examples.learn, strict=True):
        text = policy.decode([ids[~learn & (ids != policy.pad_id)].tolist()])[0]
        learned = ids[learn].tolist()
        given = text.removeprefix(item.prompt)
        assert learned[-1] == policy.stop_id
        assert all(TASK.steps(item, given + policy.decode([learned])[0])[len(given) // 3 :])
    written = AnswerSFT().attempts(learner, 0).generated_tokens()
    assert 0 < written < examples.generated_tokens <= 3 * 8 * 13  # at most 12 characters and a stop each


def test_one_phase_of_imitation():
    (phase,) = Recovery().phases(train_config())
    assert isinstance(phase, SupervisedPhase) and phase.updates == 3
    assert Recovery().evaluation() == {}
    assert Recovery.name == "recovery"


@pytest.mark.parametrize("bad", [{"share": 0.5}, {"shuffle_scores": 3}, {"independent": "often"}, {"rate": 0.4}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Recovery, bad, "arms.recovery")


# --- the metrics -----------------------------------------------------------------------------------------------------

PAIR = [Item("ledger", 0, 0, 2, "3+7-4=", "+70-46"), Item("ledger", 0, 1, 2, "3+7-4=", "+70-46")]


@pytest.fixture
def said(policy, monkeypatch):
    """Own answers by hand; after n errors the policy gives the right last result 1 / (1 + n)."""

    def use(answers):
        monkeypatch.setattr(illusion_horizon, "attempt_all", lambda *_, **__: rollouts(policy, PAIR, answers))

    def probability(_, items, texts):
        errors = [TASK.steps(item, text).count(False) for item, text in zip(items, texts, strict=True)]
        return torch.tensor([1 / (1 + n) for n in errors])

    monkeypatch.setattr(illusion_horizon, "last_result", probability)
    return use


def test_metrics_by_hand(policy, said):
    said(["+70-46", "+71-47"])  # both steps right; 3+7 is not 1, but 1-4 is 7
    evaluation, data = evaluate(policy, TASK, PAIR, seed=0)
    assert evaluation.items["accuracy@1"] == [1, 0]
    assert evaluation.items["step_accuracy"] == [1, 0.5]
    assert evaluation.items["all_right"] == [1, 0]
    assert evaluation.metrics["step_accuracy"] == 0.75
    assert evaluation.metrics["horizon"] == pytest.approx(2.40942)  # ln 0.5 / ln 0.75 = 0.693147 / 0.287682
    # One step stands before the last, right without errors and wrong with all of them.
    assert evaluation.items["injected@0"] == [1, 1]
    assert evaluation.items["injected@100"] == [0.5, 0.5]
    half = [0.5 if not TASK.steps(item, injected(item, 0.5))[0] else 1.0 for item in PAIR]
    assert evaluation.items["injected@50"] == half
    assert evaluation.items["slope"] == [1 - value for value in half]
    assert data.answers == [["+70-46"], ["+71-47"]]


def test_every_metric_but_the_horizon_is_a_mean_over_items(policy, said):
    said(["+70-46", "+71-47"])
    evaluation, _ = evaluate(policy, TASK, PAIR, seed=0)
    shares = ("injected@0", "injected@25", "injected@50", "injected@75", "injected@100")
    assert set(evaluation.items) == {"accuracy@1", "step_accuracy", "all_right", *shares, "slope"}
    assert set(evaluation.metrics) == {*evaluation.items, "horizon"}
    for name, values in evaluation.items.items():
        assert evaluation.metrics[name] == sum(values) / 2


@pytest.mark.parametrize(
    ("answers", "p", "steps"),
    [
        # No error among four steps counts as half an error: ln 0.5 / ln 0.875 = 0.693147 / 0.133531.
        (["+70-46", "+70-46"], 1.0, 5.19089),
        # A missing step is wrong, and so is the one after it.
        (["", "-"], 0.0, 0.0),
    ],
)
def test_a_perfect_and_a_hopeless_policy_have_a_horizon_that_can_be_stored(policy, said, answers, p, steps):
    said(answers)
    evaluation, _ = evaluate(policy, TASK, PAIR, seed=0)
    assert evaluation.metrics["step_accuracy"] == p
    assert evaluation.metrics["horizon"] == pytest.approx(steps, abs=1e-4)
    json.dumps(evaluation.metrics, allow_nan=False)


def test_a_right_result_after_a_wrong_step_is_right_and_its_step_is_not(policy, monkeypatch):
    # 3+2 = 5, 5*5 → 5; who writes 7 for 5 gets 7*5 → 5 as well.
    item = Item("ledger", 0, 0, 2, "3+2*5=", "+25*55")
    monkeypatch.setattr(illusion_horizon, "attempt_all", lambda *_, **__: rollouts(policy, [item], ["+27*55"]))
    evaluation, _ = evaluate(policy, TASK, [item], seed=0)
    assert evaluation.metrics["accuracy@1"] == 1
    assert evaluation.metrics["step_accuracy"] == 0.5


def test_it_measures_any_policy_in_batches_of_any_size(policy):
    items = TASK.items(0, range(5), 4)
    whole, data = evaluate(policy, TASK, items, seed=3)
    parts, same = evaluate(policy, TASK, items, seed=3, batch=2)
    assert data.answers == same.answers == attempt_all(policy, TASK, items, seed=3).answers
    for name, values in whole.items.items():
        assert parts.items[name] == pytest.approx(values, abs=1e-6)
    assert whole.generated_tokens == data.generated_tokens() > 0
