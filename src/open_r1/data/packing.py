"""Which tokens of which sequences share a pack: a pure function of lengths, budget, seed and epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Overlong = Literal["split", "truncate", "drop"]
SHORT = 16
"""Sequences of at most this part of a pack are shared out at random instead of by length."""

CLOSING = 4
"""So many short sequences for each pack are kept back to close the gaps."""


@dataclass(frozen=True)
class PackPlan:
    """What each pack of one epoch holds.

    Attributes:
        segments: int64 [N, 3]: sequence, first token, end (exclusive).
        offsets: int64 [P + 1]: pack ``p`` holds ``segments[offsets[p]:offsets[p + 1]]``.
        budget: tokens that a pack may hold.
        counts: sequences by what became of them: ``whole``, ``split``, ``truncated``, ``dropped``; and of the segments
            those left out as ``untrained``, because nothing in them is a target.
    """

    segments: np.ndarray
    offsets: np.ndarray
    budget: int
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        """The segments of one pack, int64 [S, 3]."""
        if not 0 <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}")
        return self.segments[self.offsets[pack] : self.offsets[pack + 1]]

    @property
    def tokens(self) -> int:
        """Tokens in all packs; a token that two pieces of a split sequence share counts twice."""
        return int((self.segments[:, 2] - self.segments[:, 1]).sum())

    @property
    def fill(self) -> float:
        """Share of the packs' budget that is used, 0 to 1."""
        return self.tokens / (len(self) * self.budget) if len(self) else 0.0


def plan(
    lengths: np.ndarray,
    budget: int,
    *,
    seed: int,
    epoch: int,
    overlong: Overlong = "split",
    packing: bool = True,
    batch_size: int = 1,
    targets: np.ndarray | None = None,
) -> PackPlan:
    """Plans the packs of one epoch. What shares a pack differs between epochs, and so may their number, by a few.

    Args:
        lengths: int [N], tokens of each sequence.
        budget: tokens of a pack, and so of the longest segment; without packing, of the longest segment alone.
        overlong: what becomes of a sequence longer than ``budget``: cut into pieces, shortened, or left out. Each
            piece begins with the last token of the one before, so that every target is trained exactly once.
        packing: best fit over all sequences; else ``batch_size`` of them a pack.
        targets: int [N, 2], first target and end of the last (`TokenStore.targets`): segments without any are left
            out. None keeps all.

    Raises:
        ValueError: the budget is below two tokens.
    """
    if budget < 2:
        raise ValueError(f"a budget of {budget} tokens leaves nothing to predict")
    segments, counts = _segments(np.asarray(lengths, np.int64), budget, overlong)
    if targets is not None:
        first, last = targets[segments[:, 0]].T
        # The first token of a segment is never a target: nothing stands before it.
        trained = np.maximum(first, segments[:, 1] + 1) < np.minimum(last, segments[:, 2])
        counts["untrained"] = int((~trained).sum())
        segments = segments[trained]

    rng = np.random.default_rng([seed, epoch])
    segments = segments[rng.permutation(len(segments))]
    if packing:
        pack_of = _mixed_pack_numbers(segments[:, 2] - segments[:, 1], budget)
        sizes = np.bincount(pack_of)
        rank = rng.permutation(len(sizes))
        segments = segments[np.argsort(rank[pack_of], kind="stable")]
        sizes = sizes[np.argsort(rank)]
    else:
        starts = np.arange(0, len(segments), batch_size)
        sizes = np.diff(np.append(starts, len(segments)))
        budget *= batch_size
    return PackPlan(segments, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), budget, counts)


def _segments(lengths: np.ndarray, budget: int, overlong: Overlong) -> tuple[np.ndarray, dict[str, int]]:
    """Segments of at most ``budget`` tokens, in the order of the sequences."""
    over = lengths > budget
    counts = {"whole": int((~over & (lengths > 0)).sum()), "split": 0, "truncated": 0, "dropped": 0, "untrained": 0}
    counts[{"split": "split", "truncate": "truncated", "drop": "dropped"}[overlong]] = int(over.sum())

    pieces = (lengths > 0).astype(np.int64)
    if overlong == "split":
        # A piece brings budget - 1 new targets: its first token is context, shared with the piece before.
        pieces[over] = -(-(lengths[over] - 1) // (budget - 1))
    elif overlong == "drop":
        pieces[over] = 0
    sequence = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = number * (budget - 1)
    return np.stack([sequence, start, np.minimum(start + budget, lengths[sequence])], axis=1), counts


def _mixed_pack_numbers(lengths: np.ndarray, budget: int) -> np.ndarray:
    """Best fit for the long items; short ones fill up what is left, then further packs, in the order given.

    Best fit alone puts items of one length together, and where hundreds share a pack, a step would see nothing but
    answers of one length. So the short ones are taken as they come, all but a few for each pack, which best fit then
    puts where they close the gaps.
    """
    pack_of = np.empty(len(lengths), np.int64)
    short = np.flatnonzero(lengths <= budget // SHORT)
    long = np.flatnonzero(lengths > budget // SHORT)
    pack_of[long] = pack_numbers(lengths[long], budget)
    rooms = budget - np.bincount(pack_of[long], weights=lengths[long]).astype(np.int64)

    closing = min(len(short), CLOSING * -(-int(lengths.sum()) // budget))
    first, last = np.split(short, [len(short) - closing])
    pack_of[first], rooms = _in_turn(lengths[first], rooms, budget)
    pack_of[last] = pack_numbers(lengths[last], budget, rooms)
    left = last[pack_of[last] < 0]
    numbers, _ = _in_turn(lengths[left], np.empty(0, np.int64), budget)
    pack_of[left] = len(rooms) + numbers
    return pack_of


def _in_turn(lengths: np.ndarray, rooms: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Items in the order given, each pack filled until the next one does not fit; as many new packs as it takes.

    Returns:
        int64 [N], the pack of each item, and int64 [P], the room that is left in every pack.
    """
    ends, sizes = np.cumsum(lengths), [0]
    while sizes[-1] < len(ends):
        placed, pack = sizes[-1], len(sizes) - 1
        room = rooms[pack] if pack < len(rooms) else budget
        sizes.append(int(np.searchsorted(ends, (ends[placed - 1] if placed else 0) + room, side="right")))
    numbers = np.repeat(np.arange(len(sizes) - 1), np.diff(sizes))
    before = np.concatenate([rooms, np.full(max(0, len(sizes) - 1 - len(rooms)), budget, np.int64)])
    return numbers, before - np.bincount(numbers, weights=lengths, minlength=len(before)).astype(np.int64)


def best_fit(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """The packs that `pack_numbers` makes, each as the int64 indices of its items."""
    pack_of = pack_numbers(lengths, budget)
    return np.split(np.argsort(pack_of, kind="stable"), np.cumsum(np.bincount(pack_of)))[:-1]


def pack_numbers(lengths: np.ndarray, budget: int, rooms: np.ndarray | None = None) -> np.ndarray:
    """Best fit decreasing: each item, the longest first, goes where it leaves the least room, else into a new pack.

    Items of equal length are placed together, and packs with the same room are filled together, so that the work
    grows with the number of different lengths, not with the number of items.

    Args:
        lengths: int [N], each between 1 and ``budget``.
        rooms: int [P], what is left in packs that are there already; then no new ones are made.

    Returns:
        int64 [N], the pack of each item; packs are numbered from 0, and -1 is an item that none has room for.

    Raises:
        ValueError: an item is empty or does not fit into a pack.
    """
    if not len(lengths):
        return np.empty(0, np.int64)
    if not 1 <= lengths.min() <= lengths.max() <= budget:
        raise ValueError(f"items of {lengths.min()} to {lengths.max()} tokens do not fit into packs of {budget}")
    pack_of = np.full(len(lengths), -1, np.int64)
    order = np.argsort(-lengths, kind="stable")
    distinct, firsts = np.unique(-lengths[order], return_index=True)
    open_packs = _OpenPacks(budget, rooms)
    for length, items in zip((-distinct).tolist(), np.split(order, firsts[1:]), strict=True):
        while len(items):
            room, packs = open_packs.take(length, len(items))
            if not len(packs):
                break
            each = room // length  # a pack that takes one item is then the best fit for the next, until it is full
            now, items = np.split(items, [each * len(packs)])
            pack_of[now] = np.repeat(packs, each)[: len(now)]
            filled, rest = divmod(len(now), each)
            open_packs.put(room - each * length, packs[:filled])
            open_packs.put(room - rest * length, packs[filled : filled + 1])
            open_packs.put(room, packs[filled + 1 :])
    return pack_of


class _OpenPacks:
    """Packs by the room that is left in them."""

    def __init__(self, budget: int, rooms: np.ndarray | None) -> None:
        self._budget = budget
        self._made = 0 if rooms is None else None
        self._by_room: dict[int, list[np.ndarray]] = {}
        self._rooms = 0  # bit r is set where there are packs with room r
        if rooms is not None and len(rooms):
            order = np.argsort(rooms, kind="stable")
            distinct, firsts = np.unique(rooms[order], return_index=True)
            for room, packs in zip(distinct.tolist(), np.split(order, firsts[1:]), strict=True):
                self.put(room, packs)

    def take(self, length: int, items: int) -> tuple[int, np.ndarray]:
        """Packs, all with the same room: the least that is enough for ``length``, or new ones for ``items`` items."""
        fitting = self._rooms >> length
        if not fitting and self._made is None:
            return 0, np.empty(0, np.int64)
        if not fitting:
            needed = -(-items // (self._budget // length))
            self._made += needed
            return self._budget, np.arange(self._made - needed, self._made)
        room = length + (fitting & -fitting).bit_length() - 1
        packs = self._by_room[room].pop()
        if not self._by_room[room]:
            self._rooms ^= 1 << room
        return room, packs

    def put(self, room: int, packs: np.ndarray) -> None:
        """Gives back packs with ``room`` left in each."""
        if room and len(packs):
            self._by_room.setdefault(room, []).append(packs)
            self._rooms |= 1 << room


@dataclass(frozen=True)
class OverlongReport:
    """How a budget suits some lengths.

    Attributes:
        measured: number of sequences.
        share_over: share of them longer than the budget, 0 to 1.
        share_pieces: of the pieces that splitting would make, the share that are fragments of a longer sequence.
        median, longest: tokens.
        length_for_97: the shortest multiple of 64 that at least 97 % of the sequences fit into.
    """

    measured: int
    share_over: float
    share_pieces: float
    median: int
    longest: int
    length_for_97: int


def overlong_report(lengths: np.ndarray, budget: int) -> OverlongReport:
    """Measures lengths (int [N], N > 0) against a budget."""
    lengths = np.asarray(lengths, np.int64)
    pieces = np.where(lengths > budget, -(-(lengths - 1) // max(budget - 1, 1)), 1)
    return OverlongReport(
        measured=len(lengths),
        share_over=float((lengths > budget).mean()),
        share_pieces=float(pieces[lengths > budget].sum() / pieces.sum()),
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        length_for_97=-(-int(np.quantile(lengths, 0.97, method="higher")) // 64) * 64,
    )


def announce(sample_lengths: np.ndarray, budget: int, overlong: Overlong) -> str:
    """What will happen to sequences longer than ``budget``, told from a sample of their lengths."""
    if not len(sample_lengths):
        return "none of the rows sampled can be used"
    report = overlong_report(sample_lengths, budget)
    sample = f"{report.measured:,} rows sampled: median {report.median:,} tokens, longest {report.longest:,}"
    if report.share_over == 0:
        return f"{sample}; all fit into {budget:,}."
    fate = {
        "split": f"split into pieces of {budget:,} (nothing is lost; {report.share_pieces:.0%} of what the model sees "
        "are fragments)",
        "truncate": f"cut after {budget:,} tokens, their ends (and end-of-turn tokens) are lost",
        "drop": "dropped",
    }[overlong]
    return (
        f"{sample}; {_percent(report.share_over)} are longer than {budget:,} and are {fate}. "
        f"--max_length {report.length_for_97} keeps 97% whole."
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "under 1%"
