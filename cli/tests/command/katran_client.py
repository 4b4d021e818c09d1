"""A gRPC client for Katran's service, generated from its proto file: one call for each line of stdin.

usage: katran_client.py DIRECTORY-OF-katran.proto TARGET
stdin:  METHOD REQUEST-AS-JSON
stdout: REPLY-AS-JSON, or {"error": CODE, "details": TEXT}
"""

import json
import sys

import grpc
from google.protobuf import json_format, message_factory

sys.path.insert(0, sys.argv[1])
protos, services = grpc.protos_and_services("katran.proto")
service = protos.DESCRIPTOR.services_by_name["KatranService"]

# Over a Unix socket the authority would be the path, which is none (RFC 3986 section 3.2).
with grpc.insecure_channel(sys.argv[2], options=[("grpc.default_authority", "localhost")]) as channel:
    stub = services.KatranServiceStub(channel)
    for line in sys.stdin:
        method, request = line.split(" ", 1)
        kind = message_factory.GetMessageClass(service.methods_by_name[method].input_type)
        try:
            reply = getattr(stub, method)(json_format.Parse(request, kind()), timeout=60)
            answer = json_format.MessageToDict(
                reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        except grpc.RpcError as error:
            answer = {"error": error.code().name, "details": error.details()}
        print(json.dumps(answer), flush=True)
