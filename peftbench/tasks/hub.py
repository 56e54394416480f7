"""Rows of a hub data set: from a local mirror in the hub's own layout, or from the hub itself."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import InputError
from peftbench.tasks.base import Source

MIRROR = "PEFTBENCH_HUB"
PROBE_SECONDS = 10  # huggingface_hub itself tries for half a minute


def rows(source: Source, split: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one of the source's own splits, with these columns. The list is shared: do not
    change it.

    They come from the folder $PEFTBENCH_HUB/<hub id> if that exists, and otherwise from the hub, in
    the source's revision. A folder has no revision: the fingerprint in a record identifies the rows
    that it held. Raises InputError if the source, the configuration, the split, a column or every
    row is missing.
    """
    given = os.environ.get(MIRROR)
    folder = Path(given, source.name) if given else None
    return _rows(source, folder if folder and folder.is_dir() else None, split, tuple(columns))


@functools.lru_cache(maxsize=4)  # the largest splits take hundreds of megabytes
def _rows(
    source: Source, mirror: Path | None, split: str, columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    builder, where = _builder(source, mirror), _where(source, mirror)
    splits = builder.info.splits
    if split not in splits:
        raise InputError(f"{where} has no split {split!r}; it has: {', '.join(splits)}")
    if not splits[split].num_examples:
        raise InputError(f"{where}, split {split!r} is empty")
    data = builder.as_dataset(split=split)
    missing = [column for column in columns if column not in data.column_names]
    if missing:
        raise InputError(
            f"{where}, split {split!r} has no column {missing[0]!r}; "
            f"it has: {', '.join(data.column_names)}"
        )
    return data.select_columns(list(columns)).to_list()


@functools.cache
def _builder(source: Source, mirror: Path | None) -> Any:
    """The datasets.DatasetBuilder of the source, with all its splits on this machine."""
    import datasets.config  # takes seconds, as does huggingface_hub
    import huggingface_hub
    from datasets.exceptions import DatasetsError

    datasets.logging.set_verbosity(logging.CRITICAL)  # the errors below say it in one line
    datasets.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    where = _where(source, mirror)
    if mirror is None:
        _reach(source)
    try:
        if mirror is not None:
            names = datasets.get_dataset_config_names(str(mirror))
            if source.config and source.config not in names:
                raise InputError(f"{where}: no such configuration; it has: {', '.join(names)}")
            revision, cache = None, _cache(mirror, Path(datasets.config.HF_DATASETS_CACHE))
        else:
            revision, cache = source.revision, None
        builder = datasets.load_dataset_builder(
            str(mirror or source.name), source.config, revision=revision, cache_dir=cache
        )
        if revision and builder.hash != revision:  # offline, datasets takes what its cache holds
            raise _unreachable(source, f"its cache holds revision {builder.hash}, not {revision}")
        builder.download_and_prepare()
    except ConnectionError as error:
        raise _unreachable(source, "the hub cannot be reached") from error
    except (DatasetsError, OSError, ValueError) as error:
        raise InputError(
            f"{where} cannot be read: {_first_line(error.__cause__ or error)}"
        ) from error
    return builder


def _cache(mirror: Path, caches: Path) -> str:
    """A cache folder for the present state of a mirror: the key that datasets uses covers the name
    of a folder and its README.md, not its data."""
    files = sorted(path for path in mirror.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(caches / "peftbench" / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16])


def _reach(source: Source) -> None:
    """Ask the hub for the source, once; without a network, set datasets to use its cache only."""
    import datasets.config
    import huggingface_hub

    if datasets.config.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(
            source.name, revision=source.revision, timeout=PROBE_SECONDS
        )
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise _unreachable(source, f"the hub refuses: {_first_line(error)}") from error
    except Exception:  # without a network or in offline mode, the type depends on the HTTP client
        datasets.config.HF_HUB_OFFLINE = True


def _unreachable(source: Source, why: str) -> InputError:
    given = os.environ.get(MIRROR)
    mirror = f"{MIRROR}={given} has no folder {source.name}" if given else f"{MIRROR} is not set"
    return InputError(
        f"data set {source.name} is not available: {why}, and {mirror}. "
        "Either allow network access or, on a machine that has it, run "
        f"`hf download --repo-type dataset {source.name} --local-dir DIR/{source.name}` "
        f"and set {MIRROR}=DIR"
    )


def _where(source: Source, mirror: Path | None) -> str:
    config = f", configuration {source.config!r}" if source.config else ""
    return f"data set {mirror or source.name}{config}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
