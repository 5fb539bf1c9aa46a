"""Measurements of the service, as ratios to a floor measured in the same run."""
