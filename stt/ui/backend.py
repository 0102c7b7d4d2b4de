"""What callbacks and endpoints share: models, folders, results and clips. Holds no visitor's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stt.api import Predictor
from stt.prediction import DEADLINE, Compute, Progress, compute, predict
from stt.prompt import file_hash
from stt.request import Request
from stt.results import Result, ResultStore
from stt.ui.costs import Costs
from stt.ui.examples import find_examples
from stt.ui.request import page_request

MAX_CLIPS = 10_000  # paths that ClipIndex holds
ARGUMENTS = (
    "clip", "model", "frames", "temperature", "seed", "futures", "prompt_frames", "top_k", "top_p", "stride", "fit",
    "fps", "labels", "between", "action",
)  # fmt: skip  # in the order of the endpoint and of the page's controls


class Backend:
    def __init__(
        self,
        models: Mapping[str, Predictor],
        results: ResultStore,
        uploads: Path,
        examples: Sequence[Path] = (),
        compute: Compute = compute,
        max_seconds: float = DEADLINE,
    ) -> None:
        """max_seconds: of computing, for one request."""
        self.models = models
        self.results = results
        self.uploads = uploads
        self.compute = compute
        self.costs = Costs(max_seconds)
        self.gallery = find_examples(examples, models, results.shipped)
        self.clips = ClipIndex(self.examples)

    @property
    def examples(self) -> list[Path]:
        return [one.clip for one in self.gallery]

    @property
    def folders(self) -> list[Path]:
        """Where clips may lie."""
        return [self.uploads, *{path.parent for path in self.examples}]

    def request(self, *values: Any) -> Request:
        """values: one per name in ARGUMENTS. Raises RequestError."""
        return self.named_request(**dict(zip(ARGUMENTS, values, strict=True)))

    def named_request(self, clip: Any, model: Any, **settings: Any) -> Request:
        """The same from named values. An uploaded clip counts as new again: the cleanup takes the oldest first."""
        request = page_request(clip, model, models=self.models, folders=self.folders, **settings)
        if request.clip is not None and request.clip.is_relative_to(self.uploads.resolve()):
            with suppress(OSError):
                os.utime(request.clip)
        return request

    def predict(self, request: Request) -> Iterator[Progress | Result]:
        """Raises RequestError for a request that costs too much."""
        self.costs.check(request)
        progress: Progress | None = None
        try:
            for event in predict(request, self.models[request.model], self.compute, self.costs.limit):
                progress = event if isinstance(event, Progress) else progress
                yield event
        finally:
            if progress is not None and progress.frames:
                self.costs.add(request, len(progress.frames[0]), len(progress.frames), progress.computing)

    def result_of(self, clip: Any, model: str) -> Result | None:
        """The result that came with the app for an example and a model."""
        example = next((one for one in self.gallery if str(one.clip) == str(clip)), None)
        name = example.results.get(model) if example else None
        return self.results.get(name) if name else None

    def shipped_result(self, request: Request, start: int, exact: Mapping[str, Any]) -> Result | None:
        """The same, if it is what these settings ask for. exact: settings that must be the result's own."""
        result = self.result_of(request.clip, request.model)
        names = ("fit", "stride", "between", "labels", "action")
        settings = request.settings()
        settings = {name: settings[name] for name in names} | {"prompt_frames": start} | dict(exact)
        own = result.report["settings"] | {"model": request.model} if result else {}
        return result if result and all(own.get(name) == value for name, value in settings.items()) else None


class ClipIndex:
    """Paths of clips: by visitor and content, by result, and of the examples by content."""

    def __init__(self, examples: Sequence[Path]) -> None:
        self._examples = {file_hash(path): path for path in examples}
        self._by_content: dict[tuple[str | None, str], Path] = {}
        self._by_result: dict[str, Path] = {}

    def add(self, path: Path | None, session: str | None, sha256: str, result: str | None = None) -> None:
        """result: the id of a result of this clip. Labels are imagined without a clip: nothing to add."""
        if path is None:
            return
        self._by_content[session, sha256] = path
        if result is not None:
            self._by_result[result] = path
        drop_oldest(self._by_content)
        drop_oldest(self._by_result)

    def of_result(self, result: str) -> Path | None:
        return existing(self._by_result.get(result))

    def of_content(self, session: str | None, sha256: str) -> Path | None:
        """A clip that this visitor used before, or an example.

        A result that travels must not bring somebody else's upload to whoever opens it.
        """
        return existing(self._by_content.get((session, sha256))) or existing(self._examples.get(sha256))


def drop_oldest(index: dict[Any, Any]) -> None:
    while len(index) > MAX_CLIPS:
        del index[next(iter(index))]


def existing(path: Path | None) -> Path | None:
    return path if path is not None and path.is_file() else None
