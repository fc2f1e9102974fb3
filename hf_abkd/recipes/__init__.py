"""Recipes: files that describe a run, checked as a whole before anything is built or downloaded."""
