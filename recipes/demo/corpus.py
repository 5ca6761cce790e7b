"""The corpus and the untrained model from which the demo's base model is made.

    python recipes/demo/corpus.py --documents 500000 --output runs/demo-base

writes ``corpus.jsonl`` (chat messages) and ``model/`` (a Qwen2 of 2.5 million random weights, with its tokenizer).

A base model has read much that is terse and some that is careless, and little that reasons step by step; so has this
one. Most documents answer at once, with a guess that is near the mark; a few work the problem out between <think> tags,
and some of those forget to carry. The skill is there, rarely used and careless: what distillation and
reinforcement bring out.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from problems import Problem, problems
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, set_seed

VOCABULARY = 512
REASONED = 0.2  # share of documents that reason
SLIPS = 0.4  # share of their carries and borrows that are forgotten
GUESS = 20  # answers given at once are this far off at most
TERSE = ("The answer is {answer}.", "{answer}", "<answer>\n{answer}\n</answer>", "It is {answer}.")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Words with their space, single digits, runs of line breaks, anything else: Qwen2's rule, cut to what the corpus has.
PIECES = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")


def careless(left: int, sign: str, right: int, rng: random.Random) -> int:
    """The result of one step, where a carry or a borrow is now and then forgotten."""
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    units = {"+": left % 10 + right % 10, "-": left % 10 - right % 10, "*": left % 10 * right}[sign]
    if not 0 <= units <= 9 and rng.random() < SLIPS:
        return result + 10 if sign == "-" else result - 10 * (units // 10)
    return result


def reasoned(problem: Problem, rng: random.Random) -> str:
    """A worked solution in R1's format; what follows a slip builds on it."""
    value, lines = None, []
    for line in problem.lines:
        first, sign, right, _, _ = line.split()
        left = int(first) if value is None else value
        value = careless(left, sign, int(right), rng)
        lines.append(f"{left} {sign} {right} = {value}")
    return "<think>\n" + "\n".join(lines) + f"\n</think>\n<answer>\n{value}\n</answer>"


def document(problem: Problem, rng: random.Random) -> list[dict[str, str]]:
    """One conversation of the corpus."""
    if rng.random() < REASONED:
        answer = reasoned(problem, rng)
    else:
        answer = rng.choice(TERSE).format(answer=max(0, problem.answer + rng.randint(-GUESS, GUESS)))
    return [{"role": "user", "content": problem.text}, {"role": "assistant", "content": answer}]


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens with single digits and Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Random weights in Qwen2's architecture."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    return Qwen2ForCausalLM(config)


def main() -> None:
    """Writes the corpus and the untrained model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    set_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    texts = []
    with (arguments.output / "corpus.jsonl").open("w") as file:
        for number, problem in zip(range(arguments.documents), problems("corpus", arguments.seed), strict=False):
            messages = document(problem, rng)
            file.write(json.dumps({"messages": messages}) + "\n")
            if number < 20_000:
                texts.extend(message["content"] for message in messages)
    texts.extend(("user\n", "assistant\n", "system\n"))
    tokenizer = build_tokenizer(texts)
    tokenizer.save_pretrained(arguments.output / "model")
    build_model(tokenizer).to(torch.bfloat16).save_pretrained(arguments.output / "model")


if __name__ == "__main__":
    main()
