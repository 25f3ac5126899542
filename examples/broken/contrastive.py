"""Digits seen twice with noise: an encoder and a projector, trained to recognise the pair."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


class PairNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.projector = nn.Linear(64, 32)
        self.features = None

    def forward(self, x):
        h = self.encoder(x)
        self.features = h = h.detach()  # kept for the plots
        return F.normalize(self.projector(h), dim=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    net = PairNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(args.steps):
        pick = x[torch.randint(len(x), (128,))]
        a = net(pick + 0.3 * torch.randn_like(pick))
        b = net(pick + 0.3 * torch.randn_like(pick))
        logits = a @ b.T / 0.1
        loss = F.cross_entropy(logits, torch.arange(len(pick)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            print(f"step {step:3d}  loss {loss.item():.4f}")


main()

# Truth: detach in the middle of forward cuts the encoder off; only the projector learns.
