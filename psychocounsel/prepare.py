"""`python -m psychocounsel.prepare`: fetches the models and data of jobs on a login node, and checks the data.

Use `--config-name evaluate` for the jobs of an evaluation, `--config-name annotate` for those of an annotation; the default is
training.
"""

if __name__ == "__main__":
    from psychocounsel.cluster.preparing import prepare
    from psychocounsel.commands.application import main

    main("psychocounsel.train", prepare)
