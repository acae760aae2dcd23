"""The endpoint for operators, with an administration that does as it is told."""

import asyncio
import socket
from collections.abc import AsyncIterator

import anyio
import httpx
import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

from model.config import TaskName
from service.admin import (
    ModelChange,
    ModelReport,
    ProcessReport,
    ReloadReport,
    ServiceReport,
    admin_endpoint,
)
from service.cli.app import app as command
from service.errors import ModelNotFoundError, ReloadRefusedError
from service.setting_groups import AdminSettings
from service.settings import SettingsError
from tests.service.conftest import Start

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

CHANGE = ModelChange(
    name="[bold]tiny",
    task=TaskName.DETECT,
    change="changed",
    sha256="ab" * 32,
    previous_sha256=None,
)


class FakeAdministration:
    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.failure: Exception | None = None
        self.changes: tuple[ModelChange, ...] = (CHANGE,)
        self.gate = asyncio.Event()
        self.gate.set()

    async def reload(self, model: str | None) -> ReloadReport:
        self.asked.append(model)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return ReloadReport(changes=self.changes, seconds=1.25)

    async def status(self) -> ServiceReport:
        process = ProcessReport(name="engine-0", state="ready", pid=7, since=1.5, num_restarts=2)
        model = ModelReport(name="tiny", task=TaskName.DETECT, sha256=None, since=2.5)
        return ServiceReport(processes=(process,), models=(model,))


@pytest.fixture
def administration() -> FakeAdministration:
    return FakeAdministration()


@pytest.fixture
async def client(administration: FakeAdministration) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        admin_endpoint(AdminSettings(port=0), administration) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def test_a_reload_reports_what_changed(
    client: httpx.AsyncClient, administration: FakeAdministration
) -> None:
    response = await client.post("/reload")
    assert response.status_code == 200
    assert response.json() == {
        "changes": [
            {
                "name": "[bold]tiny",
                "task": "detect",
                "change": "changed",
                "sha256": "ab" * 32,
                "previous_sha256": None,
            }
        ],
        "seconds": 1.25,
    }
    await client.post("/reload", params={"model": "a b"})
    assert administration.asked == [None, "a b"]


async def test_status(client: httpx.AsyncClient) -> None:
    report = (await client.get("/status")).json()
    assert report["processes"] == [
        {
            "name": "engine-0",
            "state": "ready",
            "pid": 7,
            "since": 1.5,
            "num_restarts": 2,
            "detail": "",
        }
    ]
    assert report["models"] == [{"name": "tiny", "task": "detect", "sha256": None, "since": 2.5}]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (OSError("disk on fire"), 500, "reload_failed"),
        (ReloadRefusedError("draining"), 409, "reload_refused"),
        (ModelNotFoundError("no such model"), 404, "model_not_found"),
    ],
)
async def test_failures_are_problems_with_their_reason(
    client: httpx.AsyncClient,
    administration: FakeAdministration,
    failure: Exception,
    status: int,
    code: str,
) -> None:
    administration.failure = failure
    response = await client.post("/reload")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert str(failure) in response.json()["detail"]


async def test_only_one_reload_at_a_time(
    client: httpx.AsyncClient, administration: FakeAdministration
) -> None:
    administration.gate.clear()
    first = asyncio.create_task(client.post("/reload"))
    while not administration.asked:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0.005)
    assert (await client.post("/reload")).json()["code"] == "reload_refused"
    administration.gate.set()
    assert (await first).status_code == 200
    assert (await client.post("/reload")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:1234"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
    ids=str,
)
async def test_web_pages_and_other_names_are_refused(
    client: httpx.AsyncClient,
    administration: FakeAdministration,
    headers: dict[str, str],
    status: int,
) -> None:
    response = await client.post("/reload", headers=headers)
    assert response.status_code == status
    assert len(administration.asked) == (status == 200)
    assert (await client.get("/status", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/reload", 405),
        ("POST", "/status", 405),
        ("GET", "/nothing", 404),
        ("POST", "/reload?mode=x", 422),
    ],
)
async def test_anything_else_is_a_problem(
    client: httpx.AsyncClient,
    administration: FakeAdministration,
    method: str,
    path: str,
    status: int,
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert administration.asked == []


async def test_it_listens_on_the_loopback_address_only(
    start: Start, administration: FakeAdministration
) -> None:
    async with (
        start(host="0.0.0.0", admin={"port": 0}) as running,  # noqa: S104 - the point of the test
        admin_endpoint(running.context.settings.admin, administration) as port,
    ):
        listening = [
            connection.laddr
            for connection in psutil.Process().net_connections("inet")
            if connection.status == "LISTEN" and connection.laddr.port == port
        ]
        assert [address.ip for address in listening] == ["127.0.0.1"]
        # and the public application knows nothing of it
        for path in ("/reload", "/status"):
            assert (await running.client.post(path)).status_code == 404


async def test_without_a_port_there_is_no_endpoint(administration: FakeAdministration) -> None:
    async with admin_endpoint(AdminSettings(), administration) as port:
        assert port is None


async def test_a_taken_port_is_a_setting_to_change(administration: FakeAdministration) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=str(number)):
            async with admin_endpoint(AdminSettings(port=number), administration):
                pass


async def test_the_end_does_not_wait_for_a_reload_for_ever(
    administration: FakeAdministration,
) -> None:
    administration.gate.clear()
    with anyio.fail_after(10):
        async with (
            httpx.AsyncClient() as client,
            admin_endpoint(AdminSettings(port=0), administration) as port,
        ):
            lost = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/reload"))
            while not administration.asked:  # noqa: ASYNC110 - the fake has no event for it
                await asyncio.sleep(0.005)
        (result,) = await asyncio.gather(lost, return_exceptions=True)
        assert isinstance(result, httpx.TransportError) or result.status_code >= 500  # type: ignore[union-attr]


class TestCommand:
    async def reload(self, *arguments: object) -> Result:
        words = ["reload", *map(str, arguments)]
        return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(command, words))

    async def test_a_table_of_what_changed(self, administration: FakeAdministration) -> None:
        async with admin_endpoint(AdminSettings(port=0), administration) as port:
            result = await self.reload("--admin-port", port, "--model", "tiny")
        assert result.exit_code == 0, result.stderr
        assert administration.asked == ["tiny"]
        for shown in ("[bold]tiny", "detect", "changed", "ab" * 6, "1.2"):
            assert shown in result.stdout

    async def test_nothing_changed(self, administration: FakeAdministration) -> None:
        administration.changes = ()
        async with admin_endpoint(AdminSettings(port=0), administration) as port:
            result = await self.reload("--admin-port", port)
        assert (result.exit_code, result.stdout) == (0, "nothing has changed\n")

    async def test_a_failure_says_why(self, administration: FakeAdministration) -> None:
        administration.failure = OSError("disk on fire")
        async with admin_endpoint(AdminSettings(port=0), administration) as port:
            result = await self.reload("--admin-port", port)
        assert result.exit_code == 1
        assert "Reload failed" in result.stderr
        assert "disk on fire" in result.stderr

    async def test_nobody_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        result = await self.reload("--admin-port", port)
        assert result.exit_code == 1
        assert f"no service listens on 127.0.0.1:{port}" in result.stderr

    async def test_the_port_of_the_settings(
        self, administration: FakeAdministration, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = await self.reload()
        assert result.exit_code == 2
        assert "--admin-port" in result.stderr
        async with admin_endpoint(AdminSettings(port=0), administration) as port:
            monkeypatch.setenv("SMSERVE_ADMIN__PORT", str(port))
            result = await self.reload()
        assert result.exit_code == 0, result.stderr
