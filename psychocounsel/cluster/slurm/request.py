"""Request of `cluster=slurm` to SLURM: the keys of the `cluster` group, with their checks."""

from dataclasses import asdict, dataclass, field
from typing import Any

from psychocounsel.cluster.slurm.container import Container
from psychocounsel.cluster.slurm.disclosure import refuse_secret_names, refuse_secrets, texts
from psychocounsel.cluster.slurm.units import megabytes_of, seconds_of
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

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
    "wrap": "psychocounsel writes the script",
    "export": "use cluster.environment",
}
_NAMED = ("account", "partition", "qos", "nodes", "time", "constraint", "exclude", "reservation", "exclusive")


@dataclass
class Servers:
    """Servers on the additional nodes of `cluster.server_nodes`."""

    command: list[str] = option([])  # {port} is replaced by the port to listen on
    health: str = "/health"  # URL path that answers with 200 when the server is ready
    start_minutes: float = option(20.0, above=0)
    per_node: int = option(1, at_least=1)  # they share the node's GPUs and CPUs evenly


@dataclass
class SlurmRequest:
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    nodes: int = option(1, at_least=1)
    gpus_per_node: int = option(1, at_least=0)
    gpu_type: str | None = None
    gpu_request: str = option("gres", choices=("gres", "gpus_per_node"))
    gpu_memory_gb: float | None = option(None, above=0)
    processes: int | None = option(None, at_least=1)
    cpus_per_process: int = option(4, at_least=1)
    threads: int | None = option(None, at_least=1)
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    memory: Any = None
    time: Any = "24h"
    exclusive: bool = False
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    mail_user: str | None = None
    mail_type: str = "FAIL,END"
    modules: list[str] = option([])
    setup: list[str] = option([])
    environment: dict[str, Any] = option({})
    sbatch: dict[str, Any] = option({})
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
        if self.memory is not None:
            megabytes_of(self.memory, "cluster.memory")
        if self.segments > 1 and self.requeue:
            raise UserError(
                f"cluster.segments={self.segments} is for sites that forbid requeueing: add cluster.requeue=false"
            )
        for key in (str(name).lstrip("-") for name in self.sbatch):
            if key in _OURS or key in _NAMED:
                raise UserError(f"cluster.sbatch.{key}: {_OURS.get(key, f'use cluster.{key}')}")
        refuse_secret_names(self.environment, "cluster.environment")
        for key, text in texts(asdict(self), "cluster"):
            refuse_secrets(text, key)
        self.container.check()
        self._check_servers()

    def _check_servers(self) -> None:
        if self.server_nodes and not self.servers.command:
            raise UserError("cluster.server_nodes needs a command: add cluster.servers.command=[PROGRAM,...]")
        if self.server_nodes and self.group > 1:
            raise UserError("the servers of cluster.server_nodes serve a single run: use cluster.runs_per_job=1")
        each = self.servers.per_node
        if self.server_nodes and each > 1 and self.device != "cpu" and self.gpus_per_node < each:
            raise UserError(
                f"cluster.servers.per_node={each} is more than cluster.gpus_per_node={self.gpus_per_node}: a server needs a GPU"
            )
        if self.server_nodes and not self.cpus_per_server:
            raise UserError(
                f"cluster.servers.per_node={each} servers need a CPU each, but the job has "
                f"{self.processes_per_node * self.cpus_per_process} on a node: raise cluster.cpus_per_process"
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
                f"cluster.processes={self.processes}: a run has {self.gpus()} GPUs, and each takes one process"
            )
