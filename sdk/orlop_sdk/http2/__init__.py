# SPDX-License-Identifier: Apache-2.0
"""gRPC over HTTP/2 on asyncio: a server for unix sockets, without TLS, with prior knowledge.

Why not the server of `grpc.aio`, which `orlop_sdk.rpc.grpc_server` uses for TCP: it costs the daemon 0.35 ms of CPU for
a call of one answer before any handler runs, as each event crosses a queue between its threads and the loop. Through
this one it is 0.05 to 0.07 ms, and 16 clients of grpc.aio get 3 times as many calls through (2 cores, Python 3.11).
Why not the library h2: it runs every frame through a generic state machine and encodes every block of fields anew.
Here a client's blocks are decoded once, and the blocks of answers are constants. HPACK itself is the library hpack's.

===============================  ==================================================================================
`orlop_sdk.http2.server`         `Server`: serves the tables of `orlop_sdk.rpc.service`
`orlop_sdk.http2.calls`          one call, from head to status
`orlop_sdk.http2.inbox`          the messages of a call, and how their sender is kept to their reader's pace
`orlop_sdk.http2.heads`          the fields of requests and answers
`orlop_sdk.http2.connection`     the rules of HTTP/2; knows nothing of gRPC
`orlop_sdk.http2.stream`         one stream's state
`orlop_sdk.http2.flow`           flow control, both ways
`orlop_sdk.http2.headers`        HPACK, and what fields may be
`orlop_sdk.http2.frames`         the frames, without any input or output
===============================  ==================================================================================
"""
