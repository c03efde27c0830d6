"""The command line: parse, call the join that does the work, print. The one place that imports inside functions."""
