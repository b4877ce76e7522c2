"""Names that several processes of a run agree on."""

#: The bare saga's task queue.
PEER_QUEUE = "bare-saga"
#: The queue of the same saga without the SDK's workflow sandbox.
UNSANDBOXED_QUEUE = "bare-saga-unsandboxed"
#: The fair peer's task queue.
FAIR_QUEUE = "fair-saga"
#: The peers' database on the same server.
PEER_DATABASE = "peers"
