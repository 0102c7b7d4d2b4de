from __future__ import annotations

import pytest
import torch

from stt.quantize import FSQ, VectorQuantizer


@pytest.mark.parametrize("levels", [(2,), (3, 4), (8, 5, 5, 5)])
def test_fsq_ids_and_latents_are_two_names_of_the_same_thing(levels):
    quantizer = FSQ(levels)
    codes = quantizer(torch.randn(2, 7, len(levels)) * 3)
    torch.testing.assert_close(quantizer.embed(codes.ids), codes.latents)


def test_fsq_uses_every_level_and_stays_within_one():
    quantizer = FSQ((8, 5, 3))
    codes = quantizer(torch.linspace(-4, 4, 1001)[:, None].expand(-1, 3))
    assert [len(codes.ids[:, g].unique()) for g in range(3)] == [8, 5, 3]
    assert codes.latents.min() == -1 and codes.latents.max() == 1


def test_fsq_passes_the_gradient_through_the_rounding():
    z = torch.randn(5, 2, requires_grad=True)
    FSQ((5, 5))(z).latents.sum().backward()
    assert (z.grad > 0).all()


def test_a_vector_takes_its_nearest_code():
    quantizer = VectorQuantizer(4, 2).eval()
    quantizer.codebook.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]))
    codes = quantizer(torch.tensor([[0.9, 0.2], [0.1, 0.8]]))
    assert codes.ids.tolist() == [[1], [2]]
    torch.testing.assert_close(quantizer.embed(codes.ids), codes.latents)


def test_the_codebook_starts_from_data_and_follows_it():
    torch.manual_seed(0)
    data = torch.randn(512, 3) + 20
    quantizer = VectorQuantizer(8, 3, decay=0.5).train()
    assert not quantizer.initialised
    quantizer(data)
    assert quantizer.initialised and (quantizer.codebook.mean(dim=1) > 10).all()
    errors = [float((quantizer(data).latents.detach() - data).square().mean()) for _ in range(20)]
    assert errors[-1] < errors[0]


def test_dead_codes_restart_from_the_batch():
    torch.manual_seed(0)
    data = torch.randn(256, 2)
    quantizer = VectorQuantizer(16, 2, decay=0.5).train()
    quantizer(data)
    quantizer.codebook[:8] = 1e3  # no latent is ever near these
    for _ in range(30):
        ids = quantizer(data).ids
    assert len(ids.unique()) == 16 and quantizer.codebook.abs().max() < 10


def test_in_eval_mode_the_codebook_stands_still():
    quantizer = VectorQuantizer(8, 2).eval()
    before = {name: t.clone() for name, t in quantizer.state_dict().items()}
    quantizer(torch.randn(64, 2))
    assert all(torch.equal(before[name], t) for name, t in quantizer.state_dict().items())


def test_the_codebook_state_survives_a_save_so_that_a_resumed_run_is_not_reseeded():
    torch.manual_seed(0)
    data = torch.randn(64, 2)
    first = VectorQuantizer(8, 2).train()
    first(data)
    second = VectorQuantizer(8, 2).train()
    second.load_state_dict(first.state_dict())
    second(data), first(data)
    assert torch.equal(first.codebook, second.codebook)


def test_the_commitment_loss_pulls_latents_to_their_codes():
    z = torch.randn(16, 2, requires_grad=True)
    quantizer = VectorQuantizer(4, 2).eval()
    codes = quantizer(z)
    codes.loss.backward()
    step = -z.grad
    chosen = quantizer.embed(codes.ids)
    assert ((chosen - z.detach()) * step).sum(dim=-1).min() >= 0


@pytest.mark.parametrize(("cls", "args"), [(FSQ, ((1, 5),)), (FSQ, ((),)), (VectorQuantizer, (1, 4))])
def test_impossible_codebooks_are_refused_with_the_number(cls, args):
    with pytest.raises(ValueError, match="must be at least 2"):
        cls(*args)
