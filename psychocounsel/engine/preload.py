"""Module imported once in the process that CPU ranks are forked from: it loads everything that each rank would import."""

import os
import signal

from psychocounsel.model.quiet import quiet_libraries

# A process group of its own: Ctrl-C reaches the ranks only as the stop request that the launcher forwards.
os.setsid()
_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # discards a Ctrl-C from before
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
signal.signal(signal.SIGINT, _interrupt)
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
quiet_libraries()

import deepspeed.module_inject  # noqa: E402, F401
import transformers.modeling_utils  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402, F401

import psychocounsel.engine.trainer  # noqa: E402, F401
