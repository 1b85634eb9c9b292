"""Models as files: built once, from memory when the store is away, and only for who may."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fl_cluster.api import downloads, plain_http
from fl_cluster.api.downloads import Downloads
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.service import token_changes
from fl_cluster.service.token_book import TokenBook
from fl_cluster.service.token_changes import TokenWish
from fl_cluster.store.memory_identity import MemoryTokenStore

NOW_MS = 1_795_000_000_000


@dataclass(frozen=True)
class Got:
    status: int
    head: str
    body: bytes

    @property
    def tensors(self) -> dict[str, list[float]]:
        loaded = np.load(io.BytesIO(self.body), allow_pickle=False)
        return {name: loaded[name].tolist() for name in loaded}


Get = Callable[..., Awaitable[Got]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Get]]]:
    """Serves a member's models; `get(path, *header_lines)` asks for one."""
    opened: list[plain_http.Listener] = []

    async def start(member: Any, gatekeeper: Gatekeeper | None = None) -> Get:
        folders = Downloads(member.view, gatekeeper or Gatekeeper()).folders("")

        def on_fault(request: Any, fault: Exception) -> plain_http.Answer:
            raise AssertionError(request.path) from fault

        plane = plain_http.Plane(
            {}, on_fault, lambda _: plain_http.Answer(b"bug", status=500), folders=folders
        )
        listener = await plain_http.listen(plane, "127.0.0.1", 0)
        opened.append(listener)

        async def get(path: str, *headers: str) -> Got:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
            writer.write("\r\n".join(lines).encode())
            answer = await reader.read()
            writer.close()
            head, _, body = answer.partition(b"\r\n\r\n")
            return Got(int(head.split()[1]), head.decode(), body)

        return get

    yield start
    for listener in opened:
        await listener.close(drain_s=0.1)


async def test_those_who_ask_together_get_one_file(
    bench: Any, member: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.run_rounds(1)
    get = await serve(member)
    built: list[str] = []

    def count(arrays: Any) -> bytes:
        built.append(",".join(arrays))
        return real(arrays)

    real = downloads.npz_bytes
    monkeypatch.setattr(downloads, "npz_bytes", count)

    answers = await asyncio.gather(*(get("/model/1") for _ in range(8)))
    answers.append(await get("/model/1", "Range: bytes=0-"))

    assert {each.body for each in answers} == {real(member.view.base.model.arrays())}
    assert built == [",".join(member.view.base.model.arrays())]


async def test_every_tensor_is_in_the_file(bench: Any, member: Any, serve: Any) -> None:
    get = await serve(member)

    arrays = member.view.base.model.arrays()

    assert (await get("/model/0")).tensors == {name: a.tolist() for name, a in arrays.items()}


async def test_a_model_that_another_member_made_just_now_is_found(bench: Any, serve: Any) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    get = await serve(other)
    for device in ("d1", "d2"):
        await one.flat.check_in(device)
        await one.flat.report(device)
    await one.view.refresh()
    assert await one.finisher.finish()
    assert other.view.base.record.number == 0

    assert (await get("/model/1")).status == 200


async def test_without_the_store_what_is_at_hand_is_served_and_the_rest_is_for_later(
    bench: Any, member: Any, serve: Any
) -> None:
    await bench.run_rounds(2)
    get = await serve(member)
    first = await get("/model/1")
    member.lose_store()

    assert (await get("/model/1")).body == first.body
    assert (await get("/model/2")).status == 200
    for path in ("/model/0", "/model/9"):
        away = await get(path)
        assert (away.status, away.body) == (503, b"The model cannot be read now.\n")
        assert "\r\nRetry-After: 1\r\n" in away.head


async def test_where_devices_need_a_token_a_model_does_too(
    bench: Any, member: Any, serve: Any
) -> None:
    store = MemoryTokenStore()
    book = TokenBook(store, lambda: NOW_MS)
    secret, _ = await token_changes.create(store, TokenWish(label="site-a", now_ms=NOW_MS))
    await book.look()
    get = await serve(member, Gatekeeper(book, allows_http=True))

    barred = await get("/model/0")
    let_in = await get("/model/0", f"Authorization: Bearer {secret}")

    assert barred.status == 401
    assert barred.body == b"The request has no token, and this cluster asks for one.\n"
    assert "\r\nWWW-Authenticate: Bearer\r\n" in barred.head
    assert let_in.status == 200
    # No proxy may show it to somebody else.
    assert "\r\nCache-Control: private, max-age=60, immutable\r\n" in let_in.head
