"""Container image for the processes of a job: run by Apptainer or Singularity, or by Pyxis, NVIDIA's plugin for srun."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

_KEY = "cluster.container"


@dataclass
class Container:
    image: str | None = None
    command: str = option("apptainer", choices=("apptainer", "singularity", "pyxis"))
    python: str = "python3"  # interpreter inside the image
    # Mounts in addition to paths.*, the run directories, the code, and local data and models.
    binds: list[str] = option([])
    arguments: list[str] = option([])  # arguments of `apptainer exec`, or with pyxis of srun

    @property
    def is_pyxis(self) -> bool:
        """Return True if srun starts the container; the batch script itself then runs outside of it."""
        return self.command == "pyxis"

    def check(self) -> None:
        """Refuse an image that is missing, or of a kind that the command does not support.

        Raises:
            UserError: naming the key and what to type instead.
        """
        image = self.image
        if not image:
            if self.is_pyxis:
                raise UserError(f"{_KEY}.command=pyxis needs an image: add {_KEY}.image=FILE.sqsh or REGISTRY#NAME:TAG")
            return
        if self.is_pyxis and image.endswith(".sif"):
            raise UserError(
                f"{_KEY}.image={image}: is an image for Apptainer; Pyxis takes a squashfs file (`enroot import` makes it) or "
                f"REGISTRY#NAME:TAG, or use {_KEY}.command=apptainer"
            )
        if not self.is_pyxis and image.endswith(".sqsh"):
            raise UserError(f"{_KEY}.image={image}: is an image for enroot; use {_KEY}.command=pyxis, or a .sif file")
        is_file = image.endswith(".sqsh") or image.startswith(("/", ".", "~")) if self.is_pyxis else "://" not in image
        if is_file and not Path(image).exists():
            raise UserError(f"{_KEY}.image={image}: no such file")

    def before_python(self, binds: Sequence[str], gpus: bool) -> list[str]:
        """Return the words of the batch script that start Python in an image of Apptainer."""
        words = [self.command, "exec", *(["--nv"] if gpus else [])]
        for bind in [*binds, *self.binds]:
            words += ["--bind", bind]
        return [*words, *self.arguments, str(self.image), self.python]

    def of_srun(self, binds: Sequence[str], variables: Iterable[str]) -> list[str]:
        """Return the arguments of srun that start its tasks in an image, by Pyxis.

        `variables` are the environment variables whose values the image must not replace. Pyxis passes on all others, too.

        Raises:
            UserError: if a path contains a comma or a colon, which separate mounts.
        """
        if wrong := next((bind for bind in binds if "," in bind or ":" in bind), None):
            raise UserError(
                f"{wrong}: contains a comma or a colon, which separate the mounts of Pyxis; use another folder"
            )
        mounts = [f"{bind}:{bind}" for bind in binds]
        mounts += [bind if ":" in bind else f"{bind}:{bind}" for bind in self.binds]
        words = [f"--container-image={self.image}", f"--container-mounts={','.join(mounts)}"]
        return [*words, f"--container-env={','.join(variables)}", *self.arguments]


def quoted(words: Iterable[str]) -> str:
    """Return words quoted for the shell."""
    return " ".join(map(shlex.quote, words))
