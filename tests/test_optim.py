"""Which parameters Muon takes, which decay, and what a step does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stt.tokenizer import FrameVQ, VideoVQ
from tests.conftest import TINY, TINY_CONFIGS, TINY_TOKENIZER, TINY_VIDEO_TOKENIZER, TINY_VIDEOGPT, built
from train.gan import AdversarialTokenizer
from train.optim import MuonAdamW, orthogonalized, parameter_groups


def models():
    configs = TINY_CONFIGS | {
        "stt, actions": replace(TINY, actions=("push",)),
        "videogpt, classes": replace(TINY_VIDEOGPT, classes=3),
    }
    yield from ((name, built(config)) for name, config in configs.items())
    yield from (("frame_vq", FrameVQ(TINY_TOKENIZER)), ("video_vq", VideoVQ(TINY_VIDEO_TOKENIZER)))
    yield "adversarial", AdversarialTokenizer(FrameVQ(TINY_TOKENIZER))


def test_every_trainable_parameter_of_every_family_is_in_one_group():
    for name, model in models():
        groups = parameter_groups(model, muon=True, weight_decay=0.1)
        ids = [id(p) for group in groups for p in group["params"]]
        trainable = {id(p) for p in model.parameters() if p.requires_grad}
        assert len(ids) == len(set(ids)) and set(ids) == trainable, name


def test_muon_takes_hidden_matrices_and_no_embeddings_tables_heads_or_norms():
    outside = ("embed", "head", "position", "times", "rows", "columns", "places", "targets", "adapt", "norm", "bias")
    taken = {}
    for name, model in models():
        hidden, _, rest = parameter_groups(model, muon=True, weight_decay=0.1)
        names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
        taken[name] = {names[id(p)] for p in hidden["params"]}
        for parameter in taken[name]:
            assert not any(part in outside for part in parameter.split(".")[-2:]), (name, parameter)
        assert (hidden["muon"], rest["muon"], rest["weight_decay"]) == (True, False, 0.0), name
        assert all(p.ndim == 2 for p in hidden["params"]), name
        undecayed = {names[id(p)] for p in rest["params"]}
        assert all(n in undecayed for n in names.values() if n.endswith(("bias", "position", "times"))), name
    assert {"network.blocks.0.space.qkv.weight", "network.blocks.1.mlp.down.weight"} <= taken["stt"]
    assert {"units.0.attention.qkv.weight", "units.3.mlp.up.weight"} <= taken["timesformer"]
    assert {"blocks.0.cross.kv.weight", "blocks.1.up.weight"} <= taken["videogpt, classes"]
    assert {"decoder.blocks.0.cross.kv.weight", "decoder.blocks.1.up.weight"} <= taken["transframer"]


def test_frozen_parameters_are_in_no_group():
    model = built(TINY)
    model.network.requires_grad_(False)
    hidden, *_ = parameter_groups(model, muon=True, weight_decay=0.1)
    network = {id(p) for p in model.network.parameters()}
    assert not network & {id(p) for p in hidden["params"]}


def test_the_newton_schulz_iteration_moves_every_singular_value_near_one():
    for shape in ((16, 48), (48, 16), (16, 16)):
        torch.manual_seed(0)
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3, shape


def test_muon_steps_its_matrices_and_leaves_the_rest_to_adamw():
    torch.manual_seed(0)
    net, twin = (torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    rest = [p for p in net.parameters() if p.ndim == 1]
    matrices = [p for p in net.parameters() if p.ndim == 2]
    muon = MuonAdamW([{"params": matrices, "muon": True}, {"params": rest}], lr=0.1, weight_decay=0.0)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.0)
    before = net[0].weight.detach().clone()
    for model, optimizer in ((net, muon), (twin, adamw)):
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(net[0].bias, twin[0].bias)
    assert not torch.allclose(net[0].weight, twin[0].weight)
    step = (net[0].weight.detach() - before).square().mean().sqrt()
    assert 0.001 < step < 0.1 * 0.4  # of one rank: an update of singular value 1, at lr * 0.2 * sqrt(16)
    assert net[0].weight.grad is not None


def test_muon_steps_a_convolutions_kernel_as_the_matrix_of_its_outputs_by_their_inputs():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, bias=False)
    flat = torch.nn.Parameter(conv.weight.detach().flatten(1).clone())
    conv.weight.grad = torch.randn(conv.weight.shape)
    flat.grad = conv.weight.grad.flatten(1)
    for weight in (conv.weight, flat):
        MuonAdamW([{"params": [weight], "muon": True}], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(conv.weight.flatten(1), flat)


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_a_step_with_infinite_gradients_leaves_every_weight_as_it_is(found_inf):
    layer = torch.nn.Linear(4, 4)
    groups = [{"params": [layer.weight], "muon": True}, {"params": [layer.bias]}]
    optimizer = MuonAdamW(groups, lr=0.1, weight_decay=0.1, fused=True)
    optimizer.found_inf = torch.tensor(found_inf)
    before = [p.detach().clone() for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = torch.full_like(p, torch.inf if found_inf else 1.0)
    optimizer.step()
    unchanged = [torch.equal(old, new) for old, new in zip(before, layer.parameters(), strict=True)]
    assert unchanged == [bool(found_inf)] * 2
