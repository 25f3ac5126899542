"""Which of five rules holds for a row? Several may; the loss is written by hand."""

import argparse

import torch
from torch import nn


def binary_cross_entropy(probability, target):
    loss = target * torch.log(probability) + (1 - target) * torch.log(1 - probability)
    return -loss.mean()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)
        )  # fmt: skip

    def forward(self, x):
        return torch.sigmoid(self.net(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rule = torch.randn(20, 5)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for step in range(args.steps):
        x = torch.randn(128, 20)
        y = (x @ rule > 0).float()
        loss = binary_cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"{step:5d} {loss.item():.5f}")


main()

# Truth: log(0) as soon as a sigmoid rounds to 1 in float32: 0 * inf gives NaN.
