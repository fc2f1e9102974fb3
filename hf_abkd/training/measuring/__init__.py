"""The measuring of a run: what its student and its teacher say of the evaluation images, and what both cost."""
