"""Starting the app: which models it finds, and what keeps its folder small."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import app as front_door
from stt.checkpoint import save
from stt.default_model import default_model
from stt.ui import server
from stt.ui.cleanup import Cleanup
from stt.ui.server import load_models
from tests.conftest import TINY_CONFIGS, built

ROOT = Path(__file__).parent.parent


def opened(monkeypatch, *words: str) -> dict:
    """The models of `python app.py`."""
    models = {}
    monkeypatch.setattr(server, "serve", lambda found, *_, **__: models.update(found))
    front_door.main([*words, "--device", "cpu"])
    return models


def test_models_come_from_files_and_folders_and_broken_ones_are_left_out(tiny, tmp_path, capsys):
    for name in ("digits-stt-large", "digits-stt", "car-stt"):
        save(tiny, tmp_path / f"{name}.safetensors")
    save(tiny, tmp_path / "run/model.safetensors")
    (tmp_path / "broken.safetensors").write_text("no weights")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    models = load_models([str(tmp_path), str(tmp_path / "run")], "cpu")
    assert list(models) == ["car-stt", "digits-stt", "digits-stt-large", "run"]  # a plain name before its variants
    said = capsys.readouterr().err
    assert "broken.safetensors" in said and "loop.safetensors" in said
    for odd in ("a" * 300, "a/" + "b" * 300, "\0"):
        with pytest.raises(ValueError, match="no model"):
            load_models([odd], "cpu")
    first = load_models([str(tmp_path / "digits-stt.safetensors"), str(tmp_path)], "cpu")
    assert list(first) == ["digits-stt", "car-stt", "digits-stt-large"]  # each file once


def test_the_app_opens_with_the_default_model_and_offers_all_that_ship(monkeypatch):
    models = list(opened(monkeypatch))
    shipped = default_model().parent.glob("*.safetensors")
    others = [not name.endswith("-stt") for name in models]
    assert others == sorted(others)  # an example opens with the main system
    assert models[0] == default_model().stem and sorted(models) == sorted(path.stem for path in shipped)


START = """
import ast, inspect, sys
from unittest.mock import patch
with patch.object(ast, "get_source_segment", lambda *_: sys.exit("Gradio reads its own source")):
    import stt.ui, gradio
from stt.ui.server import load_models
load_models(["assets/models"], "cpu")
assert inspect.getfile(gradio.HTML).endswith("html.py")
print(*{"torch._dynamo", "sympy"} & sys.modules.keys())
"""


def test_the_app_starts_without_pytorchs_compiler_and_without_writing_type_stubs():
    """They take half of its start."""
    done = subprocess.run([sys.executable, "-c", START], cwd=front_door.HERE, capture_output=True, text=True)
    assert done.stdout == "\n", done.stderr


def test_models_are_compiled_on_request(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: "compiled")
    save(tiny, tmp_path / "a.safetensors")
    save(built(TINY_CONFIGS["videogpt"]), tmp_path / "b.safetensors")
    compiled = opened(monkeypatch, "--models", str(tmp_path), "--compile")["b"].compiled_one
    plain = opened(monkeypatch, "--models", str(tmp_path))["b"].compiled_one
    assert compiled == "compiled" and plain is None


def test_a_wrong_device_or_address_ends_in_one_sentence_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(server, "load_models", lambda *_, **__: pytest.fail("loads models first"))
    with socket.create_server(("127.0.0.1", 0)) as used:
        for words, message in (
            ("--device abacus", "This machine has no device abacus; cpu is one"),
            ("--device cuda:77", "This machine has no device cuda:77"),
            ("--device meta", "This machine has no device meta"),
            ("--port 99999", "port is 99999, must be 0 to 65535"),
            (f"--port {used.getsockname()[1]}", "cannot listen at 127.0.0.1, port .*Address already in use"),
            ("--host 999.1.1.1", "cannot listen at 999.1.1.1"),
        ):
            with pytest.raises(SystemExit, match=f"^app: {message}") as caught:
                front_door.main(words.split())
            assert "\n" not in str(caught.value), words


def test_without_a_model_the_app_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no model found in"):
        front_door.main(["--models", str(tmp_path)])


FREED_BY_THREADS = """
import ctypes, threading
import psutil
import app
from stt.ui import server
from stt.ui.cleanup import release_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use_memory(meeting):
    libc.free(libc.malloc(30_000_000))  # from now on glibc holds up to twice that at the end of an arena
    blocks = [0] * 300
    for k in range(len(blocks)):
        blocks[k] = libc.malloc(100_000)
        ctypes.memset(blocks[k], 1, 100_000)
    for block in blocks:
        libc.free(block)
    meeting.wait()  # at the same time, so that none takes the arena of another one that has ended
    meeting.wait()

def measure(*_, **__):
    before = psutil.Process().memory_info().rss
    meeting = threading.Barrier(5)
    for _ in range(4):
        threading.Thread(target=use_memory, args=(meeting,)).start()
    meeting.wait()
    release_memory()
    print((psutil.Process().memory_info().rss - before) // 10**6)
    meeting.wait()

server.load_models, server.serve = (lambda *_, **__: {}), measure
app.main(["--device", "cpu"])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the app asks glibc for it")
def test_memory_that_the_apps_threads_have_freed_goes_back_to_the_system():
    held = subprocess.run([sys.executable, "-c", FREED_BY_THREADS], cwd=ROOT, capture_output=True, text=True)
    assert held.stdout and int(held.stdout) < 20, held  # MB, of 120


def test_cleanup_deletes_what_is_old_or_above_the_quota(tmp_path):
    now = time.time()
    for k, age in enumerate([10, 20, 30, 5000]):
        path = tmp_path / f"folder-{k}" / "video.mp4"
        path.parent.mkdir()
        path.write_bytes(b"0" * 100)
        os.utime(path, (now - age, now - age))
    os.utime(tmp_path / "folder-3", (now - 5000, now - 5000))
    cleanup = Cleanup(tmp_path, max_age=3600, quota=250)
    assert cleanup.sweep() == 2
    assert sorted(p.parent.name for p in tmp_path.rglob("*.mp4")) == ["folder-0", "folder-1"]
    assert cleanup.sweep() == 0
