"""`hydra/sweeper=optuna`: Hydra plugin that makes one job for each trial of a search, all at once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.rundir.run_names import Naming
from psychocounsel.rundir.sweep_folder import Place, SweepFolder
from psychocounsel.search.best_trial import mark_best
from psychocounsel.search.search_space import SWEEPER, Search, read_search
from psychocounsel.search.trial_journal import journal_of, require_optuna


class SearchSweeper(Sweeper):
    """Sweeper whose jobs get their values when they start, so no process has to wait; the same command resumes the search."""

    __module__ = "hydra_plugins.psychocounsel"

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader: Any = hydra_context.config_loader
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        require_optuna()
        if self.launcher.rows != [[]]:
            raise UserError(f"sweep=NAME: lists values, but {SWEEPER} proposes them: use one of the two")
        search = read_search(arguments, self.options, self.loader)
        folder = SweepFolder(self.launcher.sweep)
        corners = self.checked(search, folder)
        if "algo" not in corners[0].config:
            raise UserError(f"{SWEEPER}: only training can be searched; use python -m psychocounsel.train")
        jobs = self.trials(search.typed_as(corners[0].config), folder)
        for job in jobs:
            job.unused = idle(corners)
            job.overrides = [*search.fixed, *search.typed]
        results = self.launcher.start(jobs)
        if not jobs[0].config.dry_run:
            for line in mark_best(journal_of(jobs[0].run_dir, jobs[0].config), folder.path, search.fixed):
                print(line, flush=True)
        return results

    def checked(self, search: Search, folder: SweepFolder) -> list[Any]:
        """Return jobs for both ends of all intervals and every choice. They are checked, but not started."""
        place = Place(folder, Naming(("trial",)))
        made: list[Any] = self.launcher.make_all([(0, corner, place) for corner in search.corners()])
        return made

    def trials(self, search: Search, folder: SweepFolder) -> list[Any]:
        made: list[Any] = self.launcher.make_all(
            [
                (
                    number,
                    [*search.fixed, *search.placeholders],
                    Place(folder, search.naming(number)),
                    partial(search.open_trial, trial=number),
                )
                for number in range(search.trials)
            ]
        )
        return made


def idle(corners: Sequence[Any]) -> dict[str, str]:
    """Return the typed overrides that have no effect with any of the values, each with the reason."""
    return {text: why for text, why in corners[0].unused.items() if all(text in each.unused for each in corners)}
