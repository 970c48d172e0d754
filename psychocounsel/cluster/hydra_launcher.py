"""The Hydra launcher behind `-m`: all combinations are composed and checked before the first one starts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel import config as configs
from psychocounsel.cluster.job import submit
from psychocounsel.errors import UserError


class JobLauncher(Launcher):
    """Makes one job of each combination and hands them all to the cluster in one call."""

    module: ClassVar[str]
    exit_codes: ClassVar[list[int]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.master = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from psychocounsel.app import compose_job

        jobs = []
        sweep = self._sweep_dir()
        for offset, overrides in enumerate(job_overrides):
            composed = self._compose(list(overrides))
            try:
                jobs.append(compose_job(composed, self.module, list(overrides), initial_job_idx + offset, sweep))
            except UserError as error:
                raise UserError(f"combination {' '.join(overrides)}: {error}") from error
        submission = submit(jobs, jobs[0].config)
        self.exit_codes.append(submission.exit_code)
        return [_result(job.overrides, objective) for job, objective in zip(jobs, submission.objectives, strict=True)]

    def _compose(self, overrides: list[str]) -> DictConfig:
        loaded = self.context.config_loader.load_sweep_config(self.master, overrides)
        composed = OmegaConf.create({key: loaded._get_node(key) for key in loaded if key != "hydra"})
        if self.master.run_dir:
            raise UserError("run_dir names one run: with -m give sweep_dir=..., and each job gets a folder in it")
        return composed

    def _sweep_dir(self) -> Path:
        if not self.master.sweep_dir:
            plain = OmegaConf.create({key: self.master._get_node(key) for key in self.master if key != "hydra"})
            with open_dict(self.master):
                self.master.sweep_dir = str(configs.default_directory(plain, "sweep"))
        return Path(os.path.abspath(os.path.expanduser(self.master.sweep_dir)))


def _result(overrides: list[str], objective: Any) -> JobReturn:
    result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    result.return_value = objective
    return result
