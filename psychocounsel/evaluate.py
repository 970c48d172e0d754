"""`python -m psychocounsel.evaluate`: accuracy, AUC, calibration and Brier score of a reward model on held-out pairs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """What a worker process does in the run directory; returns its exit code."""
    from psychocounsel.distributed.world import World
    from psychocounsel.engine.telemetry.progress import Progress, quiet_libraries
    from psychocounsel.errors import DONE
    from psychocounsel.evaluation.reward.reward_evaluation import evaluate_reward
    from psychocounsel.model.cpu import prepare_process
    from psychocounsel.remote.hub import set_cache_directories

    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    run.write_state("evaluating", 0, None)
    world = World(run.rank, run.processes)
    if world.device.type == "cpu":
        prepare_process()
    evaluate_reward(run.config, run.dir, world, run.say, Progress(run.is_main).bar)
    return DONE


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main

    main("psychocounsel.evaluate", "evaluate")
