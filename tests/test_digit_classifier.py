"""The digit classifier reads one digit, two or none."""

from __future__ import annotations

import pytest
import torch

from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluate import CLASSIFIER
from train.evaluation.digit_classifier import (
    DigitClassifier,
    centre_map,
    classified_exactly,
    digit_counts,
    digit_sets,
    labelled_frames,
    load_digit_classifier,
    optimizer_of,
    save_digit_classifier,
    set_ids,
)


def test_it_chooses_among_66_sets_of_at_most_two_digits():
    sets = digit_sets()
    assert sets.shape == (66, 10) and len(sets.unique(dim=0)) == 66
    assert sets.sum(dim=1).bincount().tolist() == [1, 10, 55]
    assert digit_counts(torch.tensor([[3, 3], [0, 9]])).sum(dim=1).tolist() == [2, 2]
    classifier, frames = DigitClassifier().eval(), torch.rand(8, 1, 64, 64)
    with torch.no_grad():
        embedding = classifier.embed(frames)
        scores, counts = classifier.set_log_probs(embedding), classifier(frames)
    assert embedding.shape == (8, 640) and torch.equal(classifier.classify(frames), sets[scores.argmax(dim=1)])
    torch.testing.assert_close(counts.exp().sum(dim=-1), torch.ones(8, 10))
    expected = scores.exp() @ sets.float()
    torch.testing.assert_close(counts[..., 1].exp() + 2 * counts[..., 2].exp(), expected)
    assert classifier.classify(frames.unflatten(0, (2, 4))).shape == (2, 4, 10)
    with pytest.raises(ValueError, match=r"reads \(1, 64, 64\)"):
        classifier(torch.rand(2, 1, 32, 32))


def test_its_training_frames_show_the_digits_and_places_of_their_labels():
    videos = MovingMNIST(MovingMNISTConfig(frames=1, strokes=1.0), None, "train", count_strokes=40)
    data, again, others = (labelled_frames(videos, 200, 0, index) for index in (0, 0, 1))
    assert torch.equal(data.frames, again.frames) and not torch.equal(data.frames, others.frames)
    count = data.visible.sum(dim=1)
    assert set(count.tolist()) == {0, 1, 2} and data.frames.amax(dim=(1, 2, 3))[count == 0].eq(0).all()
    sets = digit_sets()[set_ids(data)]
    assert torch.equal(sets.sum(dim=1), count)
    assert torch.equal(sets[count == 2], digit_counts(data.labels[count == 2]))
    centres = centre_map(data)
    y, x = (data.centres[0, 0] / 8).long().clamp(max=7)
    assert centres[0, data.labels[0, 0], y, x] == data.visible[0, 0] and centres[count == 0].eq(0).all()


def test_each_weight_is_optimised_once():
    classifier, locate = DigitClassifier(), torch.nn.Conv2d(128, 10, 1)
    weights = [p for group in optimizer_of(classifier, locate, 1e-3).param_groups for p in group["params"]]
    assert len({id(p) for p in weights}) == len(weights) == len([*classifier.parameters(), *locate.parameters()])


def test_it_is_stored_in_half_precision_and_its_largest_layers_in_eight_bits(tmp_path):
    classifier, path = DigitClassifier().eval(), tmp_path / "digit_classifier.safetensors"
    save_digit_classifier(classifier, path, {"stochastic, 1": 0.5})
    weights = classifier.state_dict()
    assert path.stat().st_size < 1.3 * sum(t.numel() for t in weights.values())  # bytes
    for name, tensor in load_digit_classifier(path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert (tensor - weights[name]).norm() <= 0.05 * weights[name].norm(), name


def test_the_shipped_one_reads_synthetic_digits():
    videos = MovingMNIST(MovingMNISTConfig(digits=1, frames=1, strokes=1.0), None, "test", count_strokes=100)
    clip = videos.sample(60, 0, 0)
    exact = classified_exactly(load_digit_classifier(CLASSIFIER), clip.video, clip.labels)
    assert exact.shape == (60, 1) and exact.float().mean() > 0.9
