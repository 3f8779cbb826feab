"""Complete jobs of the command line, from input files to output files."""
