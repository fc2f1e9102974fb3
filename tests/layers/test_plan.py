import pytest
import traced
import yaml
from torch import nn

from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import PLAN_NAME, Plan

TOKENS, MAP = Layout("NLC", (14, 14), 1), Layout("NHWC", (7, 7))


def plan():
    return Plan(
        [
            LayerPair(
                PlannedTensor("encoder.0", TOKENS, 384),
                PlannedTensor("stages.0.act", MAP, 512),
                0.5,
                "map",
                "1x1 convolution + BatchNorm, 14x14 to 7x7",
                197632,
            ),
            LayerPair(PlannedTensor("encoder.1"), PlannedTensor("stages.1.act")),
        ]
    )


def edited(**changes):
    """A plan of one pair as YAML, with some keys changed; a key with two parts belongs to the student."""
    entry = {"student": {"layer": "a", "layout": "NCHW", "grid": [4, 4], "channels": 8}, "teacher": "b"}
    for key, value in changes.items():
        if key.startswith("student_"):
            entry["student"][key.removeprefix("student_")] = value
        else:
            entry[key] = value
    return yaml.safe_dump({"pairs": [entry]})


# ---- Round trips ----


def test_a_plan_is_the_same_after_a_file(tmp_path):
    """A run that is started again from its own plan must be the same run."""
    path = tmp_path / PLAN_NAME
    plan().save(path)
    again = Plan.load(path)
    assert again.without_connections() == plan().without_connections()
    assert [(pair.student, pair.teacher) for pair in again.pairs] == [
        (pair.student, pair.teacher) for pair in plan().pairs
    ]
    assert again == Plan.from_yaml(again.to_yaml())


def test_proposed_pairs_survive_a_file():
    """Names of all families, and nothing that YAML reads as something else."""
    for family in traced.FAMILIES:
        made = Plan.of_sites(propose(traced.of_family(family), traced.of_family("resnet")))
        assert Plan.from_yaml(made.to_yaml()) == made


def test_each_grid_in_the_file_can_be_edited_on_its_own():
    """Layers of one grid share the object, which YAML would write once, with aliases that change along with it."""
    pairs = [LayerPair(PlannedTensor(name, MAP, 8), PlannedTensor(name, MAP, 8)) for name in "ab"]
    text = Plan(pairs).to_yaml()
    assert text.count("grid: [7, 7]") == 4, text
    odd = Plan.of_names([("1", "2"), ("on", "1e3"), ("a: b", "#x"), ("é", "null")])
    assert Plan.from_yaml(odd.to_yaml()) == odd


def test_the_file_can_be_read_and_edited():
    """Users change this text; a grid on three lines and tags of Python objects would be in their way."""
    text = plan().to_yaml()
    assert text.startswith("# Which layers of student and teacher are paired. Edit it and give it back: --plan FILE")
    assert "    grid: [14, 14]\n    special_tokens: 1\n    channels: 384\n" in text
    assert (
        "  weight: 0.5\n  connector: map\n  about: 1x1 convolution + BatchNorm, 14x14 to 7x7, 197,632 parameters\n"
        in text
    )
    assert "!!" not in text and "&" not in text and max(map(len, text.splitlines())) <= 120


def test_the_plan_is_a_table():
    """What was chosen for the user must be seen before hours of training."""
    assert plan().table().splitlines() == [
        "pair  model    layer         channels x grid (layout)",
        "1     student  encoder.0     384 x 14x14 (NLC, 1 special)",
        "      teacher  stages.0.act  512 x 7x7 (NHWC)",
        "               1x1 convolution + BatchNorm, 14x14 to 7x7, 197,632 parameters, weight 0.5",
        "2     student  encoder.1",
        "      teacher  stages.1.act",
        "               auto, weight 1",
    ]


def test_user_decisions_are_compared_without_what_was_found_out():
    """A plan is still the same after its connectors were made; another weight is another plan."""
    bare = Plan([LayerPair(PlannedTensor("encoder.0"), PlannedTensor("stages.0.act"), 0.5, "map"), plan().pairs[1]])
    assert plan().without_connections() == bare
    assert Plan.of_names([("a", "b")], [2.0]) != Plan.of_names([("a", "b")])
    assert Plan(tuple(plan().pairs)) == Plan(list(plan().pairs)) == Plan(iter(plan().pairs))


# ---- Edits ----


def test_a_pair_needs_two_names_and_nothing_else():
    """All other lines can be deleted, alone or together, and are found out again."""
    (pair,) = Plan.from_yaml("pairs: [{student: a, teacher: {layer: b}}]").pairs
    assert pair == LayerPair(PlannedTensor("a"), PlannedTensor("b"), 1.0, "auto")
    text = plan().to_yaml()
    for line in ("    grid: [14, 14]\n", "    channels: 384\n", "  weight: 0.5\n", "  connector: map\n"):
        assert line in text
        first = Plan.from_yaml(text.replace(line, "")).pairs[0]
        assert first.student.layer == "encoder.0"
    assert Plan.from_yaml(text.replace("    grid: [14, 14]\n", "")).pairs[0].student.layout == Layout("NLC", None, 1)


def test_weights_and_connectors_can_be_changed():
    """These are what a user tries first."""
    text = plan().to_yaml().replace("weight: 0.5", "weight: 2").replace("connector: auto", "connector: tokens")
    first, second = Plan.from_yaml(text).pairs
    assert (first.weight, second.connector) == (2, "tokens")


def test_a_connector_of_ones_own_is_made_from_the_channels():
    """The file has a name and no code; the factory gets what it needs to know."""
    text = plan().to_yaml().replace("connector: map", "connector: wide")
    made = []

    def wide(student, teacher):
        made.append((student, teacher))
        return nn.Conv2d(student, teacher, 3, padding=1)

    first = Plan.from_yaml(text, connectors={"wide": wide}).pairs[0]
    assert made == [(384, 512)] and isinstance(first.connector, nn.Conv2d)
    assert "connector: Conv2d\n" in Plan([first]).to_yaml() and "  Conv2d, weight" in Plan([first]).table()
    with pytest.raises(
        ValueError, match=r"pair 1: connector must be one of \['auto', .*'linear'\], got 'wide'. .*Plan.load"
    ):
        Plan.from_yaml(text)
    with pytest.raises(ValueError, match="'linear'], 'narrow', got 'wide'"):
        Plan.from_yaml(text, connectors={"narrow": wide})
    with pytest.raises(ValueError, match="pair 1: connector 'wide' needs the channels of both layers in the file"):
        Plan.from_yaml("pairs: [{student: a, teacher: b, connector: wide}]", connectors={"wide": wide})


# ---- What is refused ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"my.yaml must hold the keys \['pairs'\], got None"),
        ("- a", r"my.yaml must hold the keys \['pairs'\], got \['a'\]"),
        ("pairs: []\nlayers: []", r"my.yaml has the unknown keys \['layers'\]; known are \['pairs'\]"),
        ("{}", r"my.yaml lacks \['pairs'\]"),
        ("pairs:", "my.yaml: pairs must be a list, got None"),
        ("pairs: []", "my.yaml: a plan needs at least one pair"),
        ("pairs: [a]", "my.yaml, pair 1 must hold the keys .*, got 'a'"),
        ("pairs: [{student: a}]", r"my.yaml, pair 1 lacks \['teacher'\]"),
        ("pairs: [{student: a, teacher: 3}]", "my.yaml, pair 1, teacher must be the name of a layer .*; got 3"),
        ("pairs: [{student: '', teacher: b}]", "pair 1, student: layer must be the name of a module, got ''"),
        ("pairs: [{student: {layout: NCHW}, teacher: b}]", r"pair 1, student lacks \['layer'\]"),
        ("pairs: [{student: a, teacher: b}, {student: a, teacher: b}]", "the plan has a pair twice: student 'a'"),
        (
            "pairs: [{student: a, teacher: b, weight: 1, weight: 2}]",
            "(?s)my.yaml is no YAML of a plan: 'weight' stands there twice",
        ),
        ("a: b: c", "my.yaml is no YAML of a plan: mapping values are not allowed"),
        ("? [1]\n: 2", "my.yaml is no YAML"),
        ("pairs: [{student: a, teacher: 2001-01-01}]", r"in quotes where .*; got datetime.date\(2001, 1, 1\)"),
        ("pairs: [{student: a, teacher: 2001-99-01}]", "my.yaml is no YAML of a plan: month must be in 1..12"),
        ("[" * 1500, "my.yaml is no YAML of a plan: maximum recursion"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(text, message):
    """Of four pairs with eight layers the user must know which line is wrong."""
    with pytest.raises(ValueError, match=message):
        Plan.from_yaml(text, origin="my.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("wieght", 2, r"pair 1 has the unknown keys \['wieght'\]; known are .*'weight'"),
        ("weight", "high", "pair 1: weight must be a number, got 'high'"),
        ("weight", True, "pair 1: weight must be a number, got True"),
        ("weight", None, "pair 1: weight must be a number, got None"),
        ("weight", -1, "pair 1: weight must be finite and not negative, got -1"),
        ("weight", float("nan"), "pair 1: weight must be finite"),
        ("weight", float("inf"), "pair 1: weight must be finite"),
        ("connector", "mpa", "pair 1: connector must be one of .*, got 'mpa'"),
        ("connector", ["map"], "pair 1: connector must be one of .*, got .'map'."),
        ("student_chanels", 2, r"pair 1, student has the unknown keys \['chanels'\]"),
        ("student_channels", 0, "pair 1, student: channels must be a whole number from 1 on, got 0"),
        ("student_channels", 8.0, "pair 1, student: channels must be a whole number from 1 on, got 8.0"),
        ("student_channels", True, "pair 1, student: channels must be a whole number"),
        ("student_layer", 3, "pair 1, student: layer must be the name of a module, got 3"),
        ("student_layout", "NWHC", "pair 1, student: layout must be one of .*, got 'NWHC'"),
        ("student_layout", None, "pair 1, student: grid and special_tokens need a layout, one of"),
        ("student_grid", 4, r"pair 1, student: grid must be \[rows, columns\], got 4"),
        ("student_grid", [4, 4, 4], r"pair 1, student: grid must be \[rows, columns\]"),
        ("student_grid", [4, None], "pair 1, student: grid must be a whole number from 1 on, got None"),
        ("student_grid", [0, 4], "pair 1, student: grid must be a whole number from 1 on, got 0"),
        ("student_special_tokens", -1, "pair 1, student: special_tokens must be a whole number from 0 on, got -1"),
        ("student_special_tokens", 1, "pair 1, student: special_tokens must be 0, or more for NLC and NCL"),
    ],
)
def test_wrong_values_are_refused_with_key_and_place(key, value, message):
    """A value that is swallowed trains another model than the user asked for."""
    Plan.from_yaml(edited())
    with pytest.raises(ValueError, match=message):
        Plan.from_yaml(edited(**{key: value}))


@pytest.mark.parametrize("where", ["pairs: {}", "pairs: [{{student: a, teacher: b, connector: {}}}]", "{}"])
def test_a_plan_cannot_run_code(where, tmp_path):
    """Plans are downloaded with models."""
    trace = tmp_path / "ran"
    for code in (f"!!python/object/apply:os.system ['touch {trace}']", "!!python/name:os.system "):
        with pytest.raises(ValueError, match="could not determine a constructor for the tag"):
            Plan.from_yaml(where.format(code))
    assert not trace.exists()


def test_a_missing_file_is_told_with_the_command_that_makes_one(tmp_path):
    """Silently proposing another plan would not be what the user asked for."""
    with pytest.raises(FileNotFoundError, match="there is no plan .*none.yaml; `hf-abkd inspect STUDENT --teacher"):
        Plan.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("pairs: []")
    with pytest.raises(ValueError, match=r"bad.yaml: a plan needs at least one pair"):
        Plan.load(tmp_path / "bad.yaml")


# ---- Names ----


def test_names_make_a_plan():
    """The short way, for who knows the layers."""
    pairs = Plan.of_names(iter([("a", "b"), ("c", "d")]), [1, 0.5]).pairs
    assert [(pair.student.layer, pair.teacher.layer, pair.weight) for pair in pairs] == [("a", "b", 1), ("c", "d", 0.5)]


@pytest.mark.parametrize(
    ("layers", "weights", "message"),
    [
        ([], None, "give at least one pair of layers"),
        (["ab"], None, "layers must be pairs of names, student's first; got 'ab'"),
        ([("a", "b", "c")], None, "layers must be pairs of names"),
        ([("a", "b")], [1, 2], "1 layers need as many layer_weights, got 2"),
        ([("a", "b"), ("a", "b")], None, "a pair twice: student 'a', teacher 'b'"),
        ([("a", "b")], [-1.0], "weight must be finite and not negative"),
    ],
)
def test_names_that_are_no_pairs_are_refused(layers, weights, message):
    """A name in the place of a pair would be unpacked letter by letter."""
    with pytest.raises(ValueError, match=message):
        Plan.of_names(layers, weights)


def test_a_file_in_another_encoding_is_named(tmp_path):
    """Editors on Windows save in UTF-16, and the error of a codec does not say which file it was."""
    path = tmp_path / "plan.yaml"
    path.write_text(Plan.of_names([("a", "b")]).to_yaml(), encoding="utf-16")
    with pytest.raises(ValueError, match="plan.yaml is damaged: it is no text in UTF-8.*Save it in UTF-8"):
        Plan.load(path)
