"""One chunk of logits: what is read off it, and the gradient that takes its place.

On a CUDA device the logits stay in the dtype of the hidden states and pass through the kernels of `policy_kernel`;
elsewhere, and for logits with a softcap, plain torch computes the same in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_r1.model.logits import LogitTransform, logits_of
from open_r1.model.nll import accumulate_product, has_triton

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
UNDERFLOW = -1000.0
"""A float32 log-probability from which on the probability is 0, and so is its product with the log-probability."""


@dataclass(frozen=True)
class Scores:
    """Of C rows of logits, float32 [C] each.

    Attributes:
        logprobs: of the targets, in nats.
        normalisers: log Σ exp.
        entropies: in nats; None where it was not asked for.
    """

    logprobs: Tensor
    normalisers: Tensor
    entropies: Tensor | None

    def part(self, part: slice) -> Scores:
        """Some of the rows."""
        entropies = None if self.entropies is None else self.entropies[part]
        return Scores(self.logprobs[part], self.normalisers[part], entropies)


class LogitChunk:
    """Logits [C, V] of C targets: softcap(scale · (hidden @ weightᵀ + bias)) / temperature.

    Args:
        hidden: [C, D]; ``weight`` [V, D] and ``bias`` [V] in its dtype.
        targets: int64 [C].
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        temperature: float,
    ) -> None:
        self._targets, self._transform, self._temperature, self._dtype = targets, transform, temperature, hidden.dtype
        self._fused = hidden.is_cuda and transform.softcap is None and transform.scale > 0 and has_triton()
        if self._fused:
            self._logits = torch.nn.functional.linear(hidden, weight, bias)
        else:
            self._logits = logits_of(hidden, weight, bias, transform, temperature)

    def score(self, entropy: bool) -> Scores:
        """Log-probabilities of the targets, and the entropy if asked."""
        if self._fused:
            from open_r1.model.policy_kernel import score

            return Scores(*score(self._logits, self._targets, self._transform.scale / self._temperature, entropy))
        return score_plainly(self._logits, self._targets, entropy)

    def gradient(self, scores: Scores, of_logprob: Tensor, of_entropy: Tensor | None) -> Tensor:
        """The gradient [C, V] with respect to ``hidden @ weightᵀ + bias``, in the dtype of hidden; once, at the end.

        Args:
            of_logprob: float32 [C], the derivative of the loss by each log-probability.
            of_entropy: the same by each entropy; None where it has no part in the loss.
        """
        scale = self._transform.scale / self._temperature
        logits, entropies = self._logits, scores.entropies
        del self._logits
        if self._fused:
            from open_r1.model.policy_kernel import gradient_

            gradient_(logits, self._targets, scores.normalisers, entropies, of_logprob, of_entropy, scale)
            return logits
        slope = self._transform.slope(logits, self._temperature)
        grad = gradient_plainly(logits, self._targets, scores, of_logprob, of_entropy)
        return grad.mul_(slope).to(self._dtype)


class ChunkedHead:
    """A linear head whose logits come, and whose gradients are filled, chunk by chunk.

    Args:
        hidden: [K, D]; ``weight`` [V, D] and ``bias`` [V] as they are stored.
        wanted: for which of the three a gradient is wanted; the others stay None.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self._hidden = hidden
        self._compute_weight = weight.to(hidden.dtype)
        self._compute_bias = None if bias is None else bias.to(hidden.dtype)
        self._empty = True
        self._of_hidden = torch.empty_like(hidden) if wanted[0] else None
        self._of_weight = torch.empty_like(weight) if wanted[1] else None
        self._of_bias = torch.zeros_like(bias) if wanted[2] else None

    def logits(self, part: slice, targets: Tensor, transform: LogitTransform, temperature: float) -> LogitChunk:
        """Those of some of the targets."""
        return LogitChunk(self._hidden[part], self._compute_weight, self._compute_bias, targets, transform, temperature)

    def add(self, part: slice, grad: Tensor) -> None:
        """Takes the gradient [C, V] of the logits of some of the targets."""
        if self._of_hidden is not None:
            torch.mm(grad, self._compute_weight, out=self._of_hidden[part])
        if self._of_weight is not None:
            accumulate_product(self._of_weight, grad, self._hidden[part], first=self._empty)
            self._empty = False
        if self._of_bias is not None:
            self._of_bias += grad.sum(0)

    def gradients(self) -> Gradients:
        """By the hidden states [K, D], the weight [V, D] and the bias [V]."""
        if self._of_weight is not None and self._empty:
            self._of_weight.zero_()
        return self._of_hidden, self._of_weight, self._of_bias


def score_plainly(logits: Tensor, targets: Tensor, entropy: bool) -> Scores:
    """What `policy_kernel.score` computes, of float32 ``logits`` [C, V]."""
    normalisers = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normalisers
    if not entropy:
        return Scores(logprobs, normalisers, None)
    # Relative to the normaliser: the entropy is a small difference of large sums.
    below = logits - normalisers[:, None]
    return Scores(logprobs, normalisers, -(below.exp() * below.clamp_(min=UNDERFLOW)).sum(-1))


def gradient_plainly(
    logits: Tensor, targets: Tensor, scores: Scores, of_logprob: Tensor, of_entropy: Tensor | None
) -> Tensor:
    """What `policy_kernel.gradient_` computes, of float32 ``logits`` [C, V], which are overwritten.

    Of a loss that depends on log p_t and on the entropy H of softmax(z), with derivatives a and e:
    dz_v = a ([v = t] − p_v) − e p_v (log p_v + H).
    """
    below = logits.sub_(scores.normalisers[:, None])
    grad = below.exp().neg_()
    if of_entropy is None:
        grad *= of_logprob[:, None]
    else:
        below = below.clamp_(min=UNDERFLOW).add_(scores.entropies[:, None])
        grad *= below.mul_(of_entropy[:, None]).add_(of_logprob[:, None])
    return grad.scatter_add_(-1, targets[:, None], of_logprob[:, None])
