"""What the documents tell people to type exists, and runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import torch

import stt
from app import parse
from stt.__main__ import parser
from stt.api import Batch
from stt.checkpoint import read_header
from train.cli import preset_of
from train.publish import with_tables

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "assets" / "models"
README = (ROOT / "README.md").read_text()
DOCUMENTS = {
    name: re.sub(
        r"<!-- tables of .*?<!-- end -->", "", (ROOT / name).read_text(), flags=re.S
    )  # they quote old commands
    for name in ("README.md", "train/README.md", "train/GPU.md", "assets/models/README.md", "stt/models/README.md")
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_readme_is_short_and_its_first_command_starts_the_app_and_its_second_runs_the_tests():
    assert len(README.splitlines()) <= 200
    start, test = blocks(README, "bash")[:2]
    assert len(start.splitlines()) == len(test.splitlines()) == 1
    assert "python app.py" in start and "-m pytest" in test
    assert README.index("<!-- test command -->") < README.index(test)


def parses(module: str, words: list[str]) -> bool:
    """Whether a command takes the flags, and its preset the fields that --set names."""
    take = {"app": parse, "stt": parser().parse_args}.get(module)
    try:
        args = (take or importlib.import_module(module).parser().parse_args)(words)
        if getattr(args, "preset", None):
            preset_of(args)
    except (SystemExit, ValueError):
        return words == ["--help"]
    return True


def test_every_command_parses():
    command = re.compile(r"(?:-m (train\.\w+|stt)|python (app)\.py)((?: [^`\n]*)?--[^`\n]*)")
    count = 0
    for name, text in DOCUMENTS.items():
        text = re.sub(r"\$SCHEDULE|\$SCORES|2>&1 \| tee \S+", "", text).replace("$DEVICE", "cpu")  # train/GPU.md
        for module, app, words in command.findall(text):
            assert parses(module or app, shlex.split(words, comments=True)), f"{name}: {module or app}{words}"
            count += 1
    assert count > 30
    stale = "--preset moving_mnist_one_digit/videogpt/cpu --set drop_frames=0.1 --out x"
    assert not parses("train.predictor", shlex.split(stale))


def test_every_path_and_link_exists():
    for name, text in DOCUMENTS.items():
        for path in re.findall(
            r"(?:`|-r |predict |--model |--cards )((?:stt|train|tests|assets|\.github)/[\w./-]+)", text
        ):
            assert (ROOT / path).exists(), f"{name}: {path}"
        for file in re.findall(r"(?<![/\w-])([a-z_]+\.py)\b", "\n".join(re.findall(r"^    .*$", text, flags=re.M))):
            assert any(ROOT.glob(f"*/**/{file}")) or (ROOT / file).exists(), f"{name}: {file}"
        for link in re.findall(r"\]\((?!http)([^)\s]*)\)", text):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), f"{name}: {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.M) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_every_python_name_exists_and_the_example_runs(monkeypatch, capsys):
    for text in DOCUMENTS.values():
        for name in re.findall(r"\bstt\.(\w+)\(", text):
            assert hasattr(stt, name), name
    monkeypatch.chdir(ROOT)
    exec(blocks(README, "python")[0], {})
    assert capsys.readouterr().out.splitlines() == ["torch.Size([4, 3, 64, 64])"] * 20


def test_the_family_of_the_models_document_learns_and_predicts():
    names = {"__name__": __name__}
    exec(blocks(DOCUMENTS["stt/models/README.md"], "python")[0], names)
    model = names["Drift"](names["DriftConfig"](image_size=16))
    video = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    model.loss(Batch(video)).total.backward()
    futures = stt.predict(model.eval(), video[0], 3, seeds=[0, 1])
    assert futures.shape == (2, 3, 1, 16, 16) and not torch.equal(futures[0], futures[1])


def test_every_shipped_model_has_a_row_a_card_and_a_header_that_says_how_it_was_made():
    files = sorted(MODELS.glob("*.safetensors"))
    assert files
    for path in files:
        assert f"| [{path.stem}](assets/models/README.md#{path.stem}) |" in README, path.name
        assert f"\n## {path.stem}\n" in (MODELS / "README.md").read_text(), path.name
        assert {"command", "world", "minutes", "hardware", "scores"} <= set(read_header(path)["card"]), path.name
        assert path.stat().st_size <= 16 * 2**20 and stt.load(path).family in stt.FAMILIES, path.name


def test_the_cards_hold_the_tables_of_the_headers():
    text = (MODELS / "README.md").read_text()
    assert text.count("<!-- tables of ") == len(list(MODELS.glob("*.safetensors")))
    assert text == with_tables(MODELS), "run: python -m train.publish --cards assets/models"


def test_the_space_gets_the_versions_that_are_installed_here():
    version = re.search(r"^sdk_version: (\S+)$", README, flags=re.M)[1]
    assert f"gradio=={version}" in (ROOT / "requirements.txt").read_text()
    assert re.search(r"^app_file: app.py$", README, flags=re.M)


def test_no_document_or_setting_names_a_package_registrys_host():
    others = (
        ROOT / name for name in ("pyproject.toml", ".ci/run", ".pre-commit-config.yaml", ".github/workflows/test.yml")
    )
    for text in [*DOCUMENTS.values(), *(path.read_text() for path in others)]:
        assert not re.search(r"pypi|pythonhosted|download\.pytorch|index-url", text, flags=re.I)
