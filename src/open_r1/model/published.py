"""Published shapes that are measured and checked with: Qwen2.5's, and that of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Shape:
    """A decoder of Qwen2's kind, by the numbers of its published config.json.

    Attributes:
        heads, key_value_heads: of attention, each of ``hidden / heads`` numbers.
        tied: whether input and output embedding are one.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def keys(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.key_value_heads * self.head_size

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's products: queries, keys and values in one; output; gate, up and down."""
        joint = self.hidden + 2 * self.keys
        up = (self.hidden, self.intermediate)
        return (self.hidden, joint), (self.hidden, self.hidden), up, up, (self.intermediate, self.hidden)

    def config(self) -> PreTrainedConfig:
        """Its `transformers` configuration."""
        from transformers import Qwen2Config

        return Qwen2Config(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=32_768,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            architectures=["Qwen2ForCausalLM"],
            bos_token_id=0,
            eos_token_id=2,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("0.5B", 896, 4864, 24, 14, 2, 151_936, True),
        Shape("1.5B", 1536, 8960, 28, 12, 2, 151_936, True),
        Shape("7B", 3584, 18_944, 28, 28, 4, 152_064, False),
        Shape("demo", 192, 512, 6, 6, 2, 512, True),
    )
}


def write_config(shape: Shape, folder: Path, dtype: str) -> Path:
    """A model folder with nothing but a configuration, for an engine that makes up its weights."""
    config = shape.config()
    config.dtype = dtype
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    return folder
