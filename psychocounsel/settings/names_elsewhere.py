"""Our keys under the names that other trainers and habit give them, so that a mistyped option is answered with ours.

The names are options of TRL, OpenRLHF, LLaMA-Factory and axolotl.
"""

import difflib

# Our key: its names elsewhere. A name that several keys have means the first of them that the command has.
_NAMES = {
    "global_batch_size": "batch batch_size bs train_batch_size per_device_train_batch_size per_gpu_train_batch_size",
    "micro_batch_tokens": "micro_batch_size micro_train_batch_size gradient_accumulation_steps gradient_accumulation",
    "algo.lr": "lr learning_rate actor_learning_rate",
    "algo.critic_lr": "critic_learning_rate",
    "algo.schedule": "lr_scheduler_type lr_scheduler scheduler",
    "algo.warmup": "warmup_ratio warmup_steps lr_warmup_ratio num_warmup_steps",
    "algo.weight_decay": "l2 wd",
    "algo.max_grad_norm": "max_norm gradient_clipping grad_clip clip_grad",
    "algo.beta": "dpo_beta pref_beta",
    "algo.loss_type": "loss pref_loss dpo_loss",
    "algo.sft_weight": "nll_loss_coef rpo_alpha pref_ftx",
    "algo.kl_weight": "init_kl_coef kl_coef kl_loss_coef beta_kl",
    "algo.samples": "num_generations n_samples_per_prompt rloo_k num_return_sequences",
    "algo.clip": "eps_clip cliprange epsilon",
    "epochs": "epoch num_epochs num_train_epochs max_epochs n_epochs total_epochs",
    "max_steps": "steps num_steps train_steps max_train_steps total_steps",
    "cluster.gpus_per_node": "gpus num_gpus n_gpus ngpus devices nproc_per_node num_processes actor_num_gpus_per_node",
    "cluster.processes": "gpus num_gpus n_gpus ngpus devices nproc_per_node num_processes actor_num_gpus_per_node",
    "cluster.nodes": "nnodes num_nodes actor_num_nodes",
    "model.path": "model_name model_name_or_path pretrain pretrained base_model ref_pretrain",
    "model.lora.rank": "lora lora_r lora_rank use_lora peft use_peft adapter finetuning_type",
    "model.lora.alpha": "lora_alpha",
    "model.lora.dropout": "lora_dropout",
    "model.lora.targets": "lora_target lora_target_modules target_modules",
    "model.quantise": "load_in_4bit load_in_8bit quantization quantization_bit qlora",
    "model.dtype": "bf16 fp16 torch_dtype precision mixed_precision",
    "model.attention": "attn_implementation attn flash_attn flash_attention",
    "model.kernels": "use_liger_kernel enable_liger_kernel liger",
    "model.gradient_checkpointing": "gradient_checkpointing_enable activation_checkpointing",
    "model.chat_template": "template chat_template_file",
    "reward.path": "reward_model reward_model_path reward_model_name_or_path reward_pretrain",
    "data.path": "dataset datasets dataset_name dataset_dir data_path prompt_data train_file",
    "data.split": "dataset_train_split prompt_split",
    "data.eval_path": "eval_dataset eval_file test_file validation_file",
    "data.dev_fraction": "val_size val_set_size test_size eval_fraction",
    "data.limit": "max_samples max_train_samples",
    "max_length": "cutoff_len sequence_len max_len max_seq_length max_seq_len",
    "max_prompt_length": "prompt_max_len",
    "rollout.max_tokens": "max_new_tokens generate_max_len max_completion_length response_length",
    "replies.max_tokens": "max_new_tokens generate_max_len max_completion_length response_length",
    "rollout": "use_vllm vllm vllm_mode",
    "zero": "deepspeed zero_stage fsdp",
    "tracker": "report_to wandb use_wandb logger",
    "eval.every": "eval_steps eval_interval evaluation_strategy eval_strategy",
    "checkpoint.every": "save_steps save_interval save_freq saves_per_epoch",
    "checkpoint.keep_last": "save_total_limit max_ckpt_num",
    "checkpoint.patience": "early_stopping_patience patience",
    "run_dir": "output_dir out_dir output save_path ckpt_path",
    "judge.model": "judge_model",
}
# A choice of a group that is something else here: what to type.
_CHOICES = {
    **dict.fromkeys(
        ("algo=lora", "algo=peft"),
        "model.lora.rank=16, which trains an adapter with any algorithm, for instance algo=dpo",
    ),
    "algo=qlora": "model.lora.rank=16 model.quantise=nf4, with any algorithm, for instance algo=dpo",
    **dict.fromkeys(("algo=rm", "algo=reward_model", "algo=rw"), "algo=reward"),
    "algo=rlhf": "algo=ppo",
    **dict.fromkeys(("algo=ipo", "algo=hinge"), "algo=dpo algo.loss_type=ipo, robust or hinge"),
    "rollout=sglang": "rollout=vllm",
}

_LONG = 10  # letters of a name in which one slip cannot make another word


def our_names(key: str) -> list[str]:
    """Return our keys for an option `--some-name` or a key of another trainer, the likeliest first; none if it is unknown.

    A part before a dot does not count: `algo.learning_rate` and `training.learning_rate` are both `algo.lr`. Nor does a slip of
    the pen in a long name: `lerning_rate`.
    """
    name = key.lstrip("-").replace("-", "_").lower().rpartition(".")[2]
    known = {other for names in _NAMES.values() for other in names.split()}
    if name not in known and len(name) >= _LONG:
        name = next(iter(difflib.get_close_matches(name, known, 1, 0.9)), name)
    return [ours for ours, names in _NAMES.items() if name in names.split()]


def our_choice(choice: str) -> str | None:
    """Return what to type instead of a choice such as `algo=lora`; None if nothing is known."""
    return _CHOICES.get(choice)
