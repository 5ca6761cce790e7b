"""Putting answers on the hub, where that was asked for."""

from __future__ import annotations

from pathlib import Path

from open_r1.errors import UserError


def check_login(repository: str) -> None:
    """Makes sure, before anything is drawn, that somebody is logged in at the hub.

    Raises:
        UserError: nobody is, or the hub cannot be asked.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError(f"output_dataset {repository}: nobody is logged in at the hub; set HF_TOKEN, or leave it out")
    try:
        HfApi().whoami()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"output_dataset {repository}: the hub does not accept the login [{reason}]") from error


def push(answers: Path, repository: str, *, private: bool) -> str:
    """Uploads a JSONL file of answers as a data set and returns its address.

    Raises:
        UserError: the file holds no answers.
    """
    from datasets import load_dataset

    if not answers.stat().st_size:
        raise UserError(f"{answers} holds no answers: nothing to put on the hub")
    rows = load_dataset("json", data_files=str(answers), split="train")
    return rows.push_to_hub(repository, private=private).repo_url
