"""The picture of the house as a test: imports point to a lower rank, or within a rank never sideways."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RANKS = {
    "stt.api": 0, "stt.video": 0, "stt.encode": 0, "stt.side_by_side": 0, "stt.layers": 1, "stt.quantize": 1,
    "stt.dct": 1, "stt.sampler": 1, "stt.metrics": 1, "stt.sprites": 1, "stt.motion": 1,
    "stt.tokenizer": 2, "stt.segmenter": 2, "stt.transformer": 2, "stt.mixture": 2, "stt.models": 3,
    "stt.registry": 4, "stt.migrations": 4, "stt.model_card": 4, "stt.hub": 4, "stt.checkpoint": 5,
    "stt.request": 6, "stt.results": 6, "stt": 6, "stt.prediction": 7, "stt.ui": 8, "stt.__main__": 9,
    "train.seeding": 0, "train.signals": 0, "train.throughput": 0, "train.optim": 0, "train.checkpoint": 0,
    "train.gan": 0, "train.prefetch": 0, "train.schedule": 0,
    "train.processes": 0, "train.sheets": 0, "train.logging": 1, "train.trainer": 2,
    "train.sim": 1, "train.data.arrays": 1, "train.data.strokes": 1, "train.data.bouncing": 1, "train.data.readers": 1,
    "train.data.digits": 2, "train.data.index": 2, "train.data.tabletop": 2, "train.data.moving_mnist": 3,
    "train.data.video_folder": 3, "train.evaluation": 4, "train.presets": 5, "train.cli": 6, "train": 7,
}  # fmt: skip
FILES = sorted((ROOT / "stt").rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def rank(module: str) -> int:
    """A module's own rank, or that of the package that holds it."""
    while module not in RANKS:
        if "." not in module:
            raise KeyError(module)
        module = module.rpartition(".")[0]
    return RANKS[module]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {module_of(p) for p in FILES}
            names |= (submodules & known) or {node.module}
    return names


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_to_a_lower_rank(path):
    me = module_of(path)
    for other in imported(path):
        if not (other == "stt" or other.startswith("stt.")):
            continue
        same_package = me.startswith("stt.ui") and other.startswith(("stt.ui", "stt"))
        assert same_package or rank(other) < rank(me), f"{me} (rank {rank(me)}) imports {other} (rank {rank(other)})"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_never_imports_the_training_code(path):
    assert not any(name == "train" or name.startswith("train.") for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_ui_imports_gradio(path):
    if not module_of(path).startswith("stt.ui"):
        assert not any(name.split(".")[0] in ("gradio", "gradio_client") for name in imported(path))


def test_model_families_never_import_each_other():
    for path in (ROOT / "stt" / "models").glob("*.py"):
        siblings = {name for name in imported(path) if name.startswith("stt.models.")}
        assert not siblings - {module_of(path)}


def test_uploads_are_opened_nowhere_but_in_the_hardened_decoder():
    for path in FILES:
        source = path.read_text()
        for risky in ("VideoCapture", "Image.open", "weights_only=False", "allow_pickle=True", "yaml.load"):
            assert risky not in source, f"{path.name} uses {risky}"
