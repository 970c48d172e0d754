"""Kernels for GPUs that are compiled at first use: FlexAttention, and Liger's for norms, rotary embeddings and MLPs."""
