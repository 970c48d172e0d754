"""Memory of a run: an estimate without torch, settings that would fit, and the check when a run starts."""

from psychocounsel.cluster.memory.cpu_memory import cpu_memory_line
from psychocounsel.cluster.memory.fitting import advice, choose
from psychocounsel.cluster.memory.gpu_memory import MemoryEstimate, estimate, trained_parameters, trained_shape
from psychocounsel.cluster.memory.memory_line import memory_line
from psychocounsel.cluster.memory.zero_memory import bucket_memory, model_states

__all__ = [
    "MemoryEstimate",
    "advice",
    "bucket_memory",
    "choose",
    "cpu_memory_line",
    "estimate",
    "memory_line",
    "model_states",
    "trained_parameters",
    "trained_shape",
]
