#!/usr/bin/env python3
"""Lists a coordinator's services with a generic gRPC client: no Lamplight code, only reflection.

    python3 .ci/reflect.py HOST:PORT IDENTITY_DIR

IDENTITY_DIR holds an operator's tls.crt, tls.key and ca.crt. Needs grpcio and grpcio-reflection.
"""
import pathlib
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

WANTED = {
    "grpc.health.v1.Health",
    "lamplight.v1.Deltas",
    "lamplight.v1.Enrolment",
    "lamplight.v1.Models",
    "lamplight.v1.Operator",
    "lamplight.v1.Rounds",
}


def main() -> int:
    address, identity = sys.argv[1], pathlib.Path(sys.argv[2])
    credentials = grpc.ssl_channel_credentials(
        (identity / "ca.crt").read_bytes(),
        (identity / "tls.key").read_bytes(),
        (identity / "tls.crt").read_bytes(),
    )
    with grpc.secure_channel(address, credentials) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        pool = DescriptorPool(database)
        for name in sorted(services):
            methods = pool.FindServiceByName(name).methods
            print(f"{name}: {', '.join(m.name for m in methods)}")
    missing = WANTED - services
    if missing:
        print(f"missing: {sorted(missing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
