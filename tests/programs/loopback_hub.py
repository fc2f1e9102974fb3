"""A Hub on 127.0.0.1 that the real `huggingface_hub` client pushes to and pulls from.

It serves what huggingface_hub 2.4, transformers 5.23 and datasets 5.2 ask for in order to create, commit to, list
and download repositories, and refuses what the Hub refuses: a missing token, repository, revision or file, a stale
parent commit, a broken card. Unlike on the Hub a new repository holds no `.gitattributes`, "main" is the only branch,
and there is no xet storage. What it does not know it answers with status 501, which the client does not retry.

The client reads its settings when it is imported, so it runs in a subprocess:

    with LoopbackHub() as hub:
        subprocess.run([sys.executable, "push.py"], env=hub.environment(tmp_path), check=True)
        assert "model.safetensors" in hub.files("user/model")
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "user"
TOKEN = "hf_loopback"
LFS_SUFFIXES = {".arrow", ".bin", ".parquet", ".png", ".pt", ".pth", ".safetensors"}
REPO_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Reply(NamedTuple):
    status: int
    body: Any  # bytes, or what JSON can hold
    headers: dict[str, str]


class HubError(Exception):
    """A refusal; the client chooses its exception by the status and by `code`, sent as X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        super().__init__(message)
        self.reply = Reply(status, {"error": message, **body}, {"X-Error-Message": message, "X-Error-Code": code})


@dataclass(frozen=True)
class Request:
    """One request; `parts` are the named parts of its path."""

    parts: dict[str, str]
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def has_token(self) -> bool:
        return bool(self.headers.get("Authorization") == f"Bearer {TOKEN}")

    def check_token(self) -> None:
        if not self.has_token:
            raise HubError(401, "Invalid credentials in Authorization header")


@dataclass(frozen=True)
class Blob:
    """A file's content, known by its SHA-256 if LFS keeps it, else by the name that git gives it."""

    content: bytes = field(repr=False)
    is_lfs: bool

    @cached_property
    def oid(self) -> str:
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """Return the fields that the client reads in any of the listings."""
        size = {"size": len(self.content)}
        lfs = {"lfs": {"oid": self.oid, "sha256": self.oid, "pointerSize": 130, **size}} if self.is_lfs else {}
        return {"type": "file", "path": path, "rfilename": path, "oid": self.oid, "blobId": self.oid, **size, **lfs}


@dataclass(frozen=True)
class Commit:
    """One commit: the paths it was told to add or change and to delete, and all files after it."""

    oid: str
    message: str
    added: tuple[str, ...]
    deleted: tuple[str, ...]
    files: dict[str, Blob] = field(repr=False)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


@dataclass
class Repo:
    kind: str
    id: str
    is_private: bool
    commits: list[Commit]

    @property
    def page(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def upto(self, revision: str) -> list[Commit]:
        """Return the commits up to "main" or up to the one named `revision`, oldest first."""
        names = [commit.oid for commit in self.commits]
        if revision not in ("main", *names):
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[: len(names) if revision == "main" else names.index(revision) + 1]


class LoopbackHub:
    """A context manager that serves an empty Hub, kept in memory, on a free port.

    Attributes:
        endpoint: The address, as for HF_ENDPOINT; without a port, a free one is taken once the context is entered.
        requests: "METHOD /path" of every request so far.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self.requests: list[str] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> LoopbackHub:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Return path -> content after a commit; HubError if the repository or the revision is missing."""
        tip = self.commits(repo_id, revision, repo_type)[-1]
        return {path: blob.content for path, blob in sorted(tip.files.items())}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[Commit]:
        """Return the commits, oldest first; the first is made by `create_repo` and adds nothing."""
        with self._lock:
            return self._find(repo_type, repo_id).upto(revision)

    def environment(self, home: Path) -> dict[str, str]:
        """Return this process's environment, changed to use this Hub alone and to cache under `home`."""
        online = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")
        disabled = dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"), "1")
        caches = {f"HF_{name}_CACHE": str(home / name.lower()) for name in ("HUB", "DATASETS", "ASSETS", "XET")}
        account = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
        # No address goes through a proxy, so that nothing this Hub does not serve is asked for elsewhere.
        return {**os.environ, **online, **disabled, **caches, **account, "NO_PROXY": "*", "no_proxy": "*"}

    def answer(self, method: str, address: str, headers: Any, body: bytes) -> Reply | None:
        """Return the answer to a request; None breaks the connection."""
        url = urlsplit(address)
        with self._lock:
            self.requests.append(f"{method} {url.path}")
            if (route := self.route(method, url.path)) is None:
                return HubError(501, f"the loopback Hub does not know {method} {url.path}").reply
            respond, parts = route
            try:
                result = respond(self, Request(parts, parse_qs(url.query), headers, body))
            except HubError as error:
                return error.reply
        return result if isinstance(result, Reply) else Reply(200, result, {})

    @staticmethod
    def route(method: str, path: str) -> tuple[Callable[..., Any], dict[str, str]] | None:
        """Return the method that answers a request and the named parts of its path, or None."""
        for pattern, respond in ROUTES:
            if match := re.fullmatch(pattern, f"{method} {path}"):
                return respond, {name: unquote(value) for name, value in match.groupdict().items() if value}
        return None

    def _find(self, kind: str, repo_id: str) -> Repo:
        if (kind, repo_id) not in self._repos:
            raise HubError(404, f"Repository not found: {kind} {repo_id}", "RepoNotFound")
        return self._repos[kind, repo_id]

    def _repo(self, request: Request) -> Repo:
        repo = self._find(request.parts.get("kind", "model"), request.parts["repo"])
        if repo.is_private and not request.has_token:
            raise HubError(401, f"Repository not found: {repo.kind} {repo.id}", "RepoNotFound")
        return repo

    def _tip(self, request: Request) -> Commit:
        return self._repo(request).upto(request.parts.get("revision", "main"))[-1]

    def whoami(self, request: Request) -> Any:
        request.check_token()
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create_repo(self, request: Request) -> Any:
        request.check_token()
        asked = request.json
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        first = Commit(hashlib.sha1(repo_id.encode()).hexdigest(), "initial commit", (), (), {})
        repo = Repo(asked.get("type") or "model", repo_id, asked.get("visibility") == "private", [first])
        url = f"{self.endpoint}/{repo.page}"
        if (repo.kind, repo_id) in self._repos:
            raise HubError(409, f"You already created this {repo.kind} repo", url=url)  # exist_ok reads the url
        self._repos[repo.kind, repo_id] = repo
        return {"url": url, "name": repo_id}

    def delete_repo(self, request: Request) -> Any:
        request.check_token()
        asked = request.json
        repo = self._find(asked.get("type") or "model", f"{asked.get('organization') or USER}/{asked['name']}")
        return {"deleted": self._repos.pop((repo.kind, repo.id)).id}

    def validate_card(self, request: Request) -> Any:
        card, errors = read_card(request.json["content"])
        if errors:
            raise HubError(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return {"warnings": [] if card else [{"message": "empty or missing yaml metadata in repo card"}]}

    def preupload(self, request: Request) -> Any:
        request.check_token()
        present, files = self._tip(request).files, []
        for file in request.json["files"]:
            is_lfs = PurePosixPath(file["path"]).suffix in LFS_SUFFIXES or b"\0" in base64.b64decode(file["sample"])
            # The client leaves a file out of the commit if this oid is that of its own copy.
            oid = present[file["path"]].oid if file["path"] in present else None
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}
            files.append({"path": file["path"], **mode})
        return {"files": files}

    def lfs_batch(self, request: Request) -> Any:
        request.check_token()
        self._repo(request)
        objects = []
        for item in request.json["objects"]:
            href = f"{self.endpoint}/lfs/{item['oid']}"
            actions = {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}
            objects.append(item if item["oid"] in self._objects else item | actions)
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, request: Request) -> Any:
        if hashlib.sha256(request.body).hexdigest() != request.parts["oid"]:
            raise HubError(400, "the bytes received are not those of the announced SHA-256")
        self._objects[request.parts["oid"]] = request.body
        return {}

    def lfs_verify(self, request: Request) -> Any:
        if len(self._objects.get(request.parts["oid"], b"")) != request.json["size"]:
            raise HubError(404, "no LFS object of this name and size")
        return {}

    def commit(self, request: Request) -> Any:
        request.check_token()
        repo, tip = self._repo(request), self._tip(request)
        header: dict[str, str] = {}
        added: dict[str, Blob] = {}
        deleted: list[str] = []
        for line in map(json.loads, request.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                header = value
            elif key == "file":
                added[value["path"]] = Blob(base64.b64decode(value["content"]), is_lfs=False)
            elif key == "lfsFile" and value["oid"] in self._objects:
                added[value["path"]] = Blob(self._objects[value["oid"]], is_lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                path, below = value["path"], value["path"].rstrip("/") + "/"
                gone = [name for name in tip.files if (name.startswith(below) if "Folder" in key else name == path)]
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                deleted += gone
            else:
                raise HubError(400, f"cannot commit {key} {value}: of unknown kind, or its object was not sent")
        # Only "main" can be committed to, and only on top of what the client has seen.
        if request.parts["revision"] != "main" or header.get("parentCommit", tip.oid) != tip.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = {path: blob for path, blob in tip.files.items() if path not in deleted} | added
        oid = hashlib.sha1(tip.oid.encode() + request.body).hexdigest()
        repo.commits.append(Commit(oid, header["summary"], tuple(added), tuple(deleted), files))
        return {"commitOid": oid, "commitUrl": f"{self.endpoint}/{repo.page}/commit/{oid}"}

    def info(self, request: Request) -> Any:
        repo, tip = self._repo(request), self._tip(request)
        card = read_card(tip.files["README.md"].content.decode())[0] if "README.md" in tip.files else {}
        known = {key: card[key] for key in ("tags", "library_name", "pipeline_tag", "model-index") if key in card}
        names = {"id": repo.id, "author": repo.id.split("/")[0], "sha": tip.oid, "private": repo.is_private}
        siblings = [blob.entry(path) for path, blob in sorted(tip.files.items())]
        return {**names, "lastModified": tip.date, "siblings": siblings, "cardData": card, **known}

    def refs(self, request: Request) -> Any:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self._tip(request).oid}
        return {"branches": [main], "converts": [], "tags": [], "pullRequests": []}

    def list_commits(self, request: Request) -> Any:
        commits = reversed(self._repo(request).upto(request.parts["revision"]))
        author = {"authors": [{"user": USER}], "message": ""}
        return [{"id": commit.oid, "title": commit.message, "date": commit.date, **author} for commit in commits]

    def tree(self, request: Request) -> Any:
        """List the files and folders in one folder, or all below it."""
        entries, folder = list_entries(self._tip(request)), request.parts.get("path", "")
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        below = f"{folder}/" if folder else ""
        inside = {path: entry for path, entry in entries.items() if path.startswith(below)}
        is_recursive = request.query.get("recursive") == ["true"]
        return [entry for path, entry in inside.items() if is_recursive or "/" not in path[len(below) :]]

    def paths_info(self, request: Request) -> Any:
        entries = list_entries(self._tip(request))
        return [entries[path] for path in parse_qs(request.body.decode())["paths"] if path in entries]

    def resolve(self, request: Request) -> Any:
        """Send a file, or the range of its bytes that is asked for."""
        tip, path = self._tip(request), request.parts["path"]
        if path not in tip.files:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        content, name = tip.files[path].content, f'"{tip.files[path].oid}"'
        headers = {"ETag": name, "X-Repo-Commit": tip.oid, "Accept-Ranges": "bytes"}
        if tip.files[path].is_lfs:
            headers |= {"X-Linked-Etag": name, "X-Linked-Size": str(len(content))}
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))):
            return Reply(200, content, headers)
        start, part = int(wanted[1]), content[int(wanted[1]) : int(wanted[2]) + 1 if wanted[2] else None]
        span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return Reply(206, part, headers | {"Content-Range": span}) if part else Reply(416, b"", headers)


def list_entries(commit: Commit) -> dict[str, dict[str, Any]]:
    """Return path -> listing entry of every file, and of every folder that holds one."""
    folders = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
    entries = {path: {"type": "directory", "path": path, "oid": commit.oid} for path in folders}
    return dict(sorted((entries | {path: blob.entry(path) for path, blob in commit.files.items()}).items()))


def read_card(content: str) -> tuple[dict[str, Any], list[str]]:
    """Return a card's metadata and what the Hub would refuse in them: above all, a path where an id belongs."""
    header = re.match(r"---\r?\n(.*?)\r?\n?---\s*(?:\n|\Z)", content, flags=re.DOTALL)
    try:
        card = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError as error:
        return {}, [f"YAML Metadata Error: {error}"]
    if not isinstance(card, dict):
        return {}, ["YAML Metadata Error: the header is not a mapping"]
    errors = []
    for key in ("base_model", "datasets"):
        for value in card[key] if isinstance(card.get(key), list) else [card.get(key)]:
            if value is not None and not REPO_ID.fullmatch(str(value)):
                errors.append(f'"{key}" with value "{value}" is not valid. Use an id from the Hub.')
    return card, errors


API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+(?:/[^/]+)?)"
PAGE = r"(?:/(?P<kind>dataset|space)s)?/(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"  # the client quotes the slashes of a revision
OBJECT = r"/lfs/(?P<oid>[0-9a-f]{64})"
ROUTES = [
    (r"GET /api/whoami-v2", LoopbackHub.whoami),
    (r"POST /api/repos/create", LoopbackHub.create_repo),
    (r"DELETE /api/repos/delete", LoopbackHub.delete_repo),
    (r"POST /api/validate-yaml", LoopbackHub.validate_card),
    (rf"POST {API}/preupload/{REVISION}", LoopbackHub.preupload),
    (rf"POST {PAGE}\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
    (rf"PUT {OBJECT}", LoopbackHub.lfs_upload),
    (rf"POST {OBJECT}/verify", LoopbackHub.lfs_verify),
    (rf"POST {API}/commit/{REVISION}", LoopbackHub.commit),
    (rf"GET {API}/refs", LoopbackHub.refs),
    (rf"GET {API}/commits/{REVISION}", LoopbackHub.list_commits),
    (rf"GET {API}/tree/{REVISION}(?:/(?P<path>.+))?", LoopbackHub.tree),
    (rf"POST {API}/paths-info/{REVISION}", LoopbackHub.paths_info),
    (rf"(?:GET|HEAD) {PAGE}/resolve/{REVISION}/(?P<path>.+)", LoopbackHub.resolve),
    (rf"GET {API}(?:/revision/{REVISION})?", LoopbackHub.info),
]


class _Server(ThreadingHTTPServer):
    hub: LoopbackHub
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's delayed acknowledgement
    server: _Server

    def _answer(self) -> None:
        # All of the body is read even for a refusal, since the connection is used again.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.server.hub.answer(self.command, self.path, self.headers, body)
        if reply is None:
            self.close_connection = True
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, default=str).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to stderr; `LoopbackHub.requests` is the log."""
