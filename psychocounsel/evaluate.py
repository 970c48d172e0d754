"""`python -m psychocounsel.evaluate`: accuracy, AUC, calibration and Brier score of a reward model on held-out pairs."""

from typing import TYPE_CHECKING

from psychocounsel.app import main

if TYPE_CHECKING:
    from psychocounsel.engine.run import Run


def work(run: "Run") -> int:
    """What a worker process does in the run directory; returns its exit code."""
    from psychocounsel.engine.distributed import World
    from psychocounsel.engine.progress import quiet_libraries
    from psychocounsel.errors import DONE
    from psychocounsel.evaluation.reward_evaluation import evaluate_reward
    from psychocounsel.hub import set_cache_directories

    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    run.write_state("evaluating", 0, None)
    evaluate_reward(run.config, run.dir, World(run.rank, run.processes), run.say)
    return DONE


if __name__ == "__main__":
    main("psychocounsel.evaluate", "evaluate")
