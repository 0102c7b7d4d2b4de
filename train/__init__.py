"""Scripts that produce the weights; `stt` never imports from here."""

import stt  # noqa: F401  (sets how threads wait, before torch loads)
