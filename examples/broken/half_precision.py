"""Regression on raw sensor counts (12 bits) in half precision, with loss scaling."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

counts = torch.randint(0, 4096, (4000, 32)).float()
target = (counts[:, :4].mean(1) - counts[:, 4:8].mean(1)) / 1000


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(32, 64)
        self.mid = nn.Linear(64, 64)
        self.out = nn.Linear(64, 1)

    def forward(self, x):
        h = torch.relu(self.inp(x))
        h = torch.relu(self.mid(h * h))  # energy features
        return self.out(h).squeeze(1)


net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
for step in range(args.steps):
    index = torch.randint(len(counts), (64,))
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        prediction = net(counts[index])
    loss = nn.functional.mse_loss(prediction.float(), target[index])
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.4g}, loss scale {scaler.get_scale():g}")

# Truth: squares of the raw counts overflow float16, every step is skipped and the scale collapses.
