"""Conflicts between the licences of sources, the terms of writers' output and the licence of the dataset. Not legal advice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from psychocounsel.data.licences import identifier
from psychocounsel.errors import UserError

NOT_ADVICE = "This is not legal advice: the list covers only a few common licences and terms, and no law."

# Groups of licences by their conditions for passing on texts or works based on them.
_FREE = "cc0-1.0 unlicense mit bsd-2-clause bsd-3-clause apache-2.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 odc-by pddl"
_SHARE_ALIKE = "cc-by-sa-3.0 cc-by-sa-4.0 odbl gpl-2.0 gpl-3.0 agpl-3.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
_NON_COMMERCIAL = (
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"
)
_NO_DERIVATIVES = "cc-by-nd-3.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"
# Terms that only models have, in a writer's `terms`: our own words, and licences of open weights.
_NO_COMPETING = "no-competing-models no-training"
_NAMED_MODELS = "llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma"
_NO_IMPROVING = "llama2 llama3"  # forbid improving other models with the output; later versions require naming Llama
_UNRESTRICTED = "none own output-is-yours"

Named = tuple[str, str | None]  # a source or writer, and its licence or terms


@dataclass(frozen=True)
class Conflict:
    """A conflict: its `name` for `accept_terms`, and a `sentence` that explains it and says what to do."""

    name: str
    sentence: str


def conflicts(licences: Mapping[str, Named], terms: Mapping[str, Named], own: str | None) -> list[Conflict]:
    """Return the conflicts that stand in the way of passing on the dataset or of training on it.

    Args:
        licences: name and licence (None: unknown) of each source, by the key of the licence.
        terms: name and terms of each writer, by the key of the terms: a licence, or one of no-competing-models, no-training,
            non-commercial, output-is-yours, own, none; None: unknown.
        own: the licence of the dataset itself (`card.license`); None: not set yet.
    """
    target = identifier(own)
    found = [
        (key, conflict)
        for named, of in ((licences, _of_source), (terms, _of_writer))
        for key, (name, text) in named.items()
        for conflict in of(name, identifier(text), target)
    ]
    return [replace(conflict, sentence=f"{key}: {conflict.sentence}") for key, conflict in found]


def refuse_conflicts(present: list[Conflict], accepted: list[str]) -> None:
    """Refuse all conflicts that the user has not accepted.

    Raises:
        UserError: lists the conflicts and what to type; also raised for an accepted name that is no conflict.
    """
    known = {conflict.name for conflict in present}
    if strange := sorted(set(accepted) - known):
        listed = ", ".join(sorted(known)) or "there are none"
        raise UserError(
            f"accept_terms: {strange[0]} is not a conflict of these sources and writers; conflicts: {listed}"
        )
    remaining = [conflict for conflict in present if conflict.name not in accepted]
    if remaining:
        names = ",".join(sorted({*accepted, *(conflict.name for conflict in remaining)}))
        sentences = " ".join(f"[{conflict.name}] {conflict.sentence}" for conflict in remaining)
        raise UserError(
            f"licences and terms: {sentences} If you have settled these conflicts, add accept_terms=[{names}]. {NOT_ADVICE}"
        )


def _of_source(source: str, licence: str | None, target: str | None) -> Iterator[Conflict]:
    name = identifier(source)
    if licence is None:
        yield Conflict(f"unknown-{name}", f"The licence of {source} is unknown: set it, or ask its authors.")
        return
    if not _is(licence, f"{_FREE} {_SHARE_ALIKE} {_NON_COMMERCIAL} {_NO_DERIVATIVES}"):
        yield Conflict(
            f"unlisted-{name}", f"The licence {licence} of {source} is not in our list: read what it allows."
        )
    if _is(licence, _NO_DERIVATIVES):
        yield Conflict(
            f"no-derivatives-{name}",
            f"{source} is {licence}: works made from its texts, such as this dataset, may not be passed on.",
        )
    yield from _against_own(name or "", source, licence, target)


def _against_own(name: str, what: str, licence: str, target: str | None) -> Iterator[Conflict]:
    """Yield conflicts of a licence with the licence of the dataset, if that is known."""
    if target is None:
        return
    if _is(licence, f"{_NON_COMMERCIAL} non-commercial") and not _is(target, _NON_COMMERCIAL):
        yield Conflict(
            f"non-commercial-{name}",
            f"{what} is {licence}, for non-commercial use only, but card.license={target} allows more.",
        )
    if _is(licence, _SHARE_ALIKE) and target != licence:
        yield Conflict(
            f"share-alike-{name}",
            f"{what} is {licence}: works made from it need the same licence, but card.license={target}.",
        )


def _of_writer(writer: str, terms: str | None, target: str | None) -> Iterator[Conflict]:
    name = identifier(writer)
    if terms is None:
        yield Conflict(f"unknown-{name}", f"The terms of {writer}'s output are unknown: set them.")
        return
    whole = f"{_FREE} {_SHARE_ALIKE} {_NON_COMMERCIAL} {_NO_COMPETING} {_NAMED_MODELS} {_UNRESTRICTED} non-commercial"
    if not _is(terms, whole):
        yield Conflict(
            f"unlisted-{name}", f"The terms {terms} of {writer}'s output are not in our list: read what they allow."
        )
    if _is(terms, _NO_COMPETING):
        yield Conflict(
            f"training-{name}",
            f"The terms of {writer} ({terms}) forbid training models that compete with it on its output.",
        )
    if _is(terms, _NO_IMPROVING):
        yield Conflict(
            f"training-{name}", f"The licence {terms} of {writer} forbids improving other models with its output."
        )
    elif _is(terms, _NAMED_MODELS):
        yield Conflict(
            f"named-{name}",
            f"The licence {terms} of {writer} sets conditions for models trained on its output, such as their name or use.",
        )
    yield from _against_own(name or "", f"Output of {writer}", terms, target)


def _is(licence: str, names: str) -> bool:
    return licence in names.split()
