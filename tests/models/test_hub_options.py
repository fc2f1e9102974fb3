from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.hub_options import HubOptions


def test_only_what_may_run_code_is_told_of_remote_code():
    """Functions that fetch files do not take the flag, and one that builds a model must not miss it."""
    options = HubOptions("v1", "secret", "folder", trust_remote_code=True)
    files = {"revision": "v1", "token": "secret", "cache_dir": "folder"}
    assert options.for_files() == files
    assert options.for_models() == {**files, "trust_remote_code": True}


def test_another_revision_leaves_the_rest():
    """Student and teacher are fetched alike but for their revisions."""
    options = HubOptions("v1", "secret", "folder", trust_remote_code=True)
    assert options.at("v2") == HubOptions("v2", "secret", "folder", trust_remote_code=True)
    assert options.revision == "v1"


def test_the_token_is_not_shown():
    """Options are printed in logs and errors, which are copied into reports."""
    assert "secret" not in repr(HubOptions(token="secret"))


def test_flags_become_options():
    """A flag that is left behind would fetch another version, or run code that nobody allowed."""
    flags = ModelArguments(student_revision="v3", token="secret", cache_dir="folder", trust_remote_code=True)
    assert flags.hub(flags.student_revision) == HubOptions("v3", "secret", "folder", trust_remote_code=True)
    assert flags.hub().revision == "main"
    assert ModelArguments().hub() == HubOptions()
