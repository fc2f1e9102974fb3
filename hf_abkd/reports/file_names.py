"""What is told of a run is called so in its folder."""

#: What was measured of its student, as JSON.
EVALUATION_NAME = "evaluation.json"
