//! What a running balancer serves to people and programs.

use super::{NOW, Section, key};

/// The API.
pub static API: Section = Section {
    name: "api",
    repeated: false,
    meaning: "The gRPC API (`docs/api.md`). It always listens on a Unix socket, for root; on TCP only if asked to, and only for \
              clients with a certificate.",
    since: NOW,
    keys: &[
        key(
            "group",
            "name of a group",
            "none",
            "\"netops\"",
            "Members of the group may use the sockets, too, and so control the balancer.",
        ),
        key(
            "listen",
            "address and port",
            "none; needs `tls_cert`, `tls_key` and `client_ca`",
            "\"10.0.13.37:9443\"",
            "A TCP port for clients with a certificate of `client_ca` (mutual TLS).",
        ),
        key(
            "tls_cert",
            "path of a PEM file",
            "none",
            "\"/etc/tandem/api.crt\"",
            "The balancer's certificate, with those of its issuers.",
        ),
        key("tls_key", "path of a PEM file", "none", "\"/etc/tandem/api.key\"", "Its key."),
        key(
            "client_ca",
            "path of a PEM file",
            "none",
            "\"/etc/tandem/clients.crt\"",
            "Whoever has a certificate of this authority may control the balancer.",
        ),
        key(
            "katran",
            "true or false",
            "false",
            "true",
            "Serves Katran's gRPC service, too, on a socket of its own, for clients that were written for it.",
        ),
        key(
            "katran_listen",
            "address and port",
            "none; needs `katran = true` and the three files",
            "\"10.0.13.37:50051\"",
            "A TCP port for Katran's service, under the same rules as `listen`.",
        ),
    ],
};

/// Metrics.
pub static METRICS: Section = Section {
    name: "metrics",
    repeated: false,
    meaning: "Metrics for Prometheus, by HTTP in the OpenMetrics text format; without this section nothing listens.",
    since: NOW,
    keys: &[key(
        "listen",
        "address and port",
        "\"127.0.0.1:9469\"",
        "\"127.0.0.1:9469\"",
        "Where they are served, to everybody who reaches it: `http://ADDRESS:PORT/metrics`.",
    )],
};
