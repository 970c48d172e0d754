"""`python -m site_builder.keys`: writes docs/reference/keys.md from the schema and the comments of conf/."""

import argparse
import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from psychocounsel import cache, jobs, report, serve
from psychocounsel.__main__ import COMMANDS
from psychocounsel.annotation.settings import AnnotateConfig, PairRules
from psychocounsel.chatting.settings import ChatConfig
from psychocounsel.data.settings import DataConfig
from psychocounsel.engine.settings import TrainConfig, ZeroConfig
from psychocounsel.evaluation.audit.settings import AuditConfig
from psychocounsel.evaluation.settings import ContestConfig, EvaluateConfig
from psychocounsel.experts.settings import AgreementConfig, ReviewConfig
from psychocounsel.model.settings import ModelConfig
from psychocounsel.settings.schema import PathsConfig
from psychocounsel.storage.files import write_atomically
from site_builder.key_sources import KeyFile, read_keys
from site_builder.key_tables import Row, choices, command_rows, group_rows, own_meanings, schema_of, schema_rows
from site_builder.site import ROOT

# Arguments of commands without a configuration file, from their parsers and docstrings.


def cell(text: str) -> str:
    """Return the text for a cell of a table."""
    shown = text.replace("|", "\\|").replace("\n", " ")
    return shown if "`" in shown else shown.replace("<", "&lt;")


def docstring(command: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / "psychocounsel" / f"{command}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n\nStudies that ship")[0]


def options_table(parser: argparse.ArgumentParser) -> str:
    """Return the arguments of a parser and of its subcommands as a Markdown table."""
    lines = ["| argument | default | meaning |", "|---|---|---|", *_arguments(parser, "")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {subcommand.dest: subcommand.help or "" for subcommand in action._choices_actions}
            for name, inner in action.choices.items():
                lines.append(f"| **`{name}`** |  | {cell(helps[name])} |")
                lines += _arguments(inner, f"{name} ")
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser, prefix: str) -> list[str]:
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        shown = ", ".join(action.option_strings) or str(action.metavar or action.dest.upper())
        value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        if action.choices:
            value = f" {'|'.join(map(str, action.choices))}"
        default = "" if action.default in (None, False) or action.default == [] else f"`{action.default}`"
        lines.append(f"| `{cell(prefix + shown + value)}` | {default} | {cell(action.help or '')} |")
    return lines


# The page.

PAGE = ROOT / "docs" / "reference" / "keys.md"
_CONF = ROOT / "conf"
_COMPOSED: dict[str, list[type]] = {
    "train": [TrainConfig],
    "evaluate": [EvaluateConfig, ContestConfig],
    "audit": [AuditConfig],
    "annotate": [AnnotateConfig],
    "chat": [ChatConfig],
}
_TYPED = {"agreement": AgreementConfig, "review": ReviewConfig}
_WITH_OPTIONS: dict[str, Any] = {"report": report, "jobs": jobs, "cache": cache, "serve": serve}
# Groups without a `_target_`; the others name their dataclass in their files.
_GROUP_SCHEMAS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "zero": ZeroConfig,
    "paths": PathsConfig,
    "pairs": PairRules,
}
_HIDDEN = ("hydra", "shared")
_WRITTEN = [
    (r"\$\{if_tiny:([^,]+),([^}]+)\}", r"\1 (shipped models), \2 (others)"),
    (r"\$\{if_shipped:([^,]+),([^}]+)\}", r"\1 (shipped data), \2 (other data)"),
    (r"\$\{if_other_engine:([^,]+),([^}]+)\}", r"\1 (vLLM), \2 (others)"),
    (r"\$\{if_rules:([^,]+),([^}]+)\}", r"\1 (annotator=rules), \2 (others)"),
    (
        r"\$\{if_rollouts:([^,]+),([^,]+),([^}]+)\}",
        r"\1 (with replies to held-out prompts; \2 if no reward scores them), \3 (without)",
    ),
    (r"\$\{if_given:\$\{(\w+)\},([^,]+),([^}]+)\}", r"\3; \2 once \1 is given"),
    (r"\$\{oc\.env:(\w+),([^}]+)\}", r"$\1, or \2"),
    (r"\$\{\.(\w+)\}", r"as \1"),
    (r"\$\{([a-z_.]+)\}", r"as \1"),
    (r"^\$\{rollout_server:.*\}$", "as the rollout says"),
    (r"^\$\{rollout_servers_per_node:.*\}$", "as the rollout says"),
]


class Undescribed(Exception):
    """Keys that neither a comment in conf/ nor site_builder/meanings.yaml explains, or unused entries of that file."""


def page() -> str:
    """Return the page as Markdown.

    Raises:
        Undescribed: naming the keys.
    """
    writer = _Writer()
    parts = [_INTRODUCTION.strip(), *_commands(writer), *_groups(writer)]
    if writer.bare:
        raise Undescribed(f"explain in conf/ or site_builder/meanings.yaml: {', '.join(writer.bare)}")
    if idle := sorted({*own_meanings()} - writer.used):
        raise Undescribed(f"site_builder/meanings.yaml: nothing reads {', '.join(idle)}")
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """
# Every key

<!-- Written by `make docs` (python -m site_builder.keys) from the schema and the comments in conf/. Edit those instead. -->

This page lists each key of each command with its type, its default, its limits and its meaning. A key is typed as `KEY=VALUE`;
a group is chosen as `GROUP=CHOICE`, and its keys are typed as `GROUP.KEY=VALUE`. `???` is a value that you must give.
`--cfg job` prints the values that a command would use. A name in parentheses after a default is the choice that has this
default.

"""


class _Writer:
    """Writer of tables. `bare` lists keys without a meaning, and `used` has the entries of meanings.yaml that were read."""

    def __init__(self) -> None:
        self.bare: list[str] = []
        self.used: set[str] = set()

    def table(self, rows: Sequence[Row], scope: str) -> str:
        """Return a table of keys. `scope` is their command or group: meanings.yaml may have a meaning for it alone."""
        several = any(row.owners for row in rows)
        titles = ["key", *(["choices"] if several else []), "type", "default", "limits", "meaning"]
        lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        for row in rows:
            meaning = self._meaning(row, scope)
            kind = row.schema.type if row.schema else ""
            is_section = kind == "section" or set(row.defaults.values()) == {""}
            cells = [
                f"`{row.name}`",
                *([", ".join(row.owners)] if several else []),
                "section" if is_section else kind,
                "" if is_section else _defaults(row),
                row.schema.limits if row.schema else "",
                meaning,
            ]
            lines.append("| " + " | ".join(map(cell, cells)) + " |")
        return "\n".join(lines)

    def _meaning(self, row: Row, scope: str) -> str:
        for name in [f"{row.name.partition('.')[0]}({c}).{row.name.partition('.')[2]}" for c in row.defaults]:
            if name in own_meanings():
                self.used.add(name)
        names = (f"{scope}:{row.name}", row.name, row.name.rpartition(".")[2])
        own = [name for name in names if name in own_meanings()]
        self.used |= {*own}
        if row.meaning or own:
            return row.meaning or own_meanings()[own[0]]
        self.bare.append(f"{scope}:{row.name}")
        return ""


def _commands(writer: _Writer) -> Iterator[str]:
    yield "## Commands"
    for command in COMMANDS:
        yield f"### {command}"
        if command in _COMPOSED:
            file = read_keys(_CONF / f"{command}.yaml")
            yield f"Groups: {_linked_groups(command)}."
            yield writer.table(command_rows(file, _COMPOSED[command]), command)
        elif command in _TYPED:
            yield writer.table(schema_rows(_TYPED[command]), command)
        elif command in _WITH_OPTIONS:
            yield options_table(_WITH_OPTIONS[command]._parser())
        else:
            yield f"```text\n{docstring(command)}\n```"


def _linked_groups(command: str) -> str:
    entries = yaml.safe_load((_CONF / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    names = [name for entry in entries if isinstance(entry, dict) for name in entry if not name.startswith("override")]
    return ", ".join(f"[`{name}`](#{name}-group)" for name in names)


def _groups(writer: _Writer) -> Iterator[str]:
    yield "## Groups"
    for folder in sorted(path for path in _CONF.iterdir() if path.is_dir() and path.name not in _HIDDEN):
        yield f"### {folder.name} group"
        files = choices(folder)
        yield _choices_table(files)
        yield from _group_tables(files, folder.name, writer)


def _group_tables(files: dict[str, KeyFile], group: str, writer: _Writer) -> Iterator[str]:
    """Yield the tables of a group's keys.

    A choice that is a file of the whole configuration with keys of its own (a gate) gets a table of its sections.
    """
    documented = {name: file for name, file in files.items() if not _is_preset(file, files) and not file.is_global}
    shared = {name: read_keys(_CONF / "shared" / f"{name}.yaml") for name in _shared_names(files)}
    documented = {**shared, **documented}
    whole = {name: file for name, file in files.items() if file.is_global and file.target}
    for name, file in whole.items():
        inner = tuple(k for k in file.keys if k.name.startswith(f"{group}."))
        cut = tuple(type(k)(k.name.removeprefix(f"{group}."), k.default, k.meaning) for k in inner)
        documented[name] = KeyFile(file.about, (), file.target, False, cut)
    if documented and group != "sweep":
        yield writer.table(group_rows(documented, group, _GROUP_SCHEMAS.get(group)), group)
    for name, file in whole.items():
        keys = tuple(key for key in file.keys if key.name.partition(".")[0] != group)
        kind = schema_of(file)
        if keys and kind is not None:
            rows = command_rows(KeyFile("", (), None, False, keys), [kind.schema])  # type: ignore[attr-defined]
            named = {key.name for key in keys}
            yield f"With `{group}={name}`:"
            yield writer.table([row for row in rows if row.name in named], f"{group}={name}")


def _is_preset(file: KeyFile, files: dict[str, KeyFile]) -> bool:
    """Return True if a file only gives other values to the keys of another file."""
    return not file.target and any(base in files or base.startswith("/writers") for base in file.bases)


def _shared_names(files: dict[str, KeyFile]) -> list[str]:
    bases = [base for file in files.values() for base in file.bases if base.startswith("/shared/")]
    return list(dict.fromkeys(base.removeprefix("/shared/") for base in bases))


def _choices_table(files: dict[str, KeyFile]) -> str:
    lines = ["| choice | begins with | sets | about |", "|---|---|---|---|"]
    for name, file in sorted(files.items()):
        begins = ", ".join(f"`{base.removeprefix('/')}`" for base in file.bases)
        pairs = [f"`{key.name}: {key.default}`" for key in file.keys if key.default is not None]
        sets = ", ".join(pairs) if _is_preset(file, files) else ""
        lines.append("| " + " | ".join(map(cell, (f"`{name}`", begins, sets, _about(file)))) + " |")
    return "\n".join(lines)


def _about(file: KeyFile) -> str:
    """Return the comment at the head of a file, or otherwise the first line of its class's docstring."""
    kind = schema_of(file)
    return file.about or ((kind.__doc__ or "").partition("\n")[0] if kind else "")


def _defaults(row: Row) -> str:
    """Return the default, or the default of each choice if they differ."""
    by_value: dict[str, list[str]] = {}
    for choice, default in row.defaults.items():
        by_value.setdefault(_readable(default), []).append(choice)
    if len(by_value) == 1:
        value = next(iter(by_value))
        return f"`{value}`" if value else ""
    return ", ".join(f"`{value}` ({', '.join(names)})" for value, names in by_value.items())


def _readable(default: str) -> str:
    for pattern, words in _WRITTEN:
        default = re.sub(pattern, words, default)
    return default


def write_page() -> None:
    """Write the page if its text has changed.

    Raises:
        Undescribed: for keys without a meaning.
    """
    text = page()
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        write_atomically(PAGE, text)


if __name__ == "__main__":
    write_page()
