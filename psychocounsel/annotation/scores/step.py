"""The step `scores` asks annotators to rate each reply on the seven principles, and writes votes.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from typing import Any

from omegaconf import OmegaConf

from psychocounsel.annotation.scores.rules import Rules
from psychocounsel.annotation.scores.votes import (
    ABOUT,
    ORDER,
    RATED,
    VOTES,
    Findings,
    missing_table,
    outcome_of_vote,
    vote_figures,
    vote_rows,
)
from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import FAILED, UNPARSABLE, Ask, LanguageModel, keys_of
from psychocounsel.errors import UserError
from psychocounsel.grading.rating import (
    RatingAsk,
    RatingCall,
    RatingPlan,
    Reader,
    Verdict,
    conversation_of,
    rating_prompt,
)
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, joined, written
from psychocounsel.storage.files import with_noun

# The step

_SPEECH = ("text", "language", "crisis", *ABOUT)


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Buy the ratings that the journal lacks, then write the table for this shard's speeches, in order.

    The table depends only on the journal, not on the order in which answers arrived.

    Returns:
        The figures of `vote_figures` and of Findings; `skipped` (by annotator and reason: replies that it was not asked
        about); `demonstration` (annotators that are simple rules); `prompt_version`; `spent` and `bought`.

    Raises:
        BudgetSpent: if the budget is spent first; the bought answers are in the journal.
        UserError: for settings that cannot work, a wrong API key or address, or if no server is left.
    """
    plan = plan_of(context)
    read = Reader(plan.prompt.joint)
    with closing(Answers(context.files.answers, context.shard)) as answers:
        budget = buy(
            _asks(context, plan),
            answers,
            context.config.budget,
            models=plan.annotators,
            key="annotator",
            read=read,
            retries=context.config.scores.retries,
            count=sum(1 for _ in _calls(context, plan)),
            bar=context.bar,
            what="ratings",
        )
        figures = _Writing(context, plan, answers, read).table()
    figures |= {"spent": budget.spent, "bought": budget.made, "prompt_version": plan.prompt.version}
    for line in summary_lines(figures):
        context.say(line)
    return figures


def estimate(context: StepContext[AnnotationDir]) -> Estimate:
    """Estimate the calls for ratings that the journal lacks; speeches.parquet and replies.parquet must exist."""
    plan = plan_of(context)
    models = [model for model in plan.annotators if not isinstance(model, Rules)]
    with closing(Answers(context.files.answers)) as answers:
        return Estimate.of(((model, ask) for model, ask in _asks(context, plan) if model in models), answers)


def plan_of(context: StepContext[AnnotationDir]) -> RatingPlan:
    """Return the rating plan that the configuration describes.

    Raises:
        UserError: if the rubric cannot be read, or if an annotator would give the same vote several times.
    """
    config, scores = context.config, context.config.scores
    annotators: list[LanguageModel] = build(config, "annotator").models()
    for key, model in zip(keys_of(annotators, "annotator"), annotators, strict=True):
        by_rule = isinstance(model, Rules)
        if scores.votes > 1 and (by_rule or model.temperature == 0):
            sampling = f"temperature: 0.7 in {key}" if "[" in key else f"{key}.temperature=0.7"
            raise UserError(
                f"scores.votes={scores.votes}: all votes of {model.name} would be equal, because it does not sample; use "
                f"{'a language model as annotator' if by_rule else sampling}, or scores.votes=1"
            )
    if scores.joint:  # one answer rates all replies to a speech, and `max_tokens` is for one reply
        annotators = [replace(model, max_tokens=config.replies.per_speech * model.max_tokens) for model in annotators]
    prompt = rating_prompt(scores.rubric, scores.joint, scores.examples)
    return RatingPlan(annotators, prompt, scores.votes, scores.repeat, scores.seed, config.crisis_to_third_parties)


def _speeches(context: StepContext[AnnotationDir]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield this shard's speeches, each with its replies."""
    index, count = context.shard
    speeches = islice(by_speech(context.files.speeches, _SPEECH), index, None, count)
    has_turns = OmegaConf.select(context.config, "speeches.turns", default="last") != "last"
    for (speech,), replies in joined(speeches, by_speech(context.files.replies, ("number", "reply", "text"))):
        messages = conversation_of(speech["text"]) if has_turns else None
        yield {**speech, "messages": messages}, sorted(replies, key=itemgetter("number"))


def _calls(context: StepContext[AnnotationDir], plan: RatingPlan) -> Iterator[RatingCall]:
    for speech, replies in _speeches(context):
        yield from plan.calls(speech, replies)


def _asks(context: StepContext[AnnotationDir], plan: RatingPlan) -> Iterator[tuple[LanguageModel, Ask]]:
    return ((call.annotator, plan.ask(call)) for call in _calls(context, plan))


class _Writing:
    """Writes the table from the journal's answers."""

    def __init__(self, context: StepContext[AnnotationDir], plan: RatingPlan, answers: Answers, read: Reader) -> None:
        self.context, self.plan, self.answers, self.read = context, plan, answers, read
        self.retries = context.config.scores.retries
        self.findings, self.skipped = Findings(), dict[str, Counter[str]]()

    def table(self) -> dict[str, Any]:
        with written(self.context.files.votes, VOTES) as add:

            def speeches() -> Iterator[tuple[Row, Iterable[str], list[Row]]]:
                for speech, replies in _speeches(self.context):
                    rows = sorted(self._rows(speech, replies), key=itemgetter(*ORDER))
                    for row in rows:
                        add(row)
                    yield speech, [row["reply"] for row in replies if row["text"] is not None], rows

            figures = vote_figures(speeches(), [annotator.name for annotator in self.plan.annotators])
        rules = [model.name for model in self.plan.annotators if isinstance(model, Rules)]
        skipped = {name: dict(counts) for name, counts in sorted(self.skipped.items())}
        return {**figures, **self.findings.figures(), "skipped": skipped, "demonstration": rules}

    def _rows(self, speech: Row, replies: list[Row]) -> Iterator[Row]:
        for annotator in self.plan.annotators:
            if reason := self.plan.reason_against(annotator, speech):
                texts = len({row["reply"] for row in replies if row["text"] is not None})
                self.skipped.setdefault(annotator.name, Counter())[reason] += texts
        for call in self.plan.calls(speech, replies):
            yield from self._vote_rows(call)

    def _vote_rows(self, call: RatingCall) -> list[Row]:
        ask, name = self.plan.ask(call), call.annotator.name
        common: Row = {"joint": self.plan.prompt.joint, "prompt_version": self.plan.prompt.version}
        result = self.answers.settled(call.annotator, ask, self.read, self.retries)
        if not isinstance(result, Outcome):  # the number of the attempt that has no answer
            return vote_rows(call, FAILED, None, {**common, "model": None, "attempts": result})
        self._note_unreadable(call, ask, result)
        outcome = outcome_of_vote(result.outcome, result.value)
        ratings = result.value if outcome == RATED else None
        if ratings is not None:
            self.findings.note_quotes(name, ratings, ask.replies)
        return vote_rows(call, outcome, ratings, {**common, "model": result.answer.model, "attempts": result.attempts})

    def _note_unreadable(self, call: RatingCall, ask: RatingAsk, outcome: Outcome[Verdict]) -> None:
        """Count the unreadable answers: those before the final one, and the final one if it is unreadable, too."""
        for attempt in range(outcome.attempts - (outcome.outcome != UNPARSABLE)):
            if (answer := self.answers.find(call.annotator, ask, attempt)) is not None:
                self.findings.note_answer(call.annotator.name, ask, answer.text, self.read)


# Lines for the terminal

_SKIPPED = {
    "crisis": "because their speeches may be about a crisis and it is a third party (crisis_to_third_parties=true sends them)",
    "language": "because it does not speak their language",
}


def summary_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for the figures of the step `scores`."""
    for name, annotator in figures["annotators"].items():
        votes = ", ".join(f"{count:,} {outcome}" for outcome, count in annotator["votes"].items() if count)
        yield f"{name}: {votes}"
        if len(models := [model for model in annotator["models"] if model != "not said"]) > 1:
            yield f"  warning: its server gave {len(models)} model names: {', '.join(models)}; an annotator should be one model"
    for name, reasons in figures["skipped"].items():
        for reason, count in reasons.items():
            yield f"{name} was not asked about {with_noun(count, 'reply', 'replies')} {_SKIPPED[reason]}"
    for name, reasons in figures["unreadable"].items():
        worst = max(reasons, key=lambda reason: (reasons[reason], reason))
        yield f"{name}: {with_noun(sum(reasons.values()), 'answer')} could not be read (most often: {worst})"
    for name, counts in figures["quotes"].items():
        if counts["not_in_reply"]:
            share = counts["not_in_reply"] / sum(counts.values())
            yield f"{name}: {counts['not_in_reply']:,} quotations ({share:.1%}) are not in the reply that they quote"
    yield from missing_table(figures["missing"])
    for name, retest in figures["retest"].items():
        yield from _retest(name, retest)


def _retest(name: str, figures: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{name}, asked twice about the same replies: {figures['rated_twice']:,} rated both times, "
        f"{figures['changed_outcome']:,} with another outcome the second time"
    )
    for principle, agreement in figures["principles"].items():
        if agreement["replies"]:
            kappa = "undefined" if agreement["weighted_kappa"] is None else f"{agreement['weighted_kappa']:.2f}"
            yield (
                f"  {principle:<12} equal {agreement['exact']:.0%}, mean difference {agreement['difference']:.2f}, "
                f"weighted kappa {kappa}"
            )
