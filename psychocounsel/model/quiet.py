"""Warnings and log messages of libraries."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence warnings and log messages of libraries; psychocounsel prints the messages that users need.

    Transformers is also kept from importing scikit-learn (0.7 s) and scipy.optimize (0.15 s), because only assisted
    generation and losses of object detection use them.
    """
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    for name in ("is_sklearn_available", "is_scipy_available"):
        setattr(transformers.utils, name, lambda: False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
