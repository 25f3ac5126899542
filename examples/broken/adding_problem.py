"""The adding problem: the sum of the two marked numbers of a sequence."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--length", type=int, default=150)
parser.add_argument("--hidden", type=int, default=64)
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)


def batch(n, length):
    numbers = torch.rand(n, length)
    marks = torch.zeros(n, length)
    half = length // 2
    first, second = torch.randint(half, (n,)), half + torch.randint(length - half, (n,))
    rows = torch.arange(n)
    marks[rows, first] = marks[rows, second] = 1
    return torch.stack([numbers, marks], 2), numbers[rows, first] + numbers[rows, second]


class Adder(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.rnn = nn.RNN(2, hidden, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(hidden, 1)
        nn.init.normal_(self.rnn.weight_ih_l0, std=0.01)
        nn.init.eye_(self.rnn.weight_hh_l0)
        nn.init.zeros_(self.rnn.bias_ih_l0)
        nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x):
        states, _ = self.rnn(x)
        return self.head(states[:, -1]).squeeze(1)


model = Adder(args.hidden)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(args.steps):
    x, y = batch(32, args.length)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step} loss {loss.item():.4f}")

# Truth: the ReLU recurrence lets the gradient through time explode, unclipped, until all is NaN.
