"""Evaluating a teacher faster: changes of a copy of it, each kept only if the copy says the same."""
