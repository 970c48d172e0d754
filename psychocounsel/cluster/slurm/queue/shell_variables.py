"""`SBATCH_*` variables of the submitting shell, which sbatch would use instead of the script's directives."""

import re
from collections.abc import Mapping

# Who pays, and where: a site's default, taken where the configuration leaves it open.
_DEFAULTS = ("account", "partition", "qos", "reservation", "constraint")


def for_sbatch(environment: Mapping[str, str], script: str) -> tuple[dict[str, str], list[str]]:
    """The environment that sbatch is called with, and a line for each `SBATCH_*` variable that stands in `environment`.

    `SBATCH_ACCOUNT` and the like stay where `script` has no such directive. All other `SBATCH_*` variables go, because the
    configuration decides what they say. So do `SLURM_*` variables but `SLURM_CONF`: those of a job are no options of the next.
    """
    kept, said = dict[str, str](), list[str]()
    for name, value in environment.items():
        key = name.removeprefix("SBATCH_").lower()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SBATCH_")):
            kept[name] = value
        elif name.startswith("SBATCH_") and key in _DEFAULTS and not _has(script, key):
            kept[name] = value
            said.append(f"cluster.{key} is not set: the shell's {name} gives it")
        elif name.startswith("SBATCH_"):
            said.append(f"{name} of the shell is not used: cluster.* and cluster.sbatch.* say what jobs ask for")
    return kept, said


def _has(script: str, key: str) -> bool:
    return re.search(rf"^#SBATCH --{key}=", script, re.MULTILINE) is not None
