"""Jobs that overlap: what happens at once, what stays in order, and how much is in memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import pytest

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.parallel import Needs, map_jobs
from arena_pipeline.io.steps import InSteps, MemoryNeeded, Steps, Turn

SECONDS = 30  # for what must happen; then the test fails


class Volume:
    """Counts how many are alive."""

    alive = most = 0

    def __init__(self) -> None:
        Volume.alive += 1
        Volume.most = max(Volume.most, Volume.alive)

    def __del__(self) -> None:
        Volume.alive -= 1


class Told(InSteps[str, str]):
    """Writes down what it does; `at`: what else happens at a step of a job."""

    def __init__(self, memory_bytes: int = 0, at: dict[str, Callable[[], object]] | None = None) -> None:
        self.memory_bytes, self.at, self.said = memory_bytes, at or {}, list[str]()

    def steps(self, job: str) -> Steps[str]:
        yield MemoryNeeded(self.memory_bytes)
        volume = Volume()  # in this frame, as long as it lasts
        try:
            self._do("begin", job)
            yield Turn.NETWORK
            self._do("network", job)
            yield Turn.END
            self._do("end", job)
        except ArenaError:
            yield Turn.END
            self.said.append(f"failed {job}")
            raise
        finally:
            self.said.append(f"left {job}")
        del volume
        return job.upper()

    def _do(self, what: str, job: str) -> None:
        self.said.append(f"{what} {job}")
        assert (threading.current_thread() is threading.main_thread()) or what != "network"
        self.at.get(f"{what} {job}", lambda: None)()


@pytest.fixture(autouse=True)
def _count() -> Iterator[None]:
    Volume.alive = Volume.most = 0
    yield
    gc.collect()
    assert Volume.alive == 0


def run(function: Told, jobs: str) -> dict[str, object]:
    return {name: str(result) for name, result in map_jobs(function, {job: job for job in jobs}, Needs("tests", workers=1))}


def met() -> tuple[Callable[[], object], Callable[[], object]]:
    """One waits until the other has been called."""
    event = threading.Event()
    return lambda: event.wait(SECONDS) or pytest.fail("nothing happened beside the network"), event.set


def test_the_next_begins_and_the_former_ends_while_the_network_works() -> None:
    wait_b, begun_b = met()
    wait_a, ended_a = met()
    wait_c, ended_c = met()
    told = Told(at={"network a": wait_b, "begin b": begun_b, "network b": wait_a, "end a": ended_a, "begin d": wait_c, "end c": ended_c})
    assert run(told, "abcd") == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert [line for line in told.said if line.startswith("end")] == ["end a", "end b", "end c", "end d"]
    assert told.said.index("end a") < told.said.index("begin c")  # so there are never three
    assert Volume.most == 2


def test_where_memory_takes_one_alone_they_come_one_by_one() -> None:
    told = Told(memory_bytes=2**60)
    assert list(run(told, "abc")) == ["a", "b", "c"]
    assert told.said == [f"{what} {job}" for job in "abc" for what in ("begin", "network", "end", "left")]
    assert Volume.most == 1


def fails() -> None:
    raise ArenaError("it is bad")


@pytest.mark.parametrize("step", ["begin", "network", "end"])
def test_a_bad_job_costs_itself_alone_and_comes_in_its_order(step: str) -> None:
    told = Told(at={f"{step} b": fails})
    assert run(told, "abcd") == {"a": "A", "b": "it is bad", "c": "C", "d": "D"}
    assert [line for line in told.said if line.startswith(("end a", "failed", "end c", "end d"))] == ["end a", "failed b", "end c", "end d"]
    assert Volume.most == 2  # an error that is not told yet holds no volume


def test_a_fault_of_the_program_leaves_as_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Told(at={"begin b": lambda: 1 // 0}), "abc")


def test_an_interruption_ends_what_is_being_written_and_leaves_the_rest() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    told = Told(at={"network b": interrupt})
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(told, "abcd")
    assert threading.active_count() == before
    left = [line for line in told.said if line.startswith("left")]
    assert {"left a", "left b"} <= set(left) and len(left) == len([line for line in told.said if line.startswith("begin")])
    assert "network c" not in told.said


def test_a_consumer_that_stops_leaves_nothing_open() -> None:
    told = Told()
    results = map_jobs(told, {job: job for job in "abcd"}, Needs("tests", workers=1))
    assert next(results) == ("a", "A")
    results.close()  # type: ignore[attr-defined]
    assert len([line for line in told.said if line.startswith("left")]) == len([line for line in told.said if line.startswith("begin")])
