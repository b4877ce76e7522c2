from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.receivers import Receiver, open_receiver
from wedsync.domain.errors import InvalidInput
from wedsync.domain.ssrf import ForbiddenTarget, SsrfPolicy, check_addresses, read_url
from wedsync.kit.http_guard import SsrfSafeBackend, SsrfSafeHttp
from wedsync.kit.ssrf import check_url

STRICT, LOCAL = SsrfPolicy(), SsrfPolicy(allow_loopback=True)

HOSTILE_URLS = [
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "https://",
    "https:///path",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@10.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://exa mple.com/",
    "https://example.com\\@10.0.0.1/",
    "https://example.com/\r\nHost: evil",
    "https://example.com/\x00",
    "https://ex\u00e4mple.com/",
    "https://\u2460\u2461\u2466.0.0.1/",
    "https://127.0.0.1/",
    "https://localhost.localdomain:443:80/",
    "https://0.0.0.0/",
    "https://10.1.2.3/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://192.0.0.1/",
    "https://192.0.2.1/",
    "https://192.88.99.1/",
    "https://198.18.0.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://224.0.0.1/",
    "https://239.255.255.255/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://10.0.1/",
    "https://017700000001/",
    "https://127.0.0.1./",
    "https://1.2.3.4.5/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[::ffff:a00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::a00:1]/",
    "https://[64:ff9b::808:808]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:a00:1::1]/",
    "https://[2001::1]/",
    "https://[2001:db8::1]/",
    "https://[fc00::1]/",
    "https://[fd12:3456:789a::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://[::1/",
    "https://-example.com/",
    "https://exa_mple..com/",
    "https://" + "a" * 64 + ".com/",
    "https://example.com/" + "a" * 2000,
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
@pytest.mark.parametrize("policy", [STRICT, LOCAL])
def test_a_hostile_url_is_refused_by_its_text(url: str, policy: SsrfPolicy) -> None:
    if policy is LOCAL and url in ("https://127.0.0.1/", "https://127.0.0.1./", "https://[::1]/"):
        assert read_url(url, policy).scheme == "https"
        return
    with pytest.raises(ForbiddenTarget):
        read_url(url, policy)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://example.com/hook?x=1", "example.com", 443),
        ("https://EXAMPLE.com:8443", "example.com", 8443),
        ("https://xn--exmple-cua.com./", "xn--exmple-cua.com", 443),
        ("https://8.8.8.8/", "8.8.8.8", 443),
        ("https://[2606:4700:4700::1111]:444/", "2606:4700:4700::1111", 444),
        ("https://1password.com/", "1password.com", 443),
    ],
)
def test_a_public_url_is_let_through(url: str, host: str, port: int) -> None:
    target = read_url(url, STRICT)
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", "http://localhost:9000/", "http://[::1]:9000/"])
def test_this_machine_is_reached_on_a_laptop_only(url: str) -> None:
    assert read_url(url, LOCAL).port == 9000
    with pytest.raises(ForbiddenTarget):
        read_url(url, STRICT)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://localhost.evil.com/", "http://example.com/"])
def test_a_laptop_goes_nowhere_else_without_tls(url: str) -> None:
    with pytest.raises(ForbiddenTarget):
        read_url(url, LOCAL)


def answering(*answers: Sequence[str] | Exception) -> object:
    """A resolver whose answers change: one after the other, the last again and again."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return resolve


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["8.8.8.8", "::1"],
        ["2606:4700::1", "::ffff:10.0.0.1"],
        ["8.8.8.8", "64:ff9b::a00:1"],
        ["not an address"],
        [],
    ],
)
async def test_one_forbidden_answer_refuses_the_name(answers: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await check_url("https://partner.test/", STRICT, answering(answers))  # type: ignore[arg-type]
    assert refused.value.reason == "url_forbidden"


async def test_a_name_without_an_address_is_refused_with_a_reason_of_its_own() -> None:
    with pytest.raises(InvalidInput) as refused:
        await check_url("https://partner.test/", STRICT, answering(OSError("no such name")))  # type: ignore[arg-type]
    assert (refused.value.reason, refused.value.field) == ("url_unresolvable", "url")


def test_addresses_are_kept_in_order_and_once() -> None:
    assert check_addresses(["8.8.8.8", "1.1.1.1", "8.8.8.8"], STRICT) == ["8.8.8.8", "1.1.1.1"]


# -- at each connection -----------------------------------------------------------------------------------------------


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as opened:
        yield opened


async def test_a_name_that_turns_inwards_after_it_was_checked_is_not_connected_to(receiver: Receiver) -> None:
    resolver = answering(["8.8.8.8"], ["127.0.0.1"])
    url = f"https://partner.test:{receiver.port}/"
    await check_url(url, STRICT, resolver)  # type: ignore[arg-type]
    http = SsrfSafeHttp(STRICT, resolver=resolver)  # type: ignore[arg-type]
    reply = await http.post(url, headers={}, body=b"{}", timeout_seconds=2)
    await http.close()
    assert reply.status is None
    assert reply.error == "refused by the guard: the URL's host leads to an address that is not public"
    assert receiver.requests == []


async def test_the_connection_goes_to_the_checked_address_and_the_next_is_checked_anew(receiver: Receiver) -> None:
    asked: list[str] = []

    class Recording(SsrfSafeBackend):
        pass

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    backend = Recording(LOCAL, resolver)
    for _ in range(2):
        stream = await backend.connect_tcp("whatever.test", receiver.port)
        assert stream.get_extra_info("server_addr")[:2] == ("127.0.0.1", receiver.port)
        await stream.aclose()
    assert asked == ["whatever.test"] * 2


async def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    http = SsrfSafeHttp(LOCAL)
    reply = await http.post(receiver.url(), headers={"X-A": "b"}, body=b"{}", timeout_seconds=2)
    await http.close()
    assert (reply.status, reply.body, receiver.requests[0].headers["x-a"]) == (200, b"ok", "b")


async def test_the_whole_exchange_has_one_timeout(receiver: Receiver) -> None:
    receiver.answer = lambda request: None
    http = SsrfSafeHttp(LOCAL)
    reply = await http.post(receiver.url(), headers={}, body=b"{}", timeout_seconds=0.2)
    await http.close()
    assert (reply.status, reply.error) == (None, "no answer within 0.2 s")


async def test_an_endless_answer_is_read_to_a_limit_only() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    http = SsrfSafeHttp(LOCAL)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    reply = await http.post(url, headers={}, body=b"", timeout_seconds=5)
    await http.close()
    server.close()
    assert (reply.status, len(reply.body)) == (200, 2048)


def write_certificate(folder: Path, name: str) -> None:
    """`cert.pem` and `key.pem` for a name, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def test_tls_asks_for_the_urls_name_while_it_connects_to_the_checked_address(tmp_path: Path) -> None:
    asked: list[str | None] = []
    write_certificate(tmp_path, "partner.test")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    serving.sni_callback = lambda sock, name, context: asked.append(name)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    http = SsrfSafeHttp(LOCAL, resolver=answering(["127.0.0.1"]), verify=trusting)  # type: ignore[arg-type]
    good = await http.post(f"https://partner.test:{port}/", headers={}, body=b"{}", timeout_seconds=5)
    wrong = await http.post(f"https://other.test:{port}/", headers={}, body=b"{}", timeout_seconds=5)
    await http.close()
    server.close()
    assert (good.status, asked) == (200, ["partner.test", "other.test"])
    assert receiver.requests[0].headers["host"] == f"partner.test:{port}"
    assert wrong.status is None
    assert "certificate" in (wrong.error or "").lower()
