"""What a roster says of parameters that no optimizer holds."""

import torch
from torch import nn

from gradmend.probe.roster import Roster


def test_whether_nobody_has_trained_what_nobody_holds_is_read_once() -> None:
    # GIVEN a drawn layer, one that was trained before, and a head that is trained
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
    with torch.no_grad():
        model[1].weight.mul_(1.1)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    roster = Roster()
    roster.add_model(model)

    # WHEN it is taken down
    assert roster.refresh([optimizer], 0)

    # THEN the two are told apart, and of the others nothing is read
    facts = {column.name: column.facts.get("as_drawn") for column in roster.columns}
    assert facts["0.weight"] is True
    assert facts["1.weight"] is False
    assert {name for name, known in facts.items() if known is None} == {
        "0.bias", "1.bias", "2.weight", "2.bias",
    }  # fmt: skip

    # AND it stays what it was when it was first seen, whoever holds it later
    optimizer.add_param_group({"params": [model[0].weight]})
    assert roster.refresh([optimizer], 1)
    assert roster.columns[0].facts["as_drawn"] is True
    assert not roster.refresh([optimizer], 2)
