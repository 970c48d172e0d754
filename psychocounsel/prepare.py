"""`python -m psychocounsel.prepare`: fetches the models and data of jobs on a login node, and checks the data.

Use `--config-name evaluate` for the jobs of an evaluation, `--config-name annotate` for those of an annotation; the default is
training.
"""

if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main
    from psychocounsel.cluster.preparing import prepare

    main("psychocounsel.train", "train", prepare)
