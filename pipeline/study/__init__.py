"""Compare methods over seeds: plan runs, train them side by side, tabulate what came out."""
