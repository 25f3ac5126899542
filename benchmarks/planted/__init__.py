"""Faults planted into trainings whose cause and place are therefore known.

``training`` is what an architecture hands over and a plant changes; ``data`` draws batches;
``fitted`` and ``held_out`` hold the architectures of the two splits; each other file holds one
family of faults, but ``benign``, which holds what a healthy training may do. The matrix is their
product (``cells``).
"""
