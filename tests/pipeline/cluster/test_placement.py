"""Workers fit whole on single nodes, and get as many CPUs as their nodes have for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.placement import (
    Node,
    capacity,
    default_workers,
    describe,
    fitting,
    kept_cpus,
    place,
    share,
    shares,
    side_by_side,
)
from sharding.errors import InputError

NODES = st.lists(st.builds(Node, cpus=st.integers(0, 24), gpus=st.just(0)), min_size=1, max_size=5)


def test_a_worker_does_not_span_nodes() -> None:
    two_small = [Node(2, 0), Node(2, 0)]
    assert share(two_small, 1) == 2
    assert share(two_small, 2) == 2
    assert share(two_small, 3) == 1
    assert share(two_small, 5) == 0


def test_the_head_without_cpus_carries_nobody() -> None:
    assert share([Node(0, 0), Node(1, 0), Node(1, 0)], 2) == 1
    assert share([Node(0, 0)], 1) == 0
    assert share([], 1) == 0


def test_with_gpus_every_worker_has_one() -> None:
    nodes = [Node(8, 0), Node(48, 4), Node(48, 4)]
    assert capacity(nodes, 1) == 8
    assert share(nodes, 8) == 12
    assert share(nodes, 9) == 0
    assert default_workers(nodes) == 8


@pytest.mark.parametrize(("head", "workers"), [(Node(0, 4), 8), (Node(1, 4), 9)])
def test_gpus_without_a_cpu_get_no_worker_by_default(head: Node, workers: int) -> None:
    assert shares([head, Node(32, 8)], None) == (workers, 1.0, 1 if head.cpus else 4)
    assert shares([Node(4, 8)], None) == (4, 1.0, 1)


def test_by_default_a_worker_per_two_cpus_and_none_is_too_large_for_its_node() -> None:
    assert default_workers([Node(1, 0), Node(1, 0)]) == 2
    assert default_workers([Node(0, 0), Node(8, 0)]) == 4
    assert default_workers([Node(0, 0)]) == 1


def test_a_range_of_workers_gets_shares_for_the_most_that_fit() -> None:
    two = [Node(0, 0), Node(4, 0), Node(4, 0)]
    assert place(two, 1, 4, None) == (False, 2)
    assert place(two, 1, 100, None) == (False, 1)
    assert place(two, 2, 2, 3) == (False, 3)
    assert place([Node(48, 4)], 4, 4, None) == (True, 12)


def test_what_does_not_fit_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no room for 2 workers of 3 CPUs .*\(4 CPUs 0 GPUs\)"):
        place([Node(4, 0)], 2, 2, 3)
    with pytest.raises(InputError, match=r"no room for 5 workers .*4 CPUs"):
        shares([Node(4, 0)], 5)
    assert shares([Node(2, 0), Node(2, 0)], 1) == (1, 0.0, 2)


@given(nodes=NODES, workers=st.integers(1, 40))
def test_share_is_the_largest_that_fits(nodes: list[Node], workers: int) -> None:
    found = share(nodes, workers)
    fits = [c for c in range(1, 26) if sum(node.cpus // c for node in nodes) >= workers]
    assert found == max(fits, default=0)


@given(nodes=NODES)
def test_the_usual_number_fits_wherever_there_is_a_cpu(nodes: list[Node]) -> None:
    assert share(nodes, default_workers(nodes)) > 0 or not any(node.cpus for node in nodes)


def test_what_is_free_decides_how_many_workers_start() -> None:
    assert fitting([Node(4, 0), Node(1, 0)], 1, 4, 2, 0) == 2
    assert fitting([Node(4, 0), Node(1, 0)], 3, 4, 2, 0) == 0, "not even the fewest"
    assert fitting([Node(48, 4)], 2, 2, 4, 1) == 2
    assert fitting([Node(48, 0)], 1, 4, 4, 1) == 0, "others have every GPU"
    assert fitting([Node(0, 4)], 1, 4, 4, 1) == 0, "others have every CPU"
    assert fitting([], 1, 4, 1, 0) == 0


def test_a_part_of_a_cpu_is_none() -> None:
    assert Node.of({"CPU": 3.9999, "GPU": 0.5, "memory": 1e9}) == Node(3, 0)
    assert Node.of({}) == Node(0, 0)


def test_cpus_that_are_asked_for_bound_the_workers() -> None:
    nodes = [Node(4, 0), Node(2, 0)]
    assert shares(nodes, None, 2) == (3, 0.0, 2)
    assert shares(nodes, 1, 2) == (1, 0.0, 2), "not the 4 that one alone would get"
    for workers, cpus in ((4, 2), (None, 5)):
        with pytest.raises(InputError, match="lower --workers or --cpus-per-worker"):
            shares(nodes, workers, cpus)


@pytest.mark.parametrize(
    ("nodes", "workers", "begun", "kept"),
    [
        ([Node(2, 0)], 1, 1, 1),
        ([Node(2, 0), Node(2, 0)], 2, 2, 2),
        ([Node(2, 0)], 2, 2, None),
        ([Node(2, 0)], 1, None, None),
        ([Node(8, 1)], 1, 2, None),
    ],
    ids=["fewer-than-there-are", "all", "too-many", "a-new-run", "on-a-gpu"],
)
def test_cpus_are_kept_where_they_fit_and_matter(
    nodes: list[Node],
    workers: int,
    begun: int | None,
    kept: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert kept_cpus(nodes, workers, begun) == kept
    said = capsys.readouterr().out.count("no room for 2 times 2 CPUs")
    assert said == (workers == begun == 2 and kept is None)


def test_a_cluster_in_words() -> None:
    assert describe([Node(2, 0)]) == "1 node, 2 CPUs, no GPU"
    assert describe([Node(8, 1), Node(8, 0)]) == "2 nodes, 16 CPUs, 1 GPU"


def test_jobs_side_by_side_share_the_nodes() -> None:
    nodes = [Node(8, 0), Node(8, 0)]
    assert side_by_side(nodes, None, 1, None) == (16, 1)
    assert side_by_side(nodes, 4, 1, None) == (4, 4)
    assert side_by_side(nodes, 3, 2, None) == (3, 2)
    assert side_by_side(nodes, 3, 2, 4) == (2, 4), "no more than have room"
    assert side_by_side([Node(48, 4)], None, 2, None) == (2, 12), "a GPU for each worker"
    with pytest.raises(InputError, match="no room for 3 workers"):
        side_by_side([Node(2, 0)], None, 3, None)
