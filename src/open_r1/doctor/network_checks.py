"""The hub, the clock, and whether credentials are there; their values are never read into a finding."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from open_r1.doctor.finding import Finding
from open_r1.doctor.hub import OFFICIAL, Reply, endpoint, offline

MIRROR = "https://hf-mirror.com"
SLOW_SECONDS = 3.0
LARGE_SKEW = 300.0


def check_hub(reply: Reply | None, environment: Mapping[str, str] = os.environ) -> Finding:
    """The hub, or its mirror, answers.

    Args:
        reply: its answer; None where it was not asked, as ``HF_HUB_OFFLINE`` has it.
    """
    address = endpoint(environment)
    name = "the hub" if address == OFFICIAL else f"the mirror {address}"
    if offline(environment):
        summary = "offline by setting: only models and data that are here already can be used"
        return Finding("warn", "hub", summary, fix="unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE")
    if reply is None or reply.status is None:
        why = reply.error if reply else "not asked"
        fix = f"export HF_ENDPOINT={MIRROR}" if address == OFFICIAL else "unset HF_ENDPOINT   # or name another mirror"
        detail = (
            "Behind a proxy: export HTTPS_PROXY=http://HOST:PORT. Where all that is needed lies here already: "
            "export HF_HUB_OFFLINE=1."
        )
        return Finding("fail", "hub", f"{name} is not reached: {why}", detail, fix)
    if reply.status >= 400:
        fix = "unset HF_ENDPOINT" if address != OFFICIAL else "open-r1 doctor --only hub   # again in a minute"
        return Finding("fail", "hub", f"{name} answers with HTTP {reply.status}", fix=fix)
    if reply.seconds > SLOW_SECONDS:
        fix = f"export HF_ENDPOINT={MIRROR}" if address == OFFICIAL else "unset HF_ENDPOINT   # or name another mirror"
        return Finding("warn", "hub", f"{name} takes {reply.seconds:.1f} s to answer", fix=fix)
    return Finding("ok", "hub", f"{name} answers in {reply.seconds:.1f} s")


def check_clock(reply: Reply | None) -> Finding:
    """This machine's clock against the hub's: certificates and tokens are refused when it is far off."""
    if reply is None or reply.skew is None:
        return Finding("skip", "clock", "there is no server's clock to compare with")
    if abs(reply.skew) > LARGE_SKEW:
        side = "ahead" if reply.skew > 0 else "behind"
        summary = f"the clock is {abs(reply.skew) / 60:.0f} minutes {side}: certificates and tokens may be refused"
        return Finding("warn", "clock", summary, fix="sudo timedatectl set-ntp true")
    return Finding("ok", "clock", "right to within five minutes")


def check_tokens(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> list[Finding]:
    """Whether there are a token of the hub and a key of wandb; neither is needed for public models."""
    home = home or Path.home()
    hub, wandb = has_hub_token(environment, home), has_wandb_key(environment, home)
    return [
        Finding("ok", "tokens", "hub: a token is present")
        if hub
        else Finding("skip", "tokens", "hub: no token; gated models and pushing need one: hf auth login"),
        Finding("ok", "tokens", "wandb: a key is present")
        if wandb
        else Finding("skip", "tokens", "wandb: no key; runs are recorded offline: wandb login"),
    ]


def has_hub_token(environment: Mapping[str, str], home: Path) -> bool:
    """By variable, or by the file that ``hf auth login`` writes."""
    if environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    folder = Path(environment.get("HF_HOME") or cache / "huggingface")
    return _is_filled(Path(environment.get("HF_TOKEN_PATH") or folder / "token").expanduser())


def has_wandb_key(environment: Mapping[str, str], home: Path) -> bool:
    """By variable, or by the netrc that ``wandb login`` writes."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return host in netrc.netrc(Path(environment.get("NETRC") or home / ".netrc").expanduser()).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
