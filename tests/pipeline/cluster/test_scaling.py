"""A job asks for the nodes that its workers lack, and says which never come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.cluster.placement import Node
from pipeline.cluster.scaling import (
    Growth,
    NodeType,
    NotJoined,
    Request,
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
