"""Boundary supporting samples (Heo et al., AAAI 2019): images moved to the teacher's decision boundaries."""
