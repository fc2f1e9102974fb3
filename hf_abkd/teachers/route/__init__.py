"""Weights that a teacher takes on, one set after another: recorded while it trains, read while a student does."""
