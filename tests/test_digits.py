"""Pictures of digits: MNIST's files, read or downloaded, and synthetic digits."""

from __future__ import annotations

import gzip
import hashlib
import struct
import urllib.error

import numpy as np
import pytest
import torch

from train.data.digits import MNIST_MD5, load_glyphs, load_mnist
from train.data.strokes import STROKES, draw_digits, font
from train.seeding import generator_for


@pytest.fixture
def scans(tmp_path):
    """A folder of tiny idx files and their md5 table; the images of train are dark, those of test bright."""
    table = {}
    for name, low, high, seed in (("train", 0, 100, 0), ("t10k", 150, 256, 1)):
        rng = np.random.default_rng(seed)
        images = rng.integers(low, high, (20, 28, 28), dtype=np.uint8)
        labels = np.arange(20, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{values.ndim}i", 0, 8, values.ndim, *values.shape)
            data = gzip.compress(header + values.tobytes())
            file = tmp_path / f"{name}-{kind}-ubyte.gz"
            file.write_bytes(data)
            table[file.name] = hashlib.md5(data).hexdigest()
    return tmp_path, table


# ---- synthetic digits --------------------------------------------------------------------------------


def test_synthetic_digits_have_the_proportions_of_mnist():
    images = draw_digits(torch.arange(200) % 10, generator_for("ink"), size=28)
    assert images.shape == (200, 28, 28) and images.amin() == 0 and images.amax() == 1
    assert images[:, [0, -1]].max() == 0 and images[:, :, [0, -1]].max() == 0, "a stroke touches the border"
    tall = (images.amax(dim=2) > 0.5).sum(dim=1).float()
    assert 16 < tall.mean() < 24 and tall.min() > 12
    assert 0.08 < images.mean() < 0.16  # MNIST: 0.13


def test_a_nearest_neighbour_classifier_recognizes_new_synthetic_digits():
    labels = torch.arange(1100) % 10
    images = draw_digits(labels, generator_for("distinct"), size=28).flatten(1)
    predicted = labels[torch.cdist(images[1000:], images[:1000]).argmin(dim=1)]
    assert (predicted == labels[1000:]).float().mean() > 0.93


def test_no_two_synthetic_digits_are_alike_and_all_variants_are_in_the_font():
    images = draw_digits(torch.full((40,), 4), generator_for("hands"))
    assert len(images.flatten(1).unique(dim=0)) == 40
    assert font().count.tolist() == [len(STROKES[digit]) for digit in range(10)]
    torch.testing.assert_close(images, draw_digits(torch.full((40,), 4), generator_for("hands"), chunk=7))
    with pytest.raises(ValueError, match=r"labels are \[3, 10\]"):
        draw_digits(torch.tensor([3, 10]), generator_for("x"))


# ---- MNIST's files -----------------------------------------------------------------------------------


def test_mnist_is_read_from_a_folder(scans):
    images, labels = load_mnist(scans[0], "train", scans[1])
    assert images.shape == (20, 28, 28) and images.dtype == torch.uint8 and images.max() < 100
    assert labels.tolist() == [i % 10 for i in range(20)]


def test_missing_damaged_and_other_files_are_one_clear_sentence(scans, tmp_path):
    folder, table = scans
    with pytest.raises(FileNotFoundError, match=r"none.*train-images.*is missing; put the four"):
        load_mnist(tmp_path / "none", "train")
    damaged = folder / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"train-labels.*has md5 \w+, expected \w+; fetch it again") as error:
        load_mnist(folder, "train", table)
    assert "\n" not in str(error.value)
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(b"not an idx file"))
    with pytest.raises(ValueError, match=r"t10k-images.* is not an idx file"):
        load_mnist(folder, "test", table | {file.name: hashlib.md5(file.read_bytes()).hexdigest()})


def test_a_download_stays_in_the_cache_if_it_is_right(scans, tmp_path, monkeypatch):
    folder, table = scans
    urls = []

    def fetch(url, timeout):
        urls.append(url)
        return (folder / url.rpartition("/")[2]).open("rb")

    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("train.data.digits.urllib.request.urlopen", fetch)
    with pytest.raises(ValueError, match=r"has md5"):
        load_mnist(None, "test", MNIST_MD5)
    assert not list(tmp_path.glob("cache/mnist/*"))
    urls.clear()
    first, second = load_mnist(None, "test", table), load_mnist(None, "test", table)
    assert torch.equal(first.images, second.images) and len(urls) == 2
    names = sorted(path.name for path in (tmp_path / "cache/mnist").iterdir())
    assert names == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def offline(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("STT_CACHE", str(tmp_path))
    monkeypatch.setattr("train.data.digits.urllib.request.urlopen", offline)
    with pytest.raises(ConnectionError, match=r"put the file into .*or train on synthetic digits alone"):
        load_mnist(None, "train")


# ---- banks -------------------------------------------------------------------------------------------


def test_a_bank_mixes_scanned_and_synthetic_digits_by_their_share(scans):
    bank = load_glyphs(scans[0], "train", strokes=0.25, size=32, count_strokes=30, md5=scans[1])
    assert bank.images.shape == (50, 32, 32) and bank.images.dtype == torch.uint8
    assert bank.labels.shape == (50,) and bank.scanned == 20
    ids = bank.choose(2000, 2, generator_for("choose"))
    assert ids.min() == 0 and ids.max() == 49 and abs((ids >= 20).float().mean() - 0.25) < 0.03
    pictures = bank.pictures(ids[:4])
    assert pictures.shape == (4, 2, 32, 32) and pictures.min() >= 0 and pictures.max() <= 1
    bank = load_glyphs(scans[0], "test", strokes=0.0, md5=scans[1])
    assert len(bank.labels) == bank.scanned == 20 and bank.choose(100, 1, generator_for("choose")).max() < 20


def test_train_and_test_share_no_digit(scans):
    banks = [load_glyphs(scans[0], split, count_strokes=40, md5=scans[1]) for split in ("train", "test")]
    train, test = ({image.numpy().tobytes() for image in bank.images} for bank in banks)
    assert len(train) == len(test) == 60 and not train & test
    assert banks[0].images[:20].max() < 100 <= banks[1].images[:20].min()
