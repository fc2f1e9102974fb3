"""The loopback Hub must behave as the Hub does: a test of pushing is worth no more than the server it pushes to."""

import hashlib
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from launched import forked_on, hub_port
from loopback_hub import TOKEN, HubError, LoopbackHub
from PIL import Image


class Exchange:
    """What one client pushed, what a second one with an empty cache pulled, and the Hub between them."""

    def __init__(self, hub: LoopbackHub, home: Path) -> None:
        self.hub, self.home = hub, home
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8))
        image.save(home / "curve.png")
        self.pushed = self.run("hub_push.py")
        self.requests_to_push = list(hub.requests)
        self.pulled = self.run("hub_pull.py")

    def run(self, script: str) -> dict:
        code, output = forked_on(self.hub, script, self.home)
        assert code == 0, output[-4000:]
        return json.loads((self.home / "facts.json").read_text())


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    with LoopbackHub(hub_port()) as hub:
        yield Exchange(hub, tmp_path_factory.mktemp("exchange"))


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


def ask(hub, method, path, body=b"", **headers):
    """Return (status, headers, body) of one request, made without the client."""
    request = urllib.request.Request(hub.endpoint + path, data=body or None, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_pulled_weights_are_bit_equal_to_the_pushed_ones(exchange):
    """A server that mixes up or cuts files would make every test of a published student meaningless."""
    pushed = (exchange.home / "model" / "model.safetensors").read_bytes()
    assert len(pushed) > 1000
    assert (exchange.home / "pulled" / "model.safetensors").read_bytes() == pushed
    assert exchange.hub.files("user/model")["model.safetensors"] == pushed
    assert exchange.pulled["not loaded"] == []
    assert exchange.pulled["processor"] == 8


def test_an_account_and_a_repository_are_what_the_client_expects(exchange):
    """`Trainer(push_to_hub=True)` asks for both in its constructor, and again when a run is resumed."""
    facts = exchange.pushed
    assert facts["whoami"] == "user"
    assert facts["url"] == facts["url again"] == f"{exchange.hub.endpoint}/user/model"
    assert facts["created twice"] == "HfHubHTTPError"
    assert facts["gone"] is False


def test_every_push_is_one_commit_and_an_unchanged_folder_is_none(exchange):
    """A lost or doubled commit would hide that a training run pushed the wrong thing at the wrong step."""
    commits = exchange.hub.commits("user/model")
    titles = ["initial commit", "first", "more", "card", "add old", "delete old"]
    assert [commit.message for commit in commits] == titles
    assert exchange.pulled["titles"] == titles[::-1]
    first = ("config.json", "model.safetensors", "pictures/curve.png", "preprocessor_config.json")
    assert tuple(sorted(commits[1].added)) == first
    assert commits[2].added == ("notes.txt",)
    assert (commits[5].added, commits[5].deleted) == ((), ("old/a.bin",))
    assert exchange.pushed["oids"] == [commits[1].oid, commits[1].oid, commits[2].oid]
    assert exchange.pulled["at first"] == sorted(first)


def test_weights_and_pictures_travel_by_lfs_and_text_does_not(exchange):
    """The LFS path has its own requests; if all went inline, a push that breaks on it would pass."""
    assert exchange.pulled["lfs"] == ["model.safetensors", "pictures/curve.png"]
    for path in exchange.pulled["lfs"]:
        oid = hashlib.sha256(exchange.hub.files("user/model")[path]).hexdigest()
        # Sent once, though it was pushed three times: the Hub says which objects it has.
        assert exchange.requests_to_push.count(f"PUT /lfs/{oid}") == 1
        assert exchange.requests_to_push.count(f"POST /lfs/{oid}/verify") == 1


def test_listings_information_and_snapshot_agree(exchange):
    """The tests of the uploaded file list trust whichever of these they happen to use."""
    files = exchange.hub.files("user/model")
    assert exchange.pulled["listed"] == list(files)
    top = {path.split("/")[0] for path in files}
    assert exchange.pulled["folders"] == sorted(top)
    assert exchange.pulled["paths"] == ["pictures", "config.json"]
    snapshot = Path(exchange.pulled["snapshot"])
    found = {str(p.relative_to(snapshot)): p.read_bytes() for p in snapshot.rglob("*") if p.is_file()}
    assert found == files
    sha = exchange.hub.commits("user/model")[-1].oid
    assert exchange.pulled["info"] == ["user/model", True, "image-classification", ["distilled"], "mit", sha]
    assert exchange.pulled["head"] == sha


def test_a_card_comes_back_and_a_broken_one_is_refused(exchange):
    """The Hub refuses a card that names a local folder as base model: such a push must fail here too."""
    assert exchange.pulled["card"].strip() == "# A student"
    assert exchange.pushed["bad card"] == "ValueError"
    assert exchange.pushed["bad yaml"] == "ValueError"


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", set()),
        ("every_save", set()),
        ("checkpoint", {"last-checkpoint"}),
        ("all_checkpoints", {"checkpoint-2", "checkpoint-4"}),
    ],
)
def test_a_trainer_pushes_by_every_strategy(exchange, strategy, folders):
    """Users choose among four strategies: the fixture must carry the background pushes of each."""
    saves = [] if strategy == "end" else ["Training in progress, step 2", "Training in progress, step 4"]
    steps = [title for save in saves for title in ([save, f"{save}, checkpoint"] if folders else [save])]
    titles = [commit.message for commit in exchange.hub.commits(f"user/{strategy}")]
    assert titles == ["initial commit", *steps, "End of training"]
    files = exchange.hub.files(f"user/{strategy}")
    assert {path.split("/")[0] for path in files if "/" in path} == folders
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert all(f"{folder}/optimizer.pt" in files for folder in folders)
    trained = (exchange.home / f"trained_{strategy}" / "model.safetensors").read_bytes()
    assert trained != (exchange.home / "model" / "model.safetensors").read_bytes()
    assert (exchange.home / f"pulled_{strategy}" / "model.safetensors").read_bytes() == trained


def test_a_dataset_comes_back_with_both_its_splits(exchange):
    """Examples load data sets by name; the second push reads and edits the card of the first."""
    rows = {"label": [0, 1, 1], "pixels": [[[1, 2], [3, 4]]] * 3}
    assert exchange.pulled["rows"] == {"train": rows, "test": rows}
    assert "README.md" in exchange.hub.files("user/digits", repo_type="dataset")


def test_part_of_a_file_can_be_read(exchange):
    """Streaming reads byte ranges; a server that ignores them sends the wrong bytes."""
    assert bytes.fromhex(exchange.pulled["range"]) == exchange.hub.files("user/model")["model.safetensors"][10:30]


def test_what_is_missing_is_refused_with_the_clients_own_error(exchange):
    """Code that handles a missing teacher or a missing file catches these classes and no others."""
    assert exchange.pulled["errors"] == {
        "no repository": "RepositoryNotFoundError",
        "no repository, old name": "RepositoryNotFoundError",
        "no repository for a file": "RepositoryNotFoundError",
        "no revision": "RevisionNotFoundError",
        "no file": "RemoteEntryNotFoundError",
        "private": "RepositoryNotFoundError",
        "private file": "RepositoryNotFoundError",
        "no model": "OSError",
        "other kind": "RepositoryNotFoundError",
    }


def test_writes_that_the_hub_refuses_leave_no_trace(exchange):
    """A server that accepts everything would hide a wrong token, branch or parent until a user meets it."""
    assert exchange.pushed["stale parent"] == "HfHubHTTPError"
    assert exchange.pushed["no branch"] == "RevisionNotFoundError"
    assert exchange.pushed["bad token"] == "HfHubHTTPError"
    assert exchange.pushed["delete missing"] == "RemoteEntryNotFoundError"
    assert "x" not in exchange.hub.files("user/model")
    with pytest.raises(HubError, match="user/other"):
        exchange.hub.files("user/other")


def test_the_clients_asked_for_nothing_the_hub_does_not_know(exchange):
    """An unknown request means that a client library changed, and that something here is no longer tested."""
    asked = [request.split(" ", 1) for request in exchange.hub.requests]
    assert len(asked) > 100
    unknown = [f"{method} {path}" for method, path in asked if exchange.hub.route(method, path) is None]
    assert unknown == []


def test_an_unknown_request_is_refused_at_once(hub):
    """Status 500 or 503 would be retried for minutes by the client."""
    status, headers, _ = ask(hub, "GET", "/api/spaces-of-tomorrow")
    assert status == 501
    assert "GET /api/spaces-of-tomorrow" in headers["X-Error-Message"]


def test_damaged_or_forgotten_lfs_content_is_refused(hub):
    """A file that was announced but not sent must not become an empty file of the published model."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "model"}', **token)[0] == 200
    oid = "0" * 64
    assert ask(hub, "PUT", f"/lfs/{oid}", b"other bytes")[0] == 400
    assert ask(hub, "POST", f"/lfs/{oid}/verify", b'{"size": 11}')[0] == 404
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "lfsFile", "value": {"path": "a", "oid": oid}}]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert ask(hub, "POST", "/api/models/user/model/commit/main", body, **token)[0] == 400
    assert len(hub.commits("user/model")) == 1


def test_two_hubs_share_nothing_and_a_closed_one_is_gone():
    """A repository left over from another test, or a port left open, makes tests depend on their order."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    with LoopbackHub() as one, LoopbackHub() as two:
        assert one.endpoint != two.endpoint
        assert ask(one, "POST", "/api/repos/create", b'{"name": "model"}', **token)[0] == 200
        assert one.files("user/model") == {}
        with pytest.raises(HubError):
            two.files("user/model")
    port = int(one.endpoint.rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_the_environment_overrules_offline_settings_and_real_accounts(hub, tmp_path, monkeypatch):
    """A suite that runs offline, or on the machine of somebody with a token, must reach this Hub and no other."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_mine", "HF_ENDPOINT": "https://example.org"}.items():
        monkeypatch.setenv(name, value)
    environment = hub.environment(tmp_path)
    assert environment["HF_ENDPOINT"] == hub.endpoint
    assert environment["HF_TOKEN"] == TOKEN
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "0"
    caches = {name: value for name, value in environment.items() if name == "HF_HOME" or name.endswith("_CACHE")}
    assert all(Path(caches[name]).is_relative_to(tmp_path) for name in ("HF_HOME", "HF_HUB_CACHE"))
    assert environment["PATH"] == os.environ["PATH"]
