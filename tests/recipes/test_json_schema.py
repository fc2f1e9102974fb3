"""The schema that editors read."""

from hf_abkd.methods import METHODS
from hf_abkd.objectives import OBJECTIVES
from hf_abkd.recipes.json_schema import json_schema, to_json
from hf_abkd.recipes.training_part import SAID_BY_THE_USER


def test_editors_are_offered_every_objective_method_and_training_argument_that_a_file_can_have():
    """A key that an editor underlines is taken for a mistake, and one that it does not offer for none."""
    schema = json_schema()
    defined = schema["$defs"]
    named = {part["properties"]["objective"]["const"] for part in defined.values() if "objective" in part["properties"]
             and "const" in part["properties"]["objective"]}  # fmt: skip
    assert named == set(OBJECTIVES)
    methods = {part["properties"]["method"]["const"] for part in defined.values() if "method" in part["properties"]}
    assert methods == {*METHODS, "alone"}
    training = defined["TrainingArguments"]["properties"]
    assert "learning_rate" in training and not SAID_BY_THE_USER & set(training)
    assert training["learning_rate"]["description"] and training["learning_rate"]["minimum"] == 0
    assert all(part["additionalProperties"] is False for part in defined.values())
    assert to_json(schema).startswith("{\n")
    # Which of two parts of one name would be the first differs from process to process.
    assert not [name for name in defined if "__" in name]


def test_alternatives_stand_in_one_order_whatever_the_process_has_imported():
    """Python keeps the first of two unions that are equal but for their order, for the whole process."""
    layers = json_schema()["$defs"]["ActivationBoundaryTerm"]["properties"]["teacher"]["oneOf"]
    assert [one["type"] for one in layers] == ["array", "string", "null"]
