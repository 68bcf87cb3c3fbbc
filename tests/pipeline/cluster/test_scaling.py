"""A job asks for the nodes that its workers lack, and says which never come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from pipeline.cluster.placement import Node
from pipeline.cluster.scaling import (
    Growth,
    NodeType,
    NotFree,
    NotJoined,
    Request,
    Room,
    may_lose_nodes,
    missing,
    wait,
)
from sharding.errors import one_line_errors

HEAD = Node(0, 0)
GPU, SPOT, SMALL = Node(48, 4), NodeType("spot", Node(48, 4), 8), NodeType("small", Node(8, 0), 4)
CLUSTER = Growth((SPOT, SMALL), 8)
FILE = {
    "max_workers": 8,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "spot": {"resources": {"CPU": 48, "GPU": 4}, "max_workers": 8},
        "small": {"resources": {"CPU": 8}, "max_workers": 4},
        "unknown": {"resources": {}},
        "off": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 0},
    },
}


def test_the_head_s_cluster_file_says_what_may_come() -> None:
    assert Growth.of(FILE) == CLUSTER
    assert Growth.of({"provider": {"type": "local"}}) == Growth()


def test_a_node_that_goes_is_looked_for_wherever_there_may_be_two() -> None:
    assert may_lose_nodes(2, Growth(), "")
    assert may_lose_nodes(1, CLUSTER, ""), "a head whose autoscaler has started none yet"
    assert may_lose_nodes(1, Growth(), "10.0.0.1:6379"), "a head that others have not joined yet"
    assert not may_lose_nodes(1, Growth(), "")
    assert not may_lose_nodes(1, Growth(), "local")


def test_workers_that_fit_ask_for_nothing() -> None:
    assert missing([HEAD, GPU, GPU], CLUSTER, 8, None) is None
    assert missing([HEAD, GPU], CLUSTER, None, None) is None
    assert missing([Node(4, 0)], Growth(), 4, 1) is None


def test_workers_that_do_not_fit_ask_for_a_gpu_and_its_share_of_a_node() -> None:
    assert missing([HEAD], CLUSTER, 8, None) == Request(8, 12, 1)
    assert missing([HEAD, GPU], CLUSTER, 8, 4) == Request(8, 4, 1)
    assert missing([HEAD, Node(8, 0)], CLUSTER, 1, None) == Request(1, 12, 1), "not on CPUs alone"
    assert missing([HEAD], Growth((SMALL,), 4), 8, None) == Request(8, 2, 0)
    assert missing([Node(2, 0)], Growth(), 3, None) == Request(3, 1, 0), "nobody knows what comes"


def test_what_can_never_fit_is_refused_with_the_reason_for_each_type() -> None:
    with pytest.raises(Exception, match="33 workers of 12 CPUs and 1 GPUs never fit") as refused:
        missing([HEAD], CLUSTER, 33, None)
    text = str(refused.value)
    assert "node type spot (48 CPUs, 4 GPUs) holds 4, at most 8 times" in text
    assert "node type small (8 CPUs, 0 GPUs) holds none" in text
    with pytest.raises(Exception, match=r"spot .* holds none; .*raise max_workers"):
        missing([HEAD], CLUSTER, 1, 64)


def test_types_share_the_cluster_s_bound() -> None:
    on_demand = NodeType("on-demand", GPU, 4)
    growth = Growth((SPOT._replace(most=4), on_demand), 6)
    assert growth.at_most(Request(1, 12, 1)) == 24
    assert missing([HEAD], growth, 24, None)
    with pytest.raises(Exception, match="at most 6 nodes"):
        missing([HEAD], growth, 25, None)
    other = Node(24, 2)  # one that the file does not name counts as well
    assert missing([HEAD, other], growth, 26, None)


def joining(*arrivals: int) -> Iterator[list[Node]]:
    """The nodes at each look, from how many GPU nodes there are."""
    for count in arrivals:
        yield [HEAD, *[GPU] * count]


def test_a_wait_says_a_line_a_minute_and_ends_when_all_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks, pauses = joining(*[0] * 12, *[1] * 12, 2), list[float]()
    wait(Request(8, 12, 1), CLUSTER, lambda: next(looks), 30, pauses.append)
    assert sum(pauses) == 120
    assert capsys.readouterr().out.splitlines() == [
        "node type small (8 CPUs, 0 GPUs) holds none of 8 workers of 12 CPUs and 1 GPUs",
        "waiting for nodes: 0 of 8 workers of 12 CPUs and 1 GPUs fit on the nodes that have joined "
        "(1 node, 0 CPUs, no GPU); 0 of 30 minutes",
        "waiting for nodes: 4 of 8 workers of 12 CPUs and 1 GPUs fit on the nodes that have joined "
        "(2 nodes, 48 CPUs, 4 GPUs); 1 of 30 minutes",
    ]


def test_nodes_that_do_not_come_end_the_job_so_that_it_is_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        wait(Request(8, 12, 1), CLUSTER, lambda: [HEAD, GPU], 2, lambda seconds: None)
    assert ended.value.code == NotJoined.exit_code == 75
    assert "error: after 2 minutes 4 of 8 workers" in capsys.readouterr().err


class Cluster:
    """One whose others leave it, node after node, a second for each look."""

    def __init__(self, *free: list[Node], held_after: int | None = None) -> None:
        self.free, self.held_after = list(free), held_after
        self.reserved: list[Request] = []
        self.seconds = 0.0

    def look(self) -> list[Node]:
        return self.free.pop(0) if len(self.free) > 1 else self.free[0]

    @contextlib.contextmanager
    def reserving(self, request: Request) -> Iterator[Callable[[], bool]]:
        self.reserved.append(request)
        yield lambda: self.held_after is not None and self.seconds >= self.held_after
        self.reserved.pop()

    def pause(self, seconds: float) -> None:
        self.seconds += seconds

    def room(self, request: Request, most: int, minutes: float | None = None) -> Room:
        place = {"free": self.look, "reserving": self.reserving, "pause": self.pause}
        return Room(request, most, minutes, **place)


TWO = Request(2, 2, 0)


def test_workers_that_fit_on_what_is_free_start_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster([Node(4, 0), Node(4, 0)])
    assert cluster.room(TWO, 4).find(None) == 4
    assert cluster.seconds == 0
    assert capsys.readouterr().out == ""


def test_an_elastic_run_starts_with_what_is_free_now_or_in_a_moment() -> None:
    busy, half = [Node(0, 0), Node(0, 0)], [Node(4, 0), Node(1, 0)]
    cluster = Cluster(busy, half)
    assert cluster.room(Request(1, 2, 0), 4).find(None) == 2
    assert 0 < cluster.seconds < 10
    assert Cluster(busy, half, [Node(4, 0), Node(4, 0)]).room(TWO, 4).find(None) == 4


def test_a_run_waits_a_line_a_minute_until_others_have_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster([Node(3, 0)], held_after=100)
    assert cluster.room(TWO, 2, 600).find(None) == 2
    state = "1 of 2 workers of 2 CPUs and 0 GPUs fit on what is free (1 node, 3 CPUs, no GPU)"
    assert capsys.readouterr().out.splitlines() == [
        f"waiting until others have ended: {state}; {minutes} of 600 minutes" for minutes in (0, 1)
    ]
    assert not cluster.reserved, "given back"


@pytest.mark.parametrize(("minutes", "waited"), [(None, 1800), (7, 420), (0, 0)])
def test_a_run_that_others_leave_no_room_is_to_be_repeated(
    minutes: float | None, waited: float, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster([Node(1, 0)])
    with pytest.raises(SystemExit) as ended, one_line_errors():
        cluster.room(TWO, 2, minutes).find(None)
    assert ended.value.code == NotFree.exit_code == 75
    assert waited <= cluster.seconds < waited + 10
    error = capsys.readouterr().err
    assert f"after {waited // 60} minutes 0 of 2 workers of 2 CPUs and 0 GPUs fit on" in error
    assert "(1 node, 1 CPU, no GPU)" in error


def test_starts_in_vain_use_up_the_time_and_a_run_that_gets_on_has_all_of_it_again() -> None:
    room = Cluster([Node(4, 0)]).room(TWO, 2, 10)
    assert [room.missed() for _ in range(4)] == [True, True, True, False]
    room.find("checkpoint 1")
    assert room.missed()
    room.find("checkpoint 1")
    assert [room.missed() for _ in range(3)] == [True, True, False]


def test_a_wait_ends_when_it_is_asked_to() -> None:
    def check() -> None:
        raise InterruptedError

    cluster = Cluster([Node(1, 0)])
    with pytest.raises(InterruptedError):
        cluster.room(TWO, 2).find(None, check)
