"""`python -m peftbench.cli`."""

from peftbench.cli import main

main()
