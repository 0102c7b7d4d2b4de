"""The model that the app and the command line use by default."""

from __future__ import annotations

from pathlib import Path

NAME = "robot-stt.safetensors"
PACKAGE = Path(__file__).parent
FOLDERS = (
    PACKAGE.parent / "assets" / "models",
    PACKAGE / "assets",
)  # of a copy of the project, of an installed package


def default_model() -> Path:
    """Its file. Raises FileNotFoundError where it is missing."""
    for folder in FOLDERS:
        if (folder / NAME).is_file():
            return folder / NAME
    raise FileNotFoundError(f"the default model {NAME} is not installed; choose a model with --model")
