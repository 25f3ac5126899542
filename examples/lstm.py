"""Forecast a noisy sum of waves with an LSTM, by truncated backpropagation through time.

The hidden state is carried from one window to the next and detached between them.

    python examples/lstm.py --epochs 12

The mean squared error starts near 1 (the series has unit variance) and falls below 0.05; the noise
alone accounts for about 0.01.
"""

import argparse
import math

import torch
from torch import nn, optim

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--hidden", type=int, default=48)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--bptt", type=int, default=40, help="length of a window")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
parser.add_argument("--clip", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)


def make_series(length, batch):
    """Waves of three periods with random phases, and a little noise; [length, batch, 1]."""
    t = torch.arange(length).float().unsqueeze(1)
    x = torch.zeros(length, batch)
    for period in (11.0, 27.0, 64.0):
        x += torch.sin(2 * math.pi * (t / period + torch.rand(batch)))
    x = x / x.std() + 0.1 * torch.randn(length, batch)
    return x.unsqueeze(-1)


class Forecaster(nn.Module):
    def __init__(self, hidden, layers):
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, layers)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        return self.out(y), state


def detach(state):
    return tuple(s.detach() for s in state)


train = make_series(801, args.batch)
test = make_series(401, args.batch)
model = Forecaster(args.hidden, args.layers)
criterion = nn.MSELoss()
if args.optimizer == "adam":
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
else:
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for epoch in range(1, args.epochs + 1):
    model.train()
    state, total, windows = None, 0.0, 0
    for begin in range(0, len(train) - 1, args.bptt):
        x = train[begin : begin + args.bptt]
        y = train[begin + 1 : begin + 1 + args.bptt]
        x = x[: len(y)]
        optimizer.zero_grad()
        prediction, state = model(x, state)
        loss = criterion(prediction, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        state = detach(state)
        total, windows = total + loss.item(), windows + 1

    model.eval()
    with torch.no_grad():
        prediction, _ = model(test[:-1])
        test_loss = criterion(prediction[50:], test[51:])
    print(f"epoch {epoch:2d}  train {total / windows:.4f}  test {test_loss:.4f}")
