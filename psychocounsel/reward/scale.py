"""Scale of rewards: the model's own, or mean 0 and standard deviation 1 on its held-out data."""

from typing import Any

import numpy as np

from psychocounsel.errors import UserError


class Scale:
    """Converts rewards between the model's own scale and the normalised one.

    With `normalise`, the mean and standard deviation come from the reward model's `config`, loaded from `path`.

    Raises:
        UserError: if `config` lacks them.
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
        """Return the model's rewards, float[n], on this scale, float32[n]."""
        return ((rewards - self.mean) / self.std).astype(np.float32)

    def undo(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of this scale on the model's own scale."""
        return rewards * self.std + self.mean
