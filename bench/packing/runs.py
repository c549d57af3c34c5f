"""Many runs on all cores: one process per run, progress on stderr."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    work: Callable[[Task], Result], tasks: Sequence[Task], words: Callable[[Result], str]
) -> list[Result]:
    """Every task's result, in the order of the tasks. What raises in a run raises here."""
    workers = min(len(tasks), cores())
    done: dict[int, Result] = {}
    with ProcessPoolExecutor(max_workers=max(1, workers)) as pool:
        places = {pool.submit(work, task): place for place, task in enumerate(tasks)}
        try:
            for future in as_completed(places):
                result = done[places[future]] = future.result()
                progress(f"{len(done)} of {len(tasks)}: {words(result)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[place] for place in range(len(tasks))]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def progress(words: str) -> None:
    """A line for whoever waits."""
    print(words, file=sys.stderr, flush=True)


def by(
    results: Sequence[Result], key: Callable[[Result], str]
) -> Iterator[tuple[str, list[Result]]]:
    """The results of each key, in the order in which keys first appear."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    yield from groups.items()
