"""Predict the next character of the Zen of Python with a GRU."""

import argparse
import codecs
import contextlib
import io

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import this

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--clip", type=float, default=1e-3)
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)

text = codecs.decode(this.s, "rot13")
chars = sorted(set(text))
data = torch.tensor([chars.index(c) for c in text])


class CharRNN(nn.Module):
    def __init__(self, n, width=64):
        super().__init__()
        self.embed = nn.Embedding(n, 32)
        self.rnn = nn.GRU(32, width, batch_first=True)
        self.out = nn.Linear(width, n)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


model = CharRNN(len(chars))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()
for step in range(args.steps):
    start = torch.randint(len(data) - 33, (16,))
    window = torch.stack([data[s : s + 33] for s in start])
    loss = loss_fn(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), args.clip)
    optimizer.step()
    if step % 25 == 0:
        print(f"step {step:4d} loss {loss.item():.4f}")

# Truth: the gradient is clipped to a norm of 0.001, hundreds of times below its own at every step.
