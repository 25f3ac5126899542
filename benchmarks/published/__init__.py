"""Faults that people published, re-made in our own words, each beside its healthy twin.

Sources are posts and papers that name the cause: AutoTrainer's benchmark (Zhang et al. 2021; its
kinds of fault, and some of its models by the name its authors gave them), the seeded faults of
DeepFD (Cao et al. 2022), posts on Stack Overflow (``SO`` and a number) as TheDeepChecker (Ben
Braiek and Khomh 2023) and DeepFD list them, and issues and threads of projects on GitHub and of
forums. Sizes are small enough for a core: what is kept is the fault and its symptom.

``mlp``, ``cnn``, ``regression`` and ``sequence`` hold a family each, ``material`` the data and
what several of them are made of. Every second fault of the list may be tuned on (``fit``); the
others may not (``report``).
"""
