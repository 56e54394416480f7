"""The files of a store, wherever they lie: a folder of this machine or a bucket."""

from pathlib import Path

from peftbench.files.base import Files
from peftbench.files.local import LocalFiles
from peftbench.files.remote import RemoteFiles


def files_at(root: Path | str) -> Files:
    """The files below a folder, or below a URL such as s3://BUCKET/PREFIX. Raises InputError if
    what stands behind the URL cannot be used."""
    if isinstance(root, str) and is_url(root):
        return RemoteFiles(root)
    return LocalFiles(Path(root))


def is_url(place: Path | str) -> bool:
    """Whether a place is a URL, and no folder of this machine."""
    return "://" in str(place)
