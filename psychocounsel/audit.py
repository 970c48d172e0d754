"""`python -m psychocounsel.audit`: measures how well preference labels can be predicted without reading the client."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.evaluation.audit.reading import Score
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """Run a worker of `audit` in the run directory; returns its exit code. Imports torch only for a reward model."""
    from psychocounsel.engine.telemetry.progress import Progress
    from psychocounsel.errors import DONE
    from psychocounsel.evaluation.audit.auditing import audit
    from psychocounsel.remote.hub import set_cache_directories

    set_cache_directories(run.config.paths.cache)
    run.write_state("auditing", 0, None)
    bar = Progress(run.is_main).bar
    if "reward" in run.config:
        return audit(run.config, run.dir, run.say, bar, _score(run, bar), run.is_main)
    return audit(run.config, run.dir, run.say, bar, None) if run.is_main else DONE


def _score(run: "Run", bar: Any) -> "Score":
    """Return a function that scores conversations with the reward model: each rank scores its share and receives all scores."""
    import numpy as np

    from psychocounsel.distributed.world import World
    from psychocounsel.engine.telemetry.progress import quiet_libraries
    from psychocounsel.model.cpu import prepare_process
    from psychocounsel.reward.base import open_scorer
    from psychocounsel.reward.encoding import score_what_fits
    from psychocounsel.settings.config import build

    quiet_libraries()
    world = World(run.rank, run.processes)
    if world.device.type == "cpu":
        prepare_process()
    scorer = open_scorer(build(run.config, "reward"), world.device)

    def score(conversations: list[Any]) -> "np.ndarray":
        scores = np.empty(len(conversations), np.float32)
        own = score_what_fits(scorer, conversations[world.rank :: world.size], lambda steps: bar(steps, "scoring"))
        for rank, share in enumerate(world.gather(own)):
            scores[rank :: world.size] = share
        return scores

    return score


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main
    from psychocounsel.reporting.terminal.sweep_ending import show_sweep

    main("psychocounsel.audit", "audit", ended=show_sweep)
