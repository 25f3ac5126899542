# Does an LSTM remember the first symbol of a long sequence?
import argparse

import torch
from torch import nn

ap = argparse.ArgumentParser(description="delayed recall with an LSTM")
ap.add_argument("-T", "--length", type=int, default=40)
ap.add_argument("--symbols", type=int, default=8)
ap.add_argument("--hidden", type=int, default=48)
ap.add_argument("--batch", type=int, default=32)
ap.add_argument("--steps", type=int, default=300)
ap.add_argument("--lr", type=float, default=1e-2)
ap.add_argument("--seed", type=int, default=0)


class Recall(nn.Module):
    """Reads symbols one by one, answers with the first at the end."""

    def __init__(self, n_symbols, hidden):
        super().__init__()
        self.embed = nn.Embedding(n_symbols, 16)
        self.lstm = nn.LSTM(16, hidden, batch_first=True)
        self.answer = nn.Linear(hidden, n_symbols)

    def forward(self, symbols):
        states, _ = self.lstm(self.embed(symbols))
        return self.answer(states[:, -1])


def sample(n, opts):
    symbols = torch.randint(opts.symbols, (n, opts.length))
    return symbols, symbols[:, 0]


def train(opts):
    net = Recall(opts.symbols, opts.hidden)
    adam = torch.optim.Adam(net.parameters(), lr=opts.lr)
    criterion = nn.CrossEntropyLoss()
    held_out = sample(256, opts)
    for step in range(opts.steps):
        x, y = sample(opts.batch, opts)
        adam.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        if step % 25 == 24:
            with torch.no_grad():
                right = (net(held_out[0]).argmax(dim=1) == held_out[1]).float().mean()
            print(f"{step + 1:5d}  loss {loss.item():.3f}  test acc {right:.2f}", flush=True)


if __name__ == "__main__":
    options = ap.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    train(options)

# Truth: forget gates begin half open, so in 40 steps a state shrinks by 2^40.
