import pytest
import torch

from gnnaccel.baselines.peers.temporal_attention import layer as projected_layer
from gnnaccel.nn import TemporalAttention

R, K, U, E, DQ, DN, DE, DT, D = 9, 5, 7, 20, 6, 6, 4, 3, 8


def inputs(edges=True, dtype=torch.float64, seed=0):
    gen = torch.Generator().manual_seed(seed)
    count = torch.randint(0, K + 1, (R,), generator=gen).to(torch.int32)
    count[0] = 0
    dead = torch.arange(K) >= count[:, None]
    return {
        "h_root": torch.randn(R, DQ, generator=gen, dtype=dtype),
        "node_table": torch.randn(U, DN, generator=gen, dtype=dtype),
        "edge_table": torch.randn(E, DE, generator=gen, dtype=dtype) if edges else None,
        "nbr_row": torch.randint(0, U, (R, K), generator=gen).masked_fill(dead, -1),
        "edge_row": torch.randint(0, E, (R, K), generator=gen).masked_fill(dead, -1),
        "dt": torch.randint(0, 50, (R, K), generator=gen).masked_fill(dead, 0),
        "count": count,
    }


def layer(edges=True, dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = TemporalAttention(DQ, DN, DE if edges else 0, DT, D, **options).to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=dtype))
    return module


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("edges", [True, False])
def test_is_tgls_layer(edges, heads):
    """Output and every gradient equal those of the projected form with the same parameters."""
    module, args = layer(edges, heads=heads), inputs(edges)
    for name in ("h_root", "node_table"):
        args[name].requires_grad_()
    m = module
    parameters = [m.time.w, m.time.b]
    for linear in (m.query, m.key, m.value, m.output, m.norm):
        parameters += [linear.weight, linear.bias]
    ours = module(**args)
    theirs = projected_layer(*args.values(), *parameters, heads=heads)
    torch.testing.assert_close(ours, theirs)
    leaves = [args["h_root"], args["node_table"], *parameters]
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, weight), torch.autograd.grad(theirs, leaves, weight), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_a_root_without_neighbours_keeps_its_own_term():
    module, args = layer(), inputs()
    args["count"] = torch.zeros(R, dtype=torch.int32)
    out = module(**args)
    own = module.output.weight[:, D:] @ args["h_root"].T + module.output.bias[:, None]
    torch.testing.assert_close(out, module.norm(own.T.relu()))
    assert out.std(dim=0).min() > 0


def test_dropout_only_in_training():
    module, args = layer(dropout=0.5), inputs()
    module.eval()
    assert torch.equal(module(**args, seed=1), module(**args, seed=2))
    module.train()

    def draw(seed):
        torch.manual_seed(7)
        return module(**args, seed=seed)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_without_time_or_in_half():
    args = inputs(dtype=torch.float32)
    assert TemporalAttention(DQ, DN, DE, 0, D)(**args).shape == (R, D)
    half = {k: v.bfloat16() if v is not None and v.dtype == torch.float32 else v for k, v in args.items()}
    assert layer(dtype=torch.bfloat16)(**half).dtype == torch.bfloat16


def test_under_autocast():
    args = inputs(dtype=torch.float32)
    module = layer(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(**args)
    torch.testing.assert_close(out.float(), module(**args), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": 3}, r"dim_out must be a multiple of heads \(3\), got 8"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        layer(**options)


def test_edge_table_must_fit():
    with pytest.raises(ValueError, match=r"edge_table must have 4 columns \(None for 0\), got None"):
        layer()(**{**inputs(), "edge_table": None})
    with pytest.raises(ValueError, match=r"edge_table must have 0 columns \(None for 0\), got \[20, 4\]"):
        layer(edges=False)(**inputs())
