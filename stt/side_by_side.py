"""The picture of a side-by-side video: the clip at the left, its futures at the right, a timeline below.

Small frames are enlarged by a whole factor, large ones shrink to fit; no label covers them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from stt.encode import LOSSLESS_SIDE, Pixels, enlarge

MAX_WIDTH, MAX_HEIGHT = 840, 484  # fits beside the controls on a 1280x800 screen
LARGE_WIDTH, LARGE_HEIGHT = 1600, 900  # for large frames
PAD, GAP, EDGE, LABEL, FOOT = 8, 8, 3, 24, 30  # pixels; EDGE is the coloured frame
BACKGROUND = (15, 19, 27)
EMPTY = (27, 33, 45)
TEXT = (148, 160, 180)
CLIP = (100, 116, 139)
FUTURE = (251, 146, 60)
FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.42)


@dataclass(frozen=True)
class SideBySide:
    """Lays out one clip and its futures; `draw` paints one frame."""

    size: tuple[int, int]  # height and width of the model's frames
    names: tuple[str, ...]  # one per future
    context: int  # frames of the clip before the future
    frames: int  # frames of the future
    ending: int = 0  # frames of the clip after a gap
    first: int = 0  # frames of the clip before the context
    clip_frames: int = 0  # of the whole clip; 0: those that are drawn

    # ---- layout --------------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> tuple[int, int, float]:
        """(rows, columns of futures, factor): the largest factor that fits, then the fewest rows.

        The factor is whole for small frames; large ones have one of at most 1.
        """
        futures, large = len(self.names), max(self.size) > LOSSLESS_SIDE
        most_wide, most_high = (LARGE_WIDTH, LARGE_HEIGHT) if large else (MAX_WIDTH, MAX_HEIGHT)
        best: tuple[int, int, float] = (1, futures, 0)
        for rows in range(1, futures + 1):
            columns = -(-futures // rows)
            width = (most_wide - 2 * PAD - columns * GAP) // (columns + 1) - 2 * EDGE
            height = (most_high - PAD - FOOT) // rows - LABEL - 2 * EDGE
            fitting = min(height / self.size[0], width / self.size[1])
            factor = min(fitting, 1.0) if large else math.floor(fitting)
            if factor > best[2]:
                best = (rows, columns, factor)
        return best if best[2] else (*best[:2], 1)

    @property
    def factor(self) -> float:
        return self.grid[2]

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a panel with its coloured frame."""
        height, width = self.picture
        return height + 2 * EDGE, width + 2 * EDGE

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of a frame as it is painted."""
        if self.factor >= 1:
            return int(self.size[0] * self.factor), int(self.size[1] * self.factor)
        side = int(max(self.size) * self.factor)
        height, width = (max(round(part * side / max(self.size)), 1) for part in self.size)
        return height, width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), both even as H.264 requires."""
        rows, columns, _ = self.grid
        height = PAD + rows * (self.cell[0] + LABEL) + FOOT
        width = 2 * PAD + (columns + 1) * self.cell[1] + columns * GAP
        return height + height % 2, width + width % 2

    def corner(self, panel: int) -> tuple[int, int]:
        """(y, x) of a panel; 0 is the clip, 1... are the futures."""
        rows, columns, _ = self.grid
        step = self.cell[0] + LABEL
        if panel == 0:
            return PAD + (rows - 1) * step // 2, PAD
        row, column = divmod(panel - 1, columns)
        return PAD + row * step, PAD + (column + 1) * (self.cell[1] + GAP)

    # ---- painting ------------------------------------------------------------------------------------

    @cached_property
    def _empty(self) -> Pixels:
        """What never changes: empty panels and their names."""
        image = np.full((*self.shape, 3), BACKGROUND, np.uint8)
        for panel, name in enumerate(("clip", *self.names)):
            y, x = self.corner(panel)
            image[y : y + self.cell[0], x : x + self.cell[1]] = EMPTY
            (width, _), _ = cv2.getTextSize(name, *FONT, 1)
            _write(image, name, x + (self.cell[1] - width) // 2, y + self.cell[0] + 15, TEXT)
        return image

    def draw(self, clip: Pixels, futures: Sequence[Pixels], t: int) -> Pixels:
        """Frame t, from 0: first the clip, then the futures, then the clip after a gap.

        clip and futures: one frame (H, W, 3) each; no futures leave their panels empty.
        """
        image, predicted = self._empty.copy(), self.context <= t < self.context + self.frames
        for panel, frame in enumerate((clip, *futures)):
            y, x = self.corner(panel)
            image[y : y + self.cell[0], x : x + self.cell[1]] = FUTURE if panel and predicted else CLIP
            inside = slice(y + EDGE, y + self.cell[0] - EDGE), slice(x + EDGE, x + self.cell[1] - EDGE)
            image[inside] = self._scaled(frame)
        self._draw_timeline(image, t + 1)
        return image

    def _scaled(self, frame: Pixels) -> Pixels:
        if self.factor >= 1:
            return enlarge(frame[None], int(self.factor))[0]
        return np.asarray(cv2.resize(frame, self.picture[::-1], interpolation=cv2.INTER_AREA), np.uint8)

    def _draw_timeline(self, image: Pixels, count: int) -> None:
        """count: frames up to this one."""
        height, width = self.shape
        y, left, right = height - 10, PAD, width - PAD
        join = self.context + self.frames
        reach = lambda frames: left + round((right - left) * frames / (join + self.ending))  # noqa: E731
        image[y : y + 4, left:right] = EMPTY
        image[y : y + 4, left : reach(count)] = CLIP
        image[y : y + 4, reach(self.context) : reach(min(max(count, self.context), join))] = FUTURE
        total = self.clip_frames or join + self.ending
        if count > join:
            text, colour = f"clip {self.first + count} of {total}", TEXT
        elif count > self.context:
            text = "filled in" if self.ending else "predicted"
            text, colour = f"{text} {count - self.context} of {self.frames}", FUTURE
        else:
            text, colour = f"clip {self.first + count} of {total}", TEXT
        _write(image, text, left, y - 8, colour)


def _write(image: Pixels, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """y: of the baseline."""
    cv2.putText(image, text, (x, y), *FONT, colour, 1, cv2.LINE_AA)
