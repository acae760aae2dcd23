"""A load plan carried out by several processes."""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Final, Self

import uvloop

from loadtests.generator.client import Client
from loadtests.generator.payloads import Payload
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import LoadResult

# between the last process's readiness and the first request
_LEAD_S: Final = 0.1

Progress = Callable[[float, Counter[str]], None]


class GeneratorError(RuntimeError):
    """A process of the generator ended without a result."""


class LoadRun:
    """Starts the processes, which is what `start` waits for, and collects their figures.

    Args:
        progress: told every second how long the run has lasted, and what was settled since.
    """

    def __init__(
        self, plan: LoadPlan, payloads: Sequence[Payload], progress: Progress | None = None
    ) -> None:
        self._plan = plan
        self._payloads = payloads
        self._progress = progress
        self._processes: list[Any] = []
        self._pipes: list[Pipe] = []
        self.started_at = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def start(self) -> None:
        """All processes begin at the same time; returns when they do."""
        context = multiprocessing.get_context("spawn")
        for number in range(self._plan.processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(theirs, self._plan, self._payloads, (number, self._plan.processes)),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            self._receive(pipe)
        self.started_at = time.monotonic() + _LEAD_S
        for pipe in self._pipes:
            pipe.send(self.started_at)

    def wait(self) -> LoadResult:
        """The figures of all processes.

        Raises:
            GeneratorError: one of them died.
        """
        whole = LoadResult()
        running = list(self._pipes)
        while running:
            for pipe in wait(running):
                message = self._receive(pipe)  # type: ignore[arg-type]
                if isinstance(message, LoadResult):
                    whole.merge(message)
                    running.remove(pipe)  # type: ignore[arg-type]
                elif self._progress is not None:
                    self._progress(time.monotonic() - self.started_at, message)
        for process in self._processes:
            process.join()
        return whole

    def _receive(self, pipe: Pipe) -> Any:
        try:
            return pipe.recv()
        except EOFError as exc:
            raise GeneratorError("a process of the load generator died") from exc

    def _kill(self) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()


def run_load(
    plan: LoadPlan, payloads: Sequence[Payload], progress: Progress | None = None
) -> LoadResult:
    """Carry out a plan, from start to end.

    Raises:
        GeneratorError: a process of the generator died.
    """
    with LoadRun(plan, payloads, progress) as run:
        return run.wait()


def warm_up(plan: LoadPlan, payloads: Sequence[Payload]) -> LoadResult:
    """Carry out a plan in this process, which nothing has to start first.

    The figures are worth little: one process may be too slow to load a server fully.
    """

    async def generate() -> LoadResult:
        client = Client(plan, payloads, share=(0, 1), start_at=time.monotonic())
        return (await client.run()).result

    # asyncio's own loop lets an exception of a signal handler through, uvloop does not promise to
    return asyncio.run(generate())


def _work(pipe: Pipe, plan: LoadPlan, payloads: Sequence[Payload], share: tuple[int, int]) -> None:
    """One process."""
    pipe.send("ready")
    start_at: float = pipe.recv()
    uvloop.run(_generate(pipe, plan, payloads, share, start_at))


async def _generate(
    pipe: Pipe,
    plan: LoadPlan,
    payloads: Sequence[Payload],
    share: tuple[int, int],
    start_at: float,
) -> None:
    client = Client(plan, payloads, share=share, start_at=start_at)
    telling = asyncio.create_task(_tell(pipe, client, start_at))
    recorder = await client.run()
    telling.cancel()
    pipe.send(recorder.result)
    pipe.close()


async def _tell(pipe: Pipe, client: Client, start_at: float) -> None:
    second = 0
    while True:
        second += 1
        await asyncio.sleep(start_at + second - time.monotonic())
        pipe.send(client.recorder.end_second())
