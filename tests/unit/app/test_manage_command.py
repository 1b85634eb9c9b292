"""Commands that ask a scheduler: what they send, what they show, how they end."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app import options
from fl_cluster.app.cli import main
from fl_cluster.app.manage_command import CALLS, ask, run
from fl_cluster.app.manage_command import Scheduler as Place
from fl_cluster.errors import PeerProtocolError, StartupError, StoreUnavailable
from fl_cluster.security.tls_door import PLAIN_TEXT

OK = {"code": "0", "message": "done"}


@dataclass
class Scheduler:
    """Answers every request with the given status and body, and remembers what was asked."""

    answer: bytes = json.dumps(OK).encode()
    status: int = 200
    address: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    server: http.server.HTTPServer | None = None


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    known = Scheduler()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known.asked.append((self.command, self.path, body.decode()))
            self.send_response(known.status)
            self.send_header("Content-Length", str(len(known.answer)))
            self.end_headers()
            self.wfile.write(known.answer)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    known.server = server
    known.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield known
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("words", "request_line", "body"),
    [
        (["state"], ("GET", "/state?detail=1"), None),
        (["nodes"], ("GET", "/nodes"), None),
        (["query-instance"], ("GET", "/queryInstance"), None),
        (["enable"], ("GET", "/enableFLS"), None),
        (["disable"], ("GET", "/disableFLS"), None),
        (["scalein", "a:1::x", "b"], ("POST", "/scalein"), {"node_ids": ["a:1::x", "b"]}),
        (["scaleout"], ("POST", "/scaleout"), {"server_num": 1}),
        (["scaleout", "3"], ("POST", "/scaleout"), {"server_num": 3}),
        (["new-instance"], ("POST", "/newInstance"), {}),
        (
            ["new-instance", "start_fl_job_threshold=2", "client_learning_rate=0.03"],
            ("POST", "/newInstance"),
            {"start_fl_job_threshold": 2, "client_learning_rate": 0.03},
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_each_command_is_one_request(
    scheduler: Scheduler,
    words: list[str],
    request_line: tuple[str, str],
    body: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main([words[0], f"--manage={scheduler.address}", *words[1:]])

    [(method, path, sent)] = scheduler.asked
    assert code == 0
    assert (method, path) == request_line
    assert (json.loads(sent) if sent else None) == body
    assert capsys.readouterr().err == ""


def test_every_command_about_a_cluster_has_its_call() -> None:
    assert set(CALLS) == set(options.MANAGE_COMMANDS)


def test_what_was_done_is_said(scheduler: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enable", f"--manage={scheduler.address}"]) == 0

    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("name", ["state", "explain", "enable"])
def test_programs_get_the_whole_answer(
    scheduler: Scheduler, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    scheduler.answer = json.dumps(OK | {"nodes": [{"é": 1}]}).encode()

    assert main([name, "--format=json", f"--manage={scheduler.address}"]) == 0

    assert json.loads(capsys.readouterr().out) == OK | {"nodes": [{"é": 1}]}


@pytest.mark.parametrize("name", ["state", "explain", "disable", "scaleout"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_refusal_is_its_sentence_on_standard_error_and_exit_code_1(
    scheduler: Scheduler, capsys: pytest.CaptureFixture[str], name: str, output: str
) -> None:
    refusal = {"code": "1", "error_message": "The instance has already been disabled."}
    scheduler.answer, scheduler.status = json.dumps(refusal).encode(), 400

    assert main([name, f"--format={output}", f"--manage={scheduler.address}"]) == 1

    shown = capsys.readouterr()
    assert shown.err == "The instance has already been disabled.\n"
    assert (json.loads(shown.out) if output == "json" else shown.out) == (
        refusal if output == "json" else ""
    )


def test_a_scheduler_without_its_redis_is_exit_code_3(
    scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "Failed to access the cache server. Please retry later."
    scheduler.answer = json.dumps({"code": "1", "error_message": sentence}).encode()
    scheduler.status = 400

    assert main(["state", f"--manage={scheduler.address}"]) == 3

    assert capsys.readouterr().err == f"the scheduler at {scheduler.address}: {sentence}\n"


def test_a_scheduler_that_does_not_answer_is_exit_code_3(
    free_port: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"

    assert main(["explain", f"--manage={address}"]) == 3

    assert capsys.readouterr().err.startswith(f"no scheduler answers at {address}: ")


def test_a_refusal_without_a_sentence_is_one_all_the_same(scheduler: Scheduler) -> None:
    scheduler.answer = b'{"code":"7"}'
    parsed = options.parse(["enable", f"--manage={scheduler.address}"])

    with pytest.raises(Exception, match="the scheduler gave no reason"):
        run(parsed, print)


def test_a_proxy_of_the_environment_is_not_asked(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert ask(Place.at(scheduler.address), "/state") == OK


def test_an_address_that_cannot_be_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="--manage here: "):
        Place.at("here")


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_an_answer_that_is_no_scheduler_s_is_one_sentence(
    scheduler: Scheduler, body: bytes
) -> None:
    scheduler.answer = body

    with pytest.raises(PeerProtocolError, match="JSON"):
        ask(Place.at(scheduler.address), "/state")


def test_a_link_that_breaks_is_no_answer(free_port: Callable[..., int]) -> None:
    with pytest.raises(StoreUnavailable):
        ask(Place.at(f"127.0.0.1:{free_port()}"), "/state")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new-instance", "threshold=2"], "'threshold' cannot be changed; these can: "),
        (["new-instance", "start_fl_job_threshold"], "expected key=value"),
        (["new-instance", "fl_iteration_num=many"], "fl_iteration_num: expected a number"),
        (["scaleout", "0"], "expected a number from 1 to 1000"),
        (["scalein"], "NODE_ID"),
    ],
)
def test_words_that_cannot_be_are_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options.parse(words)

    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_token_is_not_sent_over_plain_http_to_another_host(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FL_CLUSTER_OPERATOR_TOKEN", "a-token-of-an-operator")

    code = main(["state", "--manage", "192.0.2.1:11202"])

    assert code == 2
    said = capsys.readouterr().err
    assert "the operator's token would go to 192.0.2.1:11202 over plain HTTP" in said
    assert "a-token" not in said


class TestByTls:
    """A scheduler with TLS is asked by https, and known by its authority."""

    @pytest.fixture
    def sealed(self, scheduler: Scheduler, certificates: Any) -> Iterator[Scheduler]:
        """The scheduler of the other tests behind TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.path("server.crt"), certificates.path("server.key"))
        server = scheduler.server
        assert server is not None
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        return scheduler

    def test_it_is_known_by_the_authority_in_a_file(
        self, sealed: Scheduler, certificates: Any
    ) -> None:
        place = Place.at(f"https://{sealed.address}", certificates.path("ca.crt"))
        assert ask(place, "/state") == OK

    def test_one_that_is_not_known_is_one_sentence(
        self, sealed: Scheduler, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["state", "--manage", f"https://{sealed.address}"]) == 3
        said = capsys.readouterr().err
        assert said.endswith(
            f"no scheduler answers at {sealed.address}: its certificate is refused: it does not"
            " come from the CA that is trusted here (wrong CA certificate)\n"
        )

    def test_plain_text_to_it_says_what_to_write(
        self, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scheduler.status, scheduler.answer = 400, PLAIN_TEXT
        assert main(["state", "--manage", scheduler.address]) == 2
        expected = f"speaks TLS: --manage https://{scheduler.address}\n"
        assert capsys.readouterr().err.endswith(expected)

    def test_tls_to_one_without_it_is_one_sentence(
        self, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["state", "--manage", f"https://{scheduler.address}"]) == 3
        assert "it does not speak TLS there" in capsys.readouterr().err

    @pytest.mark.parametrize("address", ["ftp://127.0.0.1:1", "https://127.0.0.1"])
    def test_an_address_of_another_form_is_refused(self, address: str) -> None:
        with pytest.raises(StartupError, match=f"--manage {address}: "):
            Place.at(address)

    def test_a_file_that_holds_no_authority_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "ca.crt").write_text("nothing")
        for path in (tmp_path / "ca.crt", tmp_path / "missing"):
            with pytest.raises(StartupError, match=f"--ca {path}: "):
                Place.at("https://127.0.0.1:1", str(path))
