"""The scale of rewards: as a model gives them, or with mean 0 and standard deviation 1 on its held-out data."""

from typing import Any

import numpy as np

from psychocounsel.errors import UserError


class Scale:
    """`normalise` takes mean and standard deviation from a reward model's `config`, read from `path`.

    Raises:
        UserError: if they are not there.
    """

    def __init__(self, config: Any, path: str, normalise: bool) -> None:
        self.mean, self.std = 0.0, 1.0
        if not normalise:
            return
        mean, std = (getattr(config, name, None) for name in ("mean", "std"))
        if mean is None or not std:
            raise UserError(f"reward.normalise=true: {path} has no mean and std of rewards in its config.json")
        self.mean, self.std = float(mean), float(std)

    def apply(self, rewards: np.ndarray) -> np.ndarray:
        """float32[n] on this scale of float[n] that the model gave."""
        return ((rewards - self.mean) / self.std).astype(np.float32)

    def undo(self, rewards: np.ndarray) -> np.ndarray:
        """What the model gave."""
        return rewards * self.std + self.mean
