"""Sides of activation boundaries: as bools, as packed bits, behind a linear map."""
