"""Teachers: a live one and its fast copy, a cached one, and one that takes on weights along a route."""
