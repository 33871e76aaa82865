"""Claims about what runs used together: shares weigh by time, of memory the most counts, and what is unknown is not."""

from pipeline.compute.gpu_usage import GPU
from pipeline.compute.host_usage import PROCESS_CPU, PROCESS_MEMORY
from pipeline.compute.usage_summary import DATA_WAIT, describe_usage, summarise_usage


def test_shares_weigh_by_the_time_of_epochs_and_memory_is_the_most() -> None:
    found = summarise_usage(
        [
            (3.0, {PROCESS_CPU: 100.0, DATA_WAIT: 10.0, PROCESS_MEMORY: 800.0}),
            (1.0, {PROCESS_CPU: 20.0, DATA_WAIT: 50.0, PROCESS_MEMORY: 700.0}),
        ]
    )
    assert found == {"cpu_busy": 0.8, "data_wait": 0.2, "memory_mb": 800.0}


def test_epochs_that_do_not_say_count_for_nothing() -> None:
    found = summarise_usage([(9.0, {}), (1.0, {PROCESS_CPU: 50.0}), (1.0, {PROCESS_CPU: 70.0, GPU: 30.0})])
    assert found == {"cpu_busy": 0.6, "gpu_busy": 0.3}
    assert summarise_usage([(9.0, {})]) == summarise_usage([]) == {}
    assert summarise_usage([(0.0, {PROCESS_CPU: 50.0})]) == {}


def test_words_say_what_is_known() -> None:
    assert describe_usage({}) == ""
    assert describe_usage({"cpu_busy": 0.981, "data_wait": 0.0123}) == (
        "CPU cores 98.1 % busy, 1.2 % of the time waiting for data"
    )
    assert describe_usage({"gpu_busy": 0.5, "memory_mb": 800.0}) == "GPU 50.0 % busy"
