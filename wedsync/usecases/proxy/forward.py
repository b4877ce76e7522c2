"""Pass a partner's request to a vendor by the platform's account, through the pipeline that all calls take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import structlog
from pydantic import Field

from wedsync.domain.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, VendorError, VendorUnavailable
from wedsync.domain.proxy import pass_through as rules
from wedsync.domain.proxy.pass_through import Headers, Method
from wedsync.domain.value import Value
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT, Call
from wedsync.domain.vendors.manifest import GatewayPolicy, Manifest
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.http import TIMED_OUT, StreamedAnswer, VendorHttp
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import Admission, AdmissionController
from wedsync.pipeline.credentials import Credential, authorize, tokens_of
from wedsync.pipeline.endpoint_selector import ORDINARY, Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db.session import Database
from wedsync.usecases.weddings.read_wedding import wedding_row

log = structlog.get_logger(__name__)

#: For a request that no wedding waits for.
_ACTION, _LOW = "gateway", Situation(priority=4)
#: Used when nobody knows how long a circuit stays open.
_RETRY_AFTER_SECONDS = 1.0


class PartnerRequest(Value):
    """A partner's request without its body."""

    organization_id: str
    is_operator: bool = False
    service: str
    method: Method
    #: The path as sent, from the slash after the vendor's name on.
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = Field(default=(), repr=False)
    #: The wedding that it is for, by its id or its plan's id; empty: none.
    wedding: str = ""
    has_body: bool = False


class Passed:
    """A vendor's answer on its way to the partner. Close it, read or not: this counts the call."""

    def __init__(self, proxied: _ProxiedCall, answer: StreamedAnswer, fault: VendorError | None) -> None:
        self.status = answer.status
        self.headers: Headers = rules.response_headers(answer.headers)
        self._call = proxied
        self._answer = answer
        self._fault: BaseException | None = fault
        self._is_closed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; raises VendorError when it breaks off, Conflict beyond the limits: it must not look whole."""
        size, most = 0, self._call.policy.response_max_bytes
        try:
            async for chunk in _within(self._answer.chunks(), self._call.seconds_left):
                size += len(chunk)
                if size > most:
                    raise Conflict(f"the answer is longer than {most} bytes", reason="answer_too_large")
                yield chunk
        except (VendorError, Conflict) as error:
            self._fault = error
            raise

    def seconds_left(self) -> float:
        """Return what is left of the whole exchange's time."""
        return self._call.seconds_left()

    async def close(self) -> None:
        """Let go of the connection and count the call, once."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._answer.close()
        finally:
            await self._call.end(self._fault)


class Gateway:
    """Passes partners' requests to vendors; the process has one."""

    def __init__(self, vendors: VendorGateway, admission_controller: AdmissionController, db: Database) -> None:
        self._vendors = vendors
        self._admission_controller = admission_controller
        self._db = db

    def retry_after_seconds(self, service: str, now: datetime) -> float:
        """Return how soon a vendor that is cut off may be called again."""
        routing_table = self._admission_controller.routing_table
        circuits = [
            routing_table.circuit(service, endpoint.name) for endpoint in routing_table.config(service).endpoints
        ]
        until = [circuit.open_until for circuit in circuits if circuit.open_until is not None]
        return max((min(until) - now).total_seconds(), _RETRY_AFTER_SECONDS) if until else _RETRY_AFTER_SECONDS

    async def pass_on(self, partner_request: PartnerRequest, body: AsyncIterator[bytes]) -> Passed:
        """Send the request and return the vendor's answer, of any status, once it begins.

        Raises NotFound (service, wedding), Conflict(reason="gateway_forbidden" or "answer_too_large"), InvalidInput
        (reason="gateway_path_invalid", "content_too_large", "request_timeout"), what
        `AdmissionController.admit` raises, NotAuthorized, VendorUnavailable,
        OutcomeUnknown, and what reading `body` raises.
        """
        policy = self._policy(partner_request)
        path = rules.clean_path(partner_request.path)
        rules.check_query(partner_request.query)
        rule = rules.allowed_by(policy, partner_request.method, path)
        if rule is None:
            raise Conflict(
                f"{partner_request.method} of this path of {partner_request.service} is not allowed",
                reason="gateway_forbidden",
            )
        headers = rules.request_headers(partner_request.headers, policy)
        declared = next((value for name, value in headers if name == "content-length"), "0")
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > policy.request_max_bytes:
            raise _too_large(policy)
        call = await self._call(partner_request, rule)
        admission = await self._admission_controller.admit(call, ORDINARY if call.wedding_id else _LOW)
        proxied = _ProxiedCall(
            self._admission_controller, admission, call, self._vendors.manifest(partner_request.service), policy
        )
        try:
            return await self._send(proxied, partner_request, path, headers, body)
        except BaseException as error:
            await proxied.end(error)
            raise

    def _policy(self, partner_request: PartnerRequest) -> GatewayPolicy:
        if partner_request.service not in self._admission_controller.routing_table.services():
            raise NotFound(f"there is no service {partner_request.service!r}")
        policy = self._admission_controller.routing_table.config(partner_request.service).gateway
        if not rules.may_use(policy, partner_request.organization_id, is_operator=partner_request.is_operator):
            raise Conflict(
                f"{partner_request.service} is not open to your organization's keys", reason="gateway_forbidden"
            )
        return policy

    async def _call(self, partner_request: PartnerRequest, rule: str) -> Call:
        wedding_id = ""
        if partner_request.wedding:
            async with self._db.tenant(partner_request.organization_id) as conn:
                wedding_id = (await wedding_row(conn, partner_request.wedding)).id
        key = next((value for name, value in partner_request.headers if name.lower() == "idempotency-key"), "")
        return Call(
            organization_id=partner_request.organization_id,
            wedding_id=wedding_id,
            transaction_id="",
            step_id="",
            vendor=partner_request.service,
            account=PLATFORM_ACCOUNT,
            action=_ACTION,
            # By the rule, not by the path: there are as many paths as objects.
            operation=f"{partner_request.method} {rule.partition(' ')[2]}",
            idempotency_key=key,
            reference=new_id(),
            inputs={},
            first_sent_at=utc_now(),
        )

    async def _send(
        self,
        proxied: _ProxiedCall,
        partner_request: PartnerRequest,
        path: str,
        headers: Headers,
        body: AsyncIterator[bytes],
    ) -> Passed:
        http, account = self._vendors.reach(proxied.call, proxied.admission.endpoint, proxied.admission.version)
        by_version = _version_header(proxied.admission, proxied.manifest)
        credential = await authorize(proxied.manifest, http, account)
        content = proxied.bounded(body) if partner_request.has_body else None
        ours = {name for name, _ in (*by_version, *credential.headers)}
        headers = [*(header for header in headers if header[0] not in ours), *by_version]
        answer = await _exchange(proxied, http, partner_request, path, headers, credential, content)
        if answer.status == 401 and credential.token:
            tokens_of(proxied.manifest, http, account).forget(credential.token)
            if content is None:
                # As the vendor's client does: what was not authorized did nothing. A body can't be sent twice.
                await answer.close()
                credential = await authorize(proxied.manifest, http, account)
                answer = await _exchange(proxied, http, partner_request, path, headers, credential, None)
        return await proxied.answered(answer, partner_request.method)


class _ProxiedCall:
    """One admitted request, from its admission to its record."""

    def __init__(
        self,
        admission_controller: AdmissionController,
        admission: Admission,
        call: Call,
        manifest: Manifest,
        policy: GatewayPolicy,
    ) -> None:
        self.admission = admission
        self.call = call
        self.manifest = manifest
        self.policy = policy
        #: Whether all of the partner's body has gone out.
        self.has_sent = False
        self._admission_controller = admission_controller
        self._began = time.perf_counter()
        #: A vendor's latency runs from the end of the partner's body until the vendor's answer begins.
        self._waits_since = self._began
        self._seconds: float | None = None

    def seconds_left(self) -> float:
        """Return what is left of the whole exchange's time."""
        return max(self._began + self.policy.total_seconds - time.perf_counter(), 0.0)

    async def bounded(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the partner's body as long as it comes in time and within the limit."""
        size, wait = 0, self.manifest.timeout_seconds
        try:
            async for chunk in _within(body, lambda: wait):
                size += len(chunk)
                if size > self.policy.request_max_bytes:
                    raise _too_large(self.policy)
                if chunk:
                    yield chunk
        except Conflict as error:
            if error.reason != TIMED_OUT:
                raise
            detail = f"nothing of the body came for {wait:g} s"
            raise _stalled(detail) from error
        self.has_sent = True
        self._waits_since = time.perf_counter()

    async def answered(self, answer: StreamedAnswer, method: Method) -> Passed:
        """Return the answer as the partner gets it; raises Conflict when its declared length is beyond the limit."""
        self._seconds = time.perf_counter() - self._waits_since
        length = next((value for name, value in answer.headers if name.lower() == "content-length"), "")
        most = self.policy.response_max_bytes
        if method != "HEAD" and length.isdecimal() and (len(length) > 18 or int(length) > most):
            await answer.close()
            raise Conflict(f"the answer is longer than {most} bytes", reason="answer_too_large")
        fault = rules.fault_of(
            self.call.vendor,
            method,
            answer.status,
            dict(answer.headers),
            utc_now(),
            is_503_undone=self.manifest.unavailable_means_not_processed,
        )
        return Passed(self, answer, fault)

    async def end(self, error: BaseException | None) -> None:
        """Count the call and write its record."""
        seconds = time.perf_counter() - self._waits_since if self._seconds is None else self._seconds
        await self._admission_controller.complete(self.admission, self.call, "send", error, seconds)
        outcome = "ok" if error is None else getattr(error, "code", "internal")
        telemetry.record_vendor_call(self.call.vendor, self.call.operation, outcome, seconds)
        log.info(
            "vendor.call",
            vendor=self.call.vendor,
            operation=self.call.operation,
            query="gateway",
            outcome=outcome,
            milliseconds=round(seconds * 1000, 1),
            wedding_id=self.call.wedding_id,
        )


async def _exchange(
    proxied: _ProxiedCall,
    http: VendorHttp,
    partner_request: PartnerRequest,
    path: str,
    headers: Headers,
    credential: Credential,
    content: AsyncIterator[bytes] | None,
) -> StreamedAnswer:
    sent = [*headers, *credential.headers]
    query = rules.with_params(partner_request.query, credential.params)
    if content is None:
        sent = [(name, value) for name, value in sent if name != "content-length"]
        if partner_request.method not in ("GET", "HEAD"):
            sent.append(("content-length", "0"))
    try:
        async with asyncio.timeout(proxied.seconds_left()):
            return await http.stream(partner_request.method, path, headers=sent, query=query, body=content)
    except TimeoutError:
        if content is not None and not proxied.has_sent:
            # Else slow partners could open the vendor's circuit.
            raise _stalled(f"the body took longer than {proxied.policy.total_seconds:g} s") from None
        kind = VendorUnavailable if partner_request.method in ("GET", "HEAD") else OutcomeUnknown
        raise kind(
            f"{partner_request.service} gave no answer in time", vendor=partner_request.service, reason=TIMED_OUT
        ) from None


def _version_header(admission: Admission, manifest: Manifest) -> Headers:
    """Return the header for the version that the pins say; a partner never chooses another."""
    spec = admission.version.spec
    if spec is None:
        spec = next((known for known in manifest.versions if known.name == manifest.api_version), None)
    return [(spec.header.lower(), spec.name)] if spec is not None and spec.header else []


def _stalled(detail: str) -> InvalidInput:
    return InvalidInput(detail, field="body", reason="request_timeout")


def _too_large(policy: GatewayPolicy) -> InvalidInput:
    detail = f"a request's body is at most {policy.request_max_bytes} bytes"
    return InvalidInput(detail, field="body", reason="content_too_large")


async def _within(source: AsyncIterator[bytes], seconds: Callable[[], float]) -> AsyncIterator[bytes]:
    """Yield the chunks of `source` as long as each comes in time; else raise Conflict(reason="timed_out")."""
    while True:
        try:
            async with asyncio.timeout(seconds()):
                chunk = await anext(source)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Conflict("the time for it is up", reason=TIMED_OUT) from None
        yield chunk
