"""Commands that write files say at once where they cannot."""

from __future__ import annotations

import pytest

from train import digit_classifier, evaluate, make_examples, make_robot, make_tabletop, pack_videos, plot, predictor


def test_a_place_that_cannot_be_written_stops_every_command_before_its_work(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    inside = file / "inside"
    for command, words, message in (
        (make_tabletop, ["--clips=1", f"--out={inside}"], "--out .*inside cannot be made: file is a file"),
        (make_robot, ["--clips=1", f"--out={inside}"], "--out .*inside cannot be made: file is a file"),
        (make_examples, [f"--out={inside}"], "--out .*inside cannot be made: file is a file"),
        (make_examples, [f"--out={tmp_path}", f"--results={inside}", "--model=x"], "--results .*cannot be made"),
        (make_examples, [f"--out={tmp_path}", f"--results={tmp_path}", "--model=x"], "make_examples: no model at x"),
        (plot, [str(tmp_path), f"--out={inside}.png"], "--out .*file cannot be made"),
        (plot, [str(tmp_path), f"--out={tmp_path}/a.txt"], "--out .*a.txt: its name must end in .png, .svg, .pdf"),
        (digit_classifier, [f"--out={inside}"], "--out .*file cannot be made"),
        (digit_classifier, [f"--out={tmp_path / 'a'}", "--device=x"], "digit_classifier: This machine has no device x"),
        (
            digit_classifier,
            [f"--out={tmp_path / 'a'}", f"--mnist={tmp_path}"],
            "digit_classifier: .*mnist|idx|there is",
        ),
        (digit_classifier, [f"--out={tmp_path / 'a'}", f"--start-from={file}"], "digit_classifier: .*"),
        (evaluate, ["--model=x", f"--json={inside}"], "evaluate: --json .*inside cannot be written"),
        (evaluate, ["--model=x", f"--sheet={file}"], "evaluate: --sheet .*file: its name must end in .png"),
        (predictor, ["--preset=videos/stt/cpu", f"--out={inside}"], "--out .*inside cannot be made: file is a file"),
        (pack_videos, [str(tmp_path), str(inside)], "inside cannot be made: file is a file"),
    ):
        with pytest.raises(SystemExit, match=message) as stopped:
            command.main(words)
        assert "\n" not in str(stopped.value), (command.__name__, words)
    for words in (["--size=0"], ["--fps=-1"], ["--fps=nan"], ["--size=x"]):
        with pytest.raises(SystemExit, match="2"):
            pack_videos.main([str(tmp_path), str(tmp_path / "set"), *words])
        assert "is no " in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
