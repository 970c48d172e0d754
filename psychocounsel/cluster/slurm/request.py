"""Request of `cluster=slurm` to SLURM: the keys of the `cluster` group with their checks; times and sizes in SLURM's form."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import SECRET_FORMS, VARIABLE
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import expanded, with_noun

# Times and sizes as people and SLURM write them.

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FORMS = "24h, 90m, 2d, 1-12:00:00 or 24:00:00"


def seconds_of(value: Any, key: str) -> int:
    """Return the seconds of a time limit: 24h, 90m, 1-12:00:00, 24:00:00.

    Raises:
        UserError: for any other text, and for a plain integer: YAML reads 24:00:00 without quotes as 86400, which sbatch would
            take for minutes.
    """
    text = str(value).strip()
    if isinstance(value, int) or text.isdigit():
        raise UserError(
            f"{key}={text}: a number without a unit (YAML also reads 24:00:00 as a number); write {_FORMS}, in YAML in quotes"
        )
    if parts := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text):
        return _positive(round(float(parts[1]) * _SECONDS[parts[2]]), text, key)
    if parts := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        if minutes < 60 and seconds < 60 and not (parts[1] and hours > 23):
            return _positive(days * 86400 + hours * 3600 + minutes * 60 + seconds, text, key)
    raise UserError(f"{key}={text}: is not a time; write {_FORMS}")


def _positive(seconds: int, text: str, key: str) -> int:
    if seconds < 60:
        raise UserError(f"{key}={text}: SLURM counts in minutes; give at least one")
    return seconds


def slurm_time(seconds: int) -> str:
    """Return D-HH:MM:SS, for sbatch."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def parse_slurm_time(text: str) -> float:
    """Return the seconds of a time printed by squeue or scontrol ([D-][HH:]MM:SS); inf for UNLIMITED."""
    if text.upper() in ("UNLIMITED", "INFINITE", "N/A", "NONE", ""):
        return float("inf")
    days, _, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return int(days or 0) * 86400 + total


def megabytes_of(value: Any, key: str) -> int:
    """Return the mebibytes of a memory size: 64G, 64000M, 1T; 0 means all memory of a node.

    Raises:
        UserError: for any other text.
    """
    text = str(value).strip()
    if text == "0":
        return 0
    parts = re.fullmatch(r"(\d+)\s*([KMGT])(?:i?B)?", text, re.IGNORECASE)
    if not parts:
        raise UserError(f"{key}={text}: is not a size; write 64G, 64000M, or 0 for all of a node's memory")
    return max(1, int(parts[1]) * {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}[parts[2].upper()] // 1024)


# Container for a job's processes: run by Apptainer or Singularity, or by Pyxis, NVIDIA's plugin for srun.

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
        if is_file and not expanded(image).exists():
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


# Secrets are refused in the batch script, because it is stored in the run directory, and SLURM shows it to others.
#
# A secret is recognised by the name that it is assigned to (`HF_TOKEN=...`, `--api-key ...`), or by its form (`hf_...`).
# References to a secret (`$HF_TOKEN`, `$(cat FILE)`, `HF_TOKEN_PATH`) are allowed.

_NAME = re.compile(
    r"token(?!s(?:_|$)|i[sz])|secret|passw|credential|(?:api|access|private|auth)_?key|(?:^|_)(?:key|pat|pass|pwd)s?$",
    re.IGNORECASE,
)
_WHERE_IT_IS = re.compile(r"_(?:path|file|dir)$", re.IGNORECASE)
_VALUE = r"""("[^"]*"|'[^']*'|[^\s;&|]+)"""
_ASSIGNED = re.compile(rf"(?<![\w$])([A-Za-z_]\w*)=(?={_VALUE})")  # also inside a value: --env=HF_TOKEN=...
_OPTION = re.compile(rf"(?<!\S)--?([A-Za-z][\w-]*)(?:=|\s+){_VALUE}")
_LOGIN = re.compile(r"\blogin\s+(?:--?\w+\s+)*[A-Za-z0-9_-]{20,}")


def refuse_secret_names(names: Iterable[Any]) -> None:
    """Refuse names of `cluster.environment` that look like secrets or are not valid variable names.

    Raises:
        UserError: naming the first one, and the alternative.
    """
    for name in map(str, names):
        if not VARIABLE.fullmatch(name):
            raise UserError(f"cluster.environment: {name!r} is not the name of a variable")
        if _is_secret(name):
            raise UserError(_refusal(f"cluster.environment.{name}", name))


def refuse_secrets(text: str, key: str) -> None:
    """Refuse a text of the batch script that contains a secret; the message does not quote it.

    Raises:
        UserError: naming the key, and the alternative.
    """
    for name, value in [*_ASSIGNED.findall(text), *_OPTION.findall(text)]:
        if _is_secret(name.replace("-", "_")) and not re.match(r"""["']?[$`]|["']{2}|-""", value):
            raise UserError(_refusal(key, name))
    if SECRET_FORMS.search(text) or _LOGIN.search(text):
        raise UserError(_refusal(key, "what looks like a token"))


def texts(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Return every text of nested settings with its key; the arguments of one command are one text."""
    keyed = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            keyed += texts(value, key)
        elif isinstance(value, list) and name in ("setup", "modules"):
            keyed += [(f"{key}[{index}]", str(item)) for index, item in enumerate(value)]
        elif isinstance(value, list):
            keyed.append((key, " ".join(map(str, value))))
        elif isinstance(value, str):
            keyed.append((key, value))
    return keyed


def _is_secret(name: str) -> bool:
    return bool(_NAME.search(name)) and not _WHERE_IT_IS.search(name)


def _refusal(key: str, what: str) -> str:
    variable = what if VARIABLE.fullmatch(what) else "HF_TOKEN"
    return (
        f"{key}: a secret ({what}) would be in the batch script, which others can read: export it in the submitting shell, "
        f"whose environment jobs inherit, or read it from your own file by "
        f"""'cluster.setup=["export {variable}=$(cat FILE)"]'"""
    )


# The keys of `cluster=slurm`.

# Options that have their own key or that submission depends on; cluster.sbatch must not override them.
_OURS = {
    "array": "submission sets it",
    "dependency": "use after=[RUN]",
    "output": "logs are in the run directory",
    "error": "logs are in the run directory",
    "open-mode": "logs are in the run directory",
    "signal": "use cluster.stop_before_limit",
    "requeue": "use cluster.requeue",
    "no-requeue": "use cluster.requeue",
    "ntasks": "use cluster.processes",
    "ntasks-per-node": "use cluster.processes",
    "cpus-per-task": "use cluster.cpus_per_process",
    "gres": "use cluster.gpus_per_node and cluster.gpu_type",
    "gpus-per-node": "use cluster.gpus_per_node and cluster.gpu_type",
    "gpus": "use cluster.gpu_request=gpus",
    "gpus-per-task": "use cluster.gpu_request=gpus_per_task",
    "mem": "use cluster.memory",
    "mem-per-gpu": "use cluster.memory and cluster.memory_per=gpu",
    "mem-per-cpu": "use cluster.memory and cluster.memory_per=cpu",
    "wrap": "psychocounsel writes the script",
    "export": "use cluster.environment",
}
_OUR_VARIABLES = {  # in cluster.environment they would replace those of the batch script
    "PYTHONPATH": "jobs run a copy of the code; for classes of your own give --config-dir=FOLDER, which jobs import from",
    "PSYCHOCOUNSEL_CODE": "submission sets it",
    "PSYCHOCOUNSEL_DEVICE": "use cluster.device",
}
_LONGEST_WARNING = 65535  # seconds; the largest of --signal
Plain = str | int | float | bool | None
_NAMED = ("account", "partition", "qos", "nodes", "time", "constraint", "exclude", "reservation", "exclusive")


@dataclass
class Servers:
    """Servers on the additional nodes of `cluster.server_nodes`."""

    command: list[str] = option([])  # {port} is replaced by the port to listen on
    health: str = "/health"  # URL path that answers with 200 when the server is ready
    start_minutes: float = option(20.0, above=0, at_most=1_000_000)
    per_node: int = option(1, at_least=1)  # they share the node's GPUs and CPUs evenly


@dataclass
class SlurmRequest:
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    nodes: int = option(1, at_least=1)
    gpus_per_node: int = option(1, at_least=0)
    gpu_type: str | None = None
    gpu_request: str = option("gres", choices=("gres", "gpus_per_node", "gpus", "gpus_per_task"))
    gpu_memory_gb: float | None = option(None, above=0)
    processes: int | None = option(None, at_least=1)
    cpus_per_process: int = option(4, at_least=1)
    threads: int | None = option(None, at_least=1)
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    memory: Any = None
    memory_per: str = option("node", choices=("node", "gpu", "cpu"))
    time: Any = "24h"
    exclusive: bool = False
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    mail_user: str | None = None
    mail_type: str = "FAIL,END"
    modules: list[str] = option([])
    setup: list[str] = option([])
    environment: dict[str, Plain] = option({})
    sbatch: dict[str, Plain] = option({})
    srun: list[str] = option([])
    container: Container = field(default_factory=Container)
    python: str | None = None
    max_parallel: int | None = option(None, at_least=1)
    requeue: bool = True
    max_requeues: int = option(20, at_least=0)
    stop_before_limit: Any = "5m"
    segments: int = option(1, at_least=1)
    runs_per_job: int | None = option(None, at_least=1)
    runs_side_by_side: int = option(1, at_least=1)
    server_nodes: int = option(0, at_least=0)
    servers: Servers = field(default_factory=Servers)
    snapshot_limit_mb: int = option(200, at_least=1)
    internet: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.container, dict):  # from a run's config.yaml, which has no types
            self.container = Container(**self.container)
        if isinstance(self.servers, dict):
            self.servers = Servers(**self.servers)

    @property
    def seconds(self) -> int:
        return seconds_of(self.time, "cluster.time")

    @property
    def stop_seconds(self) -> int:
        return seconds_of(self.stop_before_limit, "cluster.stop_before_limit")

    @property
    def group(self) -> int:
        """Number of runs of one job, one after another or side by side."""
        return self.runs_per_job or self.runs_side_by_side

    @property
    def processes_per_node(self) -> int:
        """Number of processes of one run on each node."""
        return self.process_count() // self.nodes

    @property
    def tasks_per_node(self) -> int:
        """Number of processes of a job on each node, over all its runs side by side."""
        return self.processes_per_node * self.runs_side_by_side

    @property
    def cpus_per_node(self) -> int:
        return self.tasks_per_node * self.cpus_per_process

    @property
    def node_megabytes(self) -> int:
        """Requested host memory per node, in mebibytes; 0 if it is not known."""
        shares = {"node": 1, "gpu": self.gpus_per_node, "cpu": self.cpus_per_node}
        return 0 if self.memory is None else megabytes_of(self.memory, "cluster.memory") * shares[self.memory_per]

    @property
    def server_count(self) -> int:
        return self.server_nodes * self.servers.per_node

    @property
    def cpus_per_server(self) -> int:
        return self.processes_per_node * self.cpus_per_process // self.servers.per_node

    def gpus(self) -> int:
        """Return the number of GPUs that a run trains on, over all its nodes."""
        return 0 if self.device == "cpu" else self.nodes * self.gpus_per_node // self.runs_side_by_side

    def first_node(self, processes: int) -> tuple[int, int]:
        return processes // self.nodes, self.gpus() // self.nodes

    def process_count(self) -> int:
        return self.processes or max(self.nodes, self.gpus())

    def host_memory(self) -> float | None:
        return self.node_megabytes * 2**20 / self.runs_side_by_side or None

    def check(self) -> None:
        """Refuse settings that cannot work, before anything is written.

        Raises:
            UserError: naming the key and what to type instead.
        """
        self._check_processes()
        if self.seconds <= self.stop_seconds:
            raise UserError(
                f"cluster.time={self.time} leaves no time before cluster.stop_before_limit={self.stop_before_limit}"
            )
        if self.stop_seconds > _LONGEST_WARNING:
            raise UserError(
                f"cluster.stop_before_limit={self.stop_before_limit}: SLURM warns at most 18h before the limit"
            )
        if not self.node_megabytes and self.memory_per != "node":
            needs = "a GPU and " if self.memory_per == "gpu" and not self.gpus_per_node else ""
            raise UserError(f"cluster.memory_per={self.memory_per} needs {needs}cluster.memory=SIZE")
        if self.segments > 1 and self.requeue:
            raise UserError(
                f"cluster.segments={self.segments} is for sites that forbid requeueing: add cluster.requeue=false"
            )
        for key in (str(name).lstrip("-") for name in self.sbatch):
            if key in _OURS or key in _NAMED:
                raise UserError(f"cluster.sbatch.{key}: {_OURS.get(key, f'use cluster.{key}')}")
        for name, value in self.environment.items():
            if name in _OUR_VARIABLES:
                raise UserError(f"cluster.environment.{name}: {_OUR_VARIABLES[name]}")
            if value is None:
                raise UserError(
                    f"cluster.environment.{name}=null: give it a value ('' for an empty one), or leave it out"
                )
        refuse_secret_names(self.environment)
        for key, text in texts(asdict(self), "cluster"):
            refuse_secrets(text, key)
        self.container.check()
        self._check_servers()
        self._check_sharing()

    def _check_servers(self) -> None:
        if self.server_nodes and not self.servers.command:
            raise UserError("cluster.server_nodes needs a command: add cluster.servers.command=[PROGRAM,...]")
        if self.server_nodes and self.group > 1:
            raise UserError("the servers of cluster.server_nodes serve a single run: use cluster.runs_per_job=1")
        per_node = self.servers.per_node
        if self.server_nodes and per_node > 1 and self.device != "cpu" and self.gpus_per_node < per_node:
            raise UserError(
                f"cluster.servers.per_node={per_node} is more than cluster.gpus_per_node={self.gpus_per_node}: "
                "a server needs a GPU"
            )
        if self.server_nodes and not self.cpus_per_server:
            raise UserError(
                f"cluster.servers.per_node={per_node} servers need a CPU each, but the job has "
                f"{self.processes_per_node * self.cpus_per_process} on a node: raise cluster.cpus_per_process"
            )

    def _check_sharing(self) -> None:
        """Refuse options of sbatch that srun cannot divide among runs side by side, or between training and servers."""
        divided = self.runs_side_by_side > 1 or self.server_nodes
        if divided and self.gpus_per_node and self.gpu_request in ("gpus", "gpus_per_task"):
            raise UserError(
                f"cluster.gpu_request={self.gpu_request}: runs side by side and server nodes need gres or gpus_per_node"
            )
        if divided and self.memory_per != "node":
            raise UserError(
                f"cluster.memory_per={self.memory_per}: runs side by side and server nodes need the memory per node"
            )
        if self.gpu_request == "gpus_per_task" and self.tasks_per_node not in (1, self.gpus_per_node):
            raise UserError(
                "cluster.gpu_request=gpus_per_task gives each process its own GPU: type "
                f"cluster.gpus_per_node={self.tasks_per_node}, one for each of the {self.tasks_per_node} processes on a node"
            )

    def _check_processes(self) -> None:
        if self.device == "cuda" and not self.gpus_per_node:
            raise UserError("cluster.device=cuda needs cluster.gpus_per_node=1 or more")
        beside = self.runs_side_by_side
        if beside > 1 and (self.nodes > 1 or self.server_nodes):
            raise UserError(
                f"cluster.runs_side_by_side={beside} share one node: use cluster.nodes=1 without server nodes"
            )
        if beside > 1 and self.gpus_per_node % beside:
            raise UserError(
                f"cluster.runs_side_by_side={beside} must divide cluster.gpus_per_node={self.gpus_per_node}"
            )
        if self.group < beside:
            raise UserError(f"cluster.runs_per_job={self.group} is less than cluster.runs_side_by_side={beside}")
        if self.process_count() % self.nodes:
            raise UserError(f"cluster.processes={self.processes} must be a multiple of cluster.nodes={self.nodes}")
        if self.gpus() and self.process_count() > self.gpus():
            raise UserError(
                f"cluster.processes={self.processes}: a run has {with_noun(self.gpus(), 'GPU')}, and each takes one process"
            )
