"""Training as the worker runs it: build, resume and run the trainer, then turn its end into an exit code."""

from psychocounsel.engine.telemetry.progress import quiet_libraries
from psychocounsel.engine.trainer import Trainer
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, Guarded, NonFinite, Stopped, Unwritable
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.rundir.run import Run


def train(run: Run) -> int:
    """Train as configured in `run.config`, from the start or the newest checkpoint; return the exit code.

    Raises:
        UserError: if the configuration, data or models cannot be used; `state.json` then says "failed".
    """
    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    trainer = None
    try:
        trainer = Trainer(run)
        trainer.restore()
        trainer.fit()
        trainer.world.close()  # only after a normal end: after another rank's failure, closing could wait for ever
        return DONE
    except Stopped:
        return CONTINUE_LATER
    except Unwritable as error:
        run.give_up(f"error: {error}", trainer.state.step if trainer else 0)
        return CONTINUE_LATER
    except Guarded:
        assert trainer is not None
        trainer.world.close()
        return GATE_NO
    except NonFinite as error:
        assert trainer is not None
        run.say(f"error: {error}")
        trainer.products.summarise("failed", trainer.state)
        return 1
    except BaseException:
        run.write_state("failed", trainer.state.step if trainer else 0, None)
        raise
    finally:
        if trainer:
            trainer.close()
