"""The example that publishes a student, from end to end."""

from launched import forked_on, hub_port
from loopback_hub import LoopbackHub


def test_a_teacher_on_the_hub_becomes_a_student_there(tmp_path):
    """The shortest way is the first that is copied: what it leaves out is missing from every model made by it."""
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, "published_by_example.py", tmp_path)
        assert code == 0, output[-4000:]
        files = hub.files("user/student")
        assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
        card = files["README.md"].decode()
        assert "base_model" in card or "user/teacher" in card
