from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from datetime import datetime

from fl_cluster.program import context as module
from fl_cluster.program.context import FLContext, fl_context
from fl_cluster.program.ssl_config import SSLConfig
from fl_cluster.program.yaml_config import load_settings, load_yaml_config

IMPORTED_AT = time.time()


def test_there_is_one_context_per_process(context: FLContext) -> None:
    assert fl_context() is context
    assert FLContext.get_instance() is context


def test_before_a_file_was_loaded_it_has_defaults(context: FLContext) -> None:
    assert (context.fl_name(), context.fl_iteration_num()) == ("", 20)
    assert (context.client_epoch_num(), context.client_batch_size()) == (25, 32)


def test_a_loaded_file_fills_it(context: FLContext, write_config: Callable[..., str]) -> None:
    load_yaml_config(write_config(), module.ROLE_OF_SERVER)

    assert context.ms_role() == "MS_SERVER"
    assert context.server_mode() == module.SERVER_MODE_FL
    assert context.encrypt_type() == module.ENCRYPT_NONE
    assert (context.fl_name(), context.fl_iteration_num()) == ("Lenet", 25)
    assert (context.start_fl_job_threshold(), context.update_model_ratio()) == (2, 0.5)
    assert context.start_fl_job_time_window() == 3000
    assert context.update_model_time_window() == 4000
    assert context.global_iteration_time_window() == 60000
    assert (context.client_epoch_num(), context.client_batch_size()) == (20, 16)
    assert context.client_learning_rate() == 0.25
    assert (context.aggregation_type(), context.iid_rate()) == (module.FEDAVG, 0.0)
    assert (context.total_client_num(), context.enable_ssl()) == (1, False)


def test_a_second_file_leaves_nothing_of_the_first(
    context: FLContext, write_config: Callable[..., str]
) -> None:
    load_settings(write_config(), "server")
    load_settings(write_config(client="#"), "server")

    assert context.client_epoch_num() == 25


def test_a_scheduler_looks_only_at_its_sections(
    context: FLContext, write_config: Callable[..., str]
) -> None:
    load_yaml_config(write_config(start_fl_job_threshold="  x: y"), module.ROLE_OF_SCHEDULER)

    assert context.fl_name() == "Lenet"
    assert context.client_epoch_num() == 25


def test_what_a_program_sets_outlives_a_file(
    context: FLContext, write_config: Callable[..., str]
) -> None:
    context.set_http_server_address("127.0.0.1:6666")
    context.set_tcp_server_ip("10.0.0.7")
    context.set_checkpoint_dir("here")
    context.set_scheduler_manage_address("127.0.0.1:11202")
    context.set_ssl_config(SSLConfig("server secret", "client secret"))
    load_settings(write_config(), "server")
    context.set_ssl_config(None)

    assert context.http_server_address() == "127.0.0.1:6666"
    assert context.tcp_server_ip() == "10.0.0.7"
    assert context.checkpoint_dir() == "here"
    assert context.scheduler_manage_address() == "127.0.0.1:11202"
    assert (context.server_password(), context.client_password()) == (
        "server secret",
        "client secret",
    )


def test_the_instance_has_a_name_from_its_time_unless_it_is_given_one(context: FLContext) -> None:
    name = context.instance_name()

    assert re.fullmatch(r"instance_\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", name)
    began = datetime.fromisoformat(name.removeprefix("instance_")).timestamp()
    assert began < IMPORTED_AT, "it is when the process began, and not when the name was asked for"
    assert context.instance_name() == name
    context.set_instance_name("mine")
    assert context.instance_name() == "mine"


def test_a_forked_child_has_an_instance_of_its_own(context: FLContext) -> None:
    name = context.instance_name()
    fork = multiprocessing.get_context("fork")
    mine, childs = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: childs.send(context.instance_name()))

    child.start()
    childs_name = mine.recv()
    child.join()

    assert childs_name > name


def test_what_a_file_says_of_aggregation_is_told(
    context: FLContext, write_config: Callable[..., str]
) -> None:
    section = "aggregation: {aggregation_type: FedProx, iid_rate: 0.25, total_client_num: 6}"
    file = write_config(enable_ssl=f"enable_ssl: false\n{section}")
    load_yaml_config(file, module.ROLE_OF_SERVER)

    assert (context.aggregation_type(), context.iid_rate()) == (module.FEDPROX, 0.25)
    assert context.total_client_num() == 6


def test_the_remaining_setters_are_read_back(context: FLContext) -> None:
    context.set_enable_ssl(True)
    context.set_secure_aggregation(True)
    context.set_global_iteration_time_window(7)

    assert context.enable_ssl()
    assert context.secure_aggregation()
    assert context.global_iteration_time_window() == 7
