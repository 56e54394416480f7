"""The suite from Python, for notebooks and scripts: a file for each kind of door. The command line
calls the same functions.

    python -c 'import peftbench; print(peftbench.compare("results")[["task", "label", "nll"]])'

Experiments and stores are given by their paths or as objects. What the caller got wrong (a name, a
key, a value, a path) raises `peftbench.errors.InputError`, which says in one line what would be
right.
"""
