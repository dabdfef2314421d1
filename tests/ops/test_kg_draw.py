import numpy as np
import pytest
import torch

from gnnaccel.baselines.reference.kg_draw import kg_draw as reference
from gnnaccel.data.philox import uint64_below, words
from gnnaccel.ops._kg_draw import kg_draw
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by

KEYS = ("at", "n", "bound", "seed", "stream", "part")


def make(epoch, batch, n, bound, seed, stream=7, part=0):
    values = (torch.tensor([epoch, batch]), n, bound, seed, stream, part)
    return lambda gen: dict(zip(KEYS, values, strict=True))


CASES = [
    Case("nothing", make(0, 0, 0, 5, 1)),
    Case("one", make(0, 0, 1, 1, 1)),
    Case("odd", make(3, 9, 131, 14541, 2**31 - 1, 0x6B670003, 1)),
    Case("large", make(2**33, 2**40, 7, 2**31 - 1, -5, 2**62)),
    Case("batch", make(1, 2, 4 * 256, 40943, 17), small=False),
]

TestKGDraw = check_op(
    op=kg_draw,
    reference=reference,
    cases=CASES,
    schemas=["kg_draw"],
    dtypes=[torch.float32],
    compile=False,  # a step that is captured is not compiled
    overload_args=lambda a: tuple(a[k] for k in KEYS),
)


@pytest.mark.interpret
def test_the_words_are_those_of_the_data_loader():
    w = words(1000, seed=2**35 + 1, stream=3, epoch=4, batch=5, part=1)
    want = uint64_below(w >> np.uint64(32), w & np.uint64(0xFFFFFFFF), 14541)
    at = torch.tensor([4, 5], device=DEVICE)

    def drawn():
        return kg_draw(at, 1000, 14541, seed=2**35 + 1, stream=3, part=1)

    if INTERPRET:
        with served_by("CUDA"):
            got = drawn()
    else:
        got = drawn()
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"at": torch.zeros(2)}, TypeError, "at must be int64, got torch.float32"),
        ({"at": torch.zeros(3, dtype=torch.int64)}, ValueError, r"at must be \[2\], got \[3\]"),
        ({"bound": 0}, ValueError, r"bound must be in \[1, 2\^31\), got 0"),
        ({"n": -1}, ValueError, "n must be at least 0, got -1"),
    ],
)
def test_errors(change, error, message):
    args = {"at": torch.zeros(2, dtype=torch.int64), "n": 3, "bound": 5, "seed": 0, "stream": 1, **change}
    with pytest.raises(error, match=message):
        kg_draw(args.pop("at"), args.pop("n"), args.pop("bound"), **args)
