"""Rows of a hub data set: from a local mirror in the hub's own layout, or from the hub itself."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import InputError, first_line
from peftbench.tasks.base import Source

MIRROR = "PEFTBENCH_HUB"
PROBE_SECONDS = 10  # huggingface_hub itself tries for half a minute


def rows(
    source: Source, split: str, columns: Sequence[str], labels: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of one of the source's own splits, with these columns. The list is shared: do not
    change it.

    They come from the folder $PEFTBENCH_HUB/<hub id> if that exists, and otherwise from the hub, in
    the source's revision. A folder has no revision: the fingerprint in a record identifies the rows
    that it held. labels: the names of the classes that the column `label` must have, where the data
    have names for them. Raises InputError if the source, the configuration, the split, a column or
    every row is missing, or if the classes have other names or another order.
    """
    given = os.environ.get(MIRROR)
    folder = Path(given, source.name) if given else None
    mirror = folder if folder and folder.is_dir() else None
    return _rows(source, mirror, split, tuple(columns), tuple(labels))


@functools.lru_cache(maxsize=4)  # the largest splits take hundreds of megabytes
def _rows(
    source: Source,
    mirror: Path | None,
    split: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
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
    for names in _class_names(builder, split) if labels else []:
        if names != labels:
            raise InputError(
                f"{where}, split {split!r}, column 'label': its classes are {', '.join(names)}, "
                f"in this order; they must be {', '.join(labels)}"
            )
    return data.select_columns(list(columns)).to_list()


def _class_names(builder: Any, split: str) -> Iterator[tuple[str, ...]]:
    """The names of the classes of the column `label`, by the data set's features and by each file
    of the split: datasets reads the files of all splits with the features of the first."""
    import datasets
    from pyarrow import parquet

    features = [builder.info.features]
    for path in (builder.config.data_files or {}).get(split, ()):
        if path.endswith(".parquet") and Path(path).is_file():
            features.append(datasets.Features.from_arrow_schema(parquet.read_schema(path)))
    for columns in features:
        if isinstance(columns.get("label"), datasets.ClassLabel):
            yield tuple(columns["label"].names)


@functools.cache
def _builder(source: Source, mirror: Path | None) -> Any:
    """The datasets.DatasetBuilder of the source, with all its splits on this machine."""
    import datasets.config  # takes seconds, as does huggingface_hub
    import huggingface_hub
    import yaml
    from datasets.exceptions import DatasetsError

    datasets.logging.set_verbosity(logging.CRITICAL)  # the errors below say it in one line
    datasets.disable_progress_bars()
    huggingface_hub.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    where, files, builder = _where(source, mirror), None, None
    if mirror is None:
        _reach(source)
    try:
        if mirror is not None:
            files = _files(source, mirror)
            builder = _mirrored(source, mirror, files)
        else:
            builder = datasets.load_dataset_builder(
                source.name, source.config, revision=source.revision
            )
            if builder.hash != source.revision:  # offline, datasets takes what its cache holds
                held = f"its cache holds revision {builder.hash}, not {source.revision}"
                raise _unreachable(source, held)
        builder.download_and_prepare()
    except ConnectionError as error:
        raise _unreachable(source, "the hub cannot be reached") from error
    except (DatasetsError, OSError, ValueError, yaml.YAMLError) as error:
        features = builder.info.features if builder is not None else None
        why = _fault(files or {}, features and features.arrow_schema)
        why = why or first_line(error.__cause__ or error)
        raise InputError(f"{where} cannot be read: {why}") from error
    return builder


def _files(source: Source, mirror: Path) -> dict[str, list[str]] | None:
    """The files of each split of the source's configuration; None where README.md names none.
    Those of other configurations may be missing."""
    from datasets import get_dataset_config_names
    from datasets.data_files import DataFilesDict, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    readme, configs = mirror / "README.md", {}
    if readme.is_file():
        card: Any = DatasetCard.load(readme).data
        configs = MetadataConfigs.from_dataset_card_data(card)
    names = [*configs] or get_dataset_config_names(str(mirror))
    if source.config and source.config not in names:
        raise InputError(
            f"{_where(source, mirror)}: no such configuration; it has: {', '.join(names)}"
        )
    patterns: Any = configs.get(source.config or "default", {}).get("data_files")
    if patterns is None:
        return None
    paths = DataFilesDict.from_patterns(sanitize_patterns(patterns), base_path=str(mirror))
    files = {str(split): [*found] for split, found in paths.items() if found}
    if not files:
        raise FileNotFoundError(f"none of the files is there that README.md names: {patterns}")
    return files


def _mirrored(source: Source, mirror: Path, files: dict[str, list[str]] | None) -> Any:
    """What datasets.load_dataset_builder makes of the mirror, were it not for its look at the files
    of README.md's first configuration, which may be missing."""
    import datasets.config
    from datasets.load import dataset_module_factory, get_dataset_builder_class

    module = dataset_module_factory(str(mirror), data_files=files)
    kwargs = module.builder_kwargs
    return get_dataset_builder_class(module, dataset_name=kwargs["dataset_name"])(
        cache_dir=_cache(mirror, Path(datasets.config.HF_DATASETS_CACHE)),
        config_name=source.config,
        hash=module.hash,
        info=(module.dataset_infos or {}).get(source.config or "default"),
        **kwargs,
    )


def _fault(files: Mapping[str, Sequence[str]], expected: Any = None) -> str | None:
    """What is wrong with the first parquet file that cannot be read, has no rows, or has other
    columns than the arrow schema `expected`, by default that of the first; None if there is
    none."""
    import pyarrow
    from pyarrow import parquet

    for split, path in [(split, path) for split, paths in files.items() for path in paths]:
        if not path.endswith(".parquet"):
            continue
        try:
            with parquet.ParquetFile(path) as file:
                rows, schema = file.metadata.num_rows, file.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            return f"file {path}, split {split!r}: {first_line(error)}"
        if not rows:
            return f"file {path}, split {split!r} is empty"
        expected = expected or schema
        has, must = ({field.name: field.type for field in each} for each in (schema, expected))
        if column := next((name for name in must | has if has.get(name) != must.get(name)), None):
            where = f"file {path}, split {split!r}, column {column!r}"
            return f"{where}: its type is {has.get(column)}; it must be {must.get(column)}"
    return None


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
        raise _unreachable(source, f"the hub refuses: {first_line(error)}") from error
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
