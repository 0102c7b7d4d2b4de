"""The picture that visitors watch: the clip at the left, its futures at the right, a timeline below.

Pixels are enlarged by whole factors; every label stands outside of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stt.encode import enlarge

Frame = NDArray[np.uint8]  # (H, W, 3)

MAX_WIDTH, MAX_HEIGHT = 840, 484  # fits beside the controls on a 1280x800 screen
PAD, GAP, EDGE, LABEL, FOOT = 8, 8, 3, 24, 30  # pixels; EDGE is the coloured frame
GROUND = (15, 19, 27)
EMPTY = (27, 33, 45)
QUIET = (148, 160, 180)
KNOWN = (100, 116, 139)  # frames of the clip
GUESSED = (251, 146, 60)  # predicted frames


@dataclass(frozen=True)
class SideBySide:
    """Lays out one clip and its futures; `draw` paints one moment."""

    size: int  # pixels per side of the model's frames
    names: tuple[str, ...]  # one per future
    given: int  # frames of the clip
    frames: int  # frames to predict
    ending: int = 0  # frames of the clip after the gap that they fill

    # ---- layout --------------------------------------------------------------------------------------

    @cached_property
    def layout(self) -> tuple[int, int, int]:
        """(rows, columns of futures, factor): the largest factor that fits, then the fewest rows."""
        futures = len(self.names)
        best = (1, futures, 0)
        for rows in range(1, futures + 1):
            columns = -(-futures // rows)
            wide = (MAX_WIDTH - 2 * PAD - columns * GAP) // (columns + 1) - 2 * EDGE
            high = (MAX_HEIGHT - PAD - FOOT) // rows - LABEL - 2 * EDGE
            factor = min(wide, high) // self.size
            if factor > best[2]:
                best = (rows, columns, factor)
        return best if best[2] else (*best[:2], 1)

    @property
    def factor(self) -> int:
        return self.layout[2]

    @property
    def cell(self) -> int:
        return self.size * self.factor + 2 * EDGE

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), both even as H.264 wants them."""
        rows, columns, _ = self.layout
        height = PAD + rows * (self.cell + LABEL) + FOOT
        width = 2 * PAD + (columns + 1) * self.cell + columns * GAP
        return height + height % 2, width + width % 2

    def corner(self, panel: int) -> tuple[int, int]:
        """(y, x) of a panel; 0 is the clip, 1... are the futures."""
        rows, columns, _ = self.layout
        step = self.cell + LABEL
        if panel == 0:
            return PAD + (rows - 1) * step // 2, PAD
        row, column = divmod(panel - 1, columns)
        return PAD + row * step, PAD + (column + 1) * (self.cell + GAP)

    # ---- painting ------------------------------------------------------------------------------------

    @cached_property
    def _ground(self) -> Frame:
        """Everything that never changes: empty panels and their names."""
        height, width = self.shape
        image = Image.new("RGB", (width, height), GROUND)
        pen = ImageDraw.Draw(image)
        for panel, name in enumerate(("clip", *self.names)):
            y, x = self.corner(panel)
            pen.rectangle((x, y, x + self.cell - 1, y + self.cell - 1), EMPTY)
            pen.text((x + self.cell / 2, y + self.cell + 10), name, QUIET, self._font, anchor="mm")
        return np.asarray(image)

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(13)

    def draw(self, clip: Frame, futures: Sequence[Frame], moment: int) -> Frame:
        """`moment` counts from 1: up to `given` it shows the clip, then the prediction, then the clip after a gap.

        futures: one frame each, or none to leave their panels empty.
        """
        board, guessed = self._ground.copy(), self.given < moment <= self.given + self.frames
        for panel, frame in enumerate((clip, *futures)):
            y, x = self.corner(panel)
            board[y : y + self.cell, x : x + self.cell] = GUESSED if panel and guessed else KNOWN
            inside = slice(y + EDGE, y + self.cell - EDGE), slice(x + EDGE, x + self.cell - EDGE)
            board[inside] = enlarge(frame[None], self.factor)[0]
        self._timeline(board, moment)
        return board

    def _timeline(self, board: Frame, moment: int) -> None:
        height, width = self.shape
        y, left, right = height - 10, PAD, width - PAD
        join = self.given + self.frames
        reach = lambda frames: left + round((right - left) * frames / (join + self.ending))  # noqa: E731
        board[y : y + 4, left:right] = EMPTY
        board[y : y + 4, left : reach(moment)] = KNOWN
        board[y : y + 4, reach(self.given) : reach(min(max(moment, self.given), join))] = GUESSED
        if moment > join:
            text, colour = f"after the gap {moment - join} of {self.ending}", QUIET
        elif moment > self.given:
            text = "filled in" if self.ending else "prediction"
            text, colour = f"{text} {moment - self.given} of {self.frames}", GUESSED
        else:
            text, colour = f"clip {moment} of {self.given}", QUIET
        strip = Image.new("RGB", (right - left, 16), GROUND)
        ImageDraw.Draw(strip).text((0, 8), text, colour, self._font, anchor="lm")
        board[y - 20 : y - 4, left:right] = np.asarray(strip)
