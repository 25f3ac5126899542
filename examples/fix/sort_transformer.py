"""Sort a short list of digits with torch's own transformer encoder.

usage: python sort_transformer.py [steps]
"""

import sys

import torch
import torch.nn as nn

torch.manual_seed(42)
torch.set_num_threads(1)

LENGTH, VOCAB = 10, 16
D_MODEL, N_HEAD, N_LAYERS, BATCH = 48, 4, 12, 32
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300


class Sorter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, D_MODEL)
        self.position = nn.Parameter(torch.randn(LENGTH, D_MODEL) * 0.5)
        layer = nn.TransformerEncoderLayer(
            d_model=D_MODEL,
            nhead=N_HEAD,
            dim_feedforward=4 * D_MODEL,
            dropout=0.0,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=N_LAYERS)
        self.out = nn.Linear(D_MODEL, VOCAB)

    def forward(self, tokens):
        return self.out(self.encoder(self.embedding(tokens) + self.position))


def make_batch(n):
    tokens = torch.randint(VOCAB, (n, LENGTH))
    return tokens, tokens.sort(dim=1).values


model = Sorter()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
loss_fn = nn.CrossEntropyLoss()
val_x, val_y = make_batch(200)

model.train()
for step in range(STEPS):
    inputs, targets = make_batch(BATCH)
    optimizer.zero_grad()
    logits = model(inputs)
    loss = loss_fn(logits.transpose(1, 2), targets)
    loss.backward()
    optimizer.step()
    if (step + 1) % 50 == 0:
        model.eval()
        with torch.no_grad():
            val_logits = model(val_x)
            val_loss = loss_fn(val_logits.transpose(1, 2), val_y)
            val_acc = (val_logits.argmax(-1) == val_y).float().mean()
        model.train()
        print(
            f"{step + 1}/{STEPS} train_loss={loss.item():.4f}"
            f" val_loss={val_loss.item():.4f} val_acc={val_acc.item():.3f}"
        )

# Truth: twelve layers normalised behind each sum, and a rate of 5e-3 without warm-up.
