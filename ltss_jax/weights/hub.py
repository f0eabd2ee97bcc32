"""Checkpoints on the Hugging Face Hub, by addresses such as hf://OWNER/NAME/FILE.

Files come through the cache of `huggingface_hub`, with its settings (HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE, HF_ENDPOINT, ...), and from the cache alone where the hub cannot be reached.
"""

import dataclasses
import pathlib
import re
import urllib.parse

import huggingface_hub
from absl import logging
from huggingface_hub import constants, errors

from ltss_jax.weights import shards

SCHEME = "hf://"
_FORM = "hf://OWNER/NAME, hf://OWNER/NAME/FILE or hf://OWNER/NAME@REVISION/FILE"
_ADDRESS = re.compile(
  r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?(/(?P<file>.*[^/]))?/?"
)
_OTHER_TYPES = ("datasets/", "spaces/")  # of repositories, in front of the owner
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


@dataclasses.dataclass(frozen=True)
class _Place:
  """What an address says.

  Attributes:
    address: as given.
    repository: OWNER/NAME.
    revision: branch, tag or commit.
    file: path of a file in the repository; None where the checkpoint is to be found.
  """

  address: str
  repository: str
  revision: str
  file: str | None

  @property
  def page(self) -> str:
    """Where a person sees the repository."""
    return f"{constants.ENDPOINT}/{self.repository}"


class _UnreachableError(ValueError):
  """The hub gives no answer about a file, and the cache has none of that name."""


def is_address(source: object) -> bool:
  """Whether this names a checkpoint on the hub and not a file."""
  return str(source).startswith(SCHEME)


def fetch(address: str) -> pathlib.Path:
  """Brings a checkpoint into the cache, where it is not there already.

  Args:
    address: hf://OWNER/NAME[@REVISION][/FILE]. Without a FILE the checkpoint is what
      `from_pretrained` would take: model.safetensors, its shards, pytorch_model.bin, its shards.

  Returns:
    The file in the cache, or the index of shards that lie beside it.

  Raises:
    ValueError: the address is malformed; repository, revision or file do not exist; the repository
      is gated or private; or the hub cannot be reached, and the file is not in the cache.
  """
  place = _parse(address)
  file, path = _checkpoint(place)
  folder = pathlib.PurePosixPath(file).parent
  commit = path.parents[len(folder.parts)].name  # .../snapshots/COMMIT/FILE
  if file.endswith(shards.INDEX):
    # Of the same commit as the index, whatever has been uploaded since.
    pinned = dataclasses.replace(place, revision=commit)
    for shard in shards.places(path):
      if _download(pinned, str(folder / shard)) is None:
        raise ValueError(f"{address}: {file} names {shard}, which is not in the repository")
  logging.info("%s: taking %s of commit %s", address, file, commit)
  return path


def _parse(address: str) -> _Place:
  match = _ADDRESS.fullmatch(address)
  if match is None or address.removeprefix(SCHEME).startswith(_OTHER_TYPES):
    raise ValueError(f"{address} names no repository of a model on the hub; give {_FORM}")
  file = match["file"]
  if file and (index := shards.index_of(pathlib.PurePosixPath(file).name)):
    whole = f"{address.rpartition('/')[0]}/{index}"
    raise ValueError(f"{address} is one of several parts of a checkpoint; give {whole}")
  revision = urllib.parse.unquote(match["revision"] or constants.DEFAULT_REVISION)
  return _Place(address, match["repository"], revision, file)


def _checkpoint(place: _Place) -> tuple[str, pathlib.Path]:
  """(path in the repository, path in the cache) of the file or index that is meant."""
  files = (place.file,) if place.file else shards.IN_A_FOLDER
  try:
    for file in files:
      if path := _download(place, file):
        return file, path
  except _UnreachableError:
    for file in files:  # where one has no answer, the cache may have another
      cached = huggingface_hub.try_to_load_from_cache(
        place.repository, file, revision=place.revision
      )
      if isinstance(cached, str):
        return file, pathlib.Path(cached)
    raise
  missing = f"{place.address}: there is no {' or '.join(files)} in {place.repository}"
  raise ValueError(f"{missing}; give one of the files of {place.page}/tree/{place.revision}")


def _download(place: _Place, file: str) -> pathlib.Path | None:
  """The file in the cache; None where the repository has none of that name."""
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(place.repository, file, revision=place.revision)
    )
  except errors.LocalEntryNotFoundError as error:
    raise _UnreachableError(_unreachable(place, file, error)) from error
  except errors.RemoteEntryNotFoundError:
    return None
  except Exception as error:  # of its HTTP client too, which is another one in other releases
    raise ValueError(_refusal(place, error)) from error


def _unreachable(place: _Place, file: str, error: Exception) -> str:
  text = f"{place.address}: {file} is not in the cache {constants.HF_HUB_CACHE}, and"
  if constants.HF_HUB_OFFLINE:
    return f"{text} HF_HUB_OFFLINE forbids to fetch it: unset it, or fetch it beforehand"
  reason = _first_line(error.__cause__ or error)
  return (
    f"{text} {constants.ENDPOINT} gives no answer ({reason}): check the network and HF_ENDPOINT"
  )


def _refusal(place: _Place, error: Exception) -> str:
  if isinstance(error, errors.GatedRepoError):
    return (
      f"{place.address} is gated: accept its licence on {place.page} with your account, then"
      f" {_LOGIN}"
    )
  if isinstance(error, errors.RepositoryNotFoundError):
    return (
      f"{place.address}: there is no {place.repository} on {constants.ENDPOINT}, or it is private:"
      f" check the name; if it is private, {_LOGIN}"
    )
  if isinstance(error, errors.RevisionNotFoundError):
    return f"{place.address}: {place.repository} has no branch, tag or commit {place.revision}"
  response = getattr(error, "response", None)
  if response is not None and response.status_code == 401:
    return f"{place.address}: {constants.ENDPOINT} does not accept your token: {_LOGIN}"
  return f"{place.address} cannot be fetched: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)
