"""`hf-abkd push`: what a finished run left is published, whatever the Hub and the connection do meanwhile."""

import json
import re

import cached_runs
import growing_runs
import invertible
import pytest
import tiny
from huggingface_hub import constants
from loopback_hub import TOKEN, HubError, LoopbackHub
from transformers import ViTImageProcessorPil

from hf_abkd import CacheSettings, write_cache
from hf_abkd.cli.main import main
from hf_abkd.models.published_files import student_files
from hf_abkd.models.saving import save_student
from hf_abkd.training.publishing import upload

# Of the Hub's client, which sends files as its HTTP library would have it otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


class FaultyHub(LoopbackHub):
    """A Hub that fails so many times where it is asked for something, before it does it.

    Attributes:
        faults: By a part of the address, the statuses that it answers with, one after the other; None breaks the
            connection.
    """

    def __init__(self):
        super().__init__()
        self.faults = {}

    def answer(self, method, address, headers, body):
        for part, statuses in self.faults.items():
            if part in address and statuses:
                status = statuses.pop(0)
                return None if status is None else HubError(status, "not today").reply
        return super().answer(method, address, headers, body)


@pytest.fixture
def hub(monkeypatch):
    with FaultyHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(upload, "WAITS", (0.0, 0.0, 0.0))
        monkeypatch.setattr(upload, "_client", lambda: upload.HfApi(endpoint=hub.endpoint))
        yield hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "student"
    save_student(tiny.resnet(), ViTImageProcessorPil(size={"height": 16, "width": 16}), folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A student\n")
    for name in ("training_args.bin", "notes.txt", "recipe.yaml", "checkpoint-2/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


def pushed(folder, *more):
    return main(["push", str(folder), "user/student", "--token", TOKEN, *more])


def test_the_student_is_published_and_nothing_else_of_its_folder(hub, folder, capsys):
    """Arguments of the run, notes and checkpoints lie there, too; who pushes a folder by hand publishes them."""
    assert pushed(folder) == 0
    assert list(hub.files("user/student")) == [".gitattributes", *FILES][-len(hub.files("user/student")) :]
    assert "4 files of" in (printed := capsys.readouterr().out) and f"{hub.endpoint}/user/student" in printed
    # Once more is no other commit.
    before = len(hub.commits("user/student"))
    assert pushed(folder) == 0 and len(hub.commits("user/student")) == before


@pytest.mark.parametrize("config", ["config.json", "preprocessor_config.json"])
def test_own_code_goes_along_and_no_other_script(folder, config):
    """A model without its code does not load; and a script that lies there may be anything of its owner's."""
    own = json.loads((folder / config).read_text())
    own["auto_map"] = {"AutoModel": "modeling.Net", "AutoOther": ["other/name--far.Away", None]}
    (folder / config).write_text(json.dumps(own))
    (folder / "modeling.py").write_text("from .parts import Part\n")
    for name in ("parts.py", "private.py"):
        (folder / name).write_text("")
    code = [path.name for path in student_files(folder) if path.suffix == ".py"]
    assert code == ["modeling.py", "parts.py"]


@pytest.mark.parametrize(
    ("part", "statuses"),
    [("/commit/", [503, 429]), ("/commit/", [None]), ("/lfs/", [500]), ("/preupload/", [502, 504])],
    ids=["busy", "lost", "broken-storage", "gateway"],
)
def test_what_passes_is_waited_for(hub, folder, part, statuses):
    """A run of a day would end in an error because a server was restarted."""
    hub.faults = {part: list(statuses)}
    assert pushed(folder) == 0
    assert set(FILES) <= set(hub.files("user/student")) and hub.faults == {part: []}


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "the Hub answers 403 .*with a token that may write there"), (503, "the Hub answers 503"), (None, "failed")],
)
def test_an_upload_that_failed_says_how_to_push_again_and_that_completes_it(hub, folder, status, message, capsys):
    """The model is on the disk, and whoever reads a traceback of an HTTP library does not know it."""
    hub.faults = {"/commit/": [status] * 50}
    with pytest.raises(SystemExit) as end:
        pushed(folder)
    said = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said and TOKEN not in said
    assert "the upload to user/student failed: " in said
    assert f"are in {folder}; push again" in said and f"hf-abkd push {folder} user/student" in said
    assert re.search(message, said)
    hub.faults = {}
    assert pushed(folder) == 0 and set(FILES) <= set(hub.files("user/student"))


def test_a_private_repository_and_one_that_is_there(hub, folder):
    """Something unpublished must not be public for a moment; and a second student of a name is the user's wish."""
    assert pushed(folder, "--private") == 0
    (folder / "README.md").write_text("---\nlibrary_name: timm\n---\n\n# Another one\n")
    assert pushed(folder, "--message", "Another one") == 0
    assert hub.commits("user/student")[-1].message == "Another one"
    assert hub._repos["model", "user/student"].is_private


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "user/student"], "there is no folder missing"),
        (["empty", "user/student"], "empty holds no student: it has no weights in safetensors"),
        (["student", "no such name!"], "no such name!"),
    ],
)
def test_what_cannot_be_published_is_told_before_a_repository_is_made(hub, folder, words, message, monkeypatch, capsys):
    """An empty repository under a name of the user's would be all that is left of it."""
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["push", *words, "--token", TOKEN])
    assert end.value.code == 2 and message in capsys.readouterr().err and not hub.requests


@pytest.mark.parametrize(("kind", "what"), [("cache", "The cache is"), ("images", "The images are")])
def test_a_data_set_whose_upload_failed_is_completed_by_the_same_command(hub, tmp_path, kind, what, capsys):
    """Hours of a teacher lie there, and a large upload is the one that is interrupted."""
    folder = tmp_path / kind
    if kind == "cache":
        write_cache(folder, cached_runs.teacher_of(), cached_runs.processor(), cached_runs.rows(4), CacheSettings())
    else:
        growing_runs.made(invertible.named_teacher(), folder)
    hub.faults = {"/commit/": [503] * 50}
    with pytest.raises(SystemExit) as end:
        pushed(folder)
    said = capsys.readouterr().err
    assert end.value.code == 2 and f"{what} in {folder}; push again" in said and "the Hub answers 503" in said
    assert f"hf-abkd push {folder} user/student" in said
    hub.faults = {"/commit/": [None, 429]}
    sent = len([one for one in hub.requests if one.startswith("PUT")])
    assert pushed(folder) == 0 and "README.md" in hub.files("user/student", repo_type="dataset")
    # What the Hub has is not sent again.
    assert sent > 0 and len([one for one in hub.requests if one.startswith("PUT")]) == sent
