"""A hub on this machine: the endpoints of huggingface.co that ``huggingface_hub`` calls, for repositories in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN, READ_ONLY = "hf_writer", "hf_reader"
LARGE = ".safetensors"


class LocalHub(ThreadingHTTPServer):
    """Repositories by id: ``private``, ``gated``, and ``commits`` from hash to files, the last of which is main."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories, self.objects, self.requests = {}, {}, []

    def files(self, repo_id):
        return list(self.repositories[repo_id]["commits"].values())[-1]

    def add(self, repo_id, files, **settings):
        repository = self.repositories.setdefault(repo_id, {"private": False, "gated": False, "commits": {}})
        repository.update(settings)
        name = hashlib.sha1(repr((repo_id, sorted(files.items()), len(repository["commits"]))).encode()).hexdigest()
        repository["commits"][name] = files
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        return

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, **content):
        self.answer(status, {"error": code, **content}, X_Error_Code=code, X_Error_Message=code)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    @property
    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def readable(self, repo_id):
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository["private"] and self.token not in (TOKEN, READ_ONLY)):
            return self.refuse(404 if self.token else 401, "RepoNotFound")
        if repository["gated"]:
            return self.refuse(403, "GatedRepo")
        return repository

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return action(self, *found.groups())
        return self.answer(404, {"error": path})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815


# ---- reading


def commit_of(repository, revision):
    """Return the commit that a revision means."""
    return list(repository["commits"])[-1] if revision in (None, "main") else revision


def info(handler, repo_id, revision):
    repository = handler.readable(repo_id)
    if repository is not None:
        name = commit_of(repository, revision)
        if name in repository["commits"]:
            return handler.answer(200, {"id": repo_id, "sha": name, "siblings": []})
        return handler.refuse(404, "RevisionNotFound")


def tree(handler, repo_id, revision):
    repository = handler.readable(repo_id)
    if repository is not None:
        entries = []
        for path, content in repository["commits"][commit_of(repository, revision)].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if path.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return handler.answer(200, entries)


def resolve(handler, repo_id, revision, path):
    repository = handler.readable(repo_id)
    if repository is not None:
        name = commit_of(repository, revision)
        content = repository["commits"][name].get(path)
        if content is None:
            return handler.refuse(404, "EntryNotFound")
        digest = hashlib.sha256(content) if path.endswith(LARGE) else hashlib.sha1(content)
        return handler.answer(200, content, ETag=f'"{digest.hexdigest()}"', X_Repo_Commit=name)


# ---- writing


def create(handler):
    asked = json.loads(handler.body())
    repo_id = f"{asked['organization']}/{asked['name']}"
    if handler.token != TOKEN:
        return handler.refuse(403 if handler.token else 401, "Forbidden")
    if repo_id in handler.server.repositories:
        return handler.refuse(409, "Conflict", url=f"{handler.server.url}/{repo_id}")
    handler.server.add(repo_id, {}, private=asked.get("visibility") == "private")
    return handler.answer(200, {"url": f"{handler.server.url}/{repo_id}", "id": repo_id})


def validate(handler):
    handler.body()
    return handler.answer(200, {"errors": [], "warnings": []})


def preupload(handler, _):
    files = json.loads(handler.body())["files"]
    modes = [
        {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
        for f in files
    ]
    return handler.answer(200, {"files": modes})


def batch(handler, _):
    objects = json.loads(handler.body())["objects"]
    upload = {"href": f"{handler.server.url}/objects/{{oid}}"}
    answers = [{**o, "actions": {"upload": {"href": upload["href"].format(oid=o["oid"])}}} for o in objects]
    return handler.answer(200, {"transfer": "basic", "objects": answers})


def store(handler, oid):
    content = handler.body()
    assert hashlib.sha256(content).hexdigest() == oid
    handler.server.objects[oid] = content
    return handler.answer(200)


def commit(handler, repo_id):
    lines = [json.loads(line) for line in handler.body().splitlines()]
    files = dict(handler.server.files(repo_id))
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.server.objects[value["oid"]]
    name = handler.server.add(repo_id, files)
    return handler.answer(200, {"commitUrl": f"{handler.server.url}/{repo_id}/commit/{name}", "commitOid": name})


ID = "([^/]+/[^/]+)"
ROUTES = (
    (("POST",), "/api/repos/create", create),
    (("POST",), "/api/validate-yaml", validate),
    (("POST",), f"/api/models/{ID}/preupload/main", preupload),
    (("POST",), f"/{ID}.git/info/lfs/objects/batch", batch),
    (("PUT",), "/objects/([0-9a-f]+)", store),
    (("POST",), f"/api/models/{ID}/commit/main", commit),
    (("GET",), f"/api/models/{ID}(?:/revision/([^/]+))?", info),
    (("GET",), f"/api/models/{ID}/tree/([^/]+)", tree),
    (("GET", "HEAD"), f"/{ID}/resolve/([^/]+)/(.+)", resolve),
)


@contextmanager
def local_hub():
    """Yield a running hub."""
    with LocalHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
