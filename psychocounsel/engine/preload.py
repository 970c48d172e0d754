"""Imported once by the process that ranks on CPU are forked from: what every one of them would import."""

import gc
import os
import signal

from psychocounsel.engine.telemetry.progress import quiet_libraries

# A session of its own: Ctrl-C reaches the ranks once, as the request that the launcher passes on.
os.setsid()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
quiet_libraries()

import deepspeed.module_inject  # noqa: E402, F401
import transformers.modeling_utils  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402, F401

import psychocounsel.engine.run_training  # noqa: E402, F401

gc.freeze()  # ranks need not look through what will live anyway, nor copy its pages to mark it
