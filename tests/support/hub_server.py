"""Hub on the loopback interface with the part of the Hugging Face Hub's HTTP interface that fetching and pushing use.

The routes were derived from the requests of huggingface_hub. Each commit of a repository is a folder.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.hub_http import Handler, Refusal

_LARGE = (".safetensors", ".parquet")  # stored as LFS objects, as .gitattributes says


@dataclass
class Repo:
    """Repository with its commits, oldest first, and the folder of each commit."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    announced: dict[str, int] = field(default_factory=dict)  # false file sizes that the metadata report
    refused: set[str] = field(default_factory=set)  # files whose download is refused

    def folder(self, revision: str) -> Path:
        """Return the folder of a commit, branch or tag.

        Raises:
            KeyError: if the revision does not exist.
        """
        return self.commits[self.refs.get(revision, revision)]

    def files(self, revision: str) -> dict[str, bytes]:
        folder = self.folder(revision)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class Hub:
    """Server that can be stopped and started again. Repositories are folders under `root`.

    `log` lists every request as 'METHOD /path', and `sent` the names of the files sent.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.sent, self.tokens = root, list[str](), list[str](), {"hf_good"}
        self.repos: dict[str, Repo] = {}  # models/ORG/NAME or datasets/ORG/NAME
        self.objects: dict[str, bytes] = {}  # uploaded LFS objects by sha256
        self.hold, self.go_on = "", threading.Event()  # requests that match the pattern `hold` wait for the event

    def start(self) -> None:
        handler = type("Bound", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add `files` as the newest commit of a repository (models/ORG/NAME), and return the commit's hash."""
        repo = self.repos.setdefault(name, Repo())
        content = [len(repo.commits), sorted((path, _blob_id(data)) for path, data in files.items())]
        commit = hashlib.sha1(json.dumps([name, content]).encode()).hexdigest()
        folder = self.root / name / commit
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        folder.mkdir(parents=True, exist_ok=True)
        repo.commits[commit] = folder
        repo.refs["main"] = commit
        return commit

    def commit_folder(self, name: str, folder: Path) -> str:
        found = (path for path in folder.rglob("*") if path.is_file())
        return self.commit(name, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found})


def pairs(text: str) -> dict[str, bytes]:
    """Return the files of a small dataset of preference pairs. Every prompt contains `text`."""
    rows = [{"prompt": f"Day {day}: {text}", "chosen": "What comes then?", "rejected": "Relax."} for day in range(20)]
    return {"data/train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _about(path: str, data: bytes, size: int) -> dict[str, Any]:
    """Return a file's metadata under the key names of both `siblings` and `tree` answers."""
    about = {"size": size, "oid": _blob_id(data), "blobId": _blob_id(data)}
    lfs = {"oid": _sha256(data), "sha256": _sha256(data), "size": size, "pointerSize": 134}
    return {**about, "lfs": lfs} if path.endswith(_LARGE) else about


class _Handler(Handler):
    hub: Hub

    def before(self, request: str) -> None:
        self.hub.log.append(request)
        if re.fullmatch(self.hub.hold, request):
            self.hub.go_on.wait(60)

    # -- access rights

    def _known(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens

    def _repo(self, name: str) -> Repo:
        """Return a repository, or raise Refusal if it is missing or hidden from the caller, as the real hub does."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._known()):
            raise Refusal(404 if self._known() else 401, "RepoNotFound" if self._known() else "")
        return repo

    def _readable(self, name: str) -> Repo:
        repo = self._repo(name)
        if repo.gated and not self._known():
            raise Refusal(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        return repo

    def _files(self, repo: Repo, revision: str) -> dict[str, bytes]:
        try:
            return repo.files(revision)
        except KeyError:
            raise Refusal(404, "RevisionNotFound") from None

    # -- fetching

    def info(self, name: str, revision: str | None) -> None:
        """Answer with a repository's metadata, which are open even if its files are gated."""
        repo = self._repo(name)
        files = self._files(repo, revision or "main")
        sizes = {path: repo.announced.get(path, len(data)) for path, data in files.items()}
        siblings = [{"rfilename": path, **_about(path, data, sizes[path])} for path, data in files.items()]
        sha, access = repo.folder(revision or "main").name, {"private": repo.private, "gated": repo.gated and "manual"}
        self.answer_json(
            {"_id": "0", "id": name.partition("/")[2], "sha": sha, **access, "tags": [], "siblings": siblings}
        )

    def access(self, name: str) -> None:
        self._readable(name)
        self.answer_json({})

    def tree(self, name: str, revision: str) -> None:
        files = self._files(self._repo(name), revision)
        self.answer_json(
            [{"type": "file", "path": path, **_about(path, data, len(data))} for path, data in files.items()]
        )

    def resolve(self, name: str, revision: str, path: str) -> None:
        """Answer with a file, or with the byte range that the header Range requests."""
        name = name if name.startswith("datasets/") else f"models/{name}"
        repo = self._readable(name)
        files = self._files(repo, revision)
        about = {"X_Repo_Commit": repo.folder(revision).name}
        if path not in files:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", **about)
        if self.command == "GET" and path in repo.refused:
            raise Refusal(403, "")
        if self.command == "GET":
            self.hub.sent.append(path)
        data = files[path]
        about["ETag"] = f'"{_sha256(data) if path.endswith(_LARGE) else _blob_id(data)}"'
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            about["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.answer(data[first : last + 1], 206, **about)
        self.answer(data, 200, Accept_Ranges="bytes", **about)

    # -- pushing

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        if not self._known():
            raise Refusal(401, "")
        url = f"{self.hub.url}/{name.removeprefix('models/')}"
        if name in self.hub.repos:
            return self.answer_json({"url": url, "error": "You already created this model repo"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repos[name] = Repo(private=private)
        self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.answer_json({"url": url, "name": name.partition("/")[2]})

    def validate(self) -> None:
        self.answer_json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        self._readable(name)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in paths}
        self.answer_json(
            {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
        )

    def batch(self, name: str) -> None:
        def actions(oid: str) -> dict[str, Any]:
            return {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}}

        objects = json.loads(self.body)["objects"]
        self.answer_json({"transfer": "basic", "objects": [{**item, **actions(item["oid"])} for item in objects]})

    def store(self, oid: str) -> None:
        if _sha256(self.body) != oid:
            raise Refusal(400, "")
        self.hub.objects[oid] = self.body
        self.answer(b"")

    def push(self, name: str, revision: str) -> None:
        if not self._known():
            raise Refusal(401, "")
        files = self._files(self._repo(name), revision)
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(name, files)
        url = f"{self.hub.url}/{name.removeprefix('models/')}/commit/{commit}"
        self.answer_json({"success": True, "commitOid": commit, "commitUrl": url})


_API = r"/api/(?P<name>(?:models|datasets)/[^/]+/[^/]+)"
_Handler.routes = [
    (rf"GET {_API}(?:/revision/(?P<revision>.+))?", _Handler.info),
    (rf"GET {_API}/auth-check", _Handler.access),
    (rf"GET {_API}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (r"(?:GET|HEAD) /(?P<name>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST {_API}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (r"POST /(?P<name>(?:datasets/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.store),
    (rf"POST {_API}/commit/(?P<revision>[^/]+)", _Handler.push),
]
