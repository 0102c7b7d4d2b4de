"""Curves of a run, from its log."""

from __future__ import annotations

import json

import pytest

from train.plot import curves, main, read_log, series, smooth

ROWS = [
    {"step": 1, "clips": 4, "minutes": 0.5, "loss": 3.0},
    {"step": 2, "clips": 8, "minutes": 1.0, "held_out_mse": 90.0, "held_out_ssim": 0.7},
    {"step": 3, "clips": 12, "minutes": 1.5, "loss": 1.0},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + '\n{"step": 4, "cli')
    return tmp_path


def test_a_log_whose_last_line_was_cut_off_is_read(run):
    assert read_log(run) == ROWS


def test_a_series_holds_the_rows_that_have_the_figure():
    assert series(ROWS, "loss", "minutes") == ([0.5, 1.5], [3.0, 1.0])


def test_smoothing_is_a_running_mean():
    assert smooth([1.0, 3.0, 5.0, 7.0], share=0.5) == [1.0, 2.0, 4.0, 6.0]


def test_every_figure_is_drawn_against_clips_and_minutes():
    panels = [axes for axes in curves({"a": ROWS, "b": ROWS}).axes if axes.lines]
    lines = {(p.get_ylabel(), p.get_xlabel()): list(p.lines[0].get_ydata()) for p in panels}
    assert lines["held out mse", "clips seen"] == [90.0]
    assert lines["loss", "minutes of training"] == [3.0, 1.0]
    assert len(lines) == 6 and all(len(p.lines) == 2 for p in panels)


def test_the_command_writes_a_picture(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plot", str(run), "--out", str(run / "new/curves.png")])
    main()
    assert (run / "new/curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(SystemExit, match="holds no log.jsonl"):
        read_log(tmp_path)
