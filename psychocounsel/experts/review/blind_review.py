"""State of a review while its page is served: each expert's progress and next step."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import RatedExample, Rubric
from psychocounsel.errors import UserError
from psychocounsel.experts.items.candidates import ItemCandidate, Shown
from psychocounsel.experts.review.log import PRIVATE, AdverseEvents, Event, EventLog
from psychocounsel.experts.review.plan import ReviewPlan, version_of
from psychocounsel.experts.review.progress import (
    ANSWER,
    CONSENT,
    PRACTICE,
    STOP,
    WITHDRAWN,
    Limits,
    Pause,
    RaterProgress,
    item_answers,
    pause_of,
    write_table,
)
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.files import json_lines, remove_unfinished, write_atomically

# State of the review

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class NextStep:
    """The next step of an expert's page.

    `kind`: consent, practice, failed (too few practice answers were right), pause, item, done or withdrawn.
    """

    kind: str
    shown: Shown | None = None
    practice: PracticeItem | None = None
    pause: Pause | None = None


class BlindReview:
    """All experts of a review. Every change is in the log before a method returns. Methods are safe to call from any thread.

    Args:
        options: the keys below `review`.
        consent: the text that experts agree to. Experts who agreed to an earlier text are asked again.
        clock: returns the time, with its zone.

    Raises:
        UserError: if the event log is damaged, belongs to another review, or lacks answers that the table has.
    """

    def __init__(
        self,
        plan: ReviewPlan,
        files: ReviewDir,
        options: Any,
        rubric: Rubric,
        consent: str,
        adverse: AdverseEvents,
        clock: Clock = lambda: datetime.now().astimezone(),
    ) -> None:
        self.plan, self.options, self.rubric, self.consent = plan, options, rubric, consent
        self.adverse, self._files, self._clock = adverse, files, clock
        self.version = version_of(consent)
        self._lock = threading.RLock()
        self._log = EventLog(files.events)
        self.limits = Limits.of(options)
        crisis = {item: candidate.crisis for item, candidate in plan.items.items()}
        self.raters = {name: RaterProgress(shown, crisis) for name, shown in plan.shown.items()}
        for number, event in enumerate(self._log.events, 1):
            try:
                self.raters[event["expert"]].apply(event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{files.events}: event {number} does not belong to this review; restore the file from a copy"
                ) from error
        self._refuse_lost_answers()
        remove_unfinished(files.path)  # of a killed withdrawal, with answers of experts who may withdraw later
        self._export_all()

    def item(self, shown: Shown) -> ItemCandidate:
        return self.plan.items[shown.item]

    def next_step(self, expert: str) -> NextStep:
        """Return the expert's next step."""
        with self._lock:
            rater = self.raters[expert]
            if rater.withdrawn:
                return NextStep(WITHDRAWN)
            if rater.consent != self.version:
                return NextStep(CONSENT)
            if (practice := self._practice(expert)) is not None:
                return practice
            shown = rater.next
            if shown is None:
                return NextStep("done")
            pause = pause_of(rater.done, self.item(shown).crisis, self.limits, self._clock())
            return NextStep("pause", pause=pause) if pause else NextStep("item", shown)

    def may_answer(self, expert: str, item: str, repeat: int) -> Shown | None:
        """Return the item if the expert may see it now: the next one, or one that they have answered; otherwise None."""
        with self._lock:
            rater, step = self.raters[expert], self.next_step(expert)
            if step.kind not in ("item", "pause", "done"):
                return None
            shown = rater.at(item, repeat)
            answered = (item, repeat) in rater.answers
            return shown if shown is not None and (answered or shown == step.shown) else None

    def agree(self, expert: str) -> None:
        """Record that the expert agreed to the consent text, and store the text under its version."""
        with self._lock:
            kept = self._files.consent(self.version)
            if not kept.exists():
                kept.parent.mkdir(mode=0o700, exist_ok=True)
                write_atomically(kept, self.consent, mode=PRIVATE)
            self._note(expert, CONSENT, version=self.version)

    def practise(self, expert: str, number: int, choice: str) -> PracticeItem | None:
        """Record an answer to practice item `number` and return the item; return None if another item is due."""
        with self._lock:
            step = self.next_step(expert)
            if step.practice is None or step.practice.number != number:
                return None
            self._note(expert, PRACTICE, number=number, choice=choice, right=choice == step.practice.better)
            return step.practice

    def answer(self, expert: str, shown: Shown, given: Mapping[str, Any]) -> None:
        """Record an answer; `given` comes from `ItemKind.answer_of`. Earlier answers stay in the log."""
        with self._lock:
            self._note(expert, ANSWER, item=shown.item, repeat=shown.repeat, left=shown.left, **given)
            self._export()

    def stop(self, expert: str) -> None:
        """Record that the expert pressed the stop button."""
        with self._lock:
            self._note(expert, STOP)

    def withdraw(self, expert: str) -> None:
        """Remove the expert's events from the log and the tables. Only the withdrawal itself is kept.

        Reports of a person at risk stay, because others may have acted on them. A second call writes the tables if the first
        one could not.
        """
        with self._lock:
            rater = self.raters[expert]
            if not rater.withdrawn:
                self._log.keep(lambda event: event["expert"] != expert, self._event(expert, WITHDRAWN))
                self.raters[expert] = RaterProgress(rater.shown, rater.crisis, withdrawn=True)
            self._export_all()

    def close(self) -> None:
        """Write all tables once more and close the log."""
        self._export_all()
        self._log.close()
        self.adverse.close()

    def _practice(self, expert: str) -> NextStep | None:
        """Return the practice step that is due; None if the expert has passed or the review has no practice."""
        count, rater = self.options.practice, self.raters[expert]
        rounds = rater.practice_rounds(count) if count else []
        if not count or any(share >= self.options.practice_share for share in rounds):
            return None
        if len(rounds) >= self.options.practice_rounds:
            return NextStep("failed")
        seed = (self.options.seed, list(self.raters).index(expert))
        return NextStep(
            PRACTICE, practice=practice_round(self.rubric, count, seed, len(rounds))[len(rater.practice) % count]
        )

    def _note(self, expert: str, kind: str, **about: Any) -> None:
        """Record an event, unless the expert has withdrawn, for instance while another window sent an answer."""
        if not self.raters[expert].withdrawn:
            self._log.append(event := self._event(expert, kind, **about))
            self.raters[expert].apply(event)

    def _event(self, expert: str, kind: str, **about: Any) -> Event:
        return {"time": self._clock().astimezone(UTC).isoformat(), "expert": expert, "kind": kind, **about}

    def _refuse_lost_answers(self) -> None:
        """Refuse to go on if the table of answers has some that the event log lacks, because the log was lost, emptied or cut."""
        known = {_place(row): row["changed"] for row in self.plan.kind.answer_rows(self.raters, self.plan.items)}
        lost, file = list[str](), self._files.answers
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                place, changed, rater = _place(row), int(row["changed"]), self.raters.get(row["rater"])
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{file}: line {number} is no answer; move the file away, and it is written again from {self._files.events}"
                ) from error
            if not (rater and rater.withdrawn) and known.get(place, -1) < changed:
                lost.append(f"{place[0]}'s answer to {place[1]}")
        if lost:
            more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            named = f"{', '.join(lost[:_SHOWN])}{more}"
            raise UserError(
                f"{self._files.events} lacks answers that {file.name} has ({named}), so nothing was changed: restore it from a "
                f"copy, or move {file.name} away to go on without them"
            )

    def _export(self) -> None:
        rows = self.plan.kind.answer_rows(self.raters, self.plan.items)
        write_table(self._files.answers, json_lines(rows))

    def _export_all(self) -> None:
        self._export()
        self.plan.kind.write_tables(self._files, list(item_answers(self.raters, self.plan.items)))


_SHOWN = 3  # answers


def _place(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["rater"], row["item"], row["repeat"]


# Practice items: pairs of the rubric's examples with clearly different ratings

LEAST_DIFFERENCE = 2  # between the two ratings


@dataclass(frozen=True)
class PracticeItem:
    """A practice item. On the principle, `left` is rated `ratings[0]` and `right` `ratings[1]`, for the given reasons."""

    number: int
    principle: str
    speech: str
    left: str
    right: str
    ratings: tuple[int, int]
    reasons: tuple[str, str]

    @property
    def better(self) -> str:
        return "left" if self.ratings[0] > self.ratings[1] else "right"


def practice_pairs(rubric: Rubric) -> list[tuple[str, str, RatedExample, RatedExample]]:
    """Return (principle, speech, reply, reply) for all pairs of the rubric's examples that differ by two points or more."""
    pairs = []
    for name in PRINCIPLES:
        principle = rubric.principles[name]
        examples = [example for level in principle.levels.values() for example in level.examples]
        for one, other in combinations(examples, 2):
            apart = abs(one.ratings[name] - other.ratings[name])
            if one.speech == other.speech and apart >= LEAST_DIFFERENCE:
                pairs.append((name, principle.speeches[one.speech], one, other))
    return pairs


def practice_round(rubric: Rubric, count: int, seed: Sequence[int], done: int) -> list[PracticeItem]:
    """Return the items of an expert's round after `done` rounds. Rounds continue through one random order.

    `seed` holds the review's seed and the expert's number. The order cycles through the principles.
    """
    random = np.random.default_rng([*seed, 3])
    pairs = practice_pairs(rubric)
    shuffled = [pairs[at] for at in random.permutation(len(pairs))]
    of_principle = {name: [pair for pair in shuffled if pair[0] == name] for name in PRINCIPLES}
    longest = max(len(group) for group in of_principle.values())
    in_turn = [group[at] for at in range(longest) for group in of_principle.values() if at < len(group)]
    sides = random.integers(2, size=len(in_turn))
    items = []
    for number in range(done * count, (done + 1) * count):
        at = number % len(in_turn)
        name, speech, one, other = in_turn[at]
        left, right = (one, other) if sides[at] else (other, one)
        ratings = left.ratings[name], right.ratings[name]
        items.append(PracticeItem(number, name, speech, left.reply, right.reply, ratings, (left.reason, right.reason)))
    return items
