"""Speed, as ratios measured in one process; never a timed test."""
