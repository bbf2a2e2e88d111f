from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from random import Random

import pytest

from convscope.errors import Cancelled, Refused
from convscope.progress import report
from convscope.server import jobs as jobs_module
from convscope.server.events import JobEvent, Subscription
from convscope.server.jobs import SUBSCRIBER_LIMIT, Busy, Jobs
from patience import PATIENCE, SOON


@asynccontextmanager
async def running(limit=32):
    jobs = Jobs(limit)
    jobs.start()
    try:
        yield jobs
    finally:
        await jobs.close()


def until(event):
    """Work that reports often, and ends when ``event`` is set."""

    def work():
        step = 0
        while not event.wait(0.005):
            step += 1
            report(step, 1000, "working")
        return "finished"

    return work


async def settle(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_one_thread_does_all_the_work_in_order():
    async def scenario():
        order, threads = [], set()

        def work(number):
            order.append(number)
            threads.add(threading.get_ident())
            return number

        async with running() as jobs:
            answers = await asyncio.gather(*(jobs.run(f"k{n}", lambda n=n: work(n), f"j{n}") for n in range(8)))
        assert answers == order == list(range(8))
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    asyncio.run(scenario())


def test_equal_requests_share_one_job():
    async def scenario():
        calls, go = [], threading.Event()

        def work():
            calls.append(1)
            assert go.wait(PATIENCE)
            return object()

        async with running() as jobs:
            tasks = [asyncio.create_task(jobs.run("same", work, f"j{n}")) for n in range(5)]
            await settle(lambda: calls)
            go.set()
            answers = await asyncio.gather(*tasks)
            assert len({id(each) for each in answers}) == len(calls) == 1
            await jobs.run("same", lambda: calls.append(2), "later")
        assert calls == [1, 2]

    asyncio.run(scenario())


def test_errors_reach_everyone_who_waits_and_the_worker_lives_on():
    async def scenario():
        def broken():
            raise Refused("no")

        def exits():
            raise SystemExit(3)

        async with running() as jobs:
            errors = await asyncio.gather(*(jobs.run("k", broken, n) for n in "ab"), return_exceptions=True)
            assert all(isinstance(each, Refused) for each in errors)
            with pytest.raises(RuntimeError, match="SystemExit"):
                await jobs.run("k", exits, "a")
            assert await jobs.run("k", lambda: 1, "a") == 1

    asyncio.run(scenario())


def test_a_full_line_is_said_to_be_full():
    async def scenario():
        go = threading.Event()
        async with running(limit=2) as jobs:
            tasks = [asyncio.create_task(jobs.run(f"k{n}", until(go), f"j{n}")) for n in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await jobs.run("k2", lambda: 0, "j2")
            joined = asyncio.create_task(jobs.run("k1", until(go), "again"))  # no new job, so it fits
            await asyncio.sleep(0)
            go.set()
            assert await asyncio.gather(*tasks, joined) == ["finished"] * 3

    asyncio.run(scenario())


def test_a_running_job_is_cancelled_within_a_second():
    async def scenario():
        async with running() as jobs:
            task = asyncio.create_task(jobs.run("k", until(threading.Event()), "mine"))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            assert jobs.cancel("mine")
            with pytest.raises(Cancelled):
                await task
            assert await jobs.run("next", lambda: "free", "other") == "free"
            assert time.monotonic() - started < SOON
            assert not jobs.cancel("mine")

    asyncio.run(scenario())


def test_a_queued_job_is_removed_at_once():
    async def scenario():
        go, ran = threading.Event(), []
        async with running() as jobs:
            first = asyncio.create_task(jobs.run("first", until(go), "first"))
            second = asyncio.create_task(jobs.run("second", lambda: ran.append(1), "second"))
            await asyncio.sleep(0.02)
            jobs.cancel("second")
            with pytest.raises(Cancelled):
                await second
            go.set()
            await first
            await jobs.run("third", lambda: 0, "third")
        assert ran == []

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["by name", "by leaving"])
def test_a_job_goes_on_while_somebody_waits_for_it(how):
    async def scenario():
        go = threading.Event()
        async with running() as jobs:
            leaving = asyncio.create_task(jobs.run("k", until(go), "leaving"))
            staying = asyncio.create_task(jobs.run("k", until(go), "staying"))
            await asyncio.sleep(0.02)
            if how == "by name":
                jobs.cancel("leaving")
            else:
                leaving.cancel()
            with pytest.raises((Cancelled, asyncio.CancelledError)):
                await leaving
            go.set()
            assert await staying == "finished"

    asyncio.run(scenario())


def test_a_client_that_leaves_takes_its_job_along():
    async def scenario():
        ended = threading.Event()

        def work():
            try:
                until(threading.Event())()
            finally:
                ended.set()

        async with running() as jobs:
            task = asyncio.create_task(jobs.run("k", work, "mine"))
            await asyncio.sleep(0.02)
            task.cancel()
            assert await asyncio.to_thread(ended.wait, 1)
            # A new request doesn't join the dying job.
            assert await jobs.run("k", lambda: "new", "mine") == "new"

    asyncio.run(scenario())


def test_subscribers_hear_of_progress_and_of_the_end():
    async def scenario():
        go = threading.Event()
        async with running() as jobs:
            with jobs.subscribe() as early:
                task = asyncio.create_task(jobs.run("k", until(go), "mine"))
                seen = []
                while not any(event.done for event in seen):
                    seen += await early.take(1)
                with jobs.subscribe() as late:  # hears at once of what is under way
                    assert (await late.take(1))[0].state == "running"
                go.set()
                await task
                seen += await early.take(1)
            assert seen[-1].state == "done"
            assert {event.id for event in seen} == {"mine"}
            moving = next(event for event in seen if event.done)
            assert moving.total == 1000
            assert moving.message == "working"
            assert moving.seconds_left > 0

    asyncio.run(scenario())


def test_a_slow_subscriber_misses_steps_but_never_the_latest_state():
    async def scenario():
        async with running() as jobs:
            with jobs.subscribe() as subscription:
                await jobs.run("k", lambda: [report(n, 500, "") for n in range(500)], "mine")
                events = await subscription.take(1)
            assert [event.state for event in events] == ["done"]
            assert events[0].done == 499

    asyncio.run(scenario())


def test_subscriptions_are_bounded():
    async def scenario():
        subscription = Subscription(limit=3)
        for number in range(10):
            subscription.push(JobEvent(str(number), "done"))
        assert [event.id for event in await subscription.take(0.1)] == ["7", "8", "9"]
        assert await subscription.take(0.01) == []
        async with running() as jobs:
            entered = [jobs.subscribe() for _ in range(SUBSCRIBER_LIMIT)]
            for each in entered:
                each.__enter__()
            with pytest.raises(Busy), jobs.subscribe():
                pass
            for each in entered:
                each.__exit__(None, None, None)
            jobs.make_room()

    asyncio.run(scenario())


def test_closing_ends_streams_cancels_jobs_and_takes_no_more():
    async def scenario():
        jobs = Jobs()
        jobs.start()
        with jobs.subscribe() as subscription:
            running_job = asyncio.create_task(jobs.run("a", until(threading.Event()), "a"))
            queued_job = asyncio.create_task(jobs.run("b", lambda: 0, "b"))
            await asyncio.sleep(0.02)
            started = time.monotonic()
            await jobs.close()
            for task in (running_job, queued_job):
                with pytest.raises(Cancelled):
                    await task
            assert {event.state for event in await subscription.take(1)} == {"cancelled"}
            assert await subscription.take(1) is None
            with pytest.raises(Cancelled):
                await jobs.run("c", lambda: 0, "c")
            assert time.monotonic() - started < SOON
        assert not any(thread.name == "convscope-model" for thread in threading.enumerate())

    asyncio.run(scenario())


# ---- work aside ------------------------------------------------------------------------------------------------------


class Floor:
    """Notices when two threads have the network at the same time."""

    def __init__(self):
        self.holder, self.crowded, self.order = None, False, []

    @contextmanager
    def held(self, who):
        self.crowded |= self.holder is not None
        self.holder = who
        self.order.append(who)
        yield
        time.sleep(0.002)
        self.crowded |= self.holder != who
        self.holder = None


def aside(floor, end, steps=10_000):
    def work():
        for step in range(steps):
            if end.is_set():
                return step
            with floor.held("aside"):
                pass
            report(step, steps, "mining")
        return steps

    return work


def test_work_aside_gives_way_between_its_steps():
    async def scenario():
        floor, end = Floor(), threading.Event()

        def view(number):
            with floor.held(number):
                return number

        async with running() as jobs:
            long = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "m"))
            await settle(lambda: len(floor.order) > 3)
            for number in range(20):
                before = len(floor.order)
                assert await jobs.run(f"k{number}", lambda n=number: view(n), "v") == number
                waited = floor.order[before:].index(number)
                assert waited <= 1, "at most the step under way comes first"
            several = await asyncio.gather(*(jobs.run(f"g{n}", lambda n=n: view(n), "v") for n in range(8)))
            assert several == list(range(8))
            seen = len(floor.order)
            await settle(lambda: len(floor.order) > seen + 3)
            end.set()
            assert await long > 5
        assert not floor.crowded

    asyncio.run(scenario())


def test_long_work_goes_before_mining_and_views_before_both():
    async def scenario():
        floor, end = Floor(), threading.Event()

        def long(number):
            for step in range(20):
                with floor.held(number):
                    pass
                report(step, 20, "long")
            return number

        def view():
            with floor.held("view"):
                return "view"

        async with running() as jobs:
            mining = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "m"))
            await settle(lambda: len(floor.order) > 3)
            works = [
                asyncio.create_task(jobs.run_long(f"l{n}", lambda n=n: long(n), f"l{n}", f"{n}")) for n in range(2)
            ]
            await settle(lambda: len(set(floor.order)) > 1)
            began = len(floor.order)
            assert await jobs.run("view", view, "v") == "view"
            assert await asyncio.gather(*works) == [0, 1]
            during = floor.order[began:]
            during = during[: len(during) - during[::-1].index(1) if 1 in during else None]
            assert "aside" not in during, "mining waits for all of it"
            assert during.index("view") <= 2
            seen = len(floor.order)
            await settle(lambda: len(floor.order) > seen + 2)
            assert floor.order[-1] == "aside"
            end.set()
            await mining
        assert not floor.crowded

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_and_cancelled_nobody_is_forgotten_and_nothing_is_crowded(seed, monkeypatch):
    monkeypatch.setattr("convscope.server.turns.SLICE_SECONDS", 0.001)

    async def scenario():
        random, floor, tasks = Random(seed), Floor(), {}

        def work(number, steps):
            for step in range(steps):
                with floor.held(number):
                    pass
                report(step, steps, "working")
            return number

        async with running() as jobs:
            for number in range(60):
                how = random.choice((jobs.run, jobs.run, jobs.run_long, jobs.run_aside))
                more = () if how == jobs.run_aside else (random.choice("abc"),)
                steps = random.randrange(6)
                ask = how(f"k{number}", lambda n=number, s=steps: work(n, s), f"j{number}", *more)
                tasks[number] = asyncio.create_task(ask)
                if random.random() < 0.4:
                    await asyncio.sleep(random.random() * 0.02)
                if random.random() < 0.3:
                    gone = random.choice(list(tasks))
                    if random.random() < 0.5:
                        jobs.cancel(f"j{gone}")
                    else:
                        tasks[gone].cancel()
            found = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 20)
            for number, result in zip(tasks, found, strict=True):
                assert result == number or isinstance(result, Cancelled | Busy | asyncio.CancelledError), result
            assert await asyncio.wait_for(jobs.run("last", lambda: "free", "last"), 5) == "free"
            assert not jobs._open
            assert not jobs._views
        assert not floor.crowded

    asyncio.run(scenario())


def test_what_a_job_came_to_is_remembered_for_a_while(monkeypatch):
    async def scenario():
        monkeypatch.setattr(jobs_module, "REMEMBERED", 3)
        async with running() as jobs:
            for number in range(5):
                await jobs.run(f"k{number}", lambda: 1, f"j{number}")
            with pytest.raises(Refused):
                await jobs.run("no", lambda: (_ for _ in ()).throw(Refused("no", next_step="ask else")), "refused")
            assert jobs.told("j0") is None
            event, error = jobs.told("j4")
            assert (event.state, error) == ("done", None)
            event, error = jobs.told("refused")
            assert (event.state, error.what, error.next_step) == ("failed", "no", "ask else")
            assert error.__traceback__ is None, "it would keep the work's memory"
            assert jobs.preview("j4") is None

    asyncio.run(scenario())


def test_work_aside_is_cancelled_by_its_name_also_while_it_waits():
    async def scenario():
        floor, end, gate, entered = Floor(), threading.Event(), threading.Event(), threading.Event()

        def view():
            entered.set()
            return gate.wait(PATIENCE)

        async with running() as jobs:
            with jobs.subscribe() as subscription:
                long = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "m"))
                await settle(lambda: len(floor.order) > 2)
                waiting = asyncio.create_task(jobs.run("view", view, "v"))
                await settle(entered.is_set)
                assert jobs.cancel("m")
                with pytest.raises(Cancelled):
                    await long
                gate.set()
                assert await waiting
                states = [event.state for event in await subscription.take(1) if event.id == "m"]
                assert states == ["cancelled"]
            done = len(floor.order)
            await asyncio.sleep(0.05)
            assert len(floor.order) == done, "it went on"
            assert await jobs.run("after", lambda: 1, "v") == 1

    asyncio.run(scenario())


def test_one_work_aside_at_a_time():
    async def scenario():
        floor, end = Floor(), threading.Event()
        async with running() as jobs:
            first = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "a"))
            await settle(lambda: floor.order)
            same = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "b"))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await jobs.run_aside("another", aside(floor, end), "c")
            end.set()
            assert await first == await same

    asyncio.run(scenario())


def test_what_work_aside_raises_reaches_who_asked():
    async def scenario():
        async with running() as jobs:
            with pytest.raises(Refused):
                await jobs.run_aside("mine", lambda: (_ for _ in ()).throw(Refused("no")), "a")
            assert await jobs.run_aside("mine", lambda: 5, "a") == 5

    asyncio.run(scenario())


def test_stopping_ends_work_aside():
    async def scenario():
        floor, end = Floor(), threading.Event()
        jobs = Jobs()
        jobs.start()
        long = asyncio.create_task(jobs.run_aside("mine", aside(floor, end), "a"))
        await settle(lambda: floor.order)
        started = time.monotonic()
        await jobs.close()
        assert time.monotonic() - started < SOON
        with pytest.raises(Cancelled):
            await long
        assert not any(thread.name == "convscope-aside" and thread.is_alive() for thread in threading.enumerate())

    asyncio.run(scenario())


def test_work_aside_begins_only_when_what_was_cancelled_before_it_has_ended():
    """Cancelled work may still have its last step to finish, and what it holds to give back."""

    async def scenario():
        gate, ended, begun = threading.Event(), threading.Event(), threading.Event()

        def stubborn():
            begun.set()
            gate.wait(PATIENCE)  # doesn't report, so it isn't stopped here
            ended.set()

        async with running() as jobs:
            first = asyncio.create_task(jobs.run_aside("mine", stubborn, "a"))
            await settle(begun.is_set)
            jobs.cancel("a")
            with pytest.raises(Cancelled):
                await first
            second = asyncio.create_task(jobs.run_aside("mine", ended.is_set, "b"))
            await asyncio.sleep(0.05)
            gate.set()
            assert await second, "it began before the other had ended"

    asyncio.run(scenario())
