"""Stages of a run as data: their terms, schedules, arguments and extensions."""
