"""Separate two spirals."""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import nn


class ScaledLinear(nn.Module):
    """A linear layer whose weights start with a given gain."""

    def __init__(self, n_in, n_out, gain=1.0):
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.normal_(0, self.gain / math.sqrt(self.weight.shape[1]))

    def forward(self, x):
        self.reset_parameters()
        return F.linear(x, self.weight, self.bias)


def spirals(n):
    t = torch.rand(n) * 3 * math.pi + 0.5
    label = torch.randint(0, 2, (n,))
    angle = t + math.pi * label
    points = torch.stack([t * angle.cos(), t * angle.sin()], 1) / 5
    return points + 0.02 * torch.randn(n, 2), label.float()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(
        ScaledLinear(2, 64), nn.Tanh(), ScaledLinear(64, 64), nn.Tanh(), ScaledLinear(64, 1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(args.steps):
        x, y = spirals(128)
        loss = F.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

# Truth: forward draws new weights at every call, so what the optimizer wrote is lost.
