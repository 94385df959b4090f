"""Episodes: which tokens are the policy's own, what it saw, how attempts score, and what the sampling depends on."""

import pytest
import torch

from minirl.policy.logprobs import token_logprobs
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts import episodes
from minirl.rollouts.episodes import roll_out
from minirl.tasks import Item, get, to_dataset
from minirl.tasks.add import Addition

ADD = get("add")
# 3 + 4 = 07 and 5 + 9 = 14; an attempt at level 1 has at most 3 tokens: two digits and the stop token.
SEVEN, FOURTEEN = Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14")


def sharp_policy(seed: int = 0) -> Policy:
    """A small untrained policy whose logits differ widely, so that what it samples depends on what it has read."""
    policy = tiny_llama(16, 2, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
    return policy


POLICY = sharp_policy()


class Script:
    """A decoder without a model: row b says ``lines[b]`` token by token and remembers all it was told."""

    def __init__(self, lines: list[list[int]]) -> None:
        self.lines = lines
        self.context: list[list[int]] = [[] for _ in lines]
        self.appends = [0] * len(lines)  # the first is the prompt; each further one has said one more token

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        for b, (row, count) in enumerate(zip(ids.tolist(), counts.tolist(), strict=True)):
            self.context[b] += row[:count]
            self.appends[b] += count > 0
        wanted = torch.tensor([line[min(n, len(line)) - 1] for line, n in zip(self.lines, self.appends, strict=True)])
        return 50.0 * torch.nn.functional.one_hot(wanted, 87)


def encode(text: str) -> list[int]:
    """Token ids; ``$`` stands for the stop token."""
    return POLICY.tokenizer.convert_tokens_to_ids(["<eos>" if c == "$" else c for c in text])


@pytest.fixture
def scripted(monkeypatch):
    """``scripted("08$7$", …)`` makes the next roll-out say these attempts; returns the decoder."""

    def install(*lines: str) -> Script:
        script = Script([encode(line) for line in lines])
        monkeypatch.setattr(episodes, "make_decoder", lambda model, batch: script)
        return script

    return install


@pytest.mark.parametrize(("feedback", "signs"), [("nudge", "??"), ("binary", "-+")])
def test_two_turns_by_hand(scripted, feedback, signs):
    # The first policy is wrong, then right; the second right, then cut off after three tokens, and wrong.
    script = scripted("08$7$", "14$141")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=2, feedback=feedback)

    texts = [f"3+4=08${signs[0]}3+4=7$", f"5+9=14${signs[1]}5+9=141"]
    assert rollouts.ids.tolist() == [[*encode(texts[0]), POLICY.pad_id], encode(texts[1])]
    #         prompt      attempt 1  feedback    attempt 2  padding
    turns = [[-1] * 4 + [0] * 3 + [-1] * 5 + [1] * 2 + [-1], [-1] * 4 + [0] * 3 + [-1] * 5 + [1] * 3]
    assert rollouts.turn.tolist() == turns
    assert rollouts.own.tolist() == [[turn >= 0 for turn in row] for row in turns]
    assert rollouts.generated_tokens() == 5 + 6  # stop tokens count, feedback does not
    assert rollouts.answers == [["08", "7"], ["14", "141"]]
    assert rollouts.scores.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert rollouts.group.tolist() == [0, 1]
    assert rollouts.items == [SEVEN, FOURTEEN]
    # A logit of 50 against zeros: log-prob 0 to single precision, exactly 0 elsewhere.
    assert rollouts.logprobs.abs().max().item() < 1e-6
    # The policy has read exactly these ids, each once, but not its very last token.
    assert script.context == [encode(text)[:-1] for text in texts]


def test_one_turn_by_hand(scripted):
    scripted("07$", "$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN])
    assert rollouts.ids.tolist() == [encode("3+4=07$"), encode("5+9=$") + [POLICY.pad_id] * 2]
    assert rollouts.turn.tolist() == [[-1] * 4 + [0] * 3, [-1] * 4 + [0, -1, -1]]
    assert rollouts.answers == [["07"], [""]] and rollouts.scores.tolist() == [[1.0], [0.0]]


def test_limit_on_new_tokens(scripted):
    scripted("07$")
    rollouts = roll_out(POLICY, ADD, [SEVEN], max_new_tokens=1)
    assert rollouts.answers == [["0"]] and rollouts.generated_tokens() == 1


def test_records_become_a_dataset(scripted):
    scripted("08$7$", "14$141")
    records = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=2).records()
    assert records[0] == {
        "prompt": "3+4=",
        "reference": "07",
        "attempts": ["08", "7"],
        "scores": [0.0, 1.0],
        "group": 0,
    }
    dataset = to_dataset(records)
    assert dataset.num_rows == 2
    assert dataset["attempts"][1] == ["14", "141"] and dataset["scores"][1] == [1.0, 0.0] and dataset["group"][1] == 1


def rolled(items, seed=0, policy=POLICY, **settings):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return roll_out(policy, ADD, items, generator=generator, **settings)


def rows(rollouts, which=slice(None)):
    """What was written, row by row, without padding."""
    ids, turn = rollouts.ids.tolist(), rollouts.turn.tolist()
    return [
        [i for i, t in zip(a, b, strict=True) if t >= 0] for a, b in list(zip(ids, turn, strict=True))[which]
    ], rollouts.answers[which]


ITEMS = ADD.items(0, range(6), 2)


def test_pieces_are_prompt_attempt_feedback_attempt():
    rollouts = rolled(ITEMS, turns=3, samples=2)
    for b, item in enumerate(rollouts.items):
        ids, turn = rollouts.ids[b], rollouts.turn[b]
        attempts = [ids[turn == t].tolist() for t in range(3)]
        expected = encode(item.prompt)
        for t, attempt in enumerate(attempts):
            assert 1 <= len(attempt) <= 4  # level 2: three digits and the stop token
            assert POLICY.stop_id not in attempt[:-1]
            assert rollouts.answers[b][t] == POLICY.decode([attempt])[0]
            assert rollouts.scores[b, t].item() == ADD.score(item, rollouts.answers[b][t])
            expected += attempt
            if t < 2:  # the next turn finds every attempt closed; a stop token that had to be added is context
                expected += [POLICY.stop_id] * (attempt[-1] != POLICY.stop_id)
                expected += encode(f"?{item.prompt}")
        assert ids.tolist() == expected + [POLICY.pad_id] * (len(ids) - len(expected))
    assert rollouts.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [item.index for item in rollouts.items] == rollouts.group.tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_the_whole_episode(temperature):
    # Sampled piece by piece through the cache; read back in one forward pass over the finished episode.
    rollouts = rolled(ITEMS, turns=3, samples=2, temperature=temperature)
    logits = POLICY.logits(rollouts.ids)[:, :-1] / temperature
    logprobs = token_logprobs(logits, rollouts.ids[:, 1:]).detach()
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:][own], logprobs[own], atol=1e-4, rtol=1e-4)
    assert rollouts.logprobs[~rollouts.own].tolist() == [0.0] * int((~rollouts.own).sum())
    assert not rollouts.own[:, 0].any()


def test_greedy_is_the_most_likely_and_repeatable():
    one, two = rolled(ITEMS, None, turns=2), rolled(ITEMS, None, turns=2, temperature=0.3)
    assert one.ids.tolist() == two.ids.tolist()
    likeliest = POLICY.logits(one.ids)[:, :-1].argmax(-1)
    own = one.own[:, 1:]
    assert likeliest[own].tolist() == one.ids[:, 1:][own].tolist()


def test_the_generators_seed_decides():
    one, same, other = (rolled(ITEMS, seed, turns=2, samples=2) for seed in (5, 5, 6))
    assert one.ids.tolist() == same.ids.tolist() and torch.equal(one.logprobs, same.logprobs)
    assert one.answers != other.answers


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    rolled(ITEMS, 0, turns=2)
    assert torch.equal(torch.random.get_rng_state(), state)


class Shrug:
    """A decoder that finds all tokens equally likely, whatever it has read."""

    def __init__(self, model, batch: int) -> None:
        self.batch = batch

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.batch, 87)


def test_every_turn_has_numbers_of_its_own(monkeypatch):
    monkeypatch.setattr(episodes, "make_decoder", Shrug)
    attempts = [answer for answers in rolled(ITEMS, turns=3).answers for answer in answers]
    assert len(set(attempts)) == 18


def test_an_item_does_not_notice_the_others():
    whole = rolled(ITEMS, turns=2, samples=2)
    # Noise is drawn in item order: the first items of a batch get the same numbers alone …
    first = rolled(ITEMS[:2], turns=2, samples=2)
    assert rows(first) == rows(whole, slice(0, 4))
    # … and a generator that has served them goes on to the others.
    generator = torch.Generator().manual_seed(0)
    parts = [
        roll_out(POLICY, ADD, ITEMS[a:b], turns=2, samples=2, generator=generator) for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    assert [row for part in parts for row in rows(part)[1]] == whole.answers


def test_other_neighbours_change_nothing():
    # The same noise rows for items 0 and 2; between and after them problems with shorter and longer prompts.
    short, long = Item("add", 9, 0, 2, "1+2=", "003"), Item("add", 9, 1, 2, "0000001+0000002=", "003")
    mixed = [ITEMS[0], short, ITEMS[2], long, short, long]
    one, two = rolled(ITEMS, turns=2), rolled(mixed, turns=2)
    for b in (0, 2):
        assert one.answers[b] == two.answers[b]
        torch.testing.assert_close(one.logprobs[b][one.own[b]], two.logprobs[b][two.own[b]], atol=1e-5, rtol=1e-5)
    assert one.answers[1] != two.answers[1]


def test_neighbours_of_another_level_change_nothing():
    alone, together = rolled(ITEMS[:2], turns=2), rolled([*ITEMS[:2], ADD.item(0, 0, 5)], turns=2)
    assert alone.answers == together.answers[:2]


def test_a_group_prefilled_once_is_every_sample_by_itself():
    group = rolled(ITEMS[:2], turns=2, samples=3)
    single = rolled([item for item in ITEMS[:2] for _ in range(3)], turns=2, samples=1)
    assert group.ids.tolist() == single.ids.tolist() and group.answers == single.answers
    torch.testing.assert_close(group.logprobs, single.logprobs, atol=1e-5, rtol=1e-5)
    assert group.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({tuple(answers) for answers in group.answers}) == 6  # samples of a prompt differ


def test_feedback_reaches_the_policy():
    # The same noise, another sign in front of the restated problem: the second attempts differ, the first do not.
    nudge, binary = rolled(ITEMS, turns=2), rolled(ITEMS, turns=2, feedback="binary")
    assert [a[0] for a in nudge.answers] == [a[0] for a in binary.answers]
    assert [a[1] for a in nudge.answers] != [a[1] for a in binary.answers]


class Talkative(Addition):
    """Addition whose feedback is much longer than its problems."""

    def feedback(self, item, completion, grade="nudge"):
        return "look again " * 20


def test_long_feedback_is_read_to_the_end():
    generator = torch.Generator().manual_seed(0)
    rollouts = roll_out(POLICY, Talkative(), ITEMS[:2], turns=2, generator=generator)
    logprobs = token_logprobs(POLICY.logits(rollouts.ids)[:, :-1], rollouts.ids[:, 1:]).detach()
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:][own], logprobs[own], atol=1e-4, rtol=1e-4)
