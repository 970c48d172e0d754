"""`SBATCH_*` variables of the submitting shell, which sbatch would prefer to the script's directives."""

import re
from collections.abc import Mapping

# Directives for which the shell may set a site's default, used if the configuration sets none.
_DEFAULTS = ("account", "partition", "qos", "reservation", "constraint")


def for_sbatch(environment: Mapping[str, str], script: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment for sbatch, and a line for each `SBATCH_*` variable in `environment`.

    `SBATCH_ACCOUNT` and similar are kept if `script` has no such directive. All other `SBATCH_*` variables are removed, because
    the configuration decides. `SLURM_*` variables except `SLURM_CONF` are removed too, because they describe the current job.
    """
    kept, said = dict[str, str](), list[str]()
    for name, value in environment.items():
        key = name.removeprefix("SBATCH_").lower()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SBATCH_")):
            kept[name] = value
        elif name.startswith("SBATCH_") and key in _DEFAULTS and not _has(script, key):
            kept[name] = value
            said.append(f"cluster.{key} is not set: the shell's {name} is used")
        elif name.startswith("SBATCH_"):
            said.append(f"{name} of the shell is ignored: cluster.* and cluster.sbatch.* set the options of jobs")
    return kept, said


def _has(script: str, key: str) -> bool:
    return re.search(rf"^#SBATCH --{key}=", script, re.MULTILINE) is not None
