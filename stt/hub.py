"""Files on the Hugging Face Hub: names, download, upload; every error is one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "model.safetensors"
NO_REPO = "{!r} is no repository: give owner/name, in letters, digits, '-', '_' and '.'"


class CheckpointError(ValueError):
    """A file that is no model of this project, or a Hub that refuses it; the message is one sentence."""


def hub_source(source: str | Path) -> tuple[str, str | None] | None:
    """("owner/repo", revision or None) if the source is a name on the Hub and not a local path, else None."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", str(source))
    if match is None or os.path.exists(source) or str(source).endswith(".safetensors"):
        return None
    return match[1], match[2]


def is_pinned(source: str | Path) -> bool:
    """Whether the source always means the same file: a local file, or a Hub repository at a commit of 40 digits."""
    hub = hub_source(source)
    return hub is None or re.fullmatch("[0-9a-f]{40}", hub[1] or "") is not None


@contextmanager
def plain_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turns errors of the Hub's client into a CheckpointError of one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except CheckpointError:
        raise
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(_sentence(error, repo, revision)) from error


def _sentence(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the answer behind "not in the cache either"
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = f"{repo}@{revision}" if revision else repo
    match error:
        case errors.HFValidationError():
            return NO_REPO.format(repo)
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision or 'main'}"
        case errors.LocalEntryNotFoundError():
            return f"the Hub cannot be reached, and no copy of {name} is stored here"
        case errors.EntryNotFoundError():
            return f"{name} holds no {FILE_NAME}"
        case errors.HfHubHTTPError() if status in (401, 403, 404):
            return f"the Hub has no {repo}, or not for you ({status}): check the name, or `hf auth login`"
        case errors.HfHubHTTPError():
            return f"the Hub answered {status} for {name}"
        case errors.HTTPError() | ConnectionError():
            return f"the Hub cannot be reached for {name}"
    return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"


def download(repo: str, revision: str | None = None) -> Path:
    """The repository's model file, cached on this machine. Raises CheckpointError when the download fails."""
    from huggingface_hub import hf_hub_download

    with plain_errors(repo, revision):
        return Path(hf_hub_download(repo, FILE_NAME, revision=revision))


def upload(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    branch: str | None = None,
    token: str | None = None,
    message: str = "Weights and model card",
) -> str:
    """Uploads files, by their names in the repository, in one commit; returns "owner/repo@commit".

    Creates the repository if there is none. private: refuses a repository that others can see. token: by default the
    machine's (`hf auth login`, HF_TOKEN). Raises CheckpointError when the Hub refuses; then no file is uploaded.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with plain_errors(repo, branch):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise CheckpointError(f"{repo} is public already: make it private there, or publish without private")
        if branch:
            api.create_branch(repo, branch=branch, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=branch)
    return f"{repo}@{commit.oid}"
