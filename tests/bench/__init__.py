"""`make bench`: ratios measured in one run, against other tools or a budget. Never a timed test."""
