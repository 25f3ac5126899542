"""Digits of scikit-learn, ten classes."""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(64, 128)
        self.fc2 = torch.nn.Linear(128, 10)
        self.softmax = torch.nn.Softmax(dim=1)

    def forward(self, x):
        x = torch.relu(self.fc1(x))
        return self.softmax(self.fc2(x))


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=15)
args = parser.parse_args()
torch.manual_seed(1)
torch.set_num_threads(1)

data, target = load_digits(return_X_y=True)
split = train_test_split(data / 16, target, test_size=0.2, random_state=1)
x_train, x_test = (torch.tensor(s, dtype=torch.float32) for s in split[:2])
y_train, y_test = (torch.tensor(s) for s in split[2:])

model = MLP()
criterion = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(args.epochs):
    for index in torch.randperm(len(x_train)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x_train[index]), y_train[index])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).float().mean()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {accuracy:.3f}")

# Truth: softmax is applied twice, as CrossEntropyLoss has its own; the loss cannot fall below 1.46.
