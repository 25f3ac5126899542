"""The figures of a run: a reader in, specs out; one file per figure, ``catalogue`` lists them."""
