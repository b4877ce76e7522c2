"""Names that several processes of a run agree on."""

#: The bare saga's task queue.
PEER_QUEUE = "bare-saga"
#: The peers' database on the same server.
PEER_DATABASE = "peers"
