"""Presidio's recognisers, used in addition to our rules (`pip install 'psychocounsel[presidio]'`).

Its pattern recognisers run on a blank spaCy pipeline. Names and places need a spaCy model, which the user installs and sets
as `speeches.presidio_model`; we have not tested this.
"""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from psychocounsel.annotation.speeches.identifiers import IdentifierSpan
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
_LEAST = 0.4  # Presidio's score; lower scores would include bare runs of digits as bank accounts


def presidio_finder(use: str, model: str | None) -> Callable[[str], Sequence[IdentifierSpan]] | None:
    """Return a finder that uses Presidio, or None if `use` does not ask for it.

    `never` does not ask for Presidio; `installed` asks for it if it is installed or a `model` is given.

    Raises:
        UserError: if Presidio is needed but not installed, or if `model` is not installed.
    """
    if use == "never" or (use == "installed" and model is None and not is_installed()):
        return None
    if not is_installed():
        wish = f"speeches.presidio_model={model}" if use == "installed" else f"speeches.presidio={use}"
        raise UserError(f"{wish} needs Presidio: pip install 'psychocounsel[presidio]'")
    engine = _engine(model)
    kinds = sorted(set(_KINDS) & set(engine.get_supported_entities(language="en")))
    if model is None:
        kinds = [kind for kind in kinds if kind not in ("PERSON", "LOCATION")]

    def find(text: str) -> Sequence[IdentifierSpan]:
        results = engine.analyze(text=text, language="en", entities=kinds, score_threshold=_LEAST)
        ranked = sorted(results, key=lambda result: (-result.score, result.start - result.end, result.start))
        return [IdentifierSpan(result.start, result.end, _KINDS[result.entity_type]) for result in ranked]

    return find


def is_installed() -> bool:
    return find_spec("presidio_analyzer") is not None and find_spec("spacy") is not None


def _engine(model: str | None) -> Any:
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    # Presidio calls tldextract to check the domain of an e-mail; by default that would download its list of domain endings.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns about each recogniser that it skips

    class Engine(SpacyNlpEngine):
        """An engine with our own pipeline instead of a downloaded one."""

        def __init__(self) -> None:
            super().__init__()
            try:
                self.nlp = {"en": spacy.load(model) if model else spacy.blank("en")}
            except OSError as error:
                raise UserError(
                    f"speeches.presidio_model={model}: is not an installed spaCy model; install it, for example by "
                    f"`python -m spacy download {model}`"
                ) from error

    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=Engine(), supported_languages=["en"])
