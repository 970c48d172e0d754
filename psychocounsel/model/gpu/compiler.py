"""Requirements of Triton, which compiles a small C module for each GPU kernel."""

import os
import shutil
import sysconfig
from pathlib import Path

from psychocounsel.errors import UserError


def lacking() -> str:
    """Return the name of a program or file that Triton needs and this machine lacks; "" if nothing is missing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "the headers of Python (Python.h; the package python3-dev)"
    return ""


def require_compiler(setting: str, instead: str) -> None:
    """Refuse `setting`, whose kernels Triton compiles, if this machine lacks a compiler; `instead` is the alternative to offer.

    Raises:
        UserError: naming the package to install.
    """
    if missing := lacking():
        raise UserError(
            f"{setting}: its GPU kernels are compiled here at first use, but {missing} is missing: install it, "
            f"load a module that has it, or use {instead}"
        )
