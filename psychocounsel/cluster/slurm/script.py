"""Batch script of a submission, rendered from `slurm/job.sbatch.j2`."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from psychocounsel.cluster.archive import SYNC_SECONDS
from psychocounsel.cluster.slurm.request import SlurmRequest, megabytes_of, quoted, slurm_time
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.storage.files import shipped

_OF_SCRIPT = (
    "HF_HUB_OFFLINE",
    "PYTHONUNBUFFERED",
    "NCCL_DEBUG",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
)  # exported by the template


def render(
    cluster: SlurmRequest,
    name: str,
    folder: Path,
    tasks: int,
    code: Sequence[Path],
    binds: Sequence[str],
    dependency: str = "",
    syncs: bool = False,
) -> str:
    """Return the script for `tasks` array indices (1: no array), whose submission directory is `folder`.

    `syncs`: its last step is the upload of `tracker.sync`.

    Raises:
        UserError: if a name or path, for instance of an older run directory, contains a newline.
    """
    lines = {"the run's name": name, "its folder": str(folder), "paths": [*binds, *map(str, code)], "after": dependency}
    for key, value in lines.items():
        refuse_control_characters(value, key)
    environment = _environment(cluster, code)
    inside = cluster.container.of_srun(binds, [*environment, *_OF_SCRIPT]) if cluster.container.is_pyxis else []
    return _template().render(
        directives=[*directives(cluster, name, folder, tasks, dependency)],
        modules=[shlex.quote(module) for module in cluster.modules],
        setup=cluster.setup,
        environment={name: shlex.quote(value) for name, value in environment.items()},
        python=_python(cluster, binds),
        worker=cluster.container.python if inside else "",
        container=quoted(inside),
        copies=quoted(map(str, code)),
        submission=shlex.quote(str(folder)),
        srun=quoted([*_srun(cluster), *inside]),
        beside=cluster.runs_side_by_side,
        server_nodes=cluster.server_nodes,
        servers=cluster.server_count,
        servers_per_node=cluster.servers.per_node,
        cpus_per_server=cluster.cpus_per_server,
        sync=min(SYNC_SECONDS, cluster.stop_seconds) if syncs else 0,
        requeue=cluster.requeue,
        max_requeues=cluster.max_requeues,
        continue_later=CONTINUE_LATER,
    )


def _template() -> Template:
    templates = Environment(
        loader=FileSystemLoader(shipped("slurm")),
        undefined=StrictUndefined,
        comment_start_string="{##",  # the default would match bash's ${#array[@]}
        comment_end_string="##}",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("job.sbatch.j2")


def directives(cluster: SlurmRequest, name: str, folder: Path, tasks: int, dependency: str = "") -> list[str]:
    """Return the #SBATCH lines."""
    log = "slurm-%A_%a.out" if tasks > 1 else "slurm-%j.out"
    output = f"{str(folder).replace('%', '%%')}/{log}"
    lines = [f"--job-name={_quoted(name)}", f"--output={_quoted(output)}", "--open-mode=append"]
    if tasks > 1:
        throttle = f"%{cluster.max_parallel}" if cluster.max_parallel else ""
        lines.append(f"--array=0-{tasks - 1}{throttle}")
    named = ("account", "partition", "qos", "constraint", "exclude", "reservation")
    lines += [f"--{key}={_quoted(value)}" for key in named if (value := getattr(cluster, key))]
    lines += [
        f"--time={slurm_time(cluster.seconds)}",
        f"--nodes={cluster.nodes + cluster.server_nodes}",
        f"--ntasks-per-node={cluster.tasks_per_node}",
        f"--cpus-per-task={cluster.cpus_per_process}",
        *_gpus(cluster),
    ]
    if cluster.memory is not None:
        option = "--mem" if cluster.memory_per == "node" else f"--mem-per-{cluster.memory_per}"
        megabytes = megabytes_of(cluster.memory, "cluster.memory")
        lines.append(f"{option}={megabytes}M" if megabytes else "--mem=0")
    if cluster.exclusive:
        lines.append("--exclusive")
    if cluster.mail_user:
        types = "".join(cluster.mail_type.split())  # SLURM ignores a type after a blank
        lines += [f"--mail-user={_quoted(cluster.mail_user)}", f"--mail-type={_quoted(types)}"]
    lines += [f"--signal=B:USR1@{cluster.stop_seconds}", "--requeue" if cluster.requeue else "--no-requeue"]
    if dependency:
        lines += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    for key, value in cluster.sbatch.items():
        option = f"--{str(key).lstrip('-')}"
        if value is not False:  # false: without the option
            lines.append(option if value is True or value is None else f"{option}={_quoted(value)}")
    return lines


def _quoted(value: Any) -> str:
    """Return a value in a directive's syntax: quoted if it contains blanks, quotes or the start of a comment."""
    text = str(value)
    if not re.search(r"[\s\\\"'#]", text):
        return text
    return '"' + re.sub(r"([\\\"])", r"\\\1", text) + '"'


def _gpus(cluster: SlurmRequest) -> list[str]:
    if not cluster.gpus_per_node:
        return []
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    count = cluster.gpus_per_node
    options = {
        "gres": ("--gres=gpu:", count),
        "gpus_per_node": ("--gpus-per-node=", count),
        "gpus": ("--gpus=", count * cluster.nodes),
        "gpus_per_task": ("--gpus-per-task=", count // cluster.tasks_per_node),
    }
    option, requested = options[cluster.gpu_request]
    return [f"{option}{kind}{requested}"]


def _srun(cluster: SlurmRequest) -> list[str]:
    """Return the srun arguments of one run."""
    arguments = [
        f"--nodes={cluster.nodes}",
        f"--ntasks={cluster.process_count()}",
        f"--ntasks-per-node={cluster.processes_per_node}",
        f"--cpus-per-task={cluster.cpus_per_process}",
    ]
    if cluster.runs_side_by_side > 1:  # each run gets its own part of the node
        memory = f"{cluster.node_megabytes // cluster.runs_side_by_side}M" if cluster.node_megabytes else "0"
        arguments += ["--exact", f"--mem={memory}"]
        if cluster.gpus_per_node:
            arguments.append(f"--gres=gpu:{cluster.gpus_per_node // cluster.runs_side_by_side}")
    if cluster.server_nodes:
        arguments.append("--relative=0")
    return [*arguments, *cluster.srun]


def _environment(cluster: SlurmRequest, code: Sequence[Path]) -> dict[str, str]:
    own = {
        "PYTHONPATH": ":".join(map(str, code)),
        "PSYCHOCOUNSEL_CODE": str(code[0]),
        "PSYCHOCOUNSEL_DEVICE": "cuda" if cluster.gpus() else "cpu",
        "OMP_NUM_THREADS": str(cluster.threads or cluster.cpus_per_process),
        "OMP_WAIT_POLICY": "passive",
    }
    return own | {str(name): _as_in_yaml(value) for name, value in cluster.environment.items()}


def _as_in_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _python(cluster: SlurmRequest, binds: Sequence[str]) -> str:
    """Return the command that starts Python in the batch script, in a container of Apptainer if one is set."""
    container = cluster.container
    if not container.image or container.is_pyxis:
        return shlex.quote(cluster.python or sys.executable)
    return quoted(container.before_python(binds, cluster.gpus() > 0))
