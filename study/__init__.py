"""What makes experiments of the package: runs, results, statistics, figures, listening."""
