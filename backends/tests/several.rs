//! The running balancer with two interfaces: frames that come in by one leave by the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use aya::maps::MapData;
use etherparse::PacketBuilder;
use tandem_backends::config::{Attach, parse};
use tandem_backends::facts::Netlink;
use tandem_backends::memory::{LookedUp, Sizes};
use tandem_backends::run::{Life, Options, Paths, Signals, run};
use tandem_backends::xdp::{Balancer, Companion, Role, attach_companion};

#[path = "afxdp/bed.rs"]
#[allow(dead_code, reason = "half of it is for hand-overs")]
mod bed;

use bed::{Wire, in_namespace, ip, veth};

const SOON: Duration = Duration::from_secs(2);
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 7, 7];

fn udp(sport: u16, to: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac);
    eth.ipv4([10, 1, 0, 1], to, 64).udp(sport, 80).write(&mut frame, b"tandem").expect("a frame");
    frame
}

/// A pin that goes with the test.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn program_at(end: &str) -> Pin {
    let pin = Path::new("/sys/fs/bpf").join(format!("tv-{end}-{}", std::process::id()));
    attach_companion(Companion::Pass, end, Attach::Native, &pin).expect("attached");
    Pin(pin)
}

#[test]
fn in_by_one_and_out_by_the_other() {
    in_namespace(|| {
        veth("front", "client", 1);
        veth("back", "real", 1);
        ip("link set dev back arp on mtu 1600");
        ip("link set dev real mtu 1600");
        ip("addr add 10.1.0.2/24 dev front");
        ip("addr add 10.2.0.2/24 dev back");
        ip("neigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev back nud permanent");
        let _pins = [program_at("client"), program_at("real")];
        let netlink = Netlink::open().expect("netlink");
        let mac = |name: &str| netlink.interface(name).expect("a link").mac.expect("an Ethernet").0;
        let (front, back) = (mac("front"), mac("back"));
        let (one, other) = ("[\"front\", \"back\"]", "[\"back\", \"front\"]");
        for (id, (interfaces, mode)) in [(one, "xdp"), (other, "xdp"), (one, "afxdp"), (other, "afxdp")].into_iter().enumerate() {
            let text = format!(
                "[node]\ninterface = {interfaces}\nmode = \"{mode}\"\n[tunnel]\nsource_v4 = \"10.2.0.2\"\n[flows]\ncapacity = 10_000\n\
                 [[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"udp\"\nreal = [{{ address = \"10.2.0.1\" }}]\n"
            );
            let plan = parse(&text, "several").expect("a plan").plan;
            let options = Options { name: Some(format!("tv-{}-{id}", std::process::id())), ..Options::default() };
            let paths = Paths::of(options.name.as_deref().expect("a name"));
            let (stop, (ready, is_ready)) = (Arc::new(AtomicBool::new(false)), channel());
            let balancer = std::thread::spawn({
                let stop = stop.clone();
                move || {
                    let signals = Signals { stop, ..Signals::default() };
                    let tell = |life| match life {
                        Life::Ready => ready.send(()).expect("somebody waits"),
                        Life::Reloading | Life::Alive | Life::Stopping => {}
                    };
                    run(&plan, &options, &signals, tell, |_, _| Ok(()))
                }
            });
            let started = is_ready.recv_timeout(Duration::from_secs(60));
            if started.is_err() {
                panic!("it did not start: {:?}", balancer.join());
            }
            let (client, real) = (Wire::open("client"), Wire::open("real"));
            let programs = ["front", "back"].map(|name| netlink.interface(name).expect("a link").xdp.expect("a program").program);
            assert_eq!(programs[0], programs[1], "one program on both");
            let sent = udp(5000, [10, 200, 1, 1], front);
            let tagged = [&sent[..12], &[0x81, 0, 0xa0, 100], &sent[12..]].concat();
            for frame in [&sent, &tagged] {
                assert!(client.send(frame));
                let out = real.receive(SOON).expect("it leaves by the other interface");
                assert_eq!(
                    (&out[..6], &out[6..12], &out[12..14]),
                    (&NEXT_HOP[..], &back[..], &[8, 0][..]),
                    "{interfaces} {mode}"
                );
                assert_eq!((&out[30..34], &out[46..]), (&[10, 2, 0, 1][..], &sent[26..]), "in IPIP to the real");
            }
            // What comes by the real's own interface goes back by it.
            assert!(real.send(&udp(5001, [10, 200, 1, 1], back)));
            let out = real.receive(SOON).expect("it goes back");
            assert_eq!((&out[..6], &out[6..12], &out[30..34]), (&NEXT_HOP[..], &back[..], &[10, 2, 0, 1][..]));
            assert!(client.receive(Duration::from_millis(100)).is_none(), "nothing leaves by the wrong one");
            assert!(paths.pins.join("link").exists() && paths.pins.join("link1").exists());
            stop.store(true, Ordering::Relaxed);
            balancer.join().expect("no panic").expect("a clean end");
            assert!(!paths.pins.exists(), "pins are left");
        }
    });
}

/// What is pinned goes with the test.
struct Left(PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = Balancer::remove_left(&self.0);
    }
}

#[test]
fn pinned_tables_of_another_layout_are_refused_by_name() {
    in_namespace(|| {
        let left = Left(Path::new("/sys/fs/bpf").join(format!("op-layout-{}", std::process::id())));
        let plan = parse("[flows]\ncapacity = 1000\n", "layout").expect("a plan").plan;
        let (role, sizes) = (Role::Forward(left.0.clone()), Sizes::for_plan(&plan, 4));
        let first = Balancer::load(&role, sizes).expect("new tables");
        first.tables().root().set_layout(0x7a_0001);
        drop(first);
        let error = Balancer::load(&role, sizes).err().expect("they are another version's").to_string();
        for part in ["their layout is 0x7a0001", "this version has 0x7a", "`tandem detach` removes them"] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        assert!(left.0.join("FLOWS").exists(), "they are gone");
    });
}

/// Each table stays as it was made, one value or entries, with all that is in it; and sizes are found again from either.
#[test]
fn pinned_tables_keep_their_shape() {
    in_namespace(|| {
        let plan = parse("[flows]\ncapacity = 1000\n", "shape").expect("a plan").plan;
        let some = LookedUp { flows: true, ..LookedUp::default() };
        for (n, looked_up) in [LookedUp::default(), some, LookedUp::ALL].into_iter().enumerate() {
            let left = Left(Path::new("/sys/fs/bpf").join(format!("op-shape-{}-{n}", std::process::id())));
            let role = Role::Forward(left.0.clone());
            let sizes = Sizes { features: 0, ..Sizes::for_plan(&plan, 3) };
            let first = Balancer::load(&role, Sizes { looked_up, ..sizes }).expect("new tables");
            let made = first.tables().sizes();
            assert_eq!(made, sizes);
            let last = |balancer: &Balancer| balancer.tables().real_count(2, sizes.extent.reals - 1).map(|line| line[0].get());
            first.tables().real_count(2, sizes.extent.reals - 1).expect("a line")[0].set(77);
            drop(first);
            // Other sizes, and the usual shape: what is pinned counts.
            let mut next =
                Balancer::load(&role, Sizes { flow_sets: 4096, ..Sizes::for_plan(&plan, 9) }).expect("they are taken over");
            assert_eq!((next.tables().sizes(), last(&next)), (made, Some(77)));
            next.renew(u32::MAX).expect("another program over the same tables");
            for (name, is_looked_up) in
                [("VIPS", looked_up.vips), ("REALS", false), ("FLOWS", looked_up.flows), ("COUNTS", looked_up.counts)]
            {
                let map = MapData::from_pin(left.0.join(name)).and_then(|map| map.info()).expect("a pinned map");
                assert_eq!(map.max_entries() > 1, is_looked_up, "{name}");
            }
        }
    });
}
