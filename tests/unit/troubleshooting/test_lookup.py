"""``python -m open_r1.troubleshooting``."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_r1.troubleshooting.__main__ import main
from open_r1.troubleshooting.entry import fill
from open_r1.troubleshooting.matching import find
from open_r1.troubleshooting.page import page


def test_a_log_is_looked_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    log = b"\xff step 3\nRuntimeError: CUDA error: out of memory\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(log), isatty=lambda: False))
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("error: the memory of the GPU is used up.")


def test_an_entry_or_a_message_is_looked_up(capsys: pytest.CaptureFixture) -> None:
    assert main(["nccl-timeout"]) == 0
    assert main(["OSError: [Errno 28] No space left on device"]) == 0
    said = capsys.readouterr().out
    assert "#nccl-timeout" in said and "#disk-full" in said
    assert main(["all is well"]) == 1
    assert main(["--what"]) == 2


@pytest.mark.parametrize(
    ("said", "entry"),
    [
        ("./run.sh: line 3: 12345 Killed", "sigkill"),
        ("bash: line 3: 12345 Killed                  python train.py", "sigkill"),
        ("[1]+ Killed", "sigkill"),
        ("[1]+  Killed                  open-r1 sft", "sigkill"),
        ("[2]-  4711 Killed                  open-r1 sft", "sigkill"),
        ("zsh: killed     open-r1 sft", "sigkill"),
        ("exit code 137", "sigkill"),
        ("Exited (137) 2 minutes ago", "sigkill"),
        ("Reason: OOMKilled\nExit Code: 137", "sigkill"),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", "sigkill"),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Aborted. ", "sigabrt"),
        ("command exited with code 143", "sigterm"),
        ("Bus error (core dumped)", "shared-memory"),
        ("./run.sh: line 3: 12345 Bus error               (core dumped) python train.py", "shared-memory"),
        ("requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://api.wandb.ai/graphql",
         "tracker-login"),
        ("Client error '401 Unauthorized' for url 'https://api.wandb.ai/graphql'", "tracker-login"),
        ("Client error '401 Unauthorized' for url 'https://huggingface.co/api/whoami-v2'", "hub-401"),
        ("OSError: /data/m does not appear to have a file named config.json.", "weights-missing"),
        ("OSError: ./m does not appear to have a file named config.json.", "weights-missing"),
        ("OSError: Qwen/Qwen2.5-1.5B does not appear to have a file named nope.json.", "hub-404"),
        ("OSError: gpt2 does not appear to have a file named nope.json.", "hub-404"),
        ("RuntimeError: No valid triton configs. OutOfMemoryError: out of resource: triton_mm Required: 131072 "
         "Hardware limit:101376 Reducing block sizes or `num_stages` may help.", "compile-failed"),
        ("OutOfMemoryError: out of resource: triton_mm Required: 131072 Hardware limit:101376", "compile-failed"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB.", "gpu-memory"),
        ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", "data-broken"),
    ],
)  # fmt: skip
def test_what_shells_and_services_say(said: str, entry: str) -> None:
    found = find(said)
    assert found is not None and found.entry.name == entry, found


def test_what_a_kernel_needs_is_told() -> None:
    found = find("No valid triton configs. OutOfMemoryError: out of resource: triton_mm Required: 9 Hardware limit:5")
    assert "it needs 9 bytes, and the chip has 5" in fill(found.entry.happened, found.groups)


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert main([]) == 0
    assert "  gpu-memory" in capsys.readouterr().out


def test_the_page_is_written(tmp_path: Path) -> None:
    assert main(["--write", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page()
