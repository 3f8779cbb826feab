"""The processes that `torchrun` or `accelerate launch` started; usually there is a single one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

PATIENCE = timedelta(days=7)  # for the slowest process; a dead one is noticed at once by its closed connection
Agreed = TypeVar("Agreed")


@dataclass(frozen=True)
class Processes:
    """The rank of this process and the number of processes in its job."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the process that plans, prints and assembles the result."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """Return this process's share of some equal items: every `count`-th.

        >>> list(Processes(1, 2).share(5))
        [1, 3]
        """
        return range(self.rank, items, self.count)

    def broadcast(self, make: Callable[[], Agreed]) -> Agreed:
        """Return in all processes what `make` returns in the first.

        >>> Processes().broadcast(lambda: 3)
        3
        """
        if self.count == 1:
            return make()
        made = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0)
        assert made[0] is not None
        return made[0]

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Run the block in the first process before the others, so that it downloads files for all."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Processes()


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the other processes of the job over gloo, which only carries the plan and short messages."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
