"""Reach Temporal: the data converter, the client and what a namespace must have.

Address, namespace, TLS and API key come from the standard `TEMPORAL_*` variables and TOML profile, read by
`temporalio.envconfig`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client, Interceptor, Plugin
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.envconfig import ClientConfigProfile
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import Conflict, TemporalUnreachable, WedsyncError
from wedsync.domain.weddings import search_attributes as names
from wedsync.kit.codec import EncryptingCodec
from wedsync.kit.crypto import Keyring
from wedsync.kit.settings import Settings

#: Gives the process's one client.
ClientProvider = Callable[[], Awaitable[Client]]
#: For a call that only the server answers.
RPC_TIMEOUT = timedelta(seconds=5)
#: For one that waits for a worker, too.
UPDATE_TIMEOUT = timedelta(seconds=8)
#: What a call raises that does not reach its server; a client that never reached one raises RuntimeError.
AWAY = (RPCError, RuntimeError, OSError, TimeoutError, WedsyncError)

DEFAULT_ADDRESS = "127.0.0.1:7233"
DEFAULT_NAMESPACE = "default"
#: How long a closed workflow's history stays readable.
DEFAULT_RETENTION = timedelta(days=30)

ORGANIZATION_ID = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
WEDDING_ID = SearchAttributeKey.for_keyword(names.WEDDING_ID)
WEDDING_DATE = SearchAttributeKey.for_keyword(names.WEDDING_DATE)
WEDDING_PHASE = SearchAttributeKey.for_keyword(names.WEDDING_PHASE)
TRANSACTION_STATUS = SearchAttributeKey.for_keyword(names.TRANSACTION_STATUS)
VENDOR = SearchAttributeKey.for_keyword_list(names.VENDOR)
#: The search attributes with which a test environment starts.
SEARCH_ATTRIBUTES: tuple[SearchAttributeKey, ...] = (  # type: ignore[type-arg]
    ORGANIZATION_ID,
    WEDDING_ID,
    WEDDING_DATE,
    WEDDING_PHASE,
    TRANSACTION_STATUS,
    VENDOR,
)

_INDEXED_TYPES = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}
#: The answer of a server that keeps such changes to its own console (Temporal Cloud).
_REFUSALS = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.UNAUTHENTICATED)
_VISIBILITY_CHECKS = 150


@dataclasses.dataclass(frozen=True)
class Provisioned:
    """A report of what `provision` found and did."""

    added: tuple[str, ...]
    retention: timedelta
    #: Whether the namespace's retention is shorter than requested and the server keeps it so.
    retention_refused: bool = False


_JSON = PydanticJSONPlainPayloadConverter()


class PayloadConverter(CompositePayloadConverter):
    """Converts Pydantic values to JSON. The SDK makes one for each workflow; all share the types' adapters."""

    def __init__(self) -> None:
        standard = DefaultPayloadConverter.default_encoding_payload_converters
        super().__init__(*(_JSON if isinstance(one, JSONPlainPayloadConverter) else one for one in standard))


def payload_codec(settings: Settings) -> EncryptingCodec:
    """Return the codec under `settings.codec_keys`; raises InvalidInput when they can't be read."""
    return EncryptingCodec(Keyring.parse(settings.codec_keys.get_secret_value()))


def data_converter(settings: Settings) -> DataConverter:
    """Return the converter: Pydantic values, encrypted payloads, and failures whose text is encrypted too."""
    return DataConverter(
        payload_converter_class=PayloadConverter,
        payload_codec=payload_codec(settings),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def is_configured() -> bool:
    """Tell whether somebody named a server, by TEMPORAL_ADDRESS or in Temporal's own profile."""
    return bool(ClientConfigProfile.load().address)


def address_and_namespace() -> tuple[str, str]:
    """Return where `connect` goes: `(host:port, namespace)`."""
    profile = ClientConfigProfile.load()
    return profile.address or DEFAULT_ADDRESS, profile.namespace or DEFAULT_NAMESPACE


async def connect(
    settings: Settings,
    *,
    lazy: bool = False,
    plugins: Sequence[Plugin] = (),
    interceptors: Sequence[Interceptor] = (),
    identity: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Client:
    """Return a client of the configured server; with `lazy` it connects at its first call.

    `plugins` are `wedsync.kit.telemetry.temporal_plugins()` in programs; `environment` is read instead of this
    process's own. Raises TemporalUnreachable.
    """
    config = ClientConfigProfile.load(override_env_vars=environment).to_client_connect_config()
    address = config.get("target_host", DEFAULT_ADDRESS)
    try:
        return await Client.connect(
            address,
            namespace=config.get("namespace", DEFAULT_NAMESPACE),
            api_key=config.get("api_key"),
            tls=config.get("tls"),
            rpc_metadata=config.get("rpc_metadata", {}),
            data_converter=data_converter(settings),
            plugins=list(plugins),
            interceptors=list(interceptors),
            identity=identity,
            lazy=lazy,
        )
    except (RuntimeError, ValueError) as error:
        raise TemporalUnreachable(f"no Temporal server answers at {address}") from error


async def provision(client: Client, *, retention: timedelta = DEFAULT_RETENTION) -> Provisioned:
    """Make sure that the client's namespace has our search attributes and keeps histories for `retention`.

    Idempotent; never shortens a retention. Raises Conflict when an attribute exists with another type or the server
    lets no one add one (Temporal Cloud: add them in its console), TemporalUnreachable when nothing answers.
    """
    try:
        added = await _add_search_attributes(client)
        kept, refused = await _extend_retention(client, retention)
    except RPCError as error:
        if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
            raise TemporalUnreachable(f"the Temporal server does not answer: {_first_line(error)}") from error
        raise
    return Provisioned(added, kept, refused)


async def _add_search_attributes(client: Client) -> tuple[str, ...]:
    missing = await _missing_search_attributes(client)
    if not missing:
        return ()
    request = AddSearchAttributesRequest(
        namespace=client.namespace,
        search_attributes={name: _INDEXED_TYPES[names.ALL[name]] for name in missing},
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status in _REFUSALS:
            raise Conflict(
                f"the namespace {client.namespace} lacks the search attributes {', '.join(missing)} and this server "
                "lets us add none: add them where the namespace is administered",
                reason="search_attributes_missing",
            ) from error
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
    await _until_visible(client)
    return missing


async def _missing_search_attributes(client: Client) -> tuple[str, ...]:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    known = {**listed.system_attributes, **listed.custom_attributes}
    for name, type_name in names.ALL.items():
        if name in known and known[name] != _INDEXED_TYPES[type_name]:
            raise Conflict(
                f"the search attribute {name} exists in {client.namespace} with another type than {type_name}",
                reason="search_attribute_type",
            )
    return tuple(name for name in names.ALL if name not in known)


async def _until_visible(client: Client) -> None:
    # The server's frontends read the list from a cache.
    for _ in range(_VISIBILITY_CHECKS):
        if not await _missing_search_attributes(client):
            return
        await asyncio.sleep(0.2)
    raise TemporalUnreachable(f"the namespace {client.namespace} does not show its new search attributes")


async def _extend_retention(client: Client, wanted: timedelta) -> tuple[timedelta, bool]:
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    present = described.config.workflow_execution_retention_ttl.ToTimedelta()
    if present >= wanted:
        return present, False
    request = UpdateNamespaceRequest(namespace=client.namespace)
    request.config.workflow_execution_retention_ttl.FromTimedelta(wanted)
    try:
        await client.workflow_service.update_namespace(request)
    except RPCError as error:
        if error.status not in _REFUSALS:
            raise
        return present, True
    return wanted, False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
