"""The package as a wheel: built, unpacked elsewhere, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from stt.default_model import default_model
from stt.video import read_clip
from tests.ui_fixtures import moving_dot

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def installed(tmp_path):
    """An unpacked wheel, built from a copy so that the tree stays clean."""
    copy = tmp_path / "copy"
    for folder in ("stt", "train"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", str(default_model().relative_to(ROOT))):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path)], cwd=copy, check=True, capture_output=True)
    shutil.rmtree(copy)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    return tmp_path / "site"


def test_the_installed_command_predicts_outside_the_tree(installed, tmp_path):
    clip = moving_dot(tmp_path / "clip.mp4")
    command = [sys.executable, "-m", "stt", "predict", clip.name, "--frames", "2", "--futures", "1", "--seed", "7"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "wrote clip-future.mp4\nseed 7\n" in done.stdout, done.stderr
    assert read_clip(tmp_path / "clip-future.mp4", size=64, channels=1).source_frames == 5 + 2
    tree = [path.relative_to(ROOT) for name in ("stt", "train") for path in (ROOT / name).rglob("*")]
    missing = [path for path in tree if path.suffix in (".py", ".js", ".css") and not (installed / path).is_file()]
    assert not missing


def test_the_wheel_names_every_package_of_the_tree():
    named = set(PROJECT["tool"]["setuptools"]["packages"])
    assert named == {*find_packages(str(ROOT), include=["stt", "stt.*", "train", "train.*"]), "stt.assets"}


def test_the_app_s_pins_lie_in_the_package_s_ranges():
    from packaging.requirements import Requirement

    extras = PROJECT["project"]["optional-dependencies"]
    ranges = {r.name: r for r in map(Requirement, [*PROJECT["project"]["dependencies"], *extras["app"]])}
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {r.name: r for r in map(Requirement, lines)}
    assert pins.keys() == ranges.keys()
    for name, pin in pins.items():
        (version,) = pin.specifier
        assert version.operator == "==" and ranges[name].specifier.contains(version.version), name
        assert pin.extras == ranges[name].extras
