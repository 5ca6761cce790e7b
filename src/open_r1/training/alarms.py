"""What can be seen to go wrong in a GRPO run: each alarm is a function of the metrics so far.

Each looks back over ``window`` steps, and says what it saw, what that usually means, and what to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from open_r1.training.history import History

ZERO_IS_FAILURE = frozenset(
    ["accuracy", "format", "tag_count", "reasoning_steps", "code", "binary_code", "code_format", "ioi_code", "cf_code"]
)
"""Rewards whose 0 is their worst; of a penalty it is the best, and of a user's own function nobody knows."""

FALLEN, FALLEN_AT_LEAST = 0.5, 0.1  # of the best mean over a window; reward
NO_SIGNAL = 0.05  # share of groups whose rewards differ
SAME_REWARD = 0.02  # relative spread of the means of several steps of one prompt mix each
TRUNCATED, TRUNCATED_MORE, TRUNCATED_NEARLY_ALL = 0.25, 0.15, 0.9  # shares; a rise by 0.15 is outside of chance
SHORTENED, SHORTENED_CUT = 1 / 3, 0.5  # of the longest mean at the start; share of answers that were cut off then
ENTROPY_SHARE, ENTROPY_LOW = 0.1, 0.1  # of the start; nats a token
KL_STEPS = 3  # an explosion grows with every step: a long window would see it late
KL_LIMITS = {"kl_reference": 1.0, "kl_behaviour": 0.2}  # nats a token; healthy runs stay ten times below
MISMATCH_TIMES, MISMATCH_LOW = 5.0, 0.01  # of the start; nats a token
TIMED_OUT = 0.05  # share of answers
DEGENERATE = 0.2  # share of answers


@dataclass(frozen=True)
class Finding:
    """What an alarm has to say.

    Attributes:
        metric: in which it is seen.
        text: one line, in three sentences: what is seen, what it usually means, what to change.
    """

    metric: str
    text: str


Alarm = Callable[[History], Finding | None]


def reward_zero(history: History) -> Finding | None:
    """No answer is rewarded: by any function, or by one whose 0 is a failure."""
    rewards = history.last("reward")
    silent = [name for name in history.names() if _is_failing(history, name)]
    if rewards and _no_signal(history) == 0 and _is_one_value(rewards) and _at_the_bottom(history, rewards):
        metric, seen = "reward", f"the reward was {rewards[-1]:.3g} for every answer"
    elif silent:
        metric, seen = silent[0], f"{' and '.join(silent)} was 0 for every answer"
    else:
        return None
    truncated = history.last("truncated")
    cut = f", of which {_percent(fmean(truncated))} were cut off" if truncated and max(truncated) > 0 else ""
    if history.best(metric) > 0:
        return Finding(
            metric,
            f"{seen} of the last {history.window} steps{cut}, and it was {history.best(metric):.3g} at its best. The "
            "policy came apart. Go on from a checkpoint before the fall with a lower learning_rate (by 3 to 10).",
        )
    return Finding(
        metric,
        f"{seen} of the last {history.window} steps{cut}. The task is too hard for the model, its answers are cut off "
        "before their end, or the verifier does not find them. Read them (--log_completions true), try the verifier "
        "(open-r1 rewards check), then raise max_completion_length, take easier problems, or train with SFT first.",
    )


def reward_one(history: History) -> Finding | None:
    """All answers get the same reward, and not the lowest: nothing is left to learn."""
    rewards = history.last("reward")
    if not rewards or _no_signal(history) > NO_SIGNAL or not _is_one_value(rewards) or rewards[-1] <= 0:
        return None
    return Finding(
        "reward",
        f"the reward was {fmean(rewards):.3g} for nearly every answer of the last {history.window} steps. The problems "
        "are solved, or the reward is given for nothing. Take harder problems, or stop here; if the answers are not "
        "good (--log_completions true), the reward is wrong.",
    )


def reward_drop(history: History) -> Finding | None:
    """The reward has fallen far below its best."""
    rewards = history.last("reward")
    if not rewards:
        return None
    now, best = fmean(rewards), history.best("reward")
    if best - now < max(FALLEN * abs(best), FALLEN_AT_LEAST):
        return None
    return Finding(
        "reward",
        f"the reward fell to {now:.3g} over the last {history.window} steps, from {best:.3g} at its best. The policy "
        "was driven too far and comes apart. Go on from a checkpoint before the fall with a lower learning_rate (by 3 "
        "to 10), or a higher beta.",
    )


def no_signal(history: History) -> Finding | None:
    """Prompts differ in their rewards, the answers to one prompt do not."""
    rewards = history.last("reward")
    share = _no_signal(history)
    if not rewards or share > NO_SIGNAL or _is_one_value(rewards):
        return None
    return Finding(
        "groups_with_signal",
        f"the answers to one prompt got the same reward in {_percent(1 - share)} of the groups of the last "
        f"{history.window} steps. Prompts are either solved or hopeless, so nearly nothing is learnt. Take problems of "
        "middle difficulty, raise num_generations or temperature, or add a reward of finer grain.",
    )


def truncation(history: History) -> Finding | None:
    """More and more answers are cut off, or nearly all."""
    values, before = history.last("truncated"), history.before("truncated")
    if not values:
        return None
    share, start = fmean(values), history.first("truncated")
    base = min([fmean(part) for part in (before, start) if part], default=share)
    if share < TRUNCATED_NEARLY_ALL and (share < TRUNCATED or share - base < TRUNCATED_MORE):
        return None
    rise = f", up from {_percent(base)}" if share - base >= TRUNCATED_MORE else ""
    return Finding(
        "truncated",
        f"{_percent(share)} of the answers of the last {history.window} steps reached max_completion_length{rise}. The "
        "answers grow beyond their room, or the model no longer ends them. Raise max_completion_length, add the reward "
        "soft_overlong_punishment, or lower learning_rate; mask_truncated_completions leaves them out of the loss.",
    )


def shortening(history: History) -> Finding | None:
    """Answers have lost most of their length, and not because they had no end at the start."""
    start, values = history.first("completion_length"), history.last("completion_length")
    cut = history.first("truncated")
    if not start or fmean(values) >= SHORTENED * max(start) or (cut and max(cut) > SHORTENED_CUT):
        return None
    return Finding(
        "completion_length",
        f"the answers of the last {history.window} steps had {fmean(values):.0f} tokens, at the start they had "
        f"{max(start):.0f}. The model leaves its reasoning out, because something else than a right answer pays "
        "more easily. Read them (--log_completions true), pay less for form (reward_weights), set scale_rewards batch "
        "or none so that form alone is not scaled up, and start again: what is lost comes back slowly.",
    )


def entropy(history: History) -> Finding | None:
    """The policy has become nearly deterministic."""
    start, values = history.first("entropy"), history.last("entropy")
    if not start or not fmean(values) < min(ENTROPY_SHARE * fmean(start), ENTROPY_LOW):
        return None
    return Finding(
        "entropy",
        f"the entropy fell to {fmean(values):.3g} nats a token, from {fmean(start):.3g} at the start. The model gives "
        "the same answer each time and no longer tries others. Raise epsilon_high (0.28), lower learning_rate, raise "
        "temperature, or go back to a checkpoint before the fall.",
    )


def kl(history: History) -> Finding | None:
    """The policy runs away from its reference, or in one step from the policy that drew the answers."""
    for metric, limit in KL_LIMITS.items():
        values = history.last(metric, min(KL_STEPS, history.window))
        if not values or median(values) <= limit:
            continue
        other = "the reference model" if metric == "kl_reference" else "the policy that drew the answers"
        change = "raise beta" if metric == "kl_reference" else "lower num_iterations"
        return Finding(
            metric,
            f"the KL divergence from {other} is {median(values):.3g} nats a token, healthy is below {limit / 10:.2g}. "
            "The updates are too large: texts fall apart next and the reward follows. Lower learning_rate (by 3 to "
            f"10) or max_grad_norm, {change}, and go on from a checkpoint before the rise.",
        )
    return None


def mismatch(history: History) -> Finding | None:
    """The engine that draws and the trainer give the same tokens other probabilities, more than at the start."""
    start, values = history.first("mismatch_kl"), history.last("mismatch_kl")
    if not start or median(values) < max(MISMATCH_TIMES * median(start), MISMATCH_LOW):
        return None
    return Finding(
        "mismatch_kl",
        f"the engine's log-probabilities differ from the trainer's by {median(values):.3g} nats a token (KL), at the "
        f"start by {median(start):.3g}. The engine decodes with old weights or in other precision, and gradients "
        "become wrong. Lower learning_rate, fewer steps between drawing and training, or an engine in the trainer's "
        "own precision.",
    )


def reward_timeouts(history: History) -> Finding | None:
    """A verifier does not answer in time."""
    timeouts, prompts = history.last("reward_timeouts"), history.last("prompts_drawn")
    answers = sum(prompts) * history.group_size
    if not timeouts or not answers or sum(timeouts) / answers < TIMED_OUT:
        return None
    return Finding(
        "reward_timeouts",
        f"{sum(timeouts):.0f} rewards for {answers:.0f} answers of the last {history.window} steps were not there in "
        "time, and count as none. A verifier hangs, or there are too few workers for it. Raise reward_timeout or "
        "reward_workers, or try the reward alone: open-r1 rewards check.",
    )


def empty(history: History) -> Finding | None:
    """Answers without a word."""
    values = history.last("empty")
    if not values or fmean(values) < DEGENERATE:
        return None
    return Finding(
        "empty",
        f"{_percent(fmean(values))} of the answers of the last {history.window} steps were empty. The model ends at "
        "once, often because a wrong answer costs more than none. Give no answer the lowest reward, and lower "
        "learning_rate.",
    )


def repetition(history: History) -> Finding | None:
    """Answers that say the same again and again."""
    values = history.last("repetition")
    if not values or fmean(values) < DEGENERATE:
        return None
    return Finding(
        "repetition",
        f"{_percent(fmean(values))} of the answers of the last {history.window} steps repeat themselves. The model is "
        "in a loop, most often after updates that were too large. Lower learning_rate, add the reward "
        "repetition_penalty, and go on from a checkpoint before it began.",
    )


LOOKOUTS: dict[str, Alarm] = {
    look.__name__: look
    for look in (
        *(reward_zero, reward_one, reward_drop, no_signal, truncation, shortening),
        *(entropy, kl, mismatch, reward_timeouts, empty, repetition),
    )
}
"""The alarms by the names that ``stop_on`` and the metrics ``alarm/NAME`` know them under."""


def _no_signal(history: History) -> float:
    """The mean share of groups whose rewards differ; 1 while nothing is known."""
    shares = history.last("groups_with_signal")
    return fmean(shares) if shares else 1.0


def _is_failing(history: History, name: str) -> bool:
    values = history.last(name)
    known = name.startswith("rewards/") and name.removeprefix("rewards/") in ZERO_IS_FAILURE
    return known and bool(values) and not any(values)


def _is_one_value(values: list[float]) -> bool:
    return max(values) - min(values) <= SAME_REWARD * abs(max(values))


def _at_the_bottom(history: History, rewards: list[float]) -> bool:
    return max(rewards) <= min(0.0, history.lowest("reward"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
