# SPDX-License-Identifier: Apache-2.0
"""ttrpc, the small RPC protocol between a daemon and its shims: client and server on asyncio.

A connection carries frames of many calls at once, of one answer each or streaming either way. There is no flow control
in the protocol, no keep-alive and no cancelling: who gives a call up just stops listening.

===========================  ==================================================================================
`orlop_sdk.ttrpc.client`     `Client`: a channel for `orlop_sdk.rpc.stub.Stub`
`orlop_sdk.ttrpc.server`     `Server`: serves the tables of `orlop_sdk.rpc.service`
`orlop_sdk.ttrpc.frames`     the frames, without any input or output; needs no asyncio
===========================  ==================================================================================
"""
