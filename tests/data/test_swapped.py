"""Swapped pairs: a chosen reply against a reply chosen for another client of the topic."""

from collections import Counter
from pathlib import Path

import pytest

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import components_of
from psychocounsel.data.selection.swapped import with_swapped
from psychocounsel.errors import UserError
from tests.support.harness import write_jsonl
from tests.support.in_process import run_here
from tests.support.preferences import example, random_pairs


def clients(count: int) -> list[Example]:
    """Return two pairs per client with one chosen reply, topics in turn; the last client shares a reply with the first."""
    rows = []
    for number in range(count):
        for side in range(2):
            topic = ("grief", "work")[number % 2]
            rows.append(example(len(rows), f"I am {number}.", f"Good {number}.", f"Bad {number} {side}.", topic=topic))
    rows[-1].replies[1] = "Bad 0 0."
    return rows


def added(rows: list[Example], share: float, seed: int = 0) -> list[Example]:
    both = with_swapped(rows, share, seed, lambda line: None)
    assert both[: len(rows)] == rows
    return both[len(rows) :]


def test_opponents_are_chosen_replies_of_other_clients_of_the_topic() -> None:
    rows = clients(20)
    component = dict(zip((row.prompt[0]["content"] for row in rows), components_of(rows).tolist(), strict=True))
    own = {row.prompt[0]["content"]: row for row in rows}
    for_reply = {row.replies[0]: row.prompt[0]["content"] for row in rows}
    made = added(rows, 2.0)
    assert len(made) == 80
    assert len({(new.prompt[0]["content"], *new.replies) for new in made}) == 80  # no pair twice
    for new in made:
        prompt, (chosen, rejected) = new.prompt[0]["content"], new.replies
        other = for_reply[rejected]
        assert chosen == own[prompt].replies[0]
        assert own[other].topic == new.topic == own[prompt].topic
        assert component[other] != component[prompt]
        assert new.ratings is new.scores is new.order is None
    assert len({new.id for new in made}) == 80


def test_every_chosen_reply_is_used_before_one_is_used_again_and_on_both_sides_alike() -> None:
    made = added(clients(20), 0.5)
    assert Counter(new.replies[0] for new in made) == Counter(f"Good {number}." for number in range(20))
    assert max(Counter(new.replies[1] for new in made).values()) <= 2


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    rows = clients(20)
    first, shuffled = added(rows, 0.3), added(rows[::-1], 0.3)
    key = [(new.prompt[0]["content"], *new.replies) for new in first]
    assert key == [(new.prompt[0]["content"], *new.replies) for new in shuffled]
    assert key != [(new.prompt[0]["content"], *new.replies) for new in added(rows, 0.3, seed=1)]


def test_too_few_clients_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.swapped=1: needs 2 pairs, but .* give only 0: lower it, or add rows"):
        added([example(0, "A.", "Good.", "Bad."), example(1, "B.", "Better.", "Bad.")], 1.0)
    with pytest.raises(UserError, match=r"data.swapped=5: needs 20 pairs, but .* give only 12"):
        added(random_pairs(4), 5)


def test_training_gets_the_pairs_and_the_held_out_part_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"I am {n}.", "chosen": f"Good {n}.", "rejected": f"Bad {n}."} for n in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    answer = run_here(f"train algo=reward data=local data.path={file} data.swapped=0.5 dry_run=true")
    assert answer.code == 0
    assert answer.said[0].startswith("data.swapped: 9 training pairs added")
    assert "27 training groups, 2 held-out groups of 2 prompts" in answer.said[1]
