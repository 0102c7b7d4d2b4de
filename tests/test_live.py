"""Live sessions: what `stt.predict` predicts, a frame at a time, with a past that can be continued otherwise."""

from __future__ import annotations

import pytest
import torch

from stt.api import Condition
from stt.checkpoint import save
from stt.live import LiveSession, state_bytes
from stt.models.stt import STT
from stt.sampler import predict
from tests.conftest import TINY, TINY_CONFIGS, built, clips, lively
from tests.ui_fixtures import action_model, moving_dot
from train import make_play

RIGHT, LEFT, UP = (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)
PUSHES = [RIGHT, RIGHT, UP, LEFT, UP, RIGHT, LEFT, LEFT]


@pytest.fixture(scope="module")
def model():
    return action_model()


@pytest.fixture(scope="module")
def context(model):
    return clips(model, batch=1)[0]


def play(session: LiveSession, actions) -> torch.Tensor:
    return torch.stack([session.step(action) for action in actions])


def test_the_frames_are_those_of_predict_for_every_family():
    for name, config in TINY_CONFIGS.items():
        model = lively(built(config)).eval()
        context, count = clips(model, batch=1)[0], len(config.actions)
        actions = [tuple((-1) ** (t // 2) / (k + 1) for k in range(count)) for t in range(5)]
        condition = Condition(actions=tuple(actions) if count else ())
        expected = predict(model, context, 5, seeds=[7], condition=condition)[0]
        torch.testing.assert_close(
            play(LiveSession(model, context, seed=7), actions), expected, rtol=0, atol=0, msg=name
        )


def test_without_an_action_the_model_chooses(model, context):
    expected = predict(model, context, 3, seeds=[7])[0]
    assert torch.equal(play(LiveSession(model, context, seed=7), [()] * 3), expected)


def test_after_a_rewind_the_same_actions_give_the_same_frames_and_others_other_frames(model, context):
    session = LiveSession(model, context, seed=7)
    first = play(session, PUSHES)
    for length in (7, 3, 0):
        assert session.rewind(length) == length == session.branch.length
        assert torch.equal(play(session, PUSHES[length:]), first[length:])
    session.rewind(2)
    other = play(session, [LEFT] * 3)
    assert (other != first[2:5]).any()


def test_a_rewind_reaches_any_frame_when_snapshots_lie_apart(model, context):
    session = LiveSession(model, context, seed=7, max_bytes=3 * state_bytes(model.start(context[None])))
    actions = PUSHES * 4
    first = play(session, actions)
    assert session.branch.spacing > 2 and len(session.branch.snapshots) <= 4
    for length in (31, 17, 5):
        session.rewind(length)
        assert torch.equal(play(session, actions[length:]), first[length:]), length


def test_a_chunk_cut_short_by_a_rewind_is_the_same_chunk():
    for name in ("timesformer", "videogpt"):
        model = lively(built(TINY_CONFIGS[name])).eval()
        session = LiveSession(model, clips(model, batch=1)[0], seed=3)
        first = play(session, [()] * 7)
        for length in (5, 2):
            session.rewind(length)
            assert torch.equal(play(session, [()] * (7 - length)), first[length:]), (name, length)


def test_a_fork_with_another_seed_differs_from_there_on_and_leaves_the_first_branch_as_it_was(model, context):
    session = LiveSession(model, context, seed=7)
    first = play(session, PUSHES)
    before = list(session.branch.pixels)
    assert session.fork(4, seed=8) == 4
    assert [list(map(bytes, branch.pixels[:4])) for branch in (session.branch, session.other)] == [
        list(map(bytes, before[:4]))
    ] * 2
    second = play(session, PUSHES[4:])
    assert (second != first[4:]).any()
    session.rewind(2)  # to before the fork: the second seed takes effect at the same frame again
    assert session.branch.seed == 7
    session.swap()
    assert session.branch.length == 8 and list(map(bytes, session.branch.pixels)) == list(map(bytes, before))
    assert session.branch.seed == 7

    session.fork(4, seed=8)
    assert torch.equal(play(session, PUSHES[4:]), second)
    session.rewind(6)
    assert torch.equal(play(session, PUSHES[6:]), second[2:])
    session.fork(8)  # the same seed and actions go on as they would have
    ahead = play(session, [UP, LEFT])
    session.swap()
    assert torch.equal(play(session, [UP, LEFT]), ahead)


def test_memory_stays_bounded_and_the_past_ends_where_it_was_dropped(context, model):
    size = state_bytes(model.start(context[None]))
    session = LiveSession(model, context, seed=7, max_frames=10, max_bytes=4 * size)
    for _ in range(60):
        session.step(RIGHT)
    branch = session.branch
    assert (branch.length, len(branch.pixels), len(branch.actions)) == (60, 10, 10)
    assert sum(one.num_bytes for one in branch.snapshots.values()) <= 4 * size and min(branch.snapshots) >= 50
    assert session.rewind(0) == branch.earliest >= 50


def test_what_a_model_does_not_take_is_refused(context, model):
    session = LiveSession(model, context)
    with pytest.raises(ValueError, match="an action has 3 numbers, the model takes 2"):
        session.step((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="between -1 and 1"):
        session.step((2.0, 0.0))
    with pytest.raises(ValueError, match="takes none"):
        LiveSession(lively(STT(TINY)).eval(), context).step(RIGHT)
    with pytest.raises(ValueError, match="seed is -1"):
        session.fork(0, seed=-1)
    assert session.branch.length == 0 and session.other is None


def test_a_script_of_keys_becomes_a_picture_of_play(model, tmp_path, monkeypatch):
    save(model, tmp_path / "model.safetensors")
    command = [
        "make_play",
        "--model",
        f"{tmp_path}/model.safetensors",
        "--clip",
        str(moving_dot(tmp_path / "clip.mp4")),
    ]
    for keys, works in ((["right:2", "none:1"], True), (["right"], False), (["jump:2"], False)):
        picture = tmp_path / f"{keys[0]}.gif".replace(":", "-")
        monkeypatch.setattr("sys.argv", [*command, "--out", str(picture), "--keys", *keys])
        if works:
            make_play.main()
            assert picture.read_bytes()[:6] == b"GIF89a"
        else:
            with pytest.raises(SystemExit, match="is no step such as right:8"):
                make_play.main()
            assert not picture.exists()
