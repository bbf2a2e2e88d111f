"""The crew, with workers that only pretend: who gets what, who is replaced, which images are given up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from convscope.errors import Cancelled, ConvscopeError
from convscope.mining.crew import Crew, Event
from convscope.mining.shard import Shard, ShardResult, ShardTable

if TYPE_CHECKING:
    from convscope.mining.worker import Task


def result_of(task: Task) -> bytes:
    count = len(task.shard)
    number = np.arange(count, dtype=np.int32)
    good = np.ones(count, bool)
    skipped = tuple((image, str(image), reason) for image, reason in task.hidden)
    return ShardResult(
        task.shard, {}, ShardTable(np.zeros((count, 16), np.uint8), number, number, good, (), skipped), 4
    ).to_bytes()


@dataclass
class Office:
    """Makes workers that finish each task at once, unless one of its images is deadly."""

    deadly: frozenset[int] = frozenset()
    deaths: dict[int, int] = field(default_factory=dict)  # shard: how often it kills, whoever mines it
    hired: int = 0
    killed: list[int] = field(default_factory=list)
    stillborn: bool = False
    tasks: list[Task] = field(default_factory=list)

    def start(self, number: int, place: int, events: SimpleQueue[Event]) -> Pretender:
        self.hired += 1
        events.put(Event(number, "died", reason="gone") if self.stillborn else Event(number, "ready"))
        return Pretender(self, number, events)


@dataclass
class Pretender:
    office: Office
    number: int
    events: SimpleQueue[Event]
    dead: bool = False

    def send(self, task: Task) -> None:
        if self.dead:
            return
        self.office.tasks.append(task)
        hidden = {image for image, _ in task.hidden}
        harmful = self.office.deadly.intersection(range(task.shard.start, task.shard.stop)) - hidden
        left = self.office.deaths.get(task.shard.index, 0)
        self.events.put(Event(self.number, "progress", images=1))
        if harmful or (left and not task.probe):
            self.office.deaths[task.shard.index] = max(0, left - 1)
            self.dead = True
            self.events.put(Event(self.number, "died", reason="SIGSEGV"))
        else:
            self.events.put(Event(self.number, "result", content=b"" if task.probe else result_of(task)))

    def kill(self) -> None:
        self.office.killed.append(self.number)

    def wait(self) -> None:
        assert self.number in self.office.killed


def run(office: Office, images: int, shard: int = 8, size: int = 3) -> tuple[list[ShardResult], list[int]]:
    shards = [Shard(i, start, min(start + shard, images)) for i, start in enumerate(range(0, images, shard))]
    done = [0]
    crew = Crew(office.start, size, shards, 4, lambda count: done.append(done[-1] + count))
    found = list(crew.run())
    assert sorted(office.killed) == sorted({*office.killed})
    assert set(office.killed) == set(range(office.hired))
    return found, done


def test_every_shard_is_mined_once_and_progress_ends_at_all() -> None:
    office = Office()
    found, done = run(office, 50)
    assert sorted(result.shard.start for result in found) == list(range(0, 50, 8))
    assert done[-1] == 50
    assert max(done) == 50
    assert office.hired == 3


def test_no_more_workers_than_shards() -> None:
    office = Office()
    run(office, 10)
    assert office.hired == 2


def test_a_single_death_costs_one_more_try_and_no_image() -> None:
    office = Office(deaths={2: 1})
    found, done = run(office, 50)
    assert len(found) == 7
    assert not [entry for result in found for entry in result.table.skipped]
    assert done[-1] == 50
    assert office.hired == 4


@pytest.mark.parametrize("seed", range(20))
def test_deadly_images_are_found_and_only_they(seed: int) -> None:
    chosen = random.Random(seed)
    deadly = frozenset(chosen.sample(range(50), chosen.randint(1, 12)))
    found, done = run(Office(deadly), 50, shard=chosen.choice([1, 3, 8, 50]), size=chosen.randint(1, 4))
    skipped = sorted(entry for result in found for entry in result.table.skipped)
    assert [image for image, _, _ in skipped] == sorted(deadly)
    assert {reason for _, _, reason in skipped} == {"reading it crashed a worker (SIGSEGV)"}
    assert done[-1] == 50
    assert len(found) == len({result.shard.index for result in found})


def test_a_shard_that_kills_without_a_guilty_image_ends_the_work() -> None:
    with pytest.raises(ConvscopeError, match=r"images 16 to 23 end every worker, but no single one does: SIGSEGV"):
        run(Office(deaths={2: 100}), 50)


def test_a_second_killer_behind_the_first_is_searched_for_again() -> None:
    office = Office(frozenset({17}), deaths={2: 3})
    found, _ = run(office, 50)
    assert [entry[0] for result in found for entry in result.table.skipped] == [17]


def test_workers_that_never_get_ready_end_the_work() -> None:
    office = Office(stillborn=True)
    with pytest.raises(ConvscopeError, match="workers end before they begin: gone"):
        run(office, 50)
    assert office.hired < 9


def test_ending_early_kills_everybody() -> None:
    office = Office()
    crew = Crew(office.start, 2, [Shard(i, i, i + 1) for i in range(9)], 4, lambda _: None)
    results = crew.run()
    next(results)
    results.close()
    assert sorted(office.killed) == [0, 1]


def test_cancelling_is_noticed_while_nothing_happens() -> None:
    class Silent(Office):
        def start(self, number: int, place: int, events: SimpleQueue[Event]) -> Any:
            self.hired += 1
            return Pretender(self, number, SimpleQueue())

    def stop(_: int) -> None:
        raise Cancelled

    office = Silent()
    with pytest.raises(Cancelled):
        list(Crew(office.start, 2, [Shard(0, 0, 1), Shard(1, 1, 2)], 4, stop).run())
    assert sorted(office.killed) == [0, 1]


def test_a_workers_error_is_raised() -> None:
    class Failing(Office):
        def start(self, number: int, place: int, events: SimpleQueue[Event]) -> Pretender:
            events.put(Event(number, "failed", error=ConvscopeError("no such layer", next_step="look")))
            return super().start(number, place, events)

    with pytest.raises(ConvscopeError, match=r"no such layer\. Next: look"):
        run(Failing(), 50)
