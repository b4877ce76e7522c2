"""Call vendors, the one way for all: route, circuit, credential, pool, classification, record.

Every third-party call of the product passes through `VendorGateway`. It never chooses whom to call: history says
so before (see `bind_step`). It may choose only the endpoint of the account that is bound.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeVar, cast

import structlog
from opentelemetry import trace

from wedsync.domain.errors import InvalidInput, VendorError
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT, Call, Effect
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.versions.selection import FACT, Chosen, marked
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.http import StreamedAnswer, VendorHttp, VendorResponse
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.kit.standin import STEP_HEADER, WEDDING_HEADER
from wedsync.kit.vendor import Account, VendorClient
from wedsync.pipeline import endpoint_selector
from wedsync.pipeline.admission import Admission, AdmissionController
from wedsync.pipeline.endpoint_selector import ORDINARY, Situation
from wedsync.vendors.registry import Registry, is_set_up

log = structlog.get_logger(__name__)

T = TypeVar("T")

Intent = Literal["send", "find", "look"]
_Request = Callable[[VendorHttp], Awaitable[VendorResponse]]
#: For calls that no wedding waits for.
LOW = Situation(priority=4)


class VendorGateway:
    """Sends calls to vendors through the process's shared pool."""

    def __init__(
        self, settings: Settings, registry: Registry, pool: Any, admission_controller: AdmissionController | None = None
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._pool = pool
        #: Without one, every call goes to its account's own address, and nothing is counted.
        self.admission_controller = admission_controller

    def manifest(self, vendor: str) -> Manifest:
        """Return the vendor's manifest; raises InvalidInput for a vendor that is not installed."""
        try:
            return self._registry.manifests[vendor]
        except KeyError:
            raise InvalidInput(f"no vendor is called {vendor!r}", reason="unknown_vendor") from None

    def account(self, vendor: str, name: str) -> Account:
        """Return the credential and address of one of the platform's accounts."""
        manifest = self.manifest(vendor)
        settings = self._settings.vendor(vendor)
        return Account(
            vendor=vendor,
            name=name,
            base_url=settings.base_url or manifest.base_url,
            api_key=settings.api_key.get_secret_value(),
            account_id=settings.account_id,
            client_id=settings.client_id,
            client_secret=settings.client_secret.get_secret_value(),
            webhook_secrets=self._settings.vendor_webhook_secrets(vendor),
            webhook_url=f"{self._settings.api_url.rstrip('/')}/api/integrations/webhooks/{vendor}",
        )

    async def send(self, call: Call, situation: Situation = ORDINARY) -> Effect:
        """Carry out the call: at most one write. Raises the vendor errors of `wedsync.domain.errors`."""
        return await self._observed("send", call, lambda client: client.send(call), situation)

    async def find(self, call: Call, situation: Situation = ORDINARY) -> Effect | None:
        """Find what an earlier attempt of the call did; None: it took no effect."""
        return await self._observed("find", call, lambda client: client.find(call), situation)

    async def inspect(self, call: Call, situation: Situation = ORDINARY) -> Effect:
        """Return the present state of what the step did."""
        return await self._observed("look", call, lambda client: client.inspect(call), situation)

    async def query(
        self,
        vendor: str,
        operation: str,
        perform: Callable[[VendorHttp, Account], Awaitable[T]],
        situation: Situation = LOW,
        *,
        account: str = PLATFORM_ACCOUNT,
    ) -> T:
        """Return what `perform` returns when it puts its questions by the platform's account, outside any step.

        Another name for the account has quotas of its own, for a `perform` that uses other credentials.

        Each of its requests is one call (a page of a list, a token), which is admitted, counted and recorded as
        `operation`; all go to one endpoint, by the manifest's version. Raises InvalidInput for a vendor that is not
        installed, what `AdmissionController.admit` raises, and what `perform` raises.
        """
        manifest = self.manifest(vendor)
        situation = situation.model_copy(update={"version": manifest.api_version})
        call = _platform_call(vendor, operation, account)
        endpoint = None
        if self.admission_controller is not None:
            endpoint = await self.admission_controller.endpoint_of(call, situation)
            call = call.model_copy(update={"facts": {"endpoint": endpoint.name}})
        _, reached = self.reach(call, endpoint, None)

        async def admit_request(send: _Request) -> VendorResponse:
            return await self._passed("look", call, lambda http, _: send(http), situation)

        return await perform(_CountedHttp(self._pool, reached, manifest.timeout_seconds, admit_request), reached)

    def is_set_up(self, vendor: str) -> bool:
        """Tell whether somebody has given the platform an account at the vendor, or an address."""
        return is_set_up(self._settings, vendor)

    def transport_to(self, vendor: str, endpoint: Endpoint, timeout_seconds: float) -> VendorHttp:
        """Return the transport to one endpoint of the platform's account, for probes."""
        account = self.account(vendor, PLATFORM_ACCOUNT)
        if endpoint.base_url:
            account = account.model_copy(update={"base_url": endpoint.base_url})
        return self._transport(account, None, timeout_seconds)

    def probe_database_url(self, name: str) -> str:
        """Return the URL of a database that a health check names; raises InvalidInput for one that is not set."""
        found = self._settings.probe_databases.get(name)
        if found is None:
            raise InvalidInput(f"no database is called {name!r}", field="database", reason="unknown_database")
        return found.get_secret_value()

    def _transport(
        self, account: Account, headers: Mapping[str, str] | None, timeout_seconds: float | None = None
    ) -> VendorHttp:
        manifest = self.manifest(account.vendor)
        return VendorHttp(
            self._pool,
            vendor=account.vendor,
            base_url=account.base_url,
            timeout_seconds=manifest.timeout_seconds if timeout_seconds is None else timeout_seconds,
            headers=headers,
            unavailable_means_not_processed=manifest.unavailable_means_not_processed,
        )

    def reach(self, call: Call, endpoint: Endpoint | None, version: Chosen | None) -> tuple[VendorHttp, Account]:
        """Return the transport and the account of one call, at the endpoint and by the version that it was given."""
        # Only the local stand-ins learn whom a call is for: a real vendor has no need to know.
        marks = {WEDDING_HEADER: call.wedding_id, STEP_HEADER: call.step_id} if self._settings.is_local else {}
        account = self.account(call.vendor, call.account)
        if endpoint is not None and endpoint.base_url and call.account == PLATFORM_ACCOUNT:
            account = account.model_copy(update={"base_url": endpoint.base_url})
        if version is not None:
            account = speaking(account, version, self.manifest(call.vendor))
        http = self._transport(account, marks)
        if self.admission_controller is not None:
            http.on_headers = partial(self.admission_controller.rate_limiter.learn, call.vendor, call.account)
        return http, account

    async def _observed(
        self, intent: Intent, call: Call, perform: Callable[[VendorClient], Awaitable[T]], situation: Situation
    ) -> T:
        def by_client(http: VendorHttp, account: Account) -> Awaitable[T]:
            return perform(self._registry.client_class(call.vendor)(http, account))

        return await self._passed(intent, call, by_client, situation)

    async def _passed(
        self, intent: Intent, call: Call, perform: Callable[[VendorHttp, Account], Awaitable[T]], situation: Situation
    ) -> T:
        """Admit the call, send it, and record its outcome."""
        if self.admission_controller is None:
            http, account = self.reach(call, None, None)
            return await self._recorded(intent, call, lambda: perform(http, account))
        self.manifest(call.vendor)
        admission = await self.admission_controller.admit(call, situation)
        started = time.perf_counter()
        fault: BaseException | None = None
        try:
            http, account = self.reach(call, admission.endpoint, admission.version)
            answer = await self._recorded(intent, call, lambda: perform(http, account))
        except BaseException as error:
            fault = error
            raise
        finally:
            await self.admission_controller.complete(admission, call, intent, fault, time.perf_counter() - started)
        return self._located(answer, admission)

    def _located(self, answer: T, admission: Admission) -> T:
        """Note on an effect its endpoint and version: later calls about it go there, by that version,
        even when the vendor has more endpoints by then."""
        if not isinstance(answer, Effect) or answer.state == "absent":
            return answer
        facts = dict(answer.facts)
        if admission.key is not None:
            facts[endpoint_selector.FACT] = admission.endpoint.name
        if marked(admission.version, self.manifest(admission.service).api_version):
            facts[FACT] = admission.version.name
        return cast("T", answer.model_copy(update={"facts": facts}))

    async def _recorded(self, intent: Intent, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        started = time.perf_counter()
        outcome = "ok"
        name = f"{call.vendor} {call.operation}"
        with telemetry.tracer().start_as_current_span(name, kind=trace.SpanKind.CLIENT) as span:
            span.set_attributes(
                {"vendor": call.vendor, "operation": call.operation, "intent": intent, "wedding.id": call.wedding_id}
            )
            try:
                return await perform()
            except VendorError as error:
                outcome = error.code
                span.set_attribute("error.type", error.code)
                raise
            finally:
                seconds = time.perf_counter() - started
                telemetry.record_vendor_call(call.vendor, call.operation, outcome, seconds)
                log.info(
                    "vendor.call",
                    vendor=call.vendor,
                    operation=call.operation,
                    query=intent,
                    outcome=outcome,
                    milliseconds=round(seconds * 1000, 1),
                    wedding_id=call.wedding_id,
                    transaction_id=call.transaction_id,
                    step_id=call.step_id,
                )


class _CountedHttp(VendorHttp):
    """A transport that makes each request a call of its own, which goes by the transport that its admission gives."""

    def __init__(
        self,
        pool: Any,
        account: Account,
        timeout_seconds: float,
        admit_request: Callable[[_Request], Awaitable[VendorResponse]],
    ) -> None:
        super().__init__(pool, vendor=account.vendor, base_url=account.base_url, timeout_seconds=timeout_seconds)
        self._admit_request = admit_request

    async def request(self, *settings: Any, **named: Any) -> VendorResponse:
        """Send as `VendorHttp.request` does; raises what `AdmissionController.admit` raises, too."""

        async def send(http: VendorHttp) -> VendorResponse:
            http.read_error = self.read_error
            try:
                return await http.request(*settings, **named)
            finally:
                self.last_headers = http.last_headers

        return await self._admit_request(send)

    async def stream(self, *_: Any, **__: Any) -> StreamedAnswer:
        """Refuse: only the gateway streams."""
        raise TypeError("a question is not streamed")


def _platform_call(vendor: str, operation: str, account: str) -> Call:
    return Call(
        organization_id="",
        wedding_id="",
        transaction_id="",
        step_id="",
        vendor=vendor,
        account=account,
        action="platform",
        operation=operation,
        idempotency_key="",
        reference=new_id(),
        inputs={},
        first_sent_at=utc_now(),
    )


def speaking(account: Account, version: Chosen, manifest: Manifest) -> Account:
    """Return the account as a call by this version uses it; the manifest's own version and labels change nothing."""
    spec = version.spec
    if spec is None or spec.name == manifest.api_version:
        return account
    own = next((known.path for known in manifest.versions if known.name == manifest.api_version), "")
    changes = {"api_version": spec.name, "api_version_header": spec.header}
    if spec.path and own and account.base_url.endswith(own):
        changes["base_url"] = account.base_url.removesuffix(own) + spec.path
    return account.model_copy(update=changes)
