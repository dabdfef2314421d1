import pytest
import torch

from gnnaccel.nn import Classifier


def test_is_the_formula_in_float64():
    torch.manual_seed(0)
    model = Classifier(5, 3, hidden=4, dropout=0.3).double().eval()
    x = 3 * torch.randn(50, 5, dtype=torch.float64) + 7
    model.standardise(x.mean(0), x.std(0))
    z = (x - x.mean(0)) / x.std(0)
    h = torch.clamp(z @ model.hidden.weight.T + model.hidden.bias, min=0)
    torch.testing.assert_close(model(x), h @ model.out.weight.T + model.out.bias, rtol=1e-12, atol=1e-12)


def test_a_constant_column_is_only_shifted():
    model = Classifier(2, 2)
    model.standardise(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    assert model.scale.tolist() == [1.0, 2.0]
    assert torch.isfinite(model(torch.full((1, 2), 3.0))).all()


def test_dropout_is_of_its_seed_alone():
    model = Classifier(6, 2, hidden=64, dropout=0.5).train()
    x = torch.randn(9, 6)
    first = model(x, seed=3)
    torch.rand(5)
    assert torch.equal(first, model(x, seed=3))
    assert not torch.equal(first, model(x, seed=4))
    assert torch.equal(model.eval()(x, seed=3), model(x, seed=4))


@pytest.mark.parametrize(
    ("args", "says"), [((0, 2), "dim must"), ((3, 1), "classes >= 2"), ((3, 2, 4, 1.0), "dropout")]
)
def test_refuses(args, says):
    with pytest.raises(ValueError, match=says):
        Classifier(*args)
