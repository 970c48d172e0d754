"""Tables of the arguments of commands without a configuration file, from their parsers and docstrings."""

import argparse
import ast

from documentation.pages import ROOT


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
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for name, inner in action.choices.items():
                lines.append(f"| **`{name}`** |  | {cell(helps[name])} |")
                lines += _arguments(inner, f"{name} ")
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser, prefix: str) -> list[str]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        shown = ", ".join(action.option_strings) or str(action.metavar or action.dest.upper())
        value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        if action.choices:
            value = f" {'|'.join(map(str, action.choices))}"
        default = "" if action.default in (None, False) or action.default == [] else f"`{action.default}`"
        found.append(f"| `{cell(prefix + shown + value)}` | {default} | {cell(action.help or '')} |")
    return found
