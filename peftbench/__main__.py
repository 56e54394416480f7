"""`python -m peftbench`."""

from peftbench.cli import main

main()
