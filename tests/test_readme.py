"""What the documents tell people to type exists."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

import stt

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = README + (ROOT / "train" / "GPU.md").read_text()
COMMANDS = sorted(c for c in set(re.findall(r"-m (train\.\w+) +([^`\n]*)", DOCUMENTS)) if "…" not in c[1])


def bash_blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize(("module", "words"), COMMANDS)
def test_every_training_command_takes_the_flags_that_the_documents_give_it(module, words):
    importlib.import_module(module).parser().parse_args(shlex.split(words))


def test_the_first_command_installs_and_starts_and_a_second_one_tests():
    blocks = bash_blocks()
    assert len(blocks[0].splitlines()) == len(blocks[1].splitlines()) == 1
    assert "python app.py" in blocks[0]
    assert "-m pytest" in blocks[1]
    for file in re.findall(r"-r (\S+)", "\n".join(blocks)):
        assert (ROOT / file).is_file(), file


def test_every_file_that_the_documents_point_to_exists():
    paths = re.findall(r"`((?:stt|train|tests|assets)/[\w./-]*)`", README) + re.findall(r"\]\(([\w./-]+)\)", README)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_python_example_names_what_the_package_exports():
    for name in re.findall(r"stt\.(\w+)\(", README):
        assert hasattr(stt, name), name


def test_the_space_gets_the_versions_that_are_installed_here():
    required = (ROOT / "requirements.txt").read_text()
    version = re.search(r"^sdk_version: (\S+)$", README, flags=re.M)[1]
    assert f"gradio=={version}" in required
    assert re.search(r"^app_file: app.py$", README, flags=re.M)


def test_no_document_or_setting_names_a_package_registrys_host():
    for path in (ROOT / "README.md", ROOT / "train" / "GPU.md", ROOT / "pyproject.toml", ROOT / ".ci" / "run"):
        assert not re.search(r"pypi|pythonhosted|download\.pytorch|index-url", path.read_text(), flags=re.I)


@pytest.mark.parametrize("path", sorted((ROOT / "assets" / "models").glob("*.safetensors")), ids=lambda p: p.name)
def test_every_shipped_model_loads_says_how_it_was_made_and_stands_in_the_readme(path):
    from stt.checkpoint import read_header

    card = read_header(path)["card"]
    assert path.stat().st_size <= 16 * 2**20
    assert {"command", "world", "minutes", "hardware", "scores"} <= set(card)
    assert stt.load(path).family in stt.FAMILIES
    assert path.name in README
