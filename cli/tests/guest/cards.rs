//! The doctor on a balancer, with VLANs, a bond, and the card that QEMU and Debian's kernels share, vmxnet3: three of them on one wire.
//! Something is broken, a frame does not come back or what the check warns of is seen, the doctor names the check, its cures are
//! run as they are printed, and all is well.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use nix::mount::umount;
use nix::sched::{CloneFlags, setns, unshare};
use tandem_backends::config::Attach;
use tandem_backends::run::Options;
use tandem_backends::xdp::{Companion, SlotWish, attach_companion, detach_root, root_array};
use tandem_doctor::{Network, Report, Role, Setting, Status, examine};

use super::bed::{ip, on_thread, own_namespace, sysctl};
use super::doctor::{bad, shell};
use super::report::Report as Results;
use super::running::{PLAIN, PLAIN_LINK, Stand, exchange, exchange_within, udp, wire};
use super::start::is_init;

/// Ids of what is tried here.
pub const TRIED: [&str; 4] = ["D-41", "D-43", "D-50", "D-54"];
/// As long as this nothing may come that is broken.
const SILENCE: Duration = Duration::from_secs(1);
/// The balancer's two, and the far end. The kernel names them in the order in which QEMU has them.
const CARDS: [&str; 3] = ["eth0", "eth1", "eth2"];

/// Frames leave by the VLAN that they came by.
const HOP: &str = "next_hop_mac = \"02:00:00:00:07:07\"\n";

/// A balancer on a card with VLANs. The client is in VLAN 5.
struct Vlans {
    attach: &'static str,
    node: &'static str,
    /// The device of the way to the real.
    way: &'static str,
    /// Where the real is seen.
    real: &'static str,
}

/// In native mode a tag that the card took off is lost.
const INTO_THE_SAME: Vlans = Vlans { attach: "native", node: HOP, way: "eth0", real: "eth2.5" };
/// In generic mode it goes on beside the frame.
const INTO_ANOTHER: Vlans = Vlans { attach: "generic", node: "", way: "eth0.7", real: "eth2.7" };
const VLANS: &str = "link set eth0 up\nlink set eth2 up\n\
    link add link eth0 name eth0.5 type vlan id 5\nlink add link eth2 name eth2.5 type vlan id 5\n\
    link add link eth0 name eth0.7 type vlan id 7\nlink add link eth2 name eth2.7 type vlan id 7\n\
    link set eth0.5 up\nlink set eth2.5 up\nlink set eth0.7 up\nlink set eth2.7 up\n";
const NO_VLANS: &str =
    "link del eth0.5\nlink del eth2.5\nlink del eth0.7\nlink del eth2.7\naddr flush dev eth0\nlink set eth0 down\n";
const BOND: &str = "link add b0 address 02:00:00:00:00:08 type bond mode active-backup miimon 50\n\
    link set eth0 down\nlink set eth1 down\nlink set eth0 master b0\nlink set eth1 master b0\nlink set b0 up\n\
    link set eth2 up\n\
    addr add 10.2.0.2/24 dev b0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev b0 nud permanent\n";
/// A wire between two hosts: the router's end goes into a namespace of its own.
const VETH: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\nlink set lb0 up\n\
    addr add 10.2.0.2/24 dev lb0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0 nud permanent\n";
const ROUTER: &str = "link set far0 up\nlink add link far0 name far0.5 type vlan id 5\nlink set far0.5 up\n\
    addr add 10.2.0.1/24 dev far0.5\nneigh add 10.2.0.2 lladdr 02:00:00:00:00:08 dev far0.5 nud permanent\n\
    route add 10.200.1.1/32 via 10.2.0.2\n";

pub fn run(results: &mut Results) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Native XDP of this card's driver: 54f00cce1178 (v6.6).
    let native = !["5.10.", "6.1."].iter().any(|old| release.starts_with(old));
    let card = |name: &str| driver(name).as_deref() == Some("vmxnet3");
    let tags = "doctor: D-41 the card takes VLAN tags off, ";
    let bond = "doctor: D-50 attaching takes the carrier of a bond's cards away";
    if CARDS.iter().all(|name| card(name)) {
        results.result(&format!("{tags}generic"), tags_are_taken_off(&INTO_ANOTHER));
        if native {
            results.result(&format!("{tags}native"), tags_are_taken_off(&INTO_THE_SAME));
            results.result(bond, cards_are_reset());
        } else {
            let why = "this kernel's driver has no native XDP";
            results.skip(&format!("{tags}native"), why);
            results.skip(bond, why);
        }
    } else if is_init() {
        let found: Vec<String> = CARDS.iter().map(|name| format!("{name}: {:?}", driver(name))).collect();
        results.fail("doctor: cards", &format!("not three of vmxnet3: {}", found.join(", ")));
    } else {
        results.skip("doctor: D-41, D-50", "there is no card of vmxnet3");
    }
    let name = "doctor: D-43 a veth's tags are left to hardware";
    match tags_beside_the_frame() {
        Err(why) if !is_init() && why.starts_with("ip: ") => results.skip(name, &why),
        result => results.result(name, result),
    }
    let name = "doctor: D-54 no BPF file system";
    if is_init() {
        results.result(name, no_place_for_pins());
    } else {
        results.skip(name, "the host's own lies below that of this program");
    }
}

fn driver(card: &str) -> Option<String> {
    let link = std::fs::read_link(Path::new("/sys/class/net").join(card).join("device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// What the doctor says on the balancer of a stand: running, or about to be started.
fn examined(stand: &Stand, is_starting: bool) -> Result<Report, String> {
    // By its name it would be asked, and nobody answers here.
    let mut setting = Setting::of_plan(&stand.plan()?, "guest.toml", Some("nobody"));
    if let Some(balancer) = &mut setting.balancer {
        balancer.is_starting = is_starting;
    }
    Ok(examine(&setting).0)
}

/// One check says so, alone of those that fail.
fn names(report: &Report, id: &str) -> Result<(), String> {
    if bad(report) == [id] { Ok(()) } else { Err(format!("expected {id} alone, found {:?}: {report}", bad(report))) }
}

fn nothing(report: &Report) -> Result<(), String> {
    if bad(report).is_empty() { Ok(()) } else { Err(format!("found {:?}: {report}", bad(report))) }
}

fn status(report: &Report, id: &str) -> Option<Status> {
    report.row(id).map(|row| row.status)
}

fn cured(report: &Report, id: &str) -> Result<(), String> {
    let cures = report.cures(id);
    if cures.is_empty() {
        return Err(format!("no cure: {report}"));
    }
    cures.iter().try_for_each(|cure| shell(cure))
}

/// A frame of one far link comes back by another.
fn comes_back(from: &str, to: &str) -> Result<(), String> {
    exchange(&wire(from)?, &mut wire(to)?, &udp(5000), PLAIN)
}

fn does_not(from: &str, to: &str) -> Result<(), String> {
    match exchange_within(SILENCE, &wire(from)?, &mut wire(to)?, &udp(5001), PLAIN) {
        Ok(()) => Err("it comes back, although it is broken".to_owned()),
        Err(_) => Ok(()),
    }
}

fn tags_are_taken_off(vlans: &Vlans) -> Result<(), String> {
    let Vlans { attach, node, way, real } = *vlans;
    let ways = format!("addr add 10.2.0.2/24 dev {way}\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev {way} nud permanent\n");
    ip(&[], &format!("{VLANS}{ways}"))?;
    let stand = Stand { lines: "", far: &[], interface: "eth0", attach, node, mode: "xdp" };
    let result = shell("ethtool -K eth0 rxvlan off txvlan off").and_then(|()| {
        stand.balance(false, |_| {
            comes_back("eth2.5", real).map_err(|why| format!("before anything was broken: {why}"))?;
            nothing(&examined(&stand, false)?)?;
            shell("ethtool -K eth0 rxvlan on")?;
            does_not("eth2.5", real)?;
            let report = examined(&stand, false)?;
            names(&report, "D-41")?;
            cured(&report, "D-41")?;
            comes_back("eth2.5", real).map_err(|why| format!("cured: {why}"))?;
            nothing(&examined(&stand, false)?)
        })
    });
    result.and(ip(&[], NO_VLANS))
}

/// How often the carriers of the bond's cards went or came.
fn carriers() -> Result<u32, String> {
    let of = |card: &str| {
        let text =
            std::fs::read_to_string(format!("/sys/class/net/{card}/carrier_changes")).map_err(|error| error.to_string())?;
        text.trim().parse::<u32>().map_err(|error| error.to_string())
    };
    // What is under way is told within moments.
    std::thread::sleep(SILENCE);
    Ok(of("eth0")? + of("eth1")?)
}

fn cards_are_reset() -> Result<(), String> {
    ip(&[], BOND)?;
    // What its cards have is the bond's, too.
    let result = shell("ethtool -K b0 lro off").and_then(|()| with_bond());
    let array = root_array("b0");
    let detached = detach_root(&array).map(drop).map_err(|error| error.to_string());
    result.and(detached).and(ip(&[], "link del b0\n"))
}

fn with_bond() -> Result<(), String> {
    let stand = Stand { lines: "", far: &[], interface: "b0", attach: "native", node: "", mode: "xdp" };
    let before = carriers()?;
    stand.balance(false, |_| comes_back("eth2", "eth2")).map_err(|why| format!("without a root: {why}"))?;
    let moved = carriers()? - before;
    if moved < 4 {
        return Err(format!("{moved} changes of carriers: nothing to warn of"));
    }
    let report = examined(&stand, true)?;
    nothing(&report)?;
    if status(&report, "D-50") != Some(Status::Warn) {
        return Err(format!("no warning: {report}"));
    }
    cured(&report, "D-50")?;
    let before = carriers()?;
    let slot = Some(SlotWish { path: root_array("b0"), slot: 0 });
    stand
        .balance_by(Options { slot, ..Options::default() }, |_| comes_back("eth2", "eth2"))
        .map_err(|why| format!("in the root: {why}"))?;
    let moved = carriers()? - before;
    if moved > 0 {
        return Err(format!("{moved} changes of carriers, with a root that stays"));
    }
    let report = examined(&stand, true)?;
    if status(&report, "D-50") == Some(Status::Pass) { nothing(&report) } else { Err(format!("cured, and still {report}")) }
}

/// On the router: 8021q hands the tag over beside the frame, which the veth leaves as it is.
fn tags_beside_the_frame() -> Result<(), String> {
    let stand = Stand { lines: VETH, far: &[], interface: "lb0", attach: "native", node: HOP, mode: "xdp" };
    stand.set_up(|| {
        let router = on_thread(|| unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace"), own_namespace);
        ip(&[], &format!("link set far0 netns /proc/{}/fd/{}\n", std::process::id(), router.as_raw_fd()))?;
        let pin = Path::new("/sys/fs/bpf").join(format!("guest-tags-{}", std::process::id()));
        let result = stand.balance(false, |_| {
            on_thread(
                || setns(&router, CloneFlags::CLONE_NEWNET).expect("a namespace"),
                || {
                    sysctl("ipv4/ip_forward", "1")?;
                    ip(&[], ROUTER)?;
                    attach_companion(Companion::Pass, "far0", Attach::Native, &pin).map_err(|error| error.to_string())?;
                    on_router()
                },
            )
        });
        let _ = std::fs::remove_file(&pin);
        result
    })
}

fn on_router() -> Result<(), String> {
    let (balancer, vip) = ([10, 2, 0, 2].into(), "udp,10.200.1.1:80,ipip,real=10.2.0.1");
    let setting = Setting {
        services: vec![vip.parse().map_err(|error| format!("{vip}: {error}"))?],
        sources: vec![Network::host(balancer)],
        balancers: vec![balancer],
        ..Setting::of(Role::Router)
    };
    shell("ethtool -K far0 tx off")?;
    shell("ethtool -K far0 txvlan off")?;
    comes_back("far0.5", "far0.5").map_err(|why| format!("before anything was broken: {why}"))?;
    nothing(&examine(&setting).0)?;
    shell("ethtool -K far0 txvlan on")?;
    does_not("far0.5", "far0.5")?;
    let report = examine(&setting).0;
    nothing(&report)?;
    if status(&report, "D-43") != Some(Status::Warn) {
        return Err(format!("no warning: {report}"));
    }
    cured(&report, "D-43")?;
    comes_back("far0.5", "far0.5").map_err(|why| format!("cured: {why}"))?;
    let report = examine(&setting).0;
    if status(&report, "D-43") == Some(Status::Pass) { nothing(&report) } else { Err(format!("cured, and still {report}")) }
}

/// In the network stack: what a veth takes of its peer's native XDP is another check's.
fn no_place_for_pins() -> Result<(), String> {
    let stand = Stand { lines: PLAIN_LINK, far: &[], interface: "lb0", attach: "generic", node: "", mode: "xdp" };
    stand.set_up(|| {
        umount("/sys/fs/bpf").map_err(|error| format!("umount: {error}"))?;
        if stand.balance(false, |_| Ok(())).is_ok() {
            return Err("the balancer started, although it has no place for its pins".to_owned());
        }
        let report = examined(&stand, true)?;
        names(&report, "D-54")?;
        cured(&report, "D-54")?;
        stand.balance(false, |_| comes_back("far0", "far0"))?;
        nothing(&examined(&stand, true)?)
    })
}
