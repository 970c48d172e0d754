"""What Triton needs of a machine, whoever uses it: it builds a small C module for each kernel."""

import os
import shutil
import sysconfig
from pathlib import Path

from psychocounsel.errors import UserError


def lacking() -> str:
    """What Triton would not find on this machine; empty if it finds all."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "the headers of Python (Python.h; the package python3-dev)"
    return ""


def require_compiler(setting: str, instead: str) -> None:
    """Refuse `setting`, whose kernels Triton builds, where it cannot; `instead` is what does without.

    Raises:
        UserError: naming what to install.
    """
    if missing := lacking():
        raise UserError(
            f"{setting}: its GPU kernels are built here at first use, and {missing} is missing: install it, "
            f"load a module that has it, or use {instead}"
        )
