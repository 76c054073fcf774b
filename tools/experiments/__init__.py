"""What experiments of many runs share: the results file, calls of the other tools, tables between marks, plots."""
