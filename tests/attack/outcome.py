"""What an attack found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Attempts, those that were handled, a sentence for each that was not, and what was measured."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    figure: str = ""

    @property
    def handled(self) -> int:
        return self.tried - len(self.failures)

    def check(self, holds: bool, failure: str) -> None:
        self.tried += 1
        if not holds:
            self.failures.append(failure)
