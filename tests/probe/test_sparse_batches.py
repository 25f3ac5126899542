"""A sparse input, as a graph's adjacency is, takes part in a look and is left as it is."""

import torch
from torch import Tensor, nn

import gradmend


class Graph(nn.Module):
    """Sparse times dense, as graph convolutions are written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(8, 8) / 8**0.5 for _ in range(3))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for weight in self.weights[:-1]:
            x = torch.relu(torch.sparse.mm(adjacency, x @ weight))
        return torch.sparse.mm(adjacency, x @ self.weights[-1])


def test_a_sparse_adjacency_is_no_obstacle() -> None:
    torch.manual_seed(0)
    dense = torch.eye(12) + (torch.rand(12, 12) > 0.7)
    adjacency = dense.to_sparse()
    x, y = torch.randn(12, 8), torch.randint(8, (12,))
    report = gradmend.check(Graph(), ((x, adjacency), y), nn.functional.cross_entropy)
    assert report.ledger is not None
    # The same books as of the same numbers, written out.
    torch.manual_seed(0)
    plain = gradmend.check(Graph(), ((x, dense), y), nn.functional.cross_entropy)
    assert plain.ledger is not None
    assert not adjacency.requires_grad
    assert [f.code for f in report.findings] == [f.code for f in plain.findings]
