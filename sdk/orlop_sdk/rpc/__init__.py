# SPDX-License-Identifier: Apache-2.0
"""Remote calls without transport: services as tables of methods, and clients made from descriptors.

========================  ==========================================================================================
`orlop_sdk.rpc.service`   write a protobuf service as a class; gives the table of `orlop.interfaces.rpc.RpcMethod`
`orlop_sdk.rpc.stub`      call a service over any channel: grpc.aio's, ttrpc's, or one in this process
`orlop_sdk.rpc.local`     the channel in this process, over such tables
`orlop_sdk.rpc.grpc_server`  serve such tables with grpc.aio; `orlop_sdk.http2` does without
`orlop_sdk.rpc.observed`  tell observers of calls what happens to them
`orlop_sdk.rpc.edge`      what servers of gRPC do alike
`orlop_sdk.rpc.status`    errors of `orlop.errors` to status codes and back
`orlop_sdk.rpc.descriptors`  find services and messages of `orlop_sdk.api` by name
========================  ==========================================================================================
"""
