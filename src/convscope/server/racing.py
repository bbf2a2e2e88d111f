"""The race: optimizers side by side on the same batches, in a thread of its own. One at a time. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.progress import watch
from convscope.server import training_schema as schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.server.jobs import Jobs
    from convscope.server.training_data import TrainingData, Wanted
    from convscope.training.race import Race

_log = logging.getLogger("convscope")


class Racing:
    """A session's race."""

    def __init__(self, data_sets: TrainingData, jobs: Jobs) -> None:
        self._data_sets = data_sets
        self._jobs = jobs
        self._race: Race | None = None
        self._steps = 0
        self._facts = ("", "")
        self._error = ""
        self._thread: threading.Thread | None = None
        self._changing = asyncio.Lock()

    async def begin(self, wanted: Wanted, racers: Mapping[str, Mapping[str, Any]], steps: int, job: str) -> None:
        """Begin a race and let it run."""
        settings = {name: wanted.settings.changed(changes) for name, changes in racers.items()}

        def work() -> Race:
            from convscope.training.race import Race

            data, definition = self._data_sets.of(wanted)
            self._facts = (wanted.name, data.name)
            return Race(definition, data, settings, seed=wanted.seed)

        async with self._changing:
            race = await self._jobs.run_beside(f"race {job}", work, job)
            await self._stop()
            self._race, self._steps, self._error = race, steps, ""
            await asyncio.to_thread(self._start, race)

    async def go_on(self) -> None:
        """Go on with the race."""
        async with self._changing:
            race = self._required()
            if race.state != "running":
                await asyncio.to_thread(self._start, race)

    async def pause(self) -> None:
        """Stop for now."""
        async with self._changing:
            self._required()
            await self._stop()

    async def end(self) -> None:
        """Stop, and forget the race."""
        async with self._changing:
            await self._stop()
            self._race = None

    def _required(self) -> Race:
        if self._race is None:
            raise Refused("there is no race", next_step="begin one")
        return self._race

    async def _stop(self) -> None:
        if self._race is not None and self._thread is not None:
            self._race.pause()
            await asyncio.to_thread(self._thread.join)

    def _start(self, race: Race) -> None:
        begun = threading.Event()

        def work() -> None:
            import torch

            torch.set_num_threads(1)  # the networks are small, and something else may be training
            try:
                with watch(lambda _: begun.set()), suppress(Cancelled):
                    race.run(self._steps)
            except Exception as error:
                _log.exception("the race failed")
                self._error = str(error) if isinstance(error, ConvscopeError) else type(error).__name__
            finally:
                begun.set()

        self._thread = threading.Thread(target=work, name="convscope race", daemon=True)
        self._thread.start()
        begun.wait(5.0)

    def answer(self, points: int) -> schema.Race:
        """The race as pages show it."""
        from convscope.server.training_answers import curve_answer

        race = self._race
        if race is None:
            return schema.Race(state="none", step=0, steps=0, network="", data="", racers=[], error="")
        state: Any = "failed" if self._error else race.state
        return schema.Race(
            state=state,
            step=race.steps,
            steps=self._steps,
            network=self._facts[0],
            data=self._facts[1],
            racers=[
                schema.Racer(
                    name=each.name,
                    settings=each.learner.settings.to_json(),
                    curves=[curve_answer(name, *curve, points) for name, curve in each.curves.read().items()],
                    failed=each.failed,
                )
                for each in race.racers
            ],
            error=self._error,
        )


__all__ = ["Racing"]
