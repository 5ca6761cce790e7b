"""The process that talks to the hub: run as a file with a job, it prints an answer; both are one JSON object.

A process of its own because it can be ended: the hub's client waits for ever on a connection that has gone silent, and
what it hashes and encrypts would take time from the training process. It imports nothing of this project.

A job is ``{"repository", "revision", "private"}``, and for an upload ``"folder"`` and ``"message"`` too; the answer is
``{"repository", "url", "name"}`` or ``{"reason", "kind"}`` with one of `KINDS`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("login", "refused", "unreachable")
"""Nobody the hub knows; known, but not allowed (or too large); all that may pass by itself."""

SILENCE_S = 60.0
"""A connection over which nothing has come or gone for so long is given up."""

_REFUSED = {
    403: "the token may not write there (403)",
    404: "there is no such repository, or the token may not see it (404)",
    409: "it is in conflict with what is there (409)",
    413: "it is too large for the hub (413)",
}


def run(job: dict[str, Any]) -> dict[str, str]:
    """Does a job; what goes wrong is in the answer."""
    try:
        return _upload(job) if "folder" in job else _prepare(job)
    except Exception as error:
        return explain(error)


def _prepare(job: dict[str, Any]) -> dict[str, str]:
    """Makes sure of login, repository and branch."""
    from huggingface_hub import HfApi

    api = HfApi()
    name = api.whoami()["name"]
    repository = api.create_repo(job["repository"], private=job["private"], exist_ok=True).repo_id
    if job["revision"] != "main":
        api.create_branch(repository, branch=job["revision"], exist_ok=True)
    return {"name": name, "repository": repository, "url": f"{api.endpoint}/{repository}"}


def _upload(job: dict[str, Any]) -> dict[str, str]:
    """One commit: the folder's files, without what an earlier upload had in their place."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    ready = _prepare(job)
    api, folder, revision = HfApi(), Path(job["folder"]), job["revision"]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    there = api.list_repo_files(ready["repository"], revision=revision)
    commit = api.create_commit(
        ready["repository"],
        [
            *(CommitOperationAdd(name, folder / name) for name in files),
            *(CommitOperationDelete(name) for name in superseded(there, files)),
        ],
        commit_message=job["message"],
        revision=revision,
    )
    return ready | {"url": commit.commit_url}


def superseded(there: list[str], files: list[str]) -> Iterator[str]:
    """What an upload of ``files`` takes away: weights beside new ones, and the rest of a folder that comes anew."""
    folders = {name.split("/")[0] for name in files if "/" in name}
    weights = any(_is_weights(name) for name in files)
    for name in there:
        replaced = name.split("/")[0] in folders if "/" in name else weights and _is_weights(name)
        if replaced and name not in files:
            yield name


def _is_weights(name: str) -> bool:
    """The configuration of adapters counts too: beside a whole model it would send who loads it to another base."""
    ends = (".safetensors", ".safetensors.index.json", "adapter_config.json")
    return "/" not in name and name.endswith(ends)


def explain(error: BaseException) -> dict[str, str]:
    """The reason in one line, without a secret, and its kind."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    causes = list(_causes(error))
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, LocalTokenNotFoundError) or status == 401:
            return {"reason": "the hub does not accept the token (401)", "kind": "login"}
        if isinstance(cause, OfflineModeIsEnabled):
            return {"reason": "HF_HUB_OFFLINE is set", "kind": "unreachable"}
        if isinstance(cause, HfHubHTTPError) and status in _REFUSED:
            return {"reason": _REFUSED[status], "kind": "refused"}
        if isinstance(cause, HfHubHTTPError) and status is not None:
            return {"reason": f"the hub answers with error {status}", "kind": "unreachable"}
    text = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    if (token := get_token()) is not None:
        text = text.replace(token, "…")
    where = constants.ENDPOINT.split("@")[-1]
    return {"reason": f"{where}: {text[:200]}", "kind": "unreachable"}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: its end of the pipe closes."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _limit_silence(seconds: float) -> None:
    from huggingface_hub import get_session, set_client_factory

    first = get_session()
    make, hooks = type(first), first.event_hooks
    set_client_factory(lambda: make(event_hooks=hooks, follow_redirects=True, timeout=seconds))


def main(argument: str) -> None:
    """Runs the job that the command line gives and prints the answer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)  # hashing must not take a core from the training process
    job = json.loads(argument)
    _limit_silence(job.get("silence_s", SILENCE_S))
    print(json.dumps(run(job)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
