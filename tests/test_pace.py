"""How long runs will take, by those like them that have ended."""

import statistics

import pytest
import records

from peftbench.pace import Pace, arm_of

LORA, VERA, OTHER, FAR = (
    arm_of(records.spec(method=method, task=task))
    for method, task in (("lora", "rte"), ("vera", "rte"), ("full", "rte"), ("lora", "cola"))
)


def pace(*ended: tuple[tuple[str, str, str], float], guess: bool = False) -> Pace:
    made = Pace(guess=guess)
    for (_, task, method), seconds in ended:
        made.add(records.record(method=method, task=task, seconds=seconds))
    return made


@pytest.mark.parametrize("seconds", [[4.0], [9.0, 1.0], [9.0, 1.0, 2.0], [5.0, 1.0, 2.0, 8.0]])
def test_runs_of_an_arm_take_what_those_before_took_in_the_middle(seconds: list[float]) -> None:
    ended = pace(*((LORA, each) for each in seconds), (VERA, 1000.0))
    assert ended.left(LORA) == statistics.median(seconds)
    assert ended.left(LORA, 0.5) == statistics.median(seconds) - 0.5
    assert ended.left(LORA, 1000.0) == 0


def test_the_most_alike_say_it() -> None:
    ended = [(LORA, 10.0), (VERA, 20.0), (VERA, 60.0)]
    for guess in (False, True):
        assert [pace(*ended, guess=guess).left(arm) for arm in (LORA, VERA, OTHER)] == [10, 40, 20]
    assert pace(*ended).left(FAR) is None
    assert pace(*ended, guess=True).left(FAR) == 20
    assert pace(guess=True).left(FAR) is None


def test_the_last_run_ends_when_all_places_have_done_their_part_and_the_longest_has_ended() -> None:
    ended = pace((LORA, 10.0), (VERA, 40.0))
    waiting = {LORA: 3, VERA: 1, FAR: 0}
    assert ended.one_by_one(waiting) == 70
    assert ended.until_all_end(waiting, [], 1) == 70
    assert ended.until_all_end(waiting, [(LORA, 4.0), (VERA, 90.0)], 1) == 76
    assert ended.until_all_end(waiting, [], 7) == 40
    assert ended.until_all_end({}, [(VERA, 5.0)], 7) == 35
    assert ended.until_all_end({}, [], 0) == 0


def test_where_something_is_not_known_nothing_is_said() -> None:
    ended = pace((LORA, 10.0))
    assert ended.one_by_one({LORA: 1, FAR: 1}) is None
    assert ended.until_all_end({LORA: 1, FAR: 1}, [], 1) is None
    assert ended.until_all_end({LORA: 1}, [(FAR, 1.0)], 1) is None
