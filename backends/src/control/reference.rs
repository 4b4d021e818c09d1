//! The reference of all counters, printed from the tables of their names; each is matched, so that none can be forgotten.

use tandem_engine::Reason;
use tandem_engine::memory::counters::{Event, RealCounter};
use tandem_engine::memory::{SeatCounter, VipCounter};

const HEAD: &str = "\
<!-- Generated from the code. To regenerate: TANDEM_BLESS=1 cargo test -p tandem-backends --test control -->

# Counters

Each counter has one name and one meaning. `tandem replay --counters FILE` writes them as one JSON object, summed over cores; the
tables below are its members. Every frame moves exactly one of `reasons`: the name is the `reason` of its verdict.

The last column is the counter of Katran that the same frames move in profile katran: its name, and `v1` or `v2` for the first
or second number. Katran counts all drops, passes and answers together (`XDP_DROP`, `XDP_PASS`, `XDP_TX`); a reason that says so
is a part of that.
";

/// What Katran calls the sum of all frames with an action.
const XDP_TX: &str = "part of XDP_TX v1";
const XDP_PASS: &str = "part of XDP_PASS v1";
const XDP_DROP: &str = "part of XDP_DROP v1";

/// Sums that follow from other counters: name, meaning, Katran's.
const SUMS: &[(&str, &str, &str)] = &[
    ("frames", "All frames, those again that were stripped and looked at again.", "XDP_TOTAL v1"),
    ("bytes", "Their bytes.", "XDP_TOTAL v2"),
    ("tx-bytes", "Bytes of the frames that were sent, as they came.", "XDP_TX v2"),
    ("pass-bytes", "Bytes of the frames that were passed to the host, as they came.", "XDP_PASS v2"),
    ("drop-bytes", "Bytes of the frames that were dropped, as they came.", "XDP_DROP v2"),
    ("vip-packets", "Packets to VIPs that were not too large.", "LRU_CNTRS v1"),
];

/// The whole text of `docs/counters.md`.
#[must_use]
pub fn reference() -> String {
    let reasons = Reason::ALL.iter().map(|reason| {
        let meaning = format!("{}: {}", reason.action().name(), reason.meaning());
        (reason.name(), meaning, of_reason(*reason))
    });
    let events = Event::ALL.iter().map(|event| (event.name(), event.meaning().to_owned(), of_event(*event)));
    let sums = SUMS.iter().map(|(name, meaning, katran)| (*name, (*meaning).to_owned(), *katran));
    let vips = VipCounter::ALL.iter().map(|(counter, name)| {
        let (meaning, katran) = of_vip(*counter);
        (*name, meaning.to_owned(), katran)
    });
    let reals = RealCounter::ALL.iter().map(|(counter, name)| {
        let (meaning, katran) = of_real(*counter);
        (*name, meaning.to_owned(), katran)
    });
    let seat = SeatCounter::ALL.iter().map(|(counter, name)| (*name, of_seat(*counter).to_owned(), ""));
    [
        HEAD.to_owned(),
        table("reasons", "What became of each frame, and why.", reasons),
        table("events", "What happened to frames on their way, and sums.", events.chain(sums)),
        table("vips", "For each VIP.", vips),
        table("reals", "For each real of a VIP.", reals),
        table("seat", "What the seats count of their own work.", seat),
        TAIL.to_owned(),
    ]
    .concat()
}

const TAIL: &str = "
Counters of Katran that have none here: `FALLBACK_LRU` and `GLOBAL_LRU v1` (cores without a table of their own: there is one table
for all), `LPM_VIP` and `cid_v0` (never move in Katran), `cid_invalid_server_id_sample` (`tandem trace` shows the packet),
`cid_unknown_real_dropped` and `CH_DROP v1` (an id that names no real: `no-real`).
";

fn table(name: &str, about: &str, rows: impl Iterator<Item = (&'static str, String, &'static str)>) -> String {
    let row =
        |(name, meaning, katran): (&str, String, &str)| format!("| `{name}` | {} | {katran} |\n", meaning.replace('|', "\\|"));
    let rows: String = rows.map(row).collect();
    format!("\n## `{name}`\n\n{about}\n\n| name | meaning | Katran |\n|---|---|---|\n{rows}")
}

fn of_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Forwarded | Reason::EchoReply | Reason::TooBigReply | Reason::EgressDecap => XDP_TX,
        Reason::NotIp
        | Reason::NotTcpUdp
        | Reason::NotAVip
        | Reason::LocalDelivery
        | Reason::Decapsulated
        | Reason::NotOurTunnel
        | Reason::Icmp => XDP_PASS,
        Reason::FrameTooBig
        | Reason::NoHeadroom
        | Reason::TruncatedDropped
        | Reason::Ipv4OptionsDropped
        | Reason::FragmentDropped
        | Reason::DecapTtlExpired => XDP_DROP,
        Reason::NoRing => "CH_DROP v2",
        Reason::NoReal => "CH_DROP v1",
        Reason::NoSource => "part of ENCAP_FAIL",
        Reason::NotConfigured
        | Reason::TruncatedIp
        | Reason::MalformedIp
        | Reason::ExtensionHeaders
        | Reason::Fragment
        | Reason::TruncatedL4
        | Reason::FrameTooShort
        | Reason::BadLength
        | Reason::TtlExpired
        | Reason::NoNextHop
        | Reason::ControlLost
        | Reason::ControlLostDropped
        | Reason::RealRemoved
        | Reason::FragmentUnknown
        | Reason::NatReply
        | Reason::NatFull
        | Reason::NatUnknown
        | Reason::NatUntranslatable
        | Reason::VlanStacked
        | Reason::PathMtu
        | Reason::IcmpRelayed
        | Reason::IcmpUnrelayed => "",
    }
}

fn of_event(event: Event) -> &'static str {
    match event {
        Event::MissTcpSyn => "LRU_MISS v1",
        Event::MissTcpOther => "LRU_MISS v2",
        Event::RingDecisions => "LRU_CNTRS v2",
        Event::Guarded | Event::AgainFrames | Event::AgainBytes | Event::NatOpened | Event::NatErrors => "",
        Event::SourceRouteMiss => "LPM_SRC v1",
        Event::SourceRouteHit => "LPM_SRC v2",
        Event::TooBigV4 => "ICMP_TOOBIG v1",
        Event::TooBigV6 => "ICMP_TOOBIG v2",
        Event::DecapDestination => "REMOTE_ENCAP v1",
        Event::DecapV4 => "DECAP v1",
        Event::DecapV6 => "DECAP v2",
        Event::DecapBalancedV4 => "XPOP_DECAP_SUCCESSFUL v1",
        Event::DecapBalancedV6 => "XPOP_DECAP_SUCCESSFUL v2",
        Event::EgressDecapV4 => "EGRESS_DECAP v1",
        Event::EgressDecapV6 => "EGRESS_DECAP v2",
        Event::EncapFailedV4 => "ENCAP_FAIL v1",
        Event::EncapFailedV6 => "ENCAP_FAIL v2",
        Event::GlobalFlowHit => "GLOBAL_LRU v2",
        Event::PtbV4 => "ICMP_PTB_V4 v1",
        Event::PtbV4Low => "ICMP_PTB_V4 v2",
        Event::PtbV6 => "ICMP_PTB_V6 v1",
        Event::PtbV6Low => "ICMP_PTB_V6 v2",
        Event::UdpMigrated => "UDP_FLOW_MIGRATION v1",
        Event::QuicIcmp => "QUIC_ICMP v1",
        Event::QuicIcmpIgnorable => "QUIC_ICMP v2",
        Event::QuicRing => "quic: ch_routed",
        Event::QuicInitial => "quic: cid_initial",
        Event::QuicInvalidId => "quic: cid_invalid_server_id",
        Event::QuicRouted => "quic: cid_routed",
        Event::QuicV1 => "quic: cid_v1",
        Event::QuicV2 => "quic: cid_v2",
        Event::QuicV3 => "quic: cid_v3",
        Event::QuicMatch => "quic: dst_match_in_lru",
        Event::QuicMismatch => "quic: dst_mismatch_in_lru",
        Event::QuicNotFound => "quic: dst_not_found_in_lru",
        Event::StableRing => "stable: ch_routed",
        Event::StableRouted => "stable: cid_routed",
        Event::StableInvalidId => "stable: cid_invalid_server_id",
        Event::StableInvalidType => "stable: invalid_packet_type",
        Event::TcpIdRing => "tpr: ch_routed",
        Event::TcpIdMismatch => "tpr: dst_mismatch_in_lru",
        Event::TcpIdRouted => "tpr: sid_routed",
        Event::TcpIdSyn => "tpr: tcp_syn",
    }
}

fn of_vip(counter: VipCounter) -> (&'static str, &'static str) {
    match counter {
        VipCounter::Packets => ("Packets that were forwarded or delivered here.", "stats[vip_num] v1"),
        VipCounter::Bytes => ("Bytes of these IP packets, before encapsulation.", "stats[vip_num] v2"),
        VipCounter::Ring => {
            ("Of these packets: those whose real the ring chose.", "sum of lru_miss_stats, if the VIP is the sampled one")
        }
        VipCounter::Entered => ("Flows entered into the flow table, or into that of NAT.", ""),
        VipCounter::Evicted => ("Of these: those that took the place of another flow.", ""),
        VipCounter::ServerIdNew => ("Connections that began, where packets carry server ids.", "server_id_stats v1"),
        VipCounter::ServerIdMismatch => ("Server ids that named another real than the flow table.", "server_id_stats v2"),
        VipCounter::Decap => ("Packets for it that came in a tunnel and were passed to the host.", "decap_vip_stats v1"),
    }
}

fn of_real(counter: RealCounter) -> (&'static str, &'static str) {
    match counter {
        RealCounter::Packets => ("Packets that were forwarded to it.", "reals_stats v1 (there over all VIPs)"),
        RealCounter::Bytes => ("Bytes of these IP packets, before encapsulation.", "reals_stats v2 (there over all VIPs)"),
        RealCounter::Ring => ("Of these packets: those that the ring sent here.", "lru_miss_stats"),
        RealCounter::Refused => (
            "Of these packets: TCP resets, and ICMP errors about what the real sent. A larger share than the others' is a hint.",
            "",
        ),
    }
}

fn of_seat(counter: SeatCounter) -> &'static str {
    match counter {
        SeatCounter::HandedOver => "Kernel: frames handed to a worker.",
        SeatCounter::NoSocket => "Kernel: mode afxdp, but the queue has no socket; the frame was forwarded by the kernel.",
        SeatCounter::RoomMoved => {
            "Worker: a frame was moved inside its chunk, because its real needed another room than was made."
        }
        SeatCounter::VipGone => "Worker: the frame's VIP was removed while it was under way.",
        SeatCounter::Defect => "Worker: a frame that must not come here, or a bad hand-over header. Always 0.",
        SeatCounter::TxFull => "Worker: a frame was dropped because the TX ring stayed full.",
        SeatCounter::NoInterface => {
            "Either: a frame was dropped because the way to its real leaves by an interface that is not in node.interface."
        }
    }
}
