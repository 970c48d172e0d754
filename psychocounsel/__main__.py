"""`psychocounsel COMMAND ...`: all commands under one name, with --version, and completion for bash and zsh.

psychocounsel train algo=ppo                     the same as python -m psychocounsel.train algo=ppo
eval "$(psychocounsel completion bash)"          TAB completes commands, config groups, their choices and keys
"""

import ast
import runpy
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from psychocounsel import __version__
from psychocounsel.errors import INTERRUPTED, USER_ERROR, UserError

COMMANDS = [
    *("train", "prepare", "annotate", "audit", "agreement", "review", "evaluate", "chat", "report", "launch", "jobs"),
    *("export", "cache", "serve"),
]


def main() -> None:
    """Run the command named by the first argument; exits with its code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        # The reader may stop early, as in `psychocounsel --help | head -1`.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if name in ("--version", "-V"):
        print(f"psychocounsel {__version__}")
    elif name in ("--help", "-h", "help"):
        print(_help())
    elif name == "completion":
        from psychocounsel.commands.help import shell_script

        try:
            print(shell_script(rest))
        except UserError as error:
            _refuse(str(error))
    elif name == "complete":  # called by the shell
        from psychocounsel.commands.help import complete

        print("\n".join(complete(rest, COMMANDS)))
    elif name in COMMANDS:
        sys.argv = [f"psychocounsel {name}", *rest]
        try:
            runpy.run_module(f"psychocounsel.{name}", run_name="__main__", alter_sys=True)
        except KeyboardInterrupt:  # while modules are imported; afterwards commands handle it themselves
            sys.exit(INTERRUPTED)
    else:
        from psychocounsel.settings.schema import suggestion

        advice = suggestion(name, COMMANDS, "`psychocounsel --help` lists them")
        _refuse(f"{name}: is not a command; {advice}")


def _refuse(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _help() -> str:
    """Return each command with the first line of its module's docstring, without importing it."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_about(name)}" for name in COMMANDS]
    usage = "psychocounsel COMMAND ...        psychocounsel COMMAND --help shows more; psychocounsel --version"
    return "\n".join([usage, "", *lines])


def _about(name: str) -> str:
    spec = find_spec(f"psychocounsel.{name}")
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    usage, _, about = text.partition("`: ")
    first = (about if "\n" not in usage else text.split("\n\n")[1]).splitlines()[0]
    return first[0].lower() + first[1:].rstrip(".")


if __name__ == "__main__":
    main()
