"""VGG-like: 24 convolutions of 3 x 3 in a row, on the 8 x 8 digits of scikit-learn."""

import argparse
import time

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--depth", type=int, default=24)
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--epochs", type=int, default=14)
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class PlainNet(nn.Module):
    def __init__(self, depth, width, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1) for _ in range(depth - 1)]
        )
        self.fc = nn.Linear(width * 4, num_classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for i, conv in enumerate(self.convs):
            if i == 4:
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
        return self.fc(F.max_pool2d(x, 2).flatten(1))


def accuracy(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
    return correct / len(loader.dataset)


def main():
    args = get_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(digits.target)
    train = DataLoader(TensorDataset(x[:1400], y[:1400]), args.batch_size, shuffle=True)
    test = DataLoader(TensorDataset(x[1400:], y[1400:]), 256)

    model = PlainNet(args.depth, args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(1, args.epochs + 1):
        start, running = time.time(), 0.0
        model.train()
        for x_batch, y_batch in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_batch), y_batch)
            loss.backward()
            optimizer.step()
            running += loss.item()
        acc = accuracy(model, test)
        print(
            f"Epoch {epoch:02d} | loss {running / len(train):.4f} | test acc {acc:.3f}"
            f" | {time.time() - start:.1f}s"
        )


if __name__ == "__main__":
    main()

# Truth: torch's default draw has gain 1/sqrt(3) where ReLU needs sqrt(2).
