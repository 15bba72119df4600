"""Forwards in step: all come to a place before any goes on, and none is left behind by a failure."""

import threading

import pytest
import torch

from depgraph.repair.lockstep import Task, in_step


def walk(places, seen, name):
    """A forward that stops at some places and notes what it is answered there."""
    return Task(lambda task: [seen.append((name, place, task.wait(place, name))) for place in places])


def test_all_come_to_a_place_before_any_goes_on():
    """Also where one leaves a place out, and where they meet it in another order than the first."""
    seen, solved = [], []

    def solve(place, tasks):
        solved.append((place, [task.offer for task in tasks]))
        return [f"{place}{task.offer}" for task in tasks]

    tasks = [walk("abd", seen, 1), walk("acd", seen, 2), walk("d", seen, 3)]
    in_step(tasks, "abcd".index, solve)
    assert solved == [("a", [1, 2]), ("b", [1]), ("c", [2]), ("d", [1, 2, 3])]
    assert (2, "c", "c2") in seen and len(seen) == 7


def test_one_runs_at_a_time_and_without_gradients():
    running, most, grads = [], [], []

    def body(task):
        for place in range(3):
            running.append(task)
            most.append(len(running))
            grads.append(torch.is_grad_enabled())
            running.remove(task)
            task.wait(place, None)

    in_step([Task(body) for _ in range(4)], int, lambda place, tasks: [None] * len(tasks))
    assert max(most) == 1 and not any(grads)


@pytest.mark.parametrize("where", ["forward", "solve", "start"])
def test_a_failure_ends_all_and_is_told(where):
    """No thread is left, and what forwards hold open is closed."""
    closed = []

    def body(task):
        try:
            if where == "start" and closed is not None and len(threads()) == 2:
                raise ValueError(where)
            task.wait(0, None)
            if where == "forward":
                raise ValueError(where)
            task.wait(1, None)
        finally:
            closed.append(task)

    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "depgraph-lockstep"]

    def solve(place, tasks):
        if where == "solve":
            raise ValueError(where)
        return [None] * len(tasks)

    with pytest.raises(ValueError, match=where):
        in_step([Task(body) for _ in range(3)], int, solve)
    assert not threads() and len(closed) >= 2
