"""The picture of a side-by-side video: the clip at the left, its futures at the right, a timeline below.

Pixels are enlarged by a whole factor; no label covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from stt.encode import Pixels, enlarge

MAX_WIDTH, MAX_HEIGHT = 840, 484  # fits beside the controls on a 1280x800 screen
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

    size: int  # pixels per side of the model's frames
    names: tuple[str, ...]  # one per future
    context: int  # frames of the clip before the future
    frames: int  # frames of the future
    ending: int = 0  # frames of the clip after a gap

    # ---- layout --------------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """(rows, columns of futures, factor): the largest factor that fits, then the fewest rows."""
        futures = len(self.names)
        best = (1, futures, 0)
        for rows in range(1, futures + 1):
            columns = -(-futures // rows)
            width = (MAX_WIDTH - 2 * PAD - columns * GAP) // (columns + 1) - 2 * EDGE
            height = (MAX_HEIGHT - PAD - FOOT) // rows - LABEL - 2 * EDGE
            factor = min(width, height) // self.size
            if factor > best[2]:
                best = (rows, columns, factor)
        return best if best[2] else (*best[:2], 1)

    @property
    def factor(self) -> int:
        return self.grid[2]

    @property
    def cell(self) -> int:
        return self.size * self.factor + 2 * EDGE

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), both even as H.264 requires."""
        rows, columns, _ = self.grid
        height = PAD + rows * (self.cell + LABEL) + FOOT
        width = 2 * PAD + (columns + 1) * self.cell + columns * GAP
        return height + height % 2, width + width % 2

    def corner(self, panel: int) -> tuple[int, int]:
        """(y, x) of a panel; 0 is the clip, 1... are the futures."""
        rows, columns, _ = self.grid
        step = self.cell + LABEL
        if panel == 0:
            return PAD + (rows - 1) * step // 2, PAD
        row, column = divmod(panel - 1, columns)
        return PAD + row * step, PAD + (column + 1) * (self.cell + GAP)

    # ---- painting ------------------------------------------------------------------------------------

    @cached_property
    def _empty(self) -> Pixels:
        """What never changes: empty panels and their names."""
        image = np.full((*self.shape, 3), BACKGROUND, np.uint8)
        for panel, name in enumerate(("clip", *self.names)):
            y, x = self.corner(panel)
            image[y : y + self.cell, x : x + self.cell] = EMPTY
            (width, _), _ = cv2.getTextSize(name, *FONT, 1)
            _write(image, name, x + (self.cell - width) // 2, y + self.cell + 15, TEXT)
        return image

    def draw(self, clip: Pixels, futures: Sequence[Pixels], t: int) -> Pixels:
        """Frame t, from 0: first the clip, then the futures, then the clip after a gap.

        clip and futures: one frame (H, W, 3) each; no futures leave their panels empty.
        """
        image, predicted = self._empty.copy(), self.context <= t < self.context + self.frames
        for panel, frame in enumerate((clip, *futures)):
            y, x = self.corner(panel)
            image[y : y + self.cell, x : x + self.cell] = FUTURE if panel and predicted else CLIP
            inside = slice(y + EDGE, y + self.cell - EDGE), slice(x + EDGE, x + self.cell - EDGE)
            image[inside] = enlarge(frame[None], self.factor)[0]
        self._draw_timeline(image, t + 1)
        return image

    def _draw_timeline(self, image: Pixels, count: int) -> None:
        """count: frames up to this one."""
        height, width = self.shape
        y, left, right = height - 10, PAD, width - PAD
        join = self.context + self.frames
        reach = lambda frames: left + round((right - left) * frames / (join + self.ending))  # noqa: E731
        image[y : y + 4, left:right] = EMPTY
        image[y : y + 4, left : reach(count)] = CLIP
        image[y : y + 4, reach(self.context) : reach(min(max(count, self.context), join))] = FUTURE
        if count > join:
            text, colour = f"after the gap {count - join} of {self.ending}", TEXT
        elif count > self.context:
            text = "filled in" if self.ending else "prediction"
            text, colour = f"{text} {count - self.context} of {self.frames}", FUTURE
        else:
            text, colour = f"clip {count} of {self.context}", TEXT
        _write(image, text, left, y - 8, colour)


def _write(image: Pixels, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """y: of the baseline."""
    cv2.putText(image, text, (x, y), *FONT, colour, 1, cv2.LINE_AA)
