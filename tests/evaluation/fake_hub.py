"""A Hub on this machine, with the miniature's data sets as files to fetch: tables as Parquet, videos and subtitles in
archives, as the real ones are."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.evaluation.miniature import SEEDS, clips_of, tables, write_videos
from tests.local_server import local_server


COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = "---\nconfigs:\n{}---\n"
CONFIGURATION = "- config_name: {0}\n  data_files:\n  - split: {1}\n    path: {0}/{1}.parquet\n"
# The benchmark of each data set, as in the names of the folders of videos.
FOLDERS = {
    "NExTQA": "nextqa",
    "Video-MME": "videomme",
    "egoschema": "egoschema",
    "PerceptionTest_Val": "perceptiontest_val",
}


def repositories(videos: Path) -> dict[str, dict[str, bytes]]:
    """The files of each repository, by its name; `videos` is a folder to write videos into."""
    write_videos(videos, clips_of(SEEDS))
    found: dict[str, dict[str, bytes]] = {}
    readmes: dict[str, str] = {}
    for (name, configuration, split), rows in tables(clips_of(SEEDS)).items():
        files = found.setdefault(f"lmms-eval/{name}", {})
        files[f"{configuration}/{split}.parquet"] = parquet(rows)
        readmes[name] = readmes.get(name, "") + CONFIGURATION.format(configuration, split)
    for name, configurations in readmes.items():
        files = found[f"lmms-eval/{name}"]
        files["README.md"] = README.format(configurations).encode()
        benchmark = videos / FOLDERS[name]
        for folder in sorted(path for path in benchmark.iterdir() if path.is_dir()):
            files[f"{folder.name}.zip"] = archive(benchmark, folder)
    return found


def parquet(rows: list[dict]) -> bytes:
    from datasets import Dataset

    file = io.BytesIO()
    Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


def archive(above: Path, folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for path in sorted(folder.iterdir()):
            written.write(path, path.relative_to(above))
    return file.getvalue()


@contextmanager
def serving(contents: dict[str, dict[str, bytes]], claimed_bytes: int = 0) -> Iterator[tuple[str, list[str]]]:
    """The address of a Hub with these repositories, and the files that were fetched, as "OWNER/NAME/FILE". The first
    file of each is said to have `claimed_bytes` more than it has."""
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, data: bytes, code: int = 200, **headers):
            self.send_response(code)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def reply_json(self, value, code: int = 200):
            self.reply(json.dumps(value).encode(), code, Content_Type="application/json")

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "datasets"] and "/".join(parts[2:4]) in contents:
                return self.of_repository("/".join(parts[2:4]), parts[4:])
            if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
                name, file = "/".join(parts[1:3]), "/".join(parts[5:])
                if (data := contents.get(name, {}).get(file)) is not None:
                    if self.command == "GET":
                        fetched.append(f"{name}/{file}")
                    etag = f'"{hashlib.sha256(data).hexdigest()}"'
                    return self.reply(data, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
                return self.reply(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            self.reply_json({"error": f"nothing at {path}"}, 404)

        do_HEAD = do_GET

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply_json({"error": "not known"}, 404)

        def of_repository(self, name: str, rest: list[str]):
            files = [
                {"rfilename": path, "size": len(data) + claimed_bytes * (number == 0)}
                for number, (path, data) in enumerate(contents[name].items())
            ]
            if rest[:1] == ["tree"]:
                return self.reply_json(
                    [
                        {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": COMMIT}
                        for file in files
                        if file["rfilename"].startswith("/".join(rest[2:]))
                    ]
                )
            if rest[:1] in ([], ["revision"]):
                facts = {"private": False, "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
                return self.reply_json({"_id": COMMIT, "id": name, "sha": COMMIT, "siblings": files, **facts})
            self.reply_json({"error": f"no {rest}"}, 404)

        def log_message(self, *args):
            pass

    with local_server(Handler) as address:
        yield address, fetched
