"""A hub of models on this machine: what `huggingface_hub` asks to download a file, over HTTP.

python tests/hub_server.py FOLDER    prints its port and serves until it is killed.

A repository is FOLDER/OWNER/NAME, with a folder for each commit, and in `refs/` a file for each
branch with the name of its commit. Who asks for one with a file `token` has to give that token:
without any it is gated, and another is not accepted. Requests are written to FOLDER/requests.
"""

import hashlib
import http.server
import pathlib
import re
import sys

_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers HEAD and GET of /OWNER/NAME/resolve/REVISION/FILE."""

  root: pathlib.Path

  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    if content := self._answer():
      self.wfile.write(content)

  def _answer(self) -> bytes | None:
    """Sends the headers of an answer; returns the content that belongs to it."""
    with (self.root / "requests").open("a") as log:
      log.write(f"{self.command} {self.path}\n")
    match = _RESOLVE.fullmatch(self.path)
    repository = self.root / match["repository"] if match else None
    if repository is None or not repository.is_dir():
      return self._refuse(401, "RepoNotFound")
    if (repository / "token").is_file():
      given = self.headers.get("Authorization")
      if given is None:
        return self._refuse(401, "GatedRepo")
      if given != f"Bearer {(repository / 'token').read_text()}":
        return self._refuse(401, None, "Invalid credentials in Authorization header")
    reference = repository / "refs" / match["revision"]
    commit = reference.read_text() if reference.is_file() else match["revision"]
    if not (repository / commit).is_dir():
      return self._refuse(404, "RevisionNotFound")
    path = repository / commit / match["file"]
    if not path.is_file():
      return self._refuse(404, "EntryNotFound", commit=commit)
    content = path.read_bytes()
    self.send_response(200)
    self.send_header("X-Repo-Commit", commit)
    self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    return content

  def _refuse(self, status: int, code: str | None, message: str = "", commit: str = "") -> None:
    self.send_response(status)
    for name, value in (
      ("X-Error-Code", code),
      ("X-Error-Message", message),
      ("X-Repo-Commit", commit),
      ("Content-Length", "0"),
    ):
      if value:
        self.send_header(name, value)
    self.end_headers()

  def log_message(self, *_):
    pass


def main() -> None:
  """Serves the folder that the command line names."""
  Handler.root = pathlib.Path(sys.argv[1])
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  print(server.server_port, flush=True)
  server.serve_forever()


if __name__ == "__main__":
  main()
