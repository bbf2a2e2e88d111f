"""A process that has imported everything and forks a child that mines, again and again: importing torch takes longer
than all of the mining here. It has run nothing of torch before, so that its children may.

For a line of its input, a study's folder, it answers with the child's number; for the next, any line, with its exit
status, when it has ended.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch
from executor_cases import Pictures, small_network

from convscope.mining.mine import mine

IMAGES, SHARD = 96, 8


def child(folder: str) -> NoReturn:
    torch.set_num_threads(1)
    mine(small_network(), Pictures(IMAGES), study=folder, executor="serial", k=4, shard_size=SHARD, batch_size=8)
    os._exit(0)


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    while line := sys.stdin.readline():
        number = os.fork()
        if not number:
            try:
                child(line.strip())
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                sys.stderr.flush()
                os._exit(1)
        answer(number)
        sys.stdin.readline()  # until then its number is nobody else's
        _, status = os.waitpid(number, 0)
        answer(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
