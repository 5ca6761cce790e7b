"""An engine on any transformers causal language model, by our own decode loop with continuous batching.

The module decoded from may be the very one that is being trained: then weights are never copied.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from open_r1.generation.decode import Decoder
from open_r1.generation.engine import Completion, Request, SamplingParams, check_requests

logger = logging.getLogger(__name__)

CPU_BATCH_SIZE = 128
CUDA_BATCH_SIZE = 256


class TransformersEngine:
    """Draws completions from ``model`` as it is at each call.

    Args:
        model: a causal language model of transformers, or a PEFT wrapper of one. It is in eval mode while a
            generation is being consumed, and each of its modules is put back as it was afterwards.
        pad_token_id: fills the left of shorter prompts; never attended to.
        batch_size: rows decoded at once; None chooses by device. Halved for good where CUDA runs out of memory.
        device: where the inputs go; None is the device of the model's parameters.
        dtype: autocast to this type while decoding; None decodes in the weights' own type.
        shares_weights: ``model`` is the module that is being trained, or shares its tensors; else it is a copy, into
            which `load_weights` copies.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pad_token_id: int,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        shares_weights: bool = True,
    ):
        self.model = model
        self.shares_weights = shares_weights
        self.pad_token_id = pad_token_id
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.batch_size = batch_size or (CUDA_BATCH_SIZE if self.device.type == "cuda" else CPU_BATCH_SIZE)
        self.dtype = dtype
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights`` into the model; takes none of them where it decodes from the trained weights themselves.

        Raises:
            ValueError: a name that the model has no tensor for, or a tensor that is not given.
        """
        if self.shares_weights:
            return
        own = self.model.state_dict(keep_vars=True)
        missing = {id(tensor) for tensor in own.values()}  # of tied ones, one name is given
        for name, tensor in weights:
            if name not in own:
                raise ValueError(f"the engine's model has no {name}")
            own[name].copy_(tensor)
            missing.discard(id(own[name]))
        if missing:
            raise ValueError(f"no weights for {next(name for name in own if id(own[name]) in missing)}")

    def close(self) -> None:
        """Nothing is held between calls."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """Yields each completion as soon as it is finished; every request is answered exactly once.

        A completion is cut where prompt and completion fill the model's context.

        Raises:
            UserError: if a prompt is empty, or leaves no room in the model's context.
            ValueError: if two requests share an id, or ``max_new_tokens`` is below 1.
        """
        check_requests(requests, params, self.context)
        return self._stream(list(requests), params)

    def _stream(self, requests: list[Request], params: SamplingParams) -> Iterator[Completion]:
        answered: set[int] = set()
        with _eval_mode(self.model):
            while len(answered) < len(requests):
                decoder = self._decoder([request for request in requests if request.id not in answered], params)
                while completions := self._run(decoder):
                    for completion in completions:
                        answered.add(completion.request_id)
                        yield completion
                # One that ran out of memory has to be gone before a smaller one is made.
                del decoder

    def _decoder(self, requests: list[Request], params: SamplingParams) -> Decoder:
        return Decoder(
            self.model,
            requests,
            params,
            batch_size=self.batch_size,
            pad_token_id=self.pad_token_id,
            context=self.context,
            device=self.device,
        )

    def _run(self, decoder: Decoder) -> list[Completion]:
        """The next completions; none when the decoder is through, or is to be replaced as it ran out of memory.

        Autocast is entered here and not around the generator: it would leak into the consumer's code at each yield.
        """
        try:
            with self._autocast(), _without_cudnn_attention():
                return decoder.run()
        except torch.OutOfMemoryError:
            if decoder.max_rows == 1:
                raise
            self.batch_size = decoder.max_rows // 2
        logger.warning("out of memory decoding %d rows at once: %d from here on", decoder.max_rows, self.batch_size)
        return []

    def _autocast(self) -> AbstractContextManager:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for every module, and each module's own mode again at the end.

    In training mode dropout would be drawn, and gradient checkpointing would switch the cache off.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _without_cudnn_attention() -> Iterator[None]:
    """On Hopper and Blackwell torch prefers cuDNN's attention, which plans anew, for some 30 ms, at each number of keys
    and of rows that it has not met: at every token that is decoded.
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)
