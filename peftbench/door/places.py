"""Where runs take place: on this machine's device, or on those of a cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from peftbench.errors import unknown
from peftbench.output import ensure_folder, ensure_writable
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store, device_folder

if TYPE_CHECKING:
    from peftbench.training.executor import Executor

ExecutorName = Literal["local", "ray"]


def this_device(workers: int = 1) -> tuple[str, Precision]:
    """The store's folder for this machine's device, as each of so many runs at once uses it, and
    what the precision "auto" comes to. Raises InputError where it has no place for so many."""
    from peftbench.training.environment import auto_precision, choose_device, device_name
    from peftbench.training.shares import shares

    device, threads = choose_device(), shares(workers)[0].threads
    return device_folder(device.type, device_name(device, threads)), auto_precision(device)


def devices_of(executor: ExecutorName, workers: int) -> tuple[str | None, Precision]:
    """The same of an executor. The devices of the Ray cluster that was joined have folders of their
    own: None. Raises InputError."""
    if executor == "local":
        return this_device(workers)
    from peftbench.training import ray_executor

    return None, ray_executor.auto_precision(workers)


@contextmanager
def joined(executor: ExecutorName) -> Iterator[None]:
    """Within it, this process belongs to the cluster that the runs take place on, if there is one.
    Raises InputError."""
    if executor not in (names := get_args(ExecutorName)):
        raise unknown("executor", executor, names)
    if executor == "local":
        yield
        return
    from peftbench.training import ray_executor

    with ray_executor.joined():
        yield


def checked(
    specs: list[RunSpec],
    store: Store,
    adapters: Path | str | None,
    unconfined: bool,
    workers: int = 1,
    executor: ExecutorName = "local",
) -> Callable[[], "Executor"]:
    """Check runs, and what they are to be written to; returns what makes their executor."""
    from peftbench.training import processes

    here = executor == "local"
    if here:
        processes.prepare(workers)  # its imports and ours at the same time
    from peftbench.training.executor import LocalExecutor
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement

    check_specs(specs, here=here)
    if here:
        check_confinement(specs, unconfined)
    store.ensure_writable()
    folder = _writable_folder(adapters)
    if here:
        return lambda: LocalExecutor(folder, unconfined=unconfined, places=workers)
    from peftbench.training.ray_executor import RayExecutor

    return lambda: RayExecutor(folder, unconfined=unconfined, workers=workers)


def _writable_folder(adapters: Path | str | None) -> Path | None:
    """The folder of adapters, there and tried. Raises InputError where it cannot be written to."""
    if adapters is None:
        return None
    folder = Path(adapters)
    ensure_folder(folder)
    ensure_writable(folder / ".probe")
    return folder
