"""Documents of a review's protocol: templates filled in from its configuration. Gaps are marked [FILL: ...]."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from psychocounsel import __version__
from psychocounsel.errors import UserError
from psychocounsel.experts.items.kind import KindTexts
from psychocounsel.experts.settings import MOST_ITEMS
from psychocounsel.storage.files import expanded, write_atomically

_TEMPLATES = Path(__file__).parent / "templates"
DOCUMENTS = ("intended_use", "preregistration", "raters", "data_management", "consent")
GAP = "[FILL:"


def document(name: str, config: Any, texts: KindTexts, per_expert: int | None = None) -> str:
    """Return a document of the protocol, filled in with the settings of `config` and the texts of the kind of items.

    `per_expert` is the number of items per expert; by default it is computed from the settings.
    """
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True)
    settings: Any = OmegaConf.to_container(config)
    experts, options = len(settings["experts"]), settings["review"]
    overlap = options["overlap"] or experts
    about = {"experts": experts, "overlap": overlap, "version": __version__, "data": settings["data"]}
    whole = options["items"] == MOST_ITEMS
    about["drawn"] = "All" if whole else options["items"]
    expected = round(options["items"] * overlap / experts * (1 + options["repeats"]))
    about["per_expert"] = per_expert or ("[FILL: how many]" if whole else expected)
    return environment.get_template(f"{name}.md.jinja").render(review=options, kind=texts, **about)


def write_protocol(folder: Path, config: Any, texts: KindTexts) -> list[str]:
    """Write all documents to `folder`. Return lines that name them and count their gaps.

    Raises:
        UserError: if a document exists already, because somebody may have filled it in.
    """
    paths = {name: folder / f"{name}.md" for name in DOCUMENTS}
    if existing := next((path for path in paths.values() if path.exists()), None):
        raise UserError(f"{existing}: exists already and may have been filled in; give another review.protocol=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, path in paths.items():
        text = document(name, config, texts)
        write_atomically(path, text)
        lines.append(f"{path}: {text.count(GAP)} gaps to fill in, marked {GAP} ...]")
    return [*lines, f"To show the filled-in consent text on the page, give review.consent={paths['consent']}"]


def consent_text(config: Any, texts: KindTexts, per_expert: int) -> str:
    """Return the text that experts agree to: the file `review.consent`, or the shipped text with this number of items.

    Raises:
        UserError: if the file cannot be read.
    """
    path = config.review.consent
    return document("consent", config, texts, per_expert) if path is None else _text(path, "review.consent")


def support_text(config: Any) -> str:
    """Return the text behind the stop button: `review.support` as typed, the file it names, or a general text.

    Raises:
        UserError: if it names a file that cannot be read.
    """
    given = config.review.support
    if given is None:
        return (_TEMPLATES / "support.md.jinja").read_text()
    return _text(given, "review.support") if is_support_file(given) else str(given)


def is_support_file(given: str) -> bool:
    """Return True if `review.support` names a file, and is not the text itself."""
    return given.endswith((".md", ".txt"))


def _text(path: str, key: str) -> str:
    try:
        text = expanded(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{key}={path}: cannot be read ({reason})") from error
    if not text.strip():
        raise UserError(f"{key}={path}: the file is empty")
    return text
