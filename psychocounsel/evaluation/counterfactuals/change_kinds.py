"""The kinds of counterfactual: what is changed in a reply, which principle that concerns, and what a good scorer makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

from psychocounsel.evaluation.counterfactuals import content_changes as content
from psychocounsel.evaluation.counterfactuals import style_changes as style
from psychocounsel.evaluation.counterfactuals import wording_changes as wording
from psychocounsel.evaluation.counterfactuals.question_changes import question_as_statement, statement_as_question


@dataclass(frozen=True)
class Kind:
    """`prefers_original`: whether a good scorer gives the original the higher score, or both the same.

    `change` makes the changed reply of a reply, or None where its rule finds nothing to change; it is None for a kind that
    takes its replies from other clients. `instruction` asks a language model for the same change, where one is given.
    """

    name: str
    principle: str
    prefers_original: bool
    change: Callable[[str], str | None] | None
    instruction: str | None = None


_SAME = "Keep everything else, the meaning, the order and the length above all."
_REST = "Leave every other sentence exactly as it is."

KINDS = (
    # What the reply does for the client becomes less.
    Kind(
        "risk_question_dropped", "safety", True, content.risk_question_dropped,
        f"Remove every question that asks about suicide, self-harm, violence or safety. {_REST}",
    ),
    Kind(
        "help_removed", "safety", True, content.help_removed,
        f"Remove every sentence that leads the client to human help: a crisis line, an emergency service, a doctor. {_REST}",
    ),
    Kind("another_clients_reply", "relevance", True, None),
    Kind("open_questions_dropped", "exploration", True, content.open_questions_dropped),
    Kind("feeling_unnamed", "empathy", True, content.feeling_unnamed),
    Kind("offers_as_orders", "autonomy", True, content.offers_as_orders),
    Kind("hurried", "staging", True, content.hurried),
    Kind("disordered", "clarity", True, content.disordered),
    # The reply does the same for the client in other words, or in another dress.
    Kind(
        "question_as_statement", "exploration", False, question_as_statement,
        f"Turn the last question into a statement that invites the same answer, without a question mark. {_SAME}",
    ),
    Kind(
        "statement_as_question", "exploration", False, statement_as_question,
        f"Turn the last sentence, if it is a statement, into a question that says the same. {_SAME}",
    ),
    Kind(
        "paraphrase", "clarity", False, wording.paraphrase,
        f"Say the same in other words, sentence by sentence. Questions stay questions, and statements statements. {_SAME}",
    ),
    Kind("contractions", "clarity", False, wording.other_contractions),
    Kind("spelling", "clarity", False, wording.other_spelling),
    Kind("markdown", "clarity", False, style.markdown),
    Kind("fillers", "clarity", False, style.fillers),
    Kind("capitals", "clarity", False, style.capitals),
    Kind("emoji", "clarity", False, style.emoji),
    Kind("padding", "clarity", False, style.padding),
)  # fmt: skip
