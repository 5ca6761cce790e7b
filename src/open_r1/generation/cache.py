"""The key-value cache of continuous batching: rows come and go, and the newest token of every row is in one column.

Row ``b`` occupies columns ``[row_start[b], end)``: rows are aligned to the right, as in a left-padded batch, so the
masks that transformers builds hold. A decode step writes one column of preallocated storage, because concatenating
the whole cache at every step costs as much as attention. A row leaves by moving the last row into its place; columns
on the left that no row uses any more leave by moving ``start``, without a copy.

Shape suffixes: B live rows, M rows that join or move, H key-value heads, C columns, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from open_r1.errors import UserError

GROWTH = 1.5
MIN_COLUMNS = 64


class Window:
    """The live part of the storage: rows ``[0, rows)`` of columns ``[start, end)``; one object shared by all layers."""

    rows = 0
    start = 0
    end = 0

    @property
    def width(self) -> int:
        return self.end - self.start


class WindowLayer(DynamicLayer):
    """Keys and values of one layer in storage [max_rows, H, C, D]; a sliding layer shows attention only its end."""

    def __init__(self, window: Window, sliding_window: int | None = None):
        super().__init__()
        self.window = window
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None

    def get_seq_length(self) -> int:
        return self.window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        past = self._visible_past()
        return past + query_length, self.window.width - past

    def _visible_past(self) -> int:
        width = self.window.width
        return width if self.sliding_window is None else min(width, self.sliding_window - 1)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Writes one column and returns what attention may see; the window moves once every layer has written."""
        rows, end = self.window.rows, self.window.end
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        first = end - self._visible_past()
        return self.keys[:rows, :, first : end + 1], self.values[:rows, :, first : end + 1]

    def join(self, prefilled: DynamicLayer, source_M: Tensor) -> None:
        first, end = self.window.rows, self.window.end
        for mine, new in ((self.keys, prefilled.keys), (self.values, prefilled.values)):
            mine[first : first + len(source_M), :, end - new.shape[-2] : end] = new[source_M]

    def move_rows(self, source_M: Tensor, target_M: Tensor) -> None:
        for states in (self.keys, self.values):
            live = states[:, :, self.window.start : self.window.end]
            live[target_M] = live[source_M]

    def truncate(self, rows: int) -> None:
        """Nothing to do: storage past the live rows is not read."""

    def allocate(self, prefilled: DynamicLayer, max_rows: int, columns: int) -> None:
        # Zeros, not empty: a masked column has weight 0, and 0 times an uninitialised NaN is NaN.
        self.keys, self.values = (
            states.new_zeros(max_rows, states.shape[1], columns, states.shape[-1], dtype=_attention_dtype(states))
            for states in (prefilled.keys, prefilled.values)
        )
        self.is_initialized = True

    def relocate(self, columns: int) -> None:
        """Moves the live block to the first column of new storage of ``columns`` columns."""
        self.keys = self._relocated(self.keys, columns)
        self.values = self._relocated(self.values, columns)

    def _relocated(self, old: Tensor, columns: int) -> Tensor:
        live = self.window
        new = old.new_zeros(*old.shape[:2], columns, old.shape[-1])
        new[: live.rows, :, : live.width] = old[: live.rows, :, live.start : live.end]
        return new


def _attention_dtype(states: Tensor) -> torch.dtype:
    """In which ``states`` meet attention.

    Rotary embeddings leave keys in float32 under autocast: a cache of these would be cast as a whole at every step.
    """
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


class StateLayer(LinearAttentionLayer):
    """A linear-attention or convolution layer: states of fixed size [B, ...], so joining is concatenation."""

    def join(self, prefilled: LinearAttentionLayer, source_M: Tensor) -> None:
        for states, new in zip(self._states(), (prefilled.conv_states, prefilled.recurrent_states), strict=True):
            for index, state in new.items():
                if state is not None:
                    joined = state[source_M]
                    states[index] = joined if states[index] is None else torch.cat([states[index], joined])
        for name in ("conv_kernel_size", "is_conv_states_initialized", "is_recurrent_states_initialized"):
            setattr(self, name, dict(getattr(prefilled, name)))
        self.has_previous_state = dict(prefilled.has_previous_state)

    def move_rows(self, source_M: Tensor, target_M: Tensor) -> None:
        self._replace(lambda state: state.index_copy(0, target_M, state[source_M]))

    def truncate(self, rows: int) -> None:
        # A copy, as the layer writes its states in place and they would keep the dropped rows alive.
        self._replace(lambda state: state[:rows].clone())

    def allocate(self, prefilled: LinearAttentionLayer, max_rows: int, columns: int) -> None:
        """Nothing to do: the first rows to join bring the states."""

    def relocate(self, columns: int) -> None:
        """Nothing to do: there are no columns."""

    def _states(self) -> tuple[dict[int, Tensor | None], dict[int, Tensor | None]]:
        return self.conv_states, self.recurrent_states

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for states in self._states():
            for index, state in states.items():
                if state is not None:
                    states[index] = change(state)


class DecodeCache(Cache):
    """A cache for at most ``max_rows`` rows of different lengths and ages.

    Raises:
        UserError: if the model has a kind of cache layer that rows cannot join and leave.
    """

    def __init__(self, config: PreTrainedConfig, max_rows: int, device: torch.device):
        self.window = Window()
        self.max_rows = max_rows
        self.device = device
        self.columns = 0
        self.row_start: list[int] = []
        self.row_start_B = torch.empty(0, dtype=torch.int64, device=device)
        super().__init__(layers=[self._layer_for(layer) for layer in DynamicCache(config=config).layers])

    def _layer_for(self, layer: object) -> WindowLayer | StateLayer:
        # Exact types: a subclass keeps state that would be lost here.
        if type(layer) is DynamicLayer:
            return WindowLayer(self.window)
        if type(layer) is DynamicSlidingWindowLayer:
            return WindowLayer(self.window, layer.sliding_window)
        if type(layer) is LinearAttentionLayer:
            return StateLayer(layer.number_of_states)
        raise UserError(
            f"the transformers engine cannot batch cache layers of type {type(layer).__name__}: use another engine"
        )

    def join(self, prefilled: DynamicCache, source_M: Tensor, length_M: Sequence[int]) -> None:
        """Adds rows ``source_M`` (int64, may repeat) of a left-padded prefill; their prompts have ``length_M`` tokens.

        Raises:
            ValueError: if a prompt is longer than the columns in use: the longest prompts must be prefilled first.
        """
        live = self.window
        if live.rows == 0:
            live.start, live.end = 0, max(length_M)
            self._reserve(prefilled)
        if max(length_M) > live.end:
            raise ValueError(f"a prompt of {max(length_M)} tokens joins {live.end} columns: prefill the longest first")
        for layer, new in zip(self.layers, prefilled.layers, strict=True):
            layer.join(new, source_M)
        live.rows += len(length_M)
        self._set_row_start(self.row_start + [live.end - length for length in length_M])

    def _reserve(self, prefilled: DynamicCache) -> None:
        if self.window.end >= self.columns:
            self.columns = max(MIN_COLUMNS, int(self.window.end * GROWTH) + 1)
            for layer, new in zip(self.layers, prefilled.layers, strict=True):
                layer.allocate(new, self.max_rows, self.columns)

    def _set_row_start(self, row_start: list[int]) -> None:
        self.row_start = row_start
        self.window.start = min(row_start, default=0)
        self.row_start_B = torch.tensor(row_start, dtype=torch.int64).to(self.device)

    def advance(self) -> None:
        """Counts the column that all layers have just written, and makes room for the next one."""
        live = self.window
        live.end += 1
        if live.end == self.columns:
            shift = live.start
            self.columns = max(MIN_COLUMNS, int(live.width * GROWTH) + 1)
            for layer in self.layers:
                layer.relocate(self.columns)
            live.start, live.end = 0, live.width
            self._set_row_start([start - shift for start in self.row_start])

    def drop(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Removes ``rows`` by moving the last rows into their places.

        Returns:
            ``source_M, target_M``, int64: the moves, for whoever keeps other arrays by row.
        """
        gone = set(rows)
        kept = self.window.rows - len(gone)
        targets = sorted(row for row in gone if row < kept)
        sources = [row for row in range(kept, self.window.rows) if row not in gone]
        source_M, target_M = (torch.tensor(index, dtype=torch.int64).to(self.device) for index in (sources, targets))
        for layer in self.layers:
            if sources:
                layer.move_rows(source_M, target_M)
            layer.truncate(kept)
        row_start = list(self.row_start)
        for source, target in zip(sources, targets, strict=True):
            row_start[target] = row_start[source]
        self.window.rows = kept
        self._set_row_start(row_start[:kept])
        return source_M, target_M

    def step_inputs(self) -> tuple[Tensor, Tensor | None]:
        """Position ids [B, 1] and mask [B, width + 1] for the column about to be written; no mask if none is needed."""
        live = self.window
        position_ids_B1 = live.end - self.row_start_B[:, None]
        if all(start == live.start for start in self.row_start):
            return position_ids_B1, None
        columns = torch.arange(live.start, live.end + 1, device=self.device)
        return position_ids_B1, columns >= self.row_start_B[:, None]
