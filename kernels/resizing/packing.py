"""Pictures, tap tables and descriptors as one run of bytes: a single copy to the device.

Layout: descriptors (B, fields) int64 | tables int32 | pixels uint8, each section on 16 bytes.
Descriptors of a bilinear batch, per picture: byte offset of its pixels, bytes per row, offset of
the table of the rows, of the columns (int32 values), height, width after resizing.
Of a bicubic one, where "line" runs along the axis resampled first: byte offset of the pixels,
bytes from line to line, bytes from pixel to pixel of a line, number of lines, table and number of
taps of the first pass, table and taps of the second, offset of its lines in the intermediate
picture (pixels), pixels of the output per step along the first and along the second axis, size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.resizing.taps import AxisTaps

BICUBIC_FIELDS: Final = 12
BILINEAR_FIELDS: Final = 6
_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """One picture and how it is resampled.

    Attributes:
        picture: (H, W, 3) uint8, any strides.
        rows: taps of the vertical pass.
        columns: taps of the horizontal pass.
        vertical_first: order of the two passes; bicubic only, whose first pass rounds to uint8.
    """

    picture: NDArray[np.uint8]
    rows: AxisTaps
    columns: AxisTaps
    vertical_first: bool = False

    @property
    def window(self) -> NDArray[np.uint8]:
        """The part of the picture that is read; positions in the tables count from its corner."""
        rows, columns = self.rows, self.columns
        return self.picture[rows.start : rows.stop, columns.start : columns.stop]


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """Views of the packed bytes on the device.

    Attributes:
        descriptors: (B, fields) int64.
        tables: (n,) int32.
        pixels: (n,) uint8.
    """

    descriptors: Tensor
    tables: Tensor
    pixels: Tensor


class PackedBatch:
    """Where everything lies.

    Attributes:
        nbytes: size of the whole.
        max_lines: of the intermediate pictures; bicubic only.
        middle_pixels: of all intermediate pictures together; bicubic only.
    """

    def __init__(self, pictures: Sequence[Resampling], *, padded_width: int, bicubic: bool) -> None:
        self._tables: dict[AxisTaps, int] = {}
        self._tables_end = 0
        self._windows = [item.window for item in pictures]
        self.max_lines = 0
        self.middle_pixels = 0
        self._padded_width = padded_width
        describe = self._bicubic_row if bicubic else self._bilinear_row
        rows = []
        pixels_end = 0
        for item, window in zip(pictures, self._windows, strict=True):
            rows.append(describe(item, window, pixels_end))
            pixels_end += window.size
        self._descriptors = np.array(rows, dtype=np.int64)
        self._tables_start = _align(self._descriptors.nbytes)
        self._pixels_start = _align(self._tables_start + 4 * self._tables_end)
        self.nbytes = self._pixels_start + pixels_end

    def write(self, buffer: NDArray[np.uint8]) -> None:
        """Fill the first `nbytes` of `buffer`, which starts on 16 bytes.

        One call copies all pictures without holding the interpreter. Between calls for one after
        the other this thread would wait for it as many times as there are pictures.
        """
        buffer[: self._descriptors.nbytes].view(np.int64)[:] = self._descriptors.ravel()
        tables = buffer[self._tables_start : self._tables_start + 4 * self._tables_end]
        for taps, offset in self._tables.items():
            tables.view(np.int32)[offset : offset + taps.table.size] = taps.table.ravel()
        places, start = [], self._pixels_start
        for window in self._windows:
            places.append(buffer[start : start + window.size].reshape(window.shape))
            start += window.size
        torch._foreach_copy_(
            [torch.from_numpy(place) for place in places],
            [_tensor(window) for window in self._windows],
        )

    def view(self, data: Tensor) -> DeviceBatch:
        """The sections of `data`, (nbytes,) uint8, what `write` filled or a copy of it."""
        descriptors = data[: self._descriptors.nbytes].view(torch.int64)
        tables = data[self._tables_start : self._tables_start + 4 * self._tables_end]
        return DeviceBatch(
            descriptors=descriptors.view(self._descriptors.shape),
            tables=tables.view(torch.int32),
            pixels=data[self._pixels_start : self.nbytes],
        )

    def _table(self, taps: AxisTaps) -> int:
        """Offset of a table; pictures of one size share theirs."""
        offset = self._tables.get(taps)
        if offset is None:
            offset = self._tables[taps] = self._tables_end
            self._tables_end += taps.table.size
        return offset

    def _bilinear_row(
        self, item: Resampling, window: NDArray[np.uint8], pixels_start: int
    ) -> tuple[int, ...]:
        return (
            pixels_start,
            window.shape[1] * 3,
            self._table(item.rows),
            self._table(item.columns),
            item.rows.size,
            item.columns.size,
        )

    def _bicubic_row(
        self, item: Resampling, window: NDArray[np.uint8], pixels_start: int
    ) -> tuple[int, ...]:
        height, width = window.shape[:2]
        horizontal = (height, width * 3, 3, item.columns, item.rows, 1, self._padded_width)
        vertical = (width, 3, width * 3, item.rows, item.columns, self._padded_width, 1)
        lines, line_step, pixel_step, first, second, first_out, second_out = (
            vertical if item.vertical_first else horizontal
        )
        middle = self.middle_pixels
        self.middle_pixels += lines * first.size
        self.max_lines = max(self.max_lines, lines)
        return (
            pixels_start,
            line_step,
            pixel_step,
            lines,
            self._table(first),
            first.table.shape[0] - 2,
            self._table(second),
            second.table.shape[0] - 2,
            middle,
            first_out,
            second_out,
            first.size,
        )


def _tensor(window: NDArray[np.uint8]) -> Tensor:
    """The same memory where torch can have it: writable, and not reversed."""
    if not window.flags.writeable or min(window.strides) < 0:
        window = window.copy()
    return torch.from_numpy(window)


def _align(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
