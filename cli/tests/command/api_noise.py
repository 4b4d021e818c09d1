"""Reads a server's services by reflection, and calls every method with messages of random contents, some of them damaged.

usage: api_noise.py TARGET SEED ROUNDS
stdout: {"methods": [...], "codes": {CODE: COUNT}}
"""

import collections
import faulthandler
import json
import os
import random
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor as Field
from grpc_reflection.v1alpha import reflection_pb2

target, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
# What a client might write, and what it should not.
TEXTS = [
    "10.200.1.1", "192.0.2.100", "10.0.0.1", "10.0.0.2", "fc00::1", "fc00:1::/96", "10.0.0.0/8", "0.0.0.0", "::", "ipip", "gue", "nat",
    "geneve", "v1", "v2", "quic", "no-source-port", "02:00:00:00:00:01", "", " ", "\0", "-1", "1" * 300, "[[vip]]", "x\ny = 1", "é\u202e", "%s%n",
]
NUMBERS = [0, 1, 2, 3, 6, 17, 53, 80, 81, 255, 256, 1009, 65535, 65537, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
INTEGERS = {
    Field.TYPE_INT32: (-(2**31), 2**31), Field.TYPE_SINT32: (-(2**31), 2**31), Field.TYPE_SFIXED32: (-(2**31), 2**31),
    Field.TYPE_INT64: (-(2**63), 2**63), Field.TYPE_SINT64: (-(2**63), 2**63), Field.TYPE_SFIXED64: (-(2**63), 2**63),
    Field.TYPE_UINT32: (0, 2**32), Field.TYPE_FIXED32: (0, 2**32), Field.TYPE_UINT64: (0, 2**64), Field.TYPE_FIXED64: (0, 2**64),
}


def value(field):
    if field.type == Field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == Field.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 4, 16, 200]))
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Field.TYPE_ENUM:
        return rng.randrange(6)
    if field.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
        return rng.choice([0.0, -1.0, 1e30, float("inf"), float("nan")])
    low, high = INTEGERS[field.type]
    return min(max(rng.choice(NUMBERS), low), high - 1)


def fill(message, depth):
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.35:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue
        count = rng.randrange(4) if field.is_repeated else 1
        for _ in range(count):
            if field.type == Field.TYPE_MESSAGE:
                if depth < 4:
                    at = getattr(message, field.name)
                    inner = at.add() if field.is_repeated else at
                    inner.SetInParent()
                    fill(inner, depth + 1)
            elif field.is_repeated:
                getattr(message, field.name).append(value(field))
            else:
                setattr(message, field.name, value(field))
    return message


def damaged(data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(3)
        at = rng.randrange(len(data) + 1)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            del data[at:]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 8))
    return bytes(data)


with grpc.insecure_channel(target, options=[("grpc.default_authority", "localhost")]) as channel:
    info = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    def ask(**request):
        return next(info(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=20))

    pool, known = descriptor_pool.DescriptorPool(), set()
    methods = []
    for service in ask(list_services="").list_services_response.service:
        if service.name.startswith("grpc."):
            continue
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in ask(file_containing_symbol=service.name).file_descriptor_response.file_descriptor_proto
        ]
        # What a file depends on comes before it.
        while files:
            ready = next(file for file in files if all(name in known for name in file.dependency) or len(files) == 1)
            files.remove(ready)
            if ready.name not in known:
                pool.Add(ready)
                known.add(ready.name)
        methods += pool.FindServiceByName(service.name).methods
    codes = collections.Counter()
    for _ in range(rounds):
        # Says where, and ends, instead of waiting for ever for what does not come.
        faulthandler.dump_traceback_later(60, exit=True)
        method = rng.choice(methods)
        kind = message_factory.GetMessageClass(method.input_type)
        data = fill(kind(), 0).SerializeToString()
        if rng.random() < 0.3:
            data = damaged(data)
        # Whether the answer is one message or many: the first is enough.
        call = channel.stream_stream(f"/{method.containing_service.full_name}/{method.name}")(iter([data]), timeout=20)
        try:
            next(call, None)
            codes["OK"] += 1
            call.cancel()
        except grpc.RpcError as error:
            codes[error.code().name] += 1
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                break
    print(json.dumps({"methods": [method.full_name for method in methods], "codes": codes}), flush=True)
    # Not by way of the interpreter's end: gRPC's threads die there holding locks that the finalizers of calls wait for.
    os._exit(0)
