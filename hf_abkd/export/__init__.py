"""A finished student in the form in which it is shipped: written, read back, compared with the student, measured."""
