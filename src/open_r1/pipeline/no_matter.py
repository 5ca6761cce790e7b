"""Settings that leave a stage's result as it would have been: how fast, how often saved, where logged, who is asked."""

from __future__ import annotations

from collections.abc import Mapping

_TRAINING = """
    logging_strategy logging_steps logging_first_step log_level log_completions num_completions_to_print
    report_to run_name wandb_entity wandb_project wandb_run_group
    save_strategy save_steps save_total_limit
    dataset_num_proc token_cache_dir encoder max_bad_rows_shown plan
    reward_workers parallel_code_exec_per_proc e2b_router_url morph_router_url
    vllm_gpu_memory_utilization vllm_server_host vllm_server_port vllm_server_base_url vllm_server_devices
    vllm_server_timeout vllm_group_port
"""
_DRAWING = """
    vllm_server_url base_url api_key_env input_batch_size batch_size concurrency client_replicas timeout retries
    vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_enforce_eager reward_workers cpu_threads
"""

NO_MATTER: Mapping[str, frozenset[str]] = {
    "script": frozenset(),
    "sft": frozenset(_TRAINING.split()),
    "grpo": frozenset(_TRAINING.split()),
    "generate": frozenset(_DRAWING.split()),
    "evaluate": frozenset(_DRAWING.split()),
}
"""By kind of stage. Training resumes under others of these (`open_r1.training.continuity`), drawing goes on at another
server: so does a stage that was stopped, and one that is done stays so."""
