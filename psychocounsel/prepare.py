"""`python -m psychocounsel.prepare`: fetch on a login node what jobs need, and check their data as they will.

With `--config-name evaluate` for an evaluation's jobs, with `--config-name annotate` for an annotation's, else for those of a
training.
"""

if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main
    from psychocounsel.cluster.preparing import prepare

    main("psychocounsel.train", "train", prepare)
