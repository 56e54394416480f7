"""The store that `benchmarks/many_records.py` measures on: whole, and of the mixture it says."""

from pathlib import Path

import many_records

from peftbench.store import Store


def test_the_store_is_whole_and_mostly_trials(tmp_path: Path) -> None:
    many_records.make(120, tmp_path)
    store = Store(tmp_path)
    assert store.check() == []
    made = list(store.read_all())
    assert len({record.run_id for record in made}) == 120
    finals = [record for record in made if record.spec.split == "test"]
    assert len(finals) == 6
    assert all(record.predictions for record in finals)
    assert sum(len(record.curve) for record in made) > 120 * 40
