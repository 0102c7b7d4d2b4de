"""The architecture as a test: imports point to a lower rank, and never in circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
RANKS = {
    "stt.pictures": -1, "stt.region_course": -1, "stt.region_flow": 0, "stt.region_masks": 1, "stt.regions": 2,
    "stt.sandbox": -1, "stt.api": 0, "stt.ffmpeg": 0, "stt.encode": 0, "stt.default_model": 0, "stt.probe": 1,
    "stt.video": 2, "stt.side_by_side": 1, "stt.layers": 1, "stt.optical_flow": 1, "stt.quantize": 1,
    "stt.persistence": 2, "stt.region_tracks": 2.5, "stt.region_frames": 2.5, "stt.dct": 1,
    "stt.sampler": 1, "stt.metrics": 1, "stt.sprites": 1,
    "stt.motion": 1,
    "stt.tokenizer": 2, "stt.segmenter": 2, "stt.object_segmenter": 2, "stt.transformer": 2, "stt.mixture": 2,
    "stt.gpt": 2, "stt.motion_codes": 2, "stt.context_unet": 2, "stt.triple_decoder": 2,
    "stt.layer_motion": 3, "stt.layer_levels": 3, "stt.layer_tasks": 3.5, "stt.layer_prediction": 3.5,
    "stt.motion_tokens": 3, "stt.code_tokens": 3, "stt.flow_tokens": 3, "stt.region_tokens": 3,
    "stt.patch_tokens": 3, "stt.frame_gpt": 3.5, "stt.layer_tokens": 3.5,
    "stt.motion_networks": 3, "stt.sprite_networks": 3, "stt.models": 4,
    "stt.migrations": 4, "stt.registry": 5, "stt.model_card": 5, "stt.hub": 5, "stt.checkpoint": 6,
    "stt.request": 7, "stt": 7, "stt.prompt": 8, "stt.results": 8, "stt.report": 9, "stt.self_check": 9,
    "stt.prediction": 10, "stt.live": 11, "stt.__main__": 12, "stt.ui": 12,
    "train.seeding": 0, "train.signals": 0, "train.throughput": 0, "train.optim": 0, "train.checkpoint": 0,
    "train.gan": 0, "train.prefetch": 0, "train.schedule": 0, "train.flags": 0,
    "train.processes": 0, "train.sheets": 0, "train.logging": 1, "train.trainer": 2,
    "train.sim": 1, "train.data.arrays": 1, "train.data.strokes": 1, "train.data.bouncing": 1, "train.data.shards": 1,
    "train.data.sources": 1, "train.data.account": 1, "train.data.splits": 2, "train.data.readers": 2,
    "train.data.digits": 2, "train.data.index": 3, "train.data.robot": 2, "train.data.tabletop": 2,
    "train.data.moving_mnist": 3, "train.data.radar": 3, "train.data.video_folder": 4, "train.data.scenes": 5,
    "train.data.packing": 5,
    "train.evaluation": 6, "train.perceptual": 7, "train.presets": 7, "train.datasets": 8, "train.cli": 9, "train": 10,
}  # fmt: skip
FILES = sorted(path for package in ("stt", "train") for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def ranked(module: str) -> str:
    """The entry of RANKS that holds a module: its own, or that of its package."""
    while module not in RANKS:
        if "." not in module:
            raise KeyError(module)
        module = module.rpartition(".")[0]
    return module


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (submodules & MODULES.keys()) or {node.module}
    return names


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_imports_point_to_a_lower_rank_or_stay_in_their_package():
    for me, others in IMPORTS.items():
        for other in others:
            if within(other, me.partition(".")[0]) and other != me.partition(".")[0]:
                mine, theirs = ranked(me), ranked(other)
                assert mine == theirs or RANKS[theirs] < RANKS[mine], f"{me} ({mine}) imports {other} ({theirs})"


def test_no_imports_go_in_circles():
    TopologicalSorter({me: others & IMPORTS.keys() for me, others in IMPORTS.items()}).prepare()  # raises CycleError


def test_the_library_never_imports_the_training_code_and_only_the_ui_imports_gradio():
    for me, others in IMPORTS.items():
        if within(me, "stt"):
            assert not any(within(name, "train") for name in others), me
            assert within(me, "stt.ui") or not any(within(name, "gradio", "gradio_client") for name in others), me


def test_model_families_never_import_each_other():
    for me, others in IMPORTS.items():
        if within(me, "stt.models"):
            assert not [name for name in others if within(name, "stt.models") and name != me], me


def test_uploads_are_opened_nowhere_but_in_the_hardened_decoder():
    for path in (ROOT / "stt").rglob("*.py"):
        source = path.read_text()
        for risky in ("VideoCapture", "Image.open", "weights_only=False", "allow_pickle=True", "yaml.load"):
            assert risky not in source, f"{path.name} uses {risky}"
