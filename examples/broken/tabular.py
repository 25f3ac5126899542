# House prices, or rather: a generated table with eight columns.
import argparse

import torch

cli = argparse.ArgumentParser()
cli.add_argument("--steps", type=int, default=600)
steps = cli.parse_args().steps

torch.manual_seed(3)
torch.set_num_threads(1)
X = torch.randn(2000, 8)
Y = (X[:, :1] * X[:, 1:2] + torch.sin(2 * X[:, 2:3]) + 0.1 * torch.randn(2000, 1)) / 1.2

model = torch.nn.Sequential(
    torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, 1),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for step in range(steps):
    index = torch.randint(0, len(X), (50,))
    prediction = model(X[index])
    loss = ((prediction - Y[index]) ** 2).mean()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print("step", step, "loss", round(loss.item(), 4))

# Truth: zero_grad is missing, so every step adds its gradient to all those before.
