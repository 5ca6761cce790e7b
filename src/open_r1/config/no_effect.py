"""Published keys that recipes carry and that change nothing here, and those that are accepted only where they ask for
nothing.

``NO_EFFECT`` is accepted with any value and named once at the start, with the reason. ``NOT_OFFERED`` would change what
is trained; it is accepted with the values listed (the published defaults) and is an error otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _by_name(groups: Mapping[str, str]) -> dict[str, str]:
    """``{reason: "name name …"}`` turned round."""
    return {name: reason for reason, names in groups.items() for name in names.split()}


TRAINING_NO_EFFECT = _by_name(
    {
        "tokens are read from a memory-mapped store that needs no loader processes": """
            dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
            dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context""",
        "packs are laid out from the lengths of all sequences": """
            group_by_length length_column_name train_sampling_strategy shuffle_dataset pad_token pad_to_multiple_of
            padding_free split_batches""",
        "the columns that are needed are found by themselves": "remove_unused_columns label_names",
        "the launcher decides it (accelerate launch --config_file recipes/accelerate_configs/…)": """
            fsdp fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap deepspeed accelerator_config
            parallelism_config local_rank ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers
            ddp_find_unused_parameters ddp_static_graph""",
        "metrics and progress come from the first process only": """
            log_on_each_node log_level_replica save_on_each_node disable_tqdm""",
        "throughput, tokens and memory are always measured": """
            skip_memory_metrics include_tokens_per_second include_num_input_tokens_seen""",
        "evaluation during training computes the loss, in the precision of training": """
            bf16_full_eval fp16_full_eval half_precision_backend prediction_loss_only eval_accumulation_steps
            eval_do_concat_batches eval_use_gather_object include_for_metrics include_inputs_for_metrics
            batch_eval_metrics eval_packing""",
        "evaluation follows eval_strategy and eval_steps": "eval_delay",
        "a checkpoint holds all that resuming needs": """
            save_only_model save_safetensors ignore_data_skip restore_callback_states_from_checkpoint
            enable_jit_checkpoint""",
        "push_to_hub, hub_strategy and hub_model_revision say what is uploaded": """
            hub_always_push push_to_hub_revision overwrite_hub_revision hub_revision""",
        "the token is taken from HF_TOKEN or from the hub's own login": "hub_token push_to_hub_token",
        "precision is chosen by bf16, fp16 and torch_dtype": "tf32",
        "a step with a non-finite loss is skipped and counted (max_nonfinite_steps)": "logging_nan_inf_filter",
        "the loss is divided once, by the tokens of all processes": "average_tokens_across_devices",
        "seed drives everything random": "data_seed full_determinism",
        "torch_compile chooses it": "torch_compile_backend torch_compile_mode",
        "packs have one shape, so memory does not fragment": "torch_empty_cache_steps auto_find_batch_size",
        "recomputation is set by gradient_checkpointing": """
            use_cache activation_checkpointing activation_checkpointing_kwargs activation_offloading
            gradient_checkpointing_use_reentrant""",
        "loss and log-probabilities are always computed in chunks": "use_liger_loss liger_kernel_config",
        "the command says what is done": "do_train do_predict",
        "attn_implementation and the machine choose the kernel": "use_flash_attention_2",
        "trackers take run_name and the wandb_* settings": "project trackio_space_id logging_dir",
        "a finished run is described by the files in its output_dir": "debug past_index ignore_bias_buffers",
        "LoRA trains a causal language model": "lora_task_type",
        "4-bit weights are nf4": "bnb_4bit_quant_type bnb_4bit_quant_storage use_bnb_nested_quant",
    }
)

SFT_NO_EFFECT = _by_name(
    {
        "packing is always best fit; see overlong for what is longer than max_length": "packing_strategy",
        "the loss is always on the assistant's tokens": "assistant_only_loss completion_only_loss",
        "columns are found by themselves or named by messages_column, prompt_column and completion_column": """
            dataset_text_field dataset_kwargs""",
        "tokenizing is batched by itself": "dataset_batch_size num_of_sequences chars_per_token",
    }
)

GRPO_NO_EFFECT = _by_name(
    {
        "the engine is placed by vllm_mode": "vllm_device vllm_tensor_parallel_size",
        "the engine takes it from the model": "vllm_dtype vllm_enable_prefix_caching vllm_model_impl",
        "completions are logged by log_completions and num_completions_to_print": """
            wandb_log_unique_prompts log_unique_prompts""",
        "each step draws its own completions": "steps_per_generation",
        "the engine manages its cache": "cache_implementation use_transformers_paged ds3_gather_for_generation",
        "dropout is what the model and lora_dropout say": "disable_dropout",
        "there is no moving reference model": "ref_model_mixup_alpha ref_model_sync_steps",
    }
)

GENERATE_NO_EFFECT = _by_name({"it belongs to another server": "optimization_level"})

TRAINING_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "use_cpu": (False, None),
    "no_cuda": (False, None),
    "label_smoothing_factor": (0, None),
    "neftune_noise_alpha": (None,),
    "optim_args": (None,),
    "optim_target_modules": (None,),
    "load_best_model_at_end": (False, None),
    "metric_for_best_model": (None,),
    "greater_is_better": (None,),
    "model_init_kwargs": (None,),
    "dataset_streaming": (False, None),
    "lora_modules_to_save": (None,),
    "lora_target_parameters": (None,),
    "use_rslora": (False, None),
    "use_dora": (False, None),
}
SFT_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("nll", "chunked_nll", None),
    "truncation_mode": ("keep_start", None),
}
GRPO_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "generation_kwargs": (None,),
    "chat_template_kwargs": (None,),
    "cast_lm_head_to_fp32": (False, None),
    "sync_ref_model": (False, None),
    "use_adaptive_entropy": (False, None),
    "off_policy_mask_threshold": (None,),
    "vllm_importance_sampling_clip_min": (None,),
    "vllm_guided_decoding_regex": (None,),
    "vllm_structured_outputs_regex": (None,),
}
