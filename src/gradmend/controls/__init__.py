"""What an edit may hang onto an optimizer: called before and after each of its steps."""

from gradmend.controls.control import Control

__all__ = ["Control"]
