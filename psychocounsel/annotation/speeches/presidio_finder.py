"""Presidio's recognisers beside our rules (`pip install 'psychocounsel[presidio]'`).

Its pattern recognisers work with a blank spaCy pipeline. Names and places need a spaCy model, which the user installs and names
by `speeches.presidio_model`; that way was not run by us.
"""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from psychocounsel.annotation.speeches.identifier_rules import IdentifierSpan
from psychocounsel.errors import UserError

_KINDS = {
    "EMAIL_ADDRESS": "EMAIL",
    "URL": "URL",
    "PHONE_NUMBER": "PHONE",
    "PERSON": "NAME",
    "LOCATION": "ADDRESS",
    "IBAN_CODE": "NUMBER",
    "CREDIT_CARD": "NUMBER",
    "CRYPTO": "NUMBER",
    "IP_ADDRESS": "NUMBER",
    "MAC_ADDRESS": "NUMBER",
    "MEDICAL_LICENSE": "NUMBER",
    "US_SSN": "NUMBER",
    "US_ITIN": "NUMBER",
    "US_PASSPORT": "NUMBER",
    "US_DRIVER_LICENSE": "NUMBER",
    "US_BANK_NUMBER": "NUMBER",
    "UK_NHS": "NUMBER",
    "UK_NINO": "NUMBER",
}
_LEAST = 0.4  # Presidio's score; below it a bare run of digits is taken for a bank account


def presidio_finder(use: str, model: str | None) -> Callable[[str], Sequence[IdentifierSpan]] | None:
    """What finds identifiers by Presidio, or None where it is not to be used (`never`) or not installed (`installed`).

    Raises:
        UserError: if it is needed and not there, or `model` is not installed.
    """
    if use == "never" or (use == "installed" and model is None and not is_installed()):
        return None
    if not is_installed():
        raise UserError("speeches.presidio=always needs Presidio: pip install 'psychocounsel[presidio]'")
    engine = _engine(model)
    wanted = sorted(set(_KINDS) & set(engine.get_supported_entities(language="en")))
    if model is None:
        wanted = [kind for kind in wanted if kind not in ("PERSON", "LOCATION")]

    def found(text: str) -> Sequence[IdentifierSpan]:
        results = engine.analyze(text=text, language="en", entities=wanted, score_threshold=_LEAST)
        ranked = sorted(results, key=lambda each: (-each.score, each.start - each.end, each.start))
        return [IdentifierSpan(each.start, each.end, _KINDS[each.entity_type]) for each in ranked]

    return found


def is_installed() -> bool:
    return find_spec("presidio_analyzer") is not None and find_spec("spacy") is not None


def _engine(model: str | None) -> Any:
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    # Presidio asks it whether a domain follows the @; by default it would fetch its list of endings from the network.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it lists each recogniser that it leaves out

    class Engine(SpacyNlpEngine):
        """With a pipeline of ours in the place of one that Presidio would download."""

        def __init__(self) -> None:
            super().__init__()
            try:
                self.nlp = {"en": spacy.load(model) if model else spacy.blank("en")}
            except OSError as error:
                raise UserError(
                    f"speeches.presidio_model={model}: is no installed spaCy model; install it, as by "
                    f"`python -m spacy download {model}`"
                ) from error

    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=Engine(), supported_languages=["en"])
