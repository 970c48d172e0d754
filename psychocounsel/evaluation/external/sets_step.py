"""Step `sets`: contestants answer exams and prompts, judges rate the replies; writes exams.parquet and ratings.parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget, Estimate
from psychocounsel.asking.language_model import CUT, FAILED, TEXT, WITHHELD, Answer, Ask, LanguageModel
from psychocounsel.asking.parties import may_see
from psychocounsel.asking.system_prompts import replies_prompt
from psychocounsel.counsel.traits import read_risk_rules
from psychocounsel.data.messages import client_text
from psychocounsel.evaluation.contestants.settings import Contestant
from psychocounsel.evaluation.external.exams import ExamAsk, ExamSet, exam_asks, read_letters
from psychocounsel.evaluation.external.scores import UNREADABLE, ExamAnswer, RubricRating
from psychocounsel.evaluation.external.set_files import read_sets
from psychocounsel.grading.criteria import RubricItem, RubricSet, criteria_ask, read_values
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import written

# Calls to contestants and judges about exams and rubric sets. A journal ensures that each call is paid only once.

_RATING_RETRIES = 2  # further requests after an unreadable answer of a judge
_NO_ANSWER = Outcome[Any](FAILED, None, Answer(FAILED), 0)


@dataclass(frozen=True)
class SetRules:
    """Rules for the calls about sets.

    Attributes:
        shuffles: number of random orders of an item's choices, in addition to the file's order.
        samples: number of replies of each contestant to a prompt of a rubric set.
        system_prompt: system message for prompts of rubric sets that have none; None: no system message.
        seed: seed of the orders and of the models' random numbers.
        is_crisis: returns True if a text may be about a crisis.
        crisis_to_third_parties: True if third parties may see such texts.
    """

    shuffles: int = 1
    samples: int = 1
    system_prompt: str | None = None
    seed: int = 0
    is_crisis: Callable[[str], bool] = lambda text: False
    crisis_to_third_parties: bool = False

    def may_see(self, model: LanguageModel, item: RubricItem) -> bool:
        """Return True if `model` may see the prompt of an item."""
        return may_see(model, self.is_crisis(client_text(item.prompt)), self.crisis_to_third_parties)


def answer_exam(
    exam: ExamSet, contestants: Sequence[Contestant], rules: SetRules, answers: Answers, budget: Budget
) -> list[ExamAnswer]:
    """Buy the answers that the journal lacks, and return all answers: by contestant, then in the order of the exam.

    An unreadable answer is not asked for again, because a second draw would favour models that ignore the instructions.

    Raises:
        BudgetSpent: see `ask_all`.
        UserError: see `ask_all`.
    """
    models = [contestant.model for contestant in contestants]
    _buy(_exam_calls(exam, contestants, rules), models, answers, budget, key="model", retries=0)
    asks = [*exam_asks(exam.items, rules.shuffles, rules.seed)]
    return [_exam_answer(contestant, ask, answers) for contestant in contestants for ask in asks]


def rate_set(
    rubric_set: RubricSet,
    contestants: Sequence[Contestant],
    judges: Sequence[LanguageModel],
    rules: SetRules,
    answers: Answers,
    budget: Budget,
) -> list[RubricRating]:
    """Buy the replies and ratings that the journal lacks, and return the ratings of all replies by all judges.

    Raises:
        BudgetSpent: see `ask_all`.
        UserError: see `ask_all`.
    """
    models = [contestant.model for contestant in contestants]
    _buy(_reply_calls(rubric_set, contestants, rules), models, answers, budget, key="model", retries=0)
    calls = _rating_calls(rubric_set, contestants, judges, rules, answers)
    _buy(calls, judges, answers, budget, key="judge", retries=_RATING_RETRIES, read=read_values)
    return [*_ratings(rubric_set, contestants, judges, rules, answers)]


def estimate_sets(
    sets: Sequence[ExamSet | RubricSet], contestants: Sequence[Contestant], rules: SetRules, answers: Answers
) -> Estimate:
    """Estimate the contestants' calls that the journal lacks. Ratings are not included, because they need the replies."""
    calls = (
        call
        for item_set in sets
        for call in (
            _exam_calls(item_set, contestants, rules)
            if isinstance(item_set, ExamSet)
            else _reply_calls(item_set, contestants, rules)
        )
    )
    return Estimate.of(calls, answers)


def _exam_calls(
    exam: ExamSet, contestants: Sequence[Contestant], rules: SetRules
) -> Iterator[tuple[LanguageModel, Ask]]:
    for ask in exam_asks(exam.items, rules.shuffles, rules.seed):
        yield from ((contestant.model, ask) for contestant in contestants)


def _reply_calls(
    rubric_set: RubricSet, contestants: Sequence[Contestant], rules: SetRules
) -> Iterator[tuple[LanguageModel, Ask]]:
    for item in rubric_set.items:
        for contestant in contestants:
            if rules.may_see(contestant.model, item):
                yield from ((contestant.model, _reply_ask(item, rules, sample)) for sample in range(rules.samples))


def _reply_ask(item: RubricItem, rules: SetRules, sample: int) -> Ask:
    messages = item.prompt
    if rules.system_prompt and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": rules.system_prompt}, *messages)
    seed = (int(item.item[:8], 16) + rules.seed + 0x9E3779B1 * sample) % (1 << 32)
    return Ask(item.item, messages, seed, f"reply {sample}")


def _rating_calls(
    rubric_set: RubricSet,
    contestants: Sequence[Contestant],
    judges: Sequence[LanguageModel],
    rules: SetRules,
    answers: Answers,
) -> Iterator[tuple[LanguageModel, Ask]]:
    asked = set()
    for item in rubric_set.items:
        replies = {
            _reply(item, contestant, rules, sample, answers)
            for contestant in contestants
            for sample in range(rules.samples)
        }
        for outcome, text in sorted(replies):
            for judge in judges:
                if (
                    _is_rateable(outcome, text)
                    and rules.may_see(judge, item)
                    and (item.item, text, judge.name) not in asked
                ):
                    asked.add((item.item, text, judge.name))
                    yield judge, criteria_ask(item, text, rules.seed)


def _ratings(
    rubric_set: RubricSet,
    contestants: Sequence[Contestant],
    judges: Sequence[LanguageModel],
    rules: SetRules,
    answers: Answers,
) -> Iterator[RubricRating]:
    for item in rubric_set.items:
        for contestant in contestants:
            for sample in range(rules.samples):
                outcome, text = _reply(item, contestant, rules, sample, answers)
                for judge in judges:
                    rating = None
                    if _is_rateable(outcome, text):
                        rating = (
                            _WITHHELD if not rules.may_see(judge, item) else _rating(item, text, judge, rules, answers)
                        )
                    values = rating.value if rating else None
                    yield RubricRating(
                        item.item,
                        contestant.setting,
                        contestant.seed,
                        sample,
                        outcome,
                        text,
                        judge.name,
                        rating.outcome if rating else None,
                        values,
                    )


_WITHHELD = Outcome[Any](WITHHELD, None, Answer(WITHHELD), 0)


def _is_rateable(outcome: str, text: str) -> bool:
    """Return True if judges rate the reply: it has a text that a client would read, even if it was cut."""
    return outcome in (TEXT, CUT) and bool(text.strip())


def _rating(item: RubricItem, text: str, judge: LanguageModel, rules: SetRules, answers: Answers) -> Outcome[Any]:
    settled = answers.settled(judge, criteria_ask(item, text, rules.seed), read_values, _RATING_RETRIES)
    return settled if isinstance(settled, Outcome) else _NO_ANSWER


def _reply(item: RubricItem, contestant: Contestant, rules: SetRules, sample: int, answers: Answers) -> tuple[str, str]:
    """Return the outcome of a reply and its text."""
    if not rules.may_see(contestant.model, item):
        return WITHHELD, ""
    settled = answers.settled(contestant.model, _reply_ask(item, rules, sample), str, 0)
    call = settled if isinstance(settled, Outcome) else _NO_ANSWER
    return call.outcome, call.answer.text


def _exam_answer(contestant: Contestant, ask: ExamAsk, answers: Answers) -> ExamAnswer:
    settled = answers.settled(contestant.model, ask, str, 0)
    call = settled if isinstance(settled, Outcome) else _NO_ANSWER
    outcome, text = call.outcome, call.answer.text
    chosen = None
    if outcome in (TEXT, CUT):
        choices = [ask.item.choices[place] for place in ask.shown]
        chosen = read_letters(text, choices, len(ask.item.right) > 1)
        outcome = UNREADABLE if chosen is None else TEXT
    return ExamAnswer(ask.item.item, contestant.setting, contestant.seed, ask.order, ask.shown, outcome, chosen, text)


def _buy(
    calls: Iterator[tuple[LanguageModel, Ask]],
    models: Sequence[LanguageModel],
    answers: Answers,
    budget: Budget,
    *,
    key: str,
    retries: int,
    read: Callable[[str], Any] = str,
) -> None:
    outcomes = ask_all(calls, answers, budget, read=read, models=models, key=key, retries=retries)
    with closing(outcomes):
        for _ in outcomes:
            pass


# The step: answers and ratings of all sets, written to exams.parquet and ratings.parquet.

_OF_BOTH = [
    pa.field("set", pa.string(), nullable=False),
    pa.field("item", pa.string(), nullable=False),
    pa.field("setting", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
]
EXAMS = pa.schema(
    [
        *_OF_BOTH,
        pa.field("order", pa.int64(), nullable=False),
        pa.field("shown", pa.list_(pa.int64()), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("chosen", pa.list_(pa.int64())),
        pa.field("text", pa.string(), nullable=False),
    ]
)
RATINGS = pa.schema(
    [
        *_OF_BOTH,
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("reply_outcome", pa.string(), nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("values", pa.list_(pa.int64())),
    ]
)


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Buy the answers and ratings that the journal lacks, and write both tables.

    Raises:
        BudgetSpent: if the budget is spent before all are bought; the journal keeps the bought ones.
        UserError: if a file, a key or an address is wrong, or no server is left.
    """
    config, rules = context.config, rules_of(context)
    contestants, judges = build(config, "contestants").all(), build(config, "judge").models()
    index, count = context.shard
    sets, failed = [replace(item_set, items=item_set.items[index::count]) for item_set in sets_of(context)], 0
    models = [*(contestant.model for contestant in contestants), *judges]
    with closing(Answers(context.files.answers, context.shard)) as answers:
        budget = Budget.of(config.budget.cost, config.budget.calls, answers, models)
        with written(context.files.exams, EXAMS) as add_answer, written(context.files.ratings, RATINGS) as add_rating:
            for item_set in context.bar(sets, "sets"):
                if isinstance(item_set, ExamSet):
                    for answer in answer_exam(item_set, contestants, rules, answers, budget):
                        add_answer({"set": item_set.name, **_row(answer)})
                        failed += answer.outcome == FAILED
                else:
                    for rating in rate_set(item_set, contestants, judges, rules, answers, budget):
                        add_rating({"set": item_set.name, **_row(rating)})
                        is_first = rating.judge == judges[0].name  # each judge has a row of a reply that failed
                        failed += rating.outcome == FAILED or (is_first and rating.reply_outcome == FAILED)
    names = [item_set.name for item_set in sets]
    return {"sets": names, "failed": failed, "spent": budget.spent, "bought": budget.made}


def estimate(context: StepContext[EvaluationDir]) -> Estimate:
    """Estimate the contestants' calls that the journal lacks."""
    with closing(Answers(context.files.answers)) as answers:
        contestants = build(context.config, "contestants").all()
        return estimate_sets(sets_of(context), contestants, rules_of(context), answers)


def sets_of(context: StepContext[EvaluationDir]) -> list[Any]:
    """Return the sets that the configuration names."""
    return read_sets(build(context.config, "evaluation").sets)


def rules_of(context: StepContext[EvaluationDir]) -> SetRules:
    """Return the rules for calls that the configuration sets."""
    config, risks = context.config, read_risk_rules()
    return SetRules(
        config.evaluation.shuffles,
        config.replies.samples,
        replies_prompt(config),
        config.evaluation.seed,
        lambda text: risks.of(text).crisis,
        config.crisis_to_third_parties,
    )


def _row(record: ExamAnswer | RubricRating) -> dict[str, Any]:
    row = asdict(record)
    if isinstance(record, ExamAnswer):
        return row | {"shown": [*record.shown], "chosen": None if record.chosen is None else sorted(record.chosen)}
    return row | {"values": None if record.values is None else [int(value) for value in record.values]}
