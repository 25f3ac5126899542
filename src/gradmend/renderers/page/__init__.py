"""The page: its document, its figures and what draws them."""
