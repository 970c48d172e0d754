"""Every command on the pages names existing keys, choices and options. The slow set checks values, too."""

import importlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from psychocounsel import export
from psychocounsel.__main__ import COMMANDS
from psychocounsel.commands.composing import config_groups
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.experts.settings import read_agreement, read_review
from psychocounsel.settings import config as configs
from psychocounsel.studies.launching import read_arguments
from tests.support.doc_blocks import Command, blocks, commands, pages
from tests.support.doc_runs import write_files
from tests.support.harness import ROOT
from tests.support.in_process import run_here

COMPOSED = {"prepare": "train", **{name: name for name in ("train", "evaluate", "audit", "annotate", "chat")}}
PARSED = ("jobs", "report", "cache", "serve")
# Words of the pages that stand for the reader's own, and what the tests put in their place.
STANDS_FOR = {"cluster=slurm_mine": "cluster=slurm", "speeches.license=NAME": "speeches.license=cc-by-4.0"}
# Allowed refusals: the command names a file, model, package or variable that this machine does not have.
MISSING = re.compile(
    r"no such file|no such folder|environment variable is not set|there is no such module|is not installed|cannot be read|"
    r"has no rubric|needs \S+ in|not the directory of an evaluation|servers' key is unknown|cannot be loaded as a dataset|"
    r"is no run"
)


def shown() -> list[Command]:
    """Return every distinct command of the pages, without the arguments that stand for more arguments (...)."""
    found: dict[tuple[str, ...], Command] = {}
    for page in pages():
        for each in commands(page):
            typed = tuple(text for text in each.arguments if "..." not in text and not text.startswith("["))
            if "COMMAND" not in (each.name, *typed):
                found.setdefault((each.name, *typed), Command(each.page, each.line, each.name, typed))
    return [*found.values()]


def test_commands_are_found_in_blocks_tables_and_over_several_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.doc_blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n    psychocounsel train algo=sft \\\n        seed=2   # a comment\n\n"
        "| `psychocounsel jobs status DIR` | x |\n\n"
        "<!-- run -->\n```bash\nA=1 psychocounsel audit 'data.mix=[{name: a}]' | less\n```\n```python\nx = 1\n```\n"
    )
    found = {(each.name, each.line): each.arguments for each in commands(page)}
    assert found == {
        ("train", 3): ("algo=sft", "seed=2"),
        ("audit", 10): ("data.mix=[{name: a}]",),
        ("jobs", 6): ("status", "DIR"),
    }
    assert [(block.language, block.is_run) for block in blocks(page)] == [
        ("", False),
        ("bash", True),
        ("python", False),
    ]


def test_every_command_names_what_exists() -> None:
    assert len(shown()) > 50, "or nothing is checked"
    composed = [each for each in shown() if each.name in COMPOSED]
    suspects = [each for alike in _alike(composed) if _compose_together(alike) for each in alike]
    suspects += [each for each in shown() if each.name not in COMPOSED]
    problems = [f"{each}\n    {problem}" for each in suspects if (problem := _problem(each))]
    assert not problems, "\n".join(problems)


def _alike(composed: list[Command]) -> list[list[Command]]:
    """Return the commands with the same configuration and choices together: for them the same keys exist."""
    groups = config_groups([ROOT / "conf"])
    alike: dict[tuple[str, ...], list[Command]] = {}
    for each in composed:
        choices = [text for text in _typed(each) if text.lstrip("+").partition("=")[0] in (*groups, "--config-dir")]
        alike.setdefault((COMPOSED[each.name], *sorted(choices)), []).append(each)
    return [*alike.values()]


def _compose_together(alike: list[Command]) -> str | None:
    """Return what is wrong with a configuration that gives all keys of the commands, each its first value; None if nothing is."""
    try:
        texts = [text for each in alike for text in _overrides(each)]
        first = {text.partition("=")[0]: text for text in reversed(texts)}
        configs.compose([*first.values()], COMPOSED[alike[0].name])
    except (UserError, HydraException) as error:
        return str(error)
    return None


def test_a_wrong_key_or_value_is_found_among_commands_composed_together() -> None:
    right, *wrong = (
        Command("page", 1, "train", ("algo=sft", *texts))
        for texts in (["seed=1"], ["seed=2", "algo.betta=1"], ["algo.lr=2", "seeed=1"])
    )
    assert _alike([right, *wrong]) == [[right, *wrong]] and _compose_together([right]) is None
    for each in wrong:
        assert _compose_together([right, each])
    assert len(_alike([right, Command("page", 1, "train", ("algo=dpo",)), Command("page", 1, "audit", ())])) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("train", ["algo.betta=1"], "betta"),
        ("train", ["algo=dpoo"], "dpoo"),
        ("train", ["-m", "seed=1,2", "sweep=nothing"], "sweep=nothing"),
        ("jobs", ["stauts", "DIR"], "stauts"),
        ("report", ["DIR", "--opne"], "--opne"),
        ("export", ["RUN", "marge=true"], "marge"),
        ("agreement", ["data=x", "agreement.tie=half"], "agreement.tie"),
        ("launch", ["study=quikstart"], "quikstart"),
        ("tarin", [], "no such command"),
    ],
)
def test_a_wrong_name_is_found(name: str, arguments: list[str], said: str) -> None:
    assert said in (_problem(Command("page", 1, name, tuple(arguments))) or "")


def _problem(command: Command) -> str | None:
    """Return the first wrong name in a command, or None. Files that the command names need not exist."""
    name, typed = command.name, list(command.arguments)
    if name not in (*COMMANDS, "worker"):
        return "no such command"
    try:
        if name in COMPOSED:
            configs.compose([*_overrides(command)], COMPOSED[name])
        elif name in PARSED:
            if len(typed) == 1 and name == "jobs":  # `jobs cancel` in a sentence
                typed = [*typed, "DIR"]
            parser = importlib.import_module(f"psychocounsel.{name}")._parser()
            parser.parse_args([text.replace("INDEX", "0") for text in typed if "=" not in text or text.startswith("-")])
        elif name == "export":
            wrong = [text for text in typed if "=" in text and text.partition("=")[0] not in export._KEYS]
            return f"unknown keys {wrong}" if wrong else None
        elif name in ("agreement", "review"):
            {"agreement": read_agreement, "review": read_review}[name](_complete(name, typed))
        elif name == "launch" and "study=NAME" not in typed:
            read_arguments(typed)
            study = dict(text.split("=", 1) for text in typed if "=" in text)["study"]
            return None if (ROOT / "launch" / f"{study}.yaml").is_file() else f"study={study}: does not ship"
    except (UserError, HydraException) as error:
        return str(error)
    return None


def _complete(name: str, typed: list[str]) -> list[str]:
    """Return the arguments, with the required ones that an abridged command omits."""
    given = {text.partition("=")[0] for text in typed}
    return [*typed, *(["experts=[e01]"] if name == "review" and "experts" not in given else [])]


def _overrides(command: Command) -> Iterator[str]:
    """Yield the overrides of a command for one configuration: of a sweep the first value, and no choices of the reader's own."""
    typed = _typed(command)
    own = "--config-dir" in " ".join(typed)
    overrides = [text for text in typed if "=" in text and not text.startswith("-")]
    for text in overrides:
        key, _, value = text.partition("=")
        if key.startswith("hydra"):  # options of the sweep, which no configuration has
            continue
        if key == "sweep":
            if not (ROOT / "conf" / "sweep" / f"{value}.yaml").is_file():
                raise UserError(f"{text}: no such sweep")
        elif key == "speeches":
            yield text if (ROOT / "conf" / key / f"{value}.yaml").is_file() else "speeches=local"
        elif not (own and _is_own(key, value, overrides)):
            yield _first(text)


def _typed(command: Command) -> list[str]:
    """Return the arguments. For a resumed evaluation, add its kind: its directory, which would tell it, does not exist here."""
    typed = [STANDS_FOR.get(text, text) for text in command.arguments]
    goes_on = command.name == "evaluate" and any(text.startswith("run_dir=") for text in typed)
    chosen = any(text.startswith(("evaluation=", "reward.path=")) for text in typed)
    return [*typed, *(["evaluation=winrate"] if goes_on and not chosen else [])]


def _is_own(key: str, value: str, overrides: list[str]) -> bool:
    """Return True for a choice whose file is only on the page, and for keys of a group with such a choice."""
    group = key.partition(".")[0]
    choices = [text.partition("=")[2] for text in overrides if text.startswith(f"{group}=")]
    return any(not (ROOT / "conf" / group / f"{choice}.yaml").is_file() for choice in choices)


def _first(text: str) -> str:
    """Return the override with the first value if it is a sweep, and otherwise unchanged."""
    override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override():
        return text
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={override.value().start}"
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


@pytest.mark.slow
def test_every_composed_command_passes_its_checks(
    own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types, limits and combinations are checked. A command may be refused only because this machine lacks something."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    problems = []
    for number, each in enumerate(shown()):
        if each.name in COMPOSED:
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            write_files(ROOT / each.page, folder)
            _make_paths(each)
            answer = run_here(shlex.join([each.name, *_typed(each)]), rows=False)
            if answer.code and not MISSING.search(answer.stderr):
                problems.append(f"{each}\n    {answer.stderr.strip()}")
    assert not problems, "\n".join(problems)


def _make_heads(place: Path, reward: Path) -> None:
    """Make a folder like a reward model's with a score for each principle; only its config.json is read."""
    place.mkdir(exist_ok=True)
    for file in reward.iterdir():
        if file.name != "config.json" and not (place / file.name).exists():
            (place / file.name).symlink_to(file)
    config = json.loads((reward / "config.json").read_text()) | {"id2label": dict(enumerate(PRINCIPLES))}
    (place / "config.json").write_text(json.dumps(config))


def _make_paths(command: Command) -> None:
    """Create the paths that a command names: a file with one pair, and links to shipped models."""
    shipped = ROOT / "psychocounsel" / "model" / "shipped"
    places = {
        place: argument.startswith(("reward.", "judge.reward", "compare"))
        for argument in command.arguments
        for place in re.findall(r"(?:runs/\w+|REWARD_RUN|RUN)(?:/model)?", argument)
    }
    for place, scores in places.items():
        if place.endswith("/model"):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if "heads" in place:
                _make_heads(Path(place), shipped / "tiny_reward")
            elif not os.path.lexists(place):
                is_reward = scores or "reward" in place.lower() or "/a/" in place
                os.symlink(shipped / ("tiny_reward" if is_reward else "tiny"), place)
    for file in re.findall(r"(?:data\.path|speeches)=([\w/]+\.jsonl|FILE)\b", " ".join(command.arguments)):
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            '{"question": "I cannot sleep at all these days.", "chosen": "Since when?", "rejected": "Sleep more."}\n'
        )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_opens_with_what_its_reader_can_do_and_a_command(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    if page.stem != "glossary":
        assert lines[2].startswith("After this page ")
        assert any(line.startswith(("    ", "```")) for line in lines[:12])
