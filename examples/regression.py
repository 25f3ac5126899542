# Disease progression after one year, from ten measurements of 442 patients.
#
#   python examples/regression.py                      # Adam, mini-batches
#   python examples/regression.py --optimizer lbfgs    # whole data set, closure
#
# The target is scaled to unit variance: predicting the mean gives a loss of 1. A test loss of
# about 0.55 is what these data allow.
import argparse

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split


def load(seed):
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    parts = train_test_split(x, y, test_size=0.25, random_state=seed)
    return [torch.from_numpy(p.astype(np.float32)) for p in parts]


def build(n_in, width=32):
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, 1),
    )


def penalty(model, weight):
    return weight * sum((p**2).sum() for p in model.parameters() if p.ndim > 1)


def fit_adam(model, x, y, epochs, l2):
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x)).split(32):
            opt.zero_grad()
            mse = torch.nn.functional.mse_loss(model(x[index]).squeeze(1), y[index])
            (mse + penalty(model, l2)).backward()
            opt.step()
            total += mse.item() * len(index)
        if epoch % 10 == 0 or epoch == epochs - 1:
            print(f"epoch {epoch}: mse {total / len(x):.4f}")


def fit_lbfgs(model, x, y, epochs, l2):
    opt = torch.optim.LBFGS(model.parameters(), lr=1, max_iter=10, line_search_fn="strong_wolfe")

    def closure():
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x).squeeze(1), y) + penalty(model, l2)
        loss.backward()
        return loss

    for epoch in range(epochs):
        loss = opt.step(closure)
        print(f"step {epoch}: loss with penalty {loss.item():.4f}")


def run():
    cli = argparse.ArgumentParser()
    cli.add_argument("--optimizer", choices=("adam", "lbfgs"), default="adam")
    cli.add_argument("--epochs", type=int, help="default: 80 for adam, 20 steps for lbfgs")
    cli.add_argument("--l2", type=float, default=2e-2)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    x, x_test, y, y_test = load(args.seed)
    model = build(x.shape[1])
    if args.optimizer == "adam":
        fit_adam(model, x, y, args.epochs or 80, args.l2)
    else:
        fit_lbfgs(model, x, y, args.epochs or 20, args.l2)
    with torch.no_grad():
        error = torch.nn.functional.mse_loss(model(x_test).squeeze(1), y_test)
    print(f"test mse {error:.4f}")


run()
