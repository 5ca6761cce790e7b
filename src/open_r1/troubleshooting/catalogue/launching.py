"""Launchers, Python and the shell around a run; last, since they only pass on what others have said."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

LAUNCHING = Group(
    "Around the run",
    (
        Entry(
            "locale",
            "the locale is no UTF-8",
            (
                "UnicodeEncodeError: 'ascii' codec can't encode character '\\u2026' in position 12: ordinal not in "
                "range(128)",
                "UnicodeEncodeError: 'latin-1' codec can't encode characters in position 0-3: ordinal not in "
                "range(256)",
                "locale.Error: unsupported locale setting",
            ),
            (r"'(?:ascii|latin-1|charmap)' codec can't encode", r"unsupported locale setting"),
            "the terminal or the container is set to a language without UTF-8, so that a sign could not be written.",
            ("export PYTHONUTF8=1 LC_ALL=C.UTF-8",),
        ),
        Entry(
            "tracker-login",
            "wandb or trackio: nobody is logged in",
            (
                "wandb.errors.errors.UsageError: No API key configured. Use `wandb login` to log in.",
                "wandb.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_key])",
                "wandb: ERROR api_key not configured (no-tty)",
                "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://api.wandb.ai/graphql",
                "wandb: ERROR Error while calling W&B API: user is not logged in (<Response [401]>)",
            ),
            (
                r"No API key configured\. Use `wandb login`",
                r"api_key not configured \(no-tty\)",
                r"wandb\.errors\.(?:errors\.)?\w*AuthenticationError",
                r"\b40[13] .*\bapi\.wandb\.ai\b",
                r"W&B API: user is not logged in",
            ),
            "the tracker has no key, or one that is not accepted. In sft and grpo this stops nothing: "
            "wandb then records on this machine.",
            (
                "wandb login  # or export WANDB_API_KEY=…",
                "--report_to none  # metrics.jsonl and open-r1 report need no account",
                "export WANDB_MODE=offline  # wandb sync uploads it later",
            ),
            ("docs/never-lose-a-run.md",),
        ),
        Entry(
            "launcher",
            "ChildFailedError: one of the processes failed",
            (
                "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n"
                "============================================================\nsrc/open_r1/sft.py FAILED",
                "subprocess.CalledProcessError: Command '['/venv/bin/python', 'src/open_r1/sft.py']' returned non-zero "
                "exit "
                "status 1.",
            ),
            (
                r"\bChildFailedError\b",
                r"\bCalledProcessError: Command .* returned non-zero exit status",
                r"\bProcessExitedException\b",
            ),
            "one of the processes that the launcher started has failed[[: rank {rank}]][[, with exit status "
            "{status}]]. The "
            "reason is what that process said, further up.",
            (
                "grep -n -m1 -A5 '^error:' train.log  # the first words are those that count",
                "cat OUTPUT_DIR/error-rank0.txt  # the trace, of each rank that failed",
            ),
            ("docs/distributed.md",),
            details=(r"\brank +: (?P<rank>\d+)", r"\bexitcode +: (?P<status>\d+)"),
        ),
    ),
)
