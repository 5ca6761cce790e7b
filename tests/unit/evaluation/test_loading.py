from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import CHATML, save_tiny_checkpoint
from transformers.utils import logging

from open_r1.cli import main
from open_r1.data.chat import stop_ids
from open_r1.errors import UserError
from open_r1.evaluation.chat_model import Prompt
from open_r1.evaluation.fingerprint import checkpoint_folder, weight_files, weights_fingerprint
from open_r1.evaluation.loading import Checkpoint, load_chat_model, load_vllm_chat_model
from open_r1.generation.vllm_engine import VllmOptions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(3)))
    return path


def test_a_loaded_model_knows_how_it_is_asked(checkpoint: Path) -> None:
    model = load_chat_model(Checkpoint(str(checkpoint)))
    prompt = model.prompt([{"role": "user", "content": "2+2?"}])
    assert prompt.text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    end = model.tokenizer.eos_token_id
    assert model.stop_token_ids == (end,)
    assert model.decode([*model.tokenizer("4 é")["input_ids"], end]) == "4 é"
    assert model.context_length == 512
    assert not model.leaves_room(Prompt([], "", (1,) * 512))
    assert model.leaves_room(Prompt([], "", (1,) * 511))


def test_loading_says_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    load_chat_model(Checkpoint(str(checkpoint))).start()
    assert capfd.readouterr() == ("", "")


def test_a_thought_that_the_template_opened_belongs_to_the_answer(checkpoint: Path) -> None:
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    model = load_chat_model(Checkpoint(str(checkpoint), chat_template=template))
    assert model.decode(model.tokenizer("Hm.")["input_ids"]) == "<think>\nHm."


def test_stop_tokens_of_template_and_model_are_each_there_once() -> None:
    assert stop_ids((5,), None) == (5,)
    assert stop_ids((5,), 5) == (5,)
    assert stop_ids((5, 7), [6, 5]) == (5, 7, 6)


def test_the_fingerprint_follows_the_content_and_not_the_place(checkpoint: Path, tmp_path: Path) -> None:
    original = weights_fingerprint(checkpoint)
    copied = shutil.copytree(checkpoint, tmp_path / "copy")
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**settings, "_name_or_path": "elsewhere", "dtype": "x"}))
    assert weights_fingerprint(copied) == original

    (copied / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1.0}))
    assert weights_fingerprint(copied) != original
    (copied / "config.json").write_text(json.dumps(settings))

    weights = load_file(copied / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] += 1e-3
    save_file(weights, copied / "model.safetensors")
    assert weights_fingerprint(copied) != original


def test_the_fingerprint_is_one_of_the_tensors_not_of_the_files(tmp_path: Path) -> None:
    big = torch.arange(300_000, dtype=torch.float32)  # more bytes than are read
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, parts in ((one, [{"a": big, "b": big[:7].clone()}]), (two, [{"b": big[:7].clone()}, {"a": big}])):
        folder.mkdir()
        (folder / "consolidated.safetensors").write_bytes(b"not of the index")
        names = {}
        for number, part in enumerate(parts):
            save_file(part, folder / f"model-{number}.safetensors")
            names |= dict.fromkeys(part, f"model-{number}.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert weights_fingerprint(one) == weights_fingerprint(two)
    save_file({"a": big + 1}, two / "model-1.safetensors")
    assert weights_fingerprint(one) != weights_fingerprint(two)
    save_file({"a": big.to(torch.float64)}, two / "model-1.safetensors")
    assert weights_fingerprint(one) != weights_fingerprint(two)


def test_of_several_forms_of_the_weights_the_one_that_is_loaded_counts(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}})
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model-1.bin", tmp_path / "pytorch_model-2.bin"]
    (tmp_path / "model.safetensors").touch()
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_shards_in_the_old_form_are_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}})
    there = {"config.json": "{}", "pytorch_model.bin.index.json": index}
    there |= {"pytorch_model-1.bin": "a", "pytorch_model-2.bin": "b"}

    def download(name: str, revision: str, allow_patterns: list[str]) -> str:
        for file, text in there.items():
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).write_text(text)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    folder = checkpoint_folder("some/model")
    assert weights_fingerprint(folder)


def test_weights_that_are_not_there_or_torn_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        weights_fingerprint(tmp_path)
    torn = shutil.copytree(checkpoint, tmp_path / "torn")
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"model\.safetensors: the file of weights is missing or torn"):
        weights_fingerprint(torn)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights of another kind")
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model.bin"] and weights_fingerprint(tmp_path)
    with pytest.raises(UserError, match="no/model: its files could not be had"):
        checkpoint_folder("no/model")


def test_models_that_are_held_differently_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    checkpoints = [Checkpoint(str(checkpoint), dtype=dtype) for dtype in ("auto", "float32", "bfloat16")]
    auto, same, half = (load_chat_model(entry).fingerprint for entry in checkpoints)
    assert auto == same != half
    in_vllm = load_vllm_chat_model(checkpoints[0], VllmOptions(), max_new_tokens=8, log=tmp_path / "log").fingerprint
    assert in_vllm == half + "/vllm"  # where float32 is slow


def test_vllm_gets_what_the_checkpoint_and_the_settings_say(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("open_r1.evaluation.loading.VllmEngine", lambda *words, **more: started.append((words, more)))
    monkeypatch.setattr("open_r1.evaluation.loading.PROMPT_ROOM", 100)
    described = Checkpoint(str(checkpoint), "abc", "float16", trust_remote_code=True)
    for max_new_tokens, length in ((300, 400), (4000, 512)):  # the model's context has 512
        model = load_vllm_chat_model(described, VllmOptions(), max_new_tokens=max_new_tokens, log=tmp_path / "log")
        assert model.context_length == length and not started
        model.start()
        ((name, options),), more = started.pop()[0:1], {"log": tmp_path / "log"}
        assert (name, more["log"]) == (str(checkpoint), tmp_path / "log")
        assert options == VllmOptions("abc", "float16", length, trust_remote_code=True)


def test_adapters_alone_are_for_transformers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    base.name_or_path = base.config._name_or_path = str(tiny_checkpoint)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    model = load_chat_model(Checkpoint(str(tmp_path)))
    assert model.context_length == 512
    model.start()
    with pytest.raises(UserError, match="holds adapters alone"):
        load_vllm_chat_model(Checkpoint(str(tmp_path)), VllmOptions(), max_new_tokens=8, log=tmp_path / "log")


def test_a_bad_task_file_is_found_before_the_weights_are_loaded(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_r1.evaluation.loading.load_model", lambda *_, **__: pytest.fail("loaded"))
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "1+1?"}\n')
    assert main(["evaluate", "--model", str(checkpoint), "--tasks", f"problems={path}"]) == 2
    assert "no column of gold answers" in capsys.readouterr().err


def test_a_finished_evaluation_is_shown_again_without_loading_the_weights(
    checkpoint: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", "--model", str(checkpoint), "--tasks", f"problems={problems}", "--num_samples", "1"]
    command += ["--max_new_tokens", "4", "--output_dir", str(tmp_path / "out"), "--reward_workers", "1"]
    assert main(command) == 0
    monkeypatch.setattr("open_r1.evaluation.loading.load_model", lambda *_, **__: pytest.fail("loaded"))
    assert main(command) == 0


def test_evaluate_by_the_command_line_twice(
    checkpoint: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--model", str(checkpoint), "--tasks", f"problems={problems}", "--num_samples", "2"]
    command += ["--max_new_tokens", "12", "--output_dir", str(out), "--reward_workers", "1"]
    assert main(command) == 0
    rows = pq.read_table(out / "sums" / "generations.parquet").to_pylist()
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(3) for s in range(2)]
    assert all(row["tokens"] <= 12 and (row["finish_reason"] == "length") == (row["tokens"] == 12) for row in rows)
    (task,) = json.loads((out / "results.json").read_text())["tasks"]
    assert task["mean_tokens"] == pytest.approx(sum(row["tokens"] for row in rows) / 6)
    assert "pass@1" in capsys.readouterr().out

    assert main(command) == 0
    assert "6 of 6 answers are there already" in capsys.readouterr().out
    assert main([*command, "--seed", "7"]) == 2
    assert "seed 42 → 7" in capsys.readouterr().err


def test_generate_by_the_command_line(
    checkpoint: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "answers.jsonl"
    command = ["generate", "--hf-dataset", str(problems), "--model", str(checkpoint), "--prompt-column", "prompt"]
    command += ["--num-generations", "2", "--max-new-tokens", "8", "--output", str(output), "--timeout", "5"]
    assert main(command) == 0
    assert len(output.read_text().splitlines()) == 6
    printed = capsys.readouterr().out
    assert "asked 6 (3 prompts), answered 6" in printed
    assert "without effect with engine transformers: timeout" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["evaluate", "--tasks", "gsm9k"], "did you mean gsm8k"),
        (["evaluate", "--tasks", "gsm8k", "--engine", "openai"], "give its address with --base_url"),
        (["evaluate", "--tasks", "gsm8k", "--engine", "vllm", "--base_url", "http://x"], "keep one of them"),
        (["evaluate", "--tasks", "gsm8k", "--base_url", "localhost:8000"], "is no address of a server"),
        (["evaluate", "--tasks", "problems=absent.jsonl"], "absent.jsonl: no such file"),
        (["generate", "--dataset", "absent.jsonl"], "absent.jsonl: no such file"),
        (["generate", "--dataset", "x", "--vllm-server-url", "here"], "is no address of a server"),
        (["generate", "--dataset", "x", "--output-dataset", "me/answers"], "output_dataset me/answers"),
    ],
)
def test_bad_input_is_one_clear_line(
    flags: list[str],
    message: str,
    checkpoint: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main([*flags, "--model", str(checkpoint)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_chat_template_is_one_clear_line(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = save_tiny_checkpoint(tmp_path / "bare", template=None)
    assert main(["evaluate", "--model", str(bare), "--tasks", f"problems={problems}"]) == 2
    assert "has no chat template: set --chat_template" in capsys.readouterr().err
