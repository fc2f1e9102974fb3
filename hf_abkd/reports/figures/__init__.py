"""Figures: numbers in, a picture of matplotlib out; each file draws one kind. matplotlib is the extra `report`."""
