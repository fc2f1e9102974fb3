"""Objectives: one formula per file."""
