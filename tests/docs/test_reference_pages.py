"""The pages of keys and metrics list all keys and metrics of the code."""

import ast
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from psychocounsel import __version__
from psychocounsel.metrics.limits import LIMITS
from psychocounsel.settings.targets import build
from site_builder.key_tables import choices
from site_builder.keys import PAGE, page
from tests.support.composed import check, compose, figures_of
from tests.support.harness import ROOT, cli

METRICS = ROOT / "docs" / "reference" / "metrics.md"
ALGORITHMS = sorted(file.stem for file in (ROOT / "conf" / "algo").glob("*.yaml"))
# Constructors of the values in the dictionary of terms that a loss returns.
_MAKES_TERMS = ("Term", "pair_term", "chosen_nll")


def listed() -> set[str]:
    """Return the keys in the first column of the page's tables."""
    rows = re.findall(r"^\| (`[^|]*`) \|", METRICS.read_text(encoding="utf-8"), re.MULTILINE)
    rows += re.findall(r"`(eval/\w+)`", METRICS.read_text(encoding="utf-8"))
    return {key for row in rows for key in re.findall(r"[\w/]+", row)}


def is_listed(key: str) -> bool:
    """Return True if the page lists the key. For an end of an interval (eval/NAME_low), NAME is looked up."""
    key = re.sub(r"^(eval/.+)_(low|high)$", r"\1", key)
    patterns = [each.replace("MEMBER", "*").replace("NAME", "*") for each in listed()]
    return any(fnmatchcase(key, each) for each in patterns if each not in ("*", "eval/*"))


def test_the_page_of_keys_is_what_the_schema_says_today() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: make docs, or python -m site_builder.keys"


def test_the_page_of_keys_has_every_key_that_a_command_composes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("train", "evaluate", "audit", "annotate", "chat"):
        composed = compose([], name)
        for key in composed:
            inner = composed._get_node(key)
            names = [f"{key}.{each}" for each in inner] if hasattr(inner, "keys") else [str(key)]
            assert not [
                each for each in names if f"`{each}`" not in text and "_target_" not in each and "hydra" not in each
            ]
    for group in ("algo", "cluster", "reward", "evaluation"):
        assert all(f"| `{choice}` |" in text for choice in choices(ROOT / "conf" / group))


def names_in(file: Path) -> Iterator[str]:
    """Yield the metrics that an algorithm's file names: keys of terms, and arguments of `ctx.note` and `ctx.count`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            pairs = [*zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pairs = [(node.targets[0].slice, node.value)]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("note", "count")
        ):
            first = node.args[0]
            yield from [f"rollout/{first.value}"] if isinstance(first, ast.Constant) else []
            continue
        else:
            continue
        for key, value in pairs:
            made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in _MAKES_TERMS
            if made and isinstance(key, ast.Constant):
                yield str(key.value)


def test_the_page_of_metrics_has_every_term_and_note_of_an_algorithm() -> None:
    found = {(file.name, name) for file in (ROOT / "psychocounsel" / "algo").glob("*.py") for name in names_in(file)}
    assert {("ppo.py", "loss_value"), ("ppo.py", "rollout/value"), ("online.py", "rollout/ties")} <= found
    assert not [each for each in sorted(found) if not is_listed(each[1])]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_page_of_metrics_has_the_figures_of_a_training(algo: str) -> None:
    online = build(compose([f"algo={algo}"]), "algo").needs.rollouts
    replies = [] if algo == "reward" else ["guard.length_ratio=2", *([] if online else ["eval.replies=true"])]
    given = [f"algo={algo}", *replies]
    names = figures_of(check(compose(given))) or []
    assert names and not [name for name in names if not is_listed(name)]


def test_the_page_of_metrics_has_the_figures_of_evaluations_and_audits() -> None:
    for choice in choices(ROOT / "conf" / "evaluation"):
        given = [f"evaluation={choice}", "replies.length_limits=[null,150]"]
        composed = compose(given[: 1 if choice == "reward" else 2], "evaluate")
        evaluation = build(composed, "evaluation")
        names = evaluation.figure_names(composed)
        own = {re.sub(r"(_\d+_words)?(_low|_high)?(/\*)?$", "", name).removeprefix("*/") for name in names}
        assert own and not [name for name in own if not is_listed(name)], choice
    assert all(is_listed(f"guard/{name}") for name in LIMITS)
    assert is_listed("blind_accuracy") and is_listed("tiny_reads") and not is_listed("blind_acuracy")


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["dpo", "kto", "reward", "online_dpo", "ppo", "grpo"])
def test_the_page_of_metrics_has_every_key_that_a_run_writes(algo: str, tmp_path: Path) -> None:
    more = ["rollout.max_tokens=16", "guard.repetition=0.9"] if algo in ("online_dpo", "ppo", "grpo") else []
    more += ["algo.kl_target=3", "algo.importance_cap=2"] if algo == "ppo" else []
    cli("train", f"algo={algo}", "debug=fast", "run_dir=run", *more, cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line}
    assert {"loss", "eval/loss"} <= keys or more
    assert not [key for key in sorted(keys) if not is_listed(key)]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__ and citation["cff-version"] == "1.2.0"
    assert all({"type", "title", "authors"} <= {*each} for each in (citation, *citation["references"]))
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
