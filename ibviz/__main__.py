"""`python -m ibviz` is the command line."""

from ibviz.cli import main

main()
