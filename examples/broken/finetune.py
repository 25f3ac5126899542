"""Train on the digits 0 to 4, then fine-tune a new head on 5 to 9."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
args = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)


class Classifier(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )  # fmt: skip
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def train(model, optimizer, x, y, steps, name):
    for step in range(steps):
        batch = torch.randint(len(x), (64,))
        logits = model(x[batch])
        loss = nn.functional.cross_entropy(logits, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            accuracy = (logits.argmax(1) == y[batch]).float().mean()
            print(f"{name} step {step}: loss {loss.item():.3f} accuracy {accuracy:.2f}")


model = Classifier(5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train(model, optimizer, x[y < 5], y[y < 5], args.steps, "pre-train")

for parameter in model.backbone.parameters():
    parameter.requires_grad = False
model.head = nn.Linear(32, 5)
train(model, optimizer, x[y >= 5], y[y >= 5] - 5, args.steps, "fine-tune")

# Truth: the optimizer was built before the head was replaced, and never updates the new one.
