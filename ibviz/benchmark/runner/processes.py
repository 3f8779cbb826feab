"""The processes that `torchrun` or `accelerate launch` started; one alone is the usual case."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

PATIENCE = timedelta(days=7)  # for the slowest; a process that died is noticed at once, by its closed connection
Agreed = TypeVar("Agreed")


@dataclass(frozen=True)
class Processes:
    """This process among those of its job."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one decides, speaks and puts together."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """What this process does of many equal things, whoever is there: every `count`-th.

        >>> list(Processes(1, 2).share(5))
        [1, 3]
        """
        return range(self.rank, items, self.count)

    def agreed(self, make: Callable[[], Agreed]) -> Agreed:
        """What the first process makes, in all of them.

        >>> Processes().agreed(lambda: 3)
        3
        """
        if self.count == 1:
            return make()
        made = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0)
        assert made[0] is not None
        return made[0]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def first_first(self) -> Iterator[None]:
        """The first process goes ahead, to download what the others then find."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Processes()


@contextmanager
def together() -> Iterator[Processes]:
    """Join the other processes of the job over gloo, which sends but a plan and a few words."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
