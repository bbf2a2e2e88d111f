"""Whose turn it is: views before long work before mining, lines in turn, and never two at a time."""

from __future__ import annotations

import threading
import time

import pytest

from convscope.errors import Cancelled
from convscope.server import turns as turns_module
from convscope.server.turns import MOST_LONG_AT_ONCE, Kind, Turn, Turns
from patience import PATIENCE


def order_of(*wanted):
    """The lines in the order in which they are served."""
    turns, served = Turns(), []
    for turn in wanted:
        turns.ask(turn)
    for _ in wanted:
        turn = turns.next_view()
        served.append(turn.line)
        turns.give_back(turn)
    return served


def test_lines_take_turns_and_a_line_keeps_its_order():
    views = [Turn(Kind.VIEW, line) for line in "aaaabbc"]
    assert order_of(*views) == ["a", "b", "c", "a", "b", "a", "a"]
    assert order_of(*(Turn(Kind.VIEW, "one") for _ in range(3))) == ["one"] * 3


def test_a_line_that_comes_late_waits_for_one_turn_only():
    turns = Turns()
    for _ in range(6):
        turns.ask(Turn(Kind.VIEW, "matrix"))
    turns.give_back(turns.next_view())
    turns.ask(late := Turn(Kind.VIEW, "click"))
    assert turns.next_view() is late


def test_kinds_go_before_lines():
    turns = Turns()
    mining, long, view = Turn(Kind.MINING, "m"), Turn(Kind.LONG, "l"), Turn(Kind.VIEW, "v")
    for turn in (mining, long, view):
        turns.ask(turn)
    assert turns.next_view() is view
    taken = []
    threads = [threading.Thread(target=lambda t=t: (turns.take(t), taken.append(t))) for t in (mining, long)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    assert taken == [], "the view has it"
    turns.give_back(view)
    threads[1].join(PATIENCE)
    assert taken == [long]
    turns.give_back(long)
    threads[0].join(PATIENCE)
    assert taken == [long, mining]


def test_who_is_cancelled_is_passed_over():
    turns = Turns()
    first, second = Turn(), Turn()
    for turn in (first, second):
        turns.ask(turn)
    first.cancel.set()
    assert turns.leave(first)
    assert not turns.leave(first)
    assert turns.next_view() is second


def test_waiting_ends_when_it_is_cancelled_or_all_is_over():
    turns = Turns()
    turns.ask(view := Turn())
    assert turns.next_view() is view
    waiting = [Turn(Kind.LONG, "a"), Turn(Kind.LONG, "b")]
    ends = []

    def wait(turn):
        turns.ask(turn)
        with pytest.raises(Cancelled):
            turns.take(turn)
        ends.append(turn)

    threads = [threading.Thread(target=wait, args=(turn,)) for turn in waiting]
    for thread in threads:
        thread.start()
    waiting[0].cancel.set()
    turns.leave(waiting[0])
    threads[0].join(PATIENCE)
    assert ends == waiting[:1]
    turns.stop()
    threads[1].join(PATIENCE)
    assert ends == waiting
    assert turns.next_view() is None


class Workers:
    """Long work in threads, each step of which notes who had the network."""

    def __init__(self, turns):
        self.turns, self.log, self.holders, self.crowded, self.threads = turns, [], 0, False, []
        self.lock = threading.Lock()

    def begin(self, turn, steps, seconds=0.0):
        def work():
            self.turns.ask(turn)
            self.turns.take(turn)
            try:
                for _ in range(steps):
                    with self.lock:
                        self.holders += 1
                        self.crowded |= self.holders > 1
                    self.log.append(turn.line)
                    time.sleep(seconds)
                    with self.lock:
                        self.holders -= 1
                    self.turns.give_way(turn)
            finally:
                self.turns.give_back(turn)

        self.threads.append(thread := threading.Thread(target=work))
        thread.start()

    def join(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_long_work_shares_the_time_between_lines_and_finishes_what_it_began(monkeypatch):
    monkeypatch.setattr(turns_module, "SLICE_SECONDS", 0.0)
    turns = Turns()
    turns.ask(view := Turn())
    assert turns.next_view() is view  # nobody begins before all stand in line
    workers = Workers(turns)
    for line in ("a", "a", "b"):
        workers.begin(Turn(Kind.LONG, line), 5)
        time.sleep(0.02)
    turns.give_back(view)
    workers.join()
    assert not workers.crowded
    assert workers.log[:10] == ["a", "b"] * 5, "turn and turn about; the second of a line begins when its first is done"
    assert workers.log[10:] == ["a"] * 5


def test_within_its_slice_long_work_keeps_the_network(monkeypatch):
    monkeypatch.setattr(turns_module, "SLICE_SECONDS", 60.0)
    turns = Turns()
    turns.ask(view := Turn())
    turns.next_view()
    workers = Workers(turns)
    for line in "ab":
        workers.begin(Turn(Kind.LONG, line), 4)
        time.sleep(0.02)
    turns.give_back(view)
    workers.join()
    assert workers.log == ["a"] * 4 + ["b"] * 4


def test_only_so_much_long_work_is_begun_at_once(monkeypatch):
    monkeypatch.setattr(turns_module, "SLICE_SECONDS", 0.0)
    turns = Turns()
    turns.ask(view := Turn())
    turns.next_view()
    workers = Workers(turns)
    lines = "abcde"
    for line in lines:
        workers.begin(Turn(Kind.LONG, line), 6)
    time.sleep(0.05)
    turns.give_back(view)
    workers.join()
    begun, most = {}, 0
    for index, line in enumerate(workers.log):
        begun.setdefault(line, index)
        under_way = [each for each in begun if workers.log[index:].count(each)]
        most = max(most, len(under_way))
    assert most == MOST_LONG_AT_ONCE
    assert sorted(workers.log) == sorted(lines * 6)


def test_a_view_waits_for_one_step_of_long_work_only():
    turns = Turns()
    workers = Workers(turns)
    workers.begin(Turn(Kind.LONG, "long"), 400, 0.002)
    workers.begin(Turn(Kind.MINING, "mining"), 5, 0.002)
    for _ in range(10):
        time.sleep(0.01)
        before = len(workers.log)
        turns.ask(Turn(Kind.VIEW, "view"))
        view = turns.next_view()
        assert len(workers.log) <= before + 2
        turns.give_back(view)
    assert "mining" not in workers.log, "it waits until the long work is done"
    workers.join()
    assert workers.log[-5:] == ["mining"] * 5


def test_lines_that_are_long_gone_are_forgotten():
    turns = Turns()
    for number in range(1000):
        turns.ask(Turn(Kind.VIEW, str(number)))
        turns.give_back(turns.next_view())
    assert len(turns._served) <= 256
