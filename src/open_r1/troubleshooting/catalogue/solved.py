"""What hurts elsewhere and is taken care of here (the table of the behaviour specification, section 3)."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Solved

SOLVED: tuple[Solved, ...] = (
    Solved(
        "preparation-time",
        "tokenising and packing take an hour",
        "93,733 rows take 18 minutes to tokenise and 37 to pack, and again whenever the length changes.",
        "Tokens are cached apart from packs and made by all CPUs; another length packs again in seconds.",
        ("docs/data.md",),
    ),
    Solved(
        "fragments",
        "packing cuts traces into pieces",
        "Packing at 2,048 cuts each trace in three, and the model learns from fragments.",
        "Traces that fit stay whole. A longer one is split, cut or dropped by name (`--overlong`); the share of rows "
        "affected "
        "is said in the first seconds, with the length that keeps nearly all whole.",
        ("docs/data.md",),
    ),
    Solved(
        "accumulation-advice",
        "out of memory at batch 8 × 16,384 on 24 GB, and the advice to accumulate more",
        "`CUDA out of memory`; more accumulation alone frees nothing.",
        "Memory is predicted before the weights are loaded; the micro-batch is lowered, the global batch kept, and "
        "what was "
        "changed is said. A step that still does not fit is taken again in smaller parts.",
        ("[gpu-memory](#gpu-memory)", "docs/planning.md"),
    ),
    Solved(
        "fp16-advice",
        "SIGFPE on an H20, and the advice to train in fp16",
        "`Signal 8 (SIGFPE)` in bf16; fp16 crashes too.",
        "It is a defect of cuBLAS before 12.4.5.8 on that chip. `open-r1 doctor` multiplies matrices of the model's "
        "shapes in a "
        "child process and names the fix; a run that dies so says the same.",
        ("[sigfpe](#sigfpe)", "docs/doctor.md"),
    ),
    Solved(
        "cache-advice",
        "the system disk is full, and the advice to delete ~/.cache",
        "A system disk of 30 GB is full; `rm -rf ~/.cache` and a link are recommended.",
        "`open-r1 setup --data-disk /data` moves all caches by settings and deletes nothing. What a run needs is "
        "estimated "
        "before it starts.",
        ("[disk-full](#disk-full)", "docs/setup.md"),
    ),
    Solved(
        "installation",
        "installing takes a day",
        "flash-attn is compiled from source; vLLM, DeepSpeed and packages from git must be brought together.",
        "One pinned set (`constraints.txt`) from the package registry; nothing needs a compiler, GPU extras are "
        "optional.",
        ("[flash-attn](#flash-attn)", "docs/doctor.md"),
    ),
    Solved(
        "tracker-question",
        "a question stops the run after an hour",
        "wandb asks `(1) Create a W&B account (2) Use an existing … (3) Don't visualize` after 55 minutes of "
        "preparation, "
        "and waits.",
        "Nothing ever asks. Credentials and every input are checked before preparation starts; wandb without a key "
        "records "
        "on this machine.",
        ("[tracker-login](#tracker-login)", "docs/never-lose-a-run.md"),
    ),
    Solved(
        "never-stops",
        "the model never stops after SFT",
        "The end of a turn is masked (pad = EOS), or is the wrong token: answers run to the limit.",
        "The end-of-turn token is checked to be in the loss before training, and is written to generation_config.",
        ("docs/data.md",),
    ),
    Solved(
        "wrong-rewards",
        "rewards are always 0, or always 1",
        "The format never matches, or a gold answer that cannot be read is rewarded whatever the model says.",
        "Rewards are tried on the data's own gold answers before any GPU time is spent; a gold answer that cannot be "
        "read "
        "gives no reward at all, and is counted.",
        ("open-r1 rewards check", "docs/rewards.md"),
    ),
    Solved(
        "verification-hangs",
        "verifying an answer hangs",
        "A worker hangs in sympy, and its time limit is ignored.",
        "Each verification has a hard time limit in a process that can be killed.",
        ("docs/rewards.md",),
    ),
    Solved(
        "collapse",
        "KL explodes, and accuracy falls to 0",
        "After 100 steps with the demo recipe nothing is right any more.",
        "The learning rate is safe by default; KL, truncation and rewards are watched by alarms, held-out problems are "
        "measured during RL, and rules stop a run (`--stop_on`).",
        ("docs/watching-a-run.md",),
    ),
    Solved(
        "resume-grpo",
        "a killed GRPO run cannot go on, or goes on wrongly",
        "Resuming loses rollouts, the order of data, or the state of the optimizer.",
        "`kill -9` at any moment, `--resume_from_checkpoint true`, the same curve bit for bit.",
        ("docs/never-lose-a-run.md",),
    ),
    Solved(
        "evaluation-differs",
        "evaluation numbers do not come out again",
        "8 samples are drawn though 64 were asked for; data-parallel evaluation hangs.",
        "Exactly n samples, intervals, the share of truncated answers, and every answer kept.",
        ("docs/evaluation.md",),
    ),
    Solved(
        "raw-traces",
        "a raw trace of a hundred lines",
        "CUDA out of memory, a signal, an NCCL time-out: the reason stands somewhere in the midst.",
        "The first lines say what happened and what to change, and the trace is in a file.",
        ("[gpu-memory](#gpu-memory)", "[nccl-timeout](#nccl-timeout)"),
    ),
)
