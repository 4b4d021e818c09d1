//! Health checks, and what follows from them.

use super::{NOW, Section, key, now};

/// Health checks of a VIP's reals.
pub static HEALTH: Section = Section {
    name: "vip.health",
    repeated: false,
    meaning: "Checks of the reals of the VIP above: probes are sent to the VIP itself, in the encapsulation that its packets have, to \
              one real after the other, so a healthy real is one whose whole way works. The VIP must not be an address of this host. \
              A real that fails is `down` until it answers again.",
    since: NOW,
    keys: &[
        key(
            "check",
            "one of",
            "",
            "\"tcp\"",
            "`tcp`: a connection is accepted. `http`, `https`: a request is answered. `dns`: a query is answered without an error. `udp`: a \
             datagram is answered. `exec`: a program ends with status 0.",
        )
        .of(&[now("tcp"), now("http"), now("https"), now("dns"), now("udp"), now("exec")]),
        key("port", "number, 1 to 65535", "that of the VIP", "8080", "The port that is asked; the VIP must take it, too."),
        key("interval", "duration, 100ms to 1h", "\"2s\"", "\"2s\"", "From one probe of a real to the next."),
        key("timeout", "duration, 10ms to the interval", "one second, or the interval", "\"500ms\"", "How long an answer may take."),
        key("rise", "number, 1 to 100", "2", "2", "Answers in a row until a real that was out is in."),
        key("fall", "number, 1 to 100", "3", "3", "Failures in a row until a real is out."),
        key("jitter", "per cent, 0 to 50", "10", "10", "By how much intervals differ, so that many balancers do not ask at once."),
        key("path", "path of a request", "\"/\"", "\"/health\"", "`http`, `https`: what is asked for."),
        key("host", "text", "the VIP", "\"www.example.com\"", "`http`, `https`: the request's `Host`; `https`: also the name that is asked for, and looked for in the certificate."),
        key("status", "a status or a range", "\"200-299\"", "\"200\"", "`http`, `https`: the status of a good answer."),
        key("body", "text", "none", "\"OK\"", "`http`, `https`: what the answer's first 64 KiB contain."),
        key(
            "ca",
            "path of a file",
            "none; any certificate will do",
            "\"/etc/tandem/ca.pem\"",
            "`https`: certificates (PEM) of which the server's has to come from one.",
        ),
        key("query", "name", "\".\"", "\"example.com\"", "`dns`: the name whose address is asked for."),
        key("send", "text", "\"\"", "\"ping\"", "`udp`: the payload."),
        key("expect", "text", "none; any answer is good", "\"pong\"", "`udp`: what the answer contains."),
        key(
            "command",
            "array of texts",
            "none; `exec` needs it",
            "[\"/usr/lib/tandem/check\", \"--fast\"]",
            "`exec`: the program and its arguments. Its environment has TANDEM_VIP, TANDEM_REAL, TANDEM_PORT and TANDEM_MARK, the \
             mark of sockets whose packets reach that real.",
        ),
        key(
            "min_healthy",
            "number, 1 to 65535",
            "1",
            "2",
            "With fewer healthy reals the VIP is not announced (`[announce]`).",
        ),
    ],
};

/// Announcement of VIPs.
pub static ANNOUNCE: Section = Section {
    name: "announce",
    repeated: false,
    meaning: "A kernel route for each VIP with health checks that has `min_healthy` healthy reals, taken away below that and when the \
              balancer stops: for a routing daemon to export. Without this section there are no such routes.",
    since: NOW,
    keys: &[
        key("protocol", "number, 5 to 255", "213", "213", "The routes' protocol number, by which they are told from others."),
        key(
            "table",
            "number, 1 to 4294967295",
            "213",
            "213",
            "The table that the routes are in. Not one that this host routes by: its own probes of a VIP would stay here.",
        ),
    ],
};
