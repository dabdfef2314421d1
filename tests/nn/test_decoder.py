import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.nn import LinkDecoder, PairHistoryDecoder
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask


def test_features_of_a_pair_by_hand():
    decoder = PairHistoryDecoder(4, history=3)
    recent = torch.tensor([[7, 5, 7], [5, -1, -1], [-1, -1, -1]])
    place, count = decoder.features(recent, torch.tensor([7, 7, 7])).view(3, 2, 4).argmax(-1).T
    assert place.tolist() == [0, 3, 3]  # newest; never met; never met
    assert count.tolist() == [2, 0, 0]
    hot = decoder.features(recent.unsqueeze(1), torch.tensor([[5, 9], [5, 7], [5, 5]]))
    assert hot.shape == (3, 2, 8)
    assert hot.sum(-1).eq(2).all()
    assert hot.view(3, 2, 2, 4).argmax(-1)[:, 0, 0].tolist() == [1, 0, 3]


def test_without_history_it_is_a_link_decoder():
    torch.manual_seed(0)
    pair = PairHistoryDecoder(4, history=3)
    link = LinkDecoder(4)
    link.load_state_dict({k: v for k, v in pair.state_dict().items() if not k.startswith("pair.")})
    src, dst = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(pair(src, dst), link(src, dst))
    never = pair.features(torch.full((5, 3), -1), torch.zeros(5, dtype=torch.int64))
    pair.pair.weight.data.zero_()
    torch.testing.assert_close(pair.score(pair.src(src), pair.dst(dst), never), link(src, dst))


def test_every_way_to_a_score_sees_the_same_history():
    """Training step, evaluation, ragged lists and prediction."""
    from gnnaccel.data.candidates import RaggedNegatives

    events = synthetic_events(num_events=900, num_src=30, num_dst=12, feat_dim=3, seed=3)
    settings = ["decoder.kind=pair", "decoder.options.history=6", "memory.dim=8", "aggregator.dim=8"]
    task = LinkTask.create(load_config("tgn", None, settings), events)
    task.model.decoder.pair.weight.data.normal_()
    task.model.eval()
    task.replay(slice(0, 700))
    part = slice(700, 740)
    candidates = task.draw(task.negatives, part, 4, 0)
    with torch.no_grad():
        step = task.sample(part, candidates)
        positive, negative, _ = task.scores(step)
        lists = RaggedNegatives.from_lists(candidates.tolist())
        again, ragged, _, _ = task.ragged_scores(part, lists, chunk=7)
        both = torch.cat([events.dst[part, None], candidates], 1)
        probability = task.probabilities(events.src[part], both, events.t[part])
        loss = task.loss(step)[0]
    assert torch.equal(positive, again)
    assert torch.equal(negative.flatten(), ragged)
    torch.testing.assert_close(probability, torch.cat([positive[:, None], negative], 1).sigmoid())
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        loss, bce(positive, torch.ones_like(positive)) + bce(negative, torch.zeros_like(negative))
    )
    task.model.decoder.pair.weight.data.zero_()
    with torch.no_grad():
        assert not torch.allclose(task.scores(step)[0], positive)
