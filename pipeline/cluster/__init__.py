"""Run on Ray: sessions, tasks, worker placement, preflight, preemption."""
