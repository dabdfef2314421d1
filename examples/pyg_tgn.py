"""TGN on a stream of interactions, in the structure of PyTorch Geometric's example (its examples/tgn.py).

    python examples/pyg_tgn.py --data wikipedia

To run it on gnnaccel's kernels change its imports and nothing else: put `gnnaccel.pyg` for `torch_geometric`.
"""

import argparse

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn import Linear
from torch_geometric.data import TemporalData
from torch_geometric.loader import TemporalDataLoader
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader


class GraphAttentionEmbedding(torch.nn.Module):
    def __init__(self, in_channels, out_channels, msg_dim, time_enc, dropout):
        super().__init__()
        self.time_enc = time_enc
        edge_dim = msg_dim + time_enc.out_channels
        self.conv = TransformerConv(in_channels, out_channels // 2, heads=2, dropout=dropout, edge_dim=edge_dim)

    def forward(self, x, last_update, edge_index, t, msg):
        rel_t = last_update[edge_index[0]] - t
        rel_t_enc = self.time_enc(rel_t.to(x.dtype))
        edge_attr = torch.cat([rel_t_enc, msg], dim=-1)
        return self.conv(x, edge_index, edge_attr)


class LinkPredictor(torch.nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.lin_src = Linear(in_channels, in_channels)
        self.lin_dst = Linear(in_channels, in_channels)
        self.lin_final = Linear(in_channels, 1)

    def forward(self, z_src, z_dst):
        h = self.lin_src(z_src) + self.lin_dst(z_dst)
        return self.lin_final(h.relu())


class Example:
    """Model, optimiser and neighbours; one epoch is `train`, one pass over later events `test`."""

    def __init__(self, data, dim=100, dropout=0.1, lr=0.0001, device="cpu"):
        self.data, self.device = data, device
        msg_dim = data.msg.size(-1)
        self.memory = TGNMemory(
            data.num_nodes,
            msg_dim,
            dim,
            dim,
            message_module=IdentityMessage(msg_dim, dim, dim),
            aggregator_module=LastAggregator(),
        ).to(device)
        self.gnn = GraphAttentionEmbedding(dim, dim, msg_dim, self.memory.time_enc, dropout).to(device)
        self.link_pred = LinkPredictor(dim).to(device)
        self.modules = (self.memory, self.gnn, self.link_pred)
        # memory and gnn share the time encoder; unlike a set, a dict keeps the order
        parameters = dict.fromkeys(p for module in self.modules for p in module.parameters())
        self.optimizer = torch.optim.Adam(list(parameters), lr=lr)
        self.criterion = torch.nn.BCEWithLogitsLoss()
        self.neighbor_loader = LastNeighborLoader(data.num_nodes, size=10, device=device)
        # Helper vector to map global node indices to local ones.
        self.assoc = torch.empty(data.num_nodes, dtype=torch.long, device=device)

    def start_epoch(self):
        for module in self.modules:
            module.train()
        self.memory.reset_state()  # Start with a fresh memory.
        self.neighbor_loader.reset_state()  # Start with an empty graph.

    def scores(self, batch):
        n_id, edge_index, e_id = self.neighbor_loader(batch.n_id)
        self.assoc[n_id] = torch.arange(n_id.size(0), device=self.device)
        # Get updated memory of all nodes involved in the computation.
        z, last_update = self.memory(n_id)
        t, msg = self.data.t[e_id].to(self.device), self.data.msg[e_id].to(self.device)
        z = self.gnn(z, last_update, edge_index, t, msg)
        z_src = z[self.assoc[batch.src]]
        return self.link_pred(z_src, z[self.assoc[batch.dst]]), self.link_pred(z_src, z[self.assoc[batch.neg_dst]])

    def update(self, batch):
        # Update memory and neighbor loader with ground-truth state.
        self.memory.update_state(batch.src, batch.dst, batch.t, batch.msg)
        self.neighbor_loader.insert(batch.src, batch.dst)

    def train_step(self, batch):
        self.optimizer.zero_grad()
        pos_out, neg_out = self.scores(batch)
        loss = self.criterion(pos_out, torch.ones_like(pos_out))
        loss = loss + self.criterion(neg_out, torch.zeros_like(neg_out))
        self.update(batch)
        loss.backward()
        self.optimizer.step()
        self.memory.detach()
        return float(loss.detach())

    def train(self, loader):
        self.start_epoch()
        total_loss = 0.0
        for batch in loader:
            total_loss += self.train_step(batch.to(self.device)) * batch.num_events
        return total_loss / loader.data.num_events

    def test_step(self, batch):
        pos_out, neg_out = self.scores(batch)
        self.update(batch)
        return pos_out, neg_out

    @torch.no_grad()
    def test(self, loader):
        for module in self.modules:
            module.eval()
        torch.manual_seed(12345)  # Ensure deterministic sampling across epochs.
        aps, aucs = [], []
        for batch in loader:
            pos_out, neg_out = self.test_step(batch.to(self.device))
            y_pred = torch.cat([pos_out, neg_out]).sigmoid().flatten().cpu()
            y_true = torch.cat([torch.ones(pos_out.size(0)), torch.zeros(neg_out.size(0))])
            aps.append(average_precision_score(y_true, y_pred))
            aucs.append(roc_auc_score(y_true, y_pred))
        return float(torch.tensor(aps).mean()), float(torch.tensor(aucs).mean())


def load(name, msg_dim=172):
    """Events by gnnaccel's readers; random messages where the data has none."""
    from gnnaccel.data import load

    events = load(name)
    msg = events.edge_feat
    if msg is None:
        msg = torch.randn(len(events), msg_dim, generator=torch.Generator().manual_seed(0))
    return TemporalData(src=events.src, dst=events.dst, t=events.t.long(), msg=msg)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="wikipedia", help="a data set's name, a file or a folder (see `gnnaccel data`)"
    )
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    data = load(args.data)
    # For small datasets, the whole dataset on the GPU avoids expensive memory transfers for mini-batches.
    data = data.to(args.device)
    parts = data.train_val_test_split(val_ratio=0.15, test_ratio=0.15)
    train, val, test = (TemporalDataLoader(part, batch_size=args.batch_size, neg_sampling_ratio=1.0) for part in parts)
    example = Example(data, device=args.device)
    for epoch in range(1, args.epochs + 1):
        loss = example.train(train)
        print(f"Epoch: {epoch:02d}, Loss: {loss:.4f}")
        for name, loader in (("Val", val), ("Test", test)):
            ap, auc = example.test(loader)
            print(f"{name} AP: {ap:.4f}, {name} AUC: {auc:.4f}")


if __name__ == "__main__":
    main()
