//! The doctor on a real server with the kernel's own tunnel devices: something is broken, frames are not delivered, the doctor
//! names the check, its cures are run as they are printed, frames are delivered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tandem_doctor::checks::{Proof, all};
use tandem_doctor::{Report, Role, Setting, Status, examine};

use super::bed::{Bed, SETTLE};
use super::cards;
use super::cases::{self, BALANCER, CLIENT, REAL};
use super::report::Report as Results;
use super::service::Service;
use super::setups::{Delivers, PLAIN, SETUPS, Setup, is, is_ethernet};
use super::start::is_init;

/// What a healthy real is given, by the name of its row; what is broken, as commands; what is not delivered then.
struct Broken {
    id: &'static str,
    what: &'static str,
    setup: &'static str,
    breaks: &'static [&'static str],
    service: Delivers,
}

const PORTS: &str = "ports for FOU and GUE";
const ANY: &str = "the same, ip6tnl0 for both families";

const BROKEN: [Broken; 11] = [
    Broken {
        id: "D-05",
        what: "ip6tnl0 takes only IPv6",
        setup: ANY,
        breaks: &["ip -6 tunnel change ip6tnl0 mode ip6ip6"],
        service: |to| is(to, "ipip") && to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-05",
        what: "tunl0 is down",
        setup: ANY,
        breaks: &["ip link set tunl0 down"],
        service: |to| is(to, "ipip") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-05",
        what: "sit0 is down, under GUE",
        setup: PORTS,
        breaks: &["ip link set sit0 down"],
        service: |to| is(to, "gue0") && !to.v6_real && to.vip.is_ipv6(),
    },
    Broken {
        id: "D-05",
        what: "Geneve of another network",
        setup: "Geneve for packets",
        breaks: &["ip link del gnv0", "ip link add gnv0 type geneve id 4243 remote 172.16.1.2", "ip link set gnv0 up"],
        service: |to| is(to, "geneve") && !is_ethernet(to) && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-06",
        what: "GUE has no port over IPv6",
        setup: PORTS,
        breaks: &["ip -6 fou del port 6080"],
        service: |to| is(to, "gue") && to.v6_real && to.vip.is_ipv6(),
    },
    Broken {
        id: "D-06",
        what: "FOU with the other protocol inside",
        setup: PORTS,
        breaks: &["ip fou del port 5555", "ip fou add port 5555 ipproto 41"],
        service: |to| is(to, "fou") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-04",
        what: "strict reverse path filter on `all`",
        setup: ANY,
        breaks: &["sysctl -w net.ipv4.conf.all.rp_filter=1"],
        service: |to| is(to, "ipip") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-04",
        what: "strict reverse path filter on gre0",
        setup: ANY,
        breaks: &["sysctl -w net.ipv4.conf.gre0.rp_filter=1"],
        service: |to| is(to, "gre") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-02",
        what: "the outer source is an address of the real's",
        setup: ANY,
        breaks: &["ip addr add 172.16.1.2/24 dev lo"],
        service: |to| is(to, "ipip") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-07",
        what: "the VIP is missing",
        setup: ANY,
        breaks: &["ip addr del 10.200.1.1/32 dev lo"],
        service: |to| is(to, "ipip") && !to.v6_real && to.vip.is_ipv4(),
    },
    Broken {
        id: "D-07",
        what: "the IPv6 VIP is missing",
        setup: ANY,
        breaks: &["ip -6 addr del fc00:200::1/128 dev lo"],
        service: |to| is(to, "ipip") && to.v6_real && to.vip.is_ipv6(),
    },
];

pub fn run(results: &mut Results) {
    let services = cases::services();
    for row in &BROKEN {
        let name = format!("doctor: {} {}", row.id, row.what);
        match one(row, &services) {
            Ok(None) => results.ok(&name),
            Ok(Some(why)) => results.skip(&name, &why),
            Err(why) => results.fail(&name, &why),
        }
    }
    results.result("doctor: D-08 the real answers ARP for the VIP", answers_arp(&services));
    results.result("doctor: what is said to be tried on stock kernels is tried here", said());
    let name = "doctor: D-47 a device that is to refuse UDP without a checksum";
    match without_checksums(&services) {
        Ok(said) => {
            println!("note: {name}: {said}");
            results.ok(name);
        }
        Err(why) if !is_init() && why.starts_with("ip: ") => results.skip(name, &why),
        Err(why) => results.fail(name, &why),
    }
    let name = "doctor: D-01 the outer source is the VIP";
    match source_is_vip(&services) {
        Ok(None) => results.ok(name),
        Ok(Some(why)) => results.skip(name, &why),
        Err(why) => results.fail(name, &why),
    }
}

/// The documentation and this table agree.
fn said() -> Result<(), String> {
    let tried = BROKEN.iter().map(|row| row.id).chain(["D-01", "D-08"]).chain(cards::TRIED).collect::<BTreeSet<_>>();
    let said: BTreeSet<&str> = all().filter(|check| check.proof.contains(&Proof::Qemu)).map(|check| check.id).collect();
    if tried == said { Ok(()) } else { Err(format!("tried {tried:?}, said {said:?}")) }
}

/// A skip says why.
fn one(row: &Broken, services: &[Service]) -> Result<Option<String>, String> {
    let setup = SETUPS.iter().find(|setup| setup.name == row.setup).ok_or("no such row")?;
    let service = services.iter().find(|service| (row.service)(service)).ok_or("no such service")?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !setup.delivers_on(&release)(service) {
        return Ok(Some("this kernel does not take it at all".to_owned()));
    }
    let bed = match Bed::new(setup, services) {
        Ok(bed) => bed,
        // A kernel without modules lacks most of the devices.
        Err(why) if !is_init() => return Ok(Some(why)),
        Err(why) => return Err(why),
    };
    let frame = |number: u8| cases::one(BALANCER, service, number);
    let setting = setting(service, BALANCER);
    if !delivered(&bed, &frame(1), 1, Duration::from_secs(5)) {
        return Err("nothing was delivered before anything was broken".to_owned());
    }
    let report = examined(&bed, &setting);
    if let Some(bad) = bad(&report).first() {
        return Err(format!("the healthy real: {bad}: {report}"));
    }
    for command in row.breaks {
        in_it(&bed, command)?;
    }
    if delivered(&bed, &frame(2), 2, SETTLE) {
        return Err("it was delivered, although it is broken".to_owned());
    }
    let report = examined(&bed, &setting);
    if bad(&report) != [row.id] {
        return Err(format!("expected {} alone, found {:?}: {report}", row.id, bad(&report)));
    }
    for cure in report.cures(row.id) {
        in_it(&bed, &cure)?;
    }
    if !delivered(&bed, &frame(3), 3, Duration::from_secs(5)) {
        return Err(format!("not delivered after {:?}", report.cures(row.id)));
    }
    let report = examined(&bed, &setting);
    if bad(&report).is_empty() { Ok(None) } else { Err(format!("cured, and still {report}")) }
}

/// D-08: on the balancer's own segment, the real takes the VIP's packets by answering who asks for it.
fn answers_arp(services: &[Service]) -> Result<(), String> {
    let setup = SETUPS.iter().find(|setup| setup.name == "no device").ok_or("no such row")?;
    let service = services.iter().find(|to| is(to, "l2") && to.vip.is_ipv4()).ok_or("no such service")?;
    let mut bed = Bed::new(setup, services)?;
    let setting = Setting { balancers: vec!["192.168.7.254".parse().expect("an address")], ..setting(service, BALANCER) };
    let IpAddr::V4(vip) = service.vip else { return Err("no IPv4 VIP".to_owned()) };
    let request = who_has(vip.octets());
    let answered = |bed: &mut Bed| {
        bed.send(&request);
        // An ARP reply (operation 2) whose sender is the VIP.
        bed.hears(
            |frame| frame.get(20..22) == Some(&[0, 2]) && frame.get(28..32) == Some(&vip.octets()),
            Duration::from_millis(300),
        )
    };
    in_it(&bed, "sysctl -w net.ipv4.conf.all.arp_ignore=0")?;
    if !answered(&mut bed) {
        return Err("nobody answers for the VIP, although arp_ignore is 0".to_owned());
    }
    let report = examined(&bed, &setting);
    if bad(&report) != ["D-08"] {
        return Err(format!("expected D-08 alone, found {:?}: {report}", bad(&report)));
    }
    for cure in report.cures("D-08") {
        in_it(&bed, &cure)?;
    }
    if answered(&mut bed) {
        return Err("somebody answers for the VIP after the cure".to_owned());
    }
    let report = examined(&bed, &setting);
    if bad(&report).is_empty() { Ok(()) } else { Err(format!("cured, and still {report}")) }
}

const REFUSING: Setup = Setup {
    name: "Geneve that refuses UDP without a checksum",
    commands: &[&["link add gnv0 address 02:00:00:00:77:77 type geneve external noudp6zerocsumrx", "link set gnv0 up"]],
    ..PLAIN
};

/// D-47: whether the kernel obeys what `ip link` asks for, and the check says the same. What came of it.
fn without_checksums(services: &[Service]) -> Result<&'static str, String> {
    let service = services.iter().find(|to| is_ethernet(to) && to.v6_real && to.vip.is_ipv4()).ok_or("no such service")?;
    let bed = Bed::new(&REFUSING, services)?;
    let setting = Setting { zero_checksums: true, ..setting(service, BALANCER) };
    // The checksum of UDP, behind Ethernet and IPv6.
    let frame = |number: u8| {
        let mut frame = cases::one(BALANCER, service, number);
        frame[14 + 40 + 6..14 + 40 + 8].fill(0);
        frame
    };
    let (is_delivered, report) = (delivered(&bed, &frame(1), 1, Duration::from_secs(2)), examined(&bed, &setting));
    if is_delivered {
        return if bad(&report).is_empty() { Ok("not obeyed: delivered, and nothing is said") } else { Err(report.to_string()) };
    }
    if bad(&report) != ["D-47"] {
        return Err(format!("expected D-47 alone, found {:?}: {report}", bad(&report)));
    }
    for cure in report.cures("D-47") {
        in_it(&bed, &cure)?;
    }
    if delivered(&bed, &frame(2), 2, Duration::from_secs(5)) {
        Ok("obeyed, and cured")
    } else {
        Err("cured, and not delivered".to_owned())
    }
}

/// An ARP request (RFC 826) of the balancer's for an address.
fn who_has(address: [u8; 4]) -> Vec<u8> {
    let own = [2, 0, 0, 0, 7, 2];
    let ethernet = [&[0xff; 6][..], &own, &[8, 6]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &own, &[192, 168, 7, 254], &[0; 6], &address].concat();
    [ethernet, arp].concat()
}

/// D-01 is the balancer's: its configuration is what the cure changes. A skip says why.
fn source_is_vip(services: &[Service]) -> Result<Option<String>, String> {
    let setup = SETUPS.iter().find(|setup| setup.name == ANY).ok_or("no such row")?;
    let service = services.iter().find(|to| is(to, "ipip") && !to.v6_real && to.vip.is_ipv4()).ok_or("no such service")?;
    let bed = match Bed::new(setup, services) {
        Ok(bed) => bed,
        Err(why) if !is_init() => return Ok(Some(why)),
        Err(why) => return Err(why),
    };
    // The balancer is the namespace that the real's link ends in: it has an address of its own.
    shell(&format!("ip addr add {}/32 dev lo", BALANCER[0]))?;
    let file = std::env::temp_dir().join(format!("dr-source-{}.toml", std::process::id()));
    let text = cases::of(["10.200.1.1".to_owned(), BALANCER[1].to_owned()], std::slice::from_ref(service));
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let result = cured_by_file(&bed, service, &file);
    let _ = std::fs::remove_file(&file);
    shell(&format!("ip addr del {}/32 dev lo", BALANCER[0]))?;
    result.map(|()| None)
}

fn cured_by_file(bed: &Bed, service: &Service, file: &std::path::Path) -> Result<(), String> {
    let read = || {
        let plan = tandem_backends::config::load(file).map_err(|error| error.to_string())?.plan;
        Ok::<_, String>((cases::by(&plan, service, 1), Setting::of_plan(&plan, &file.display().to_string(), None)))
    };
    let (frame, setting) = read()?;
    if delivered(bed, &frame, 1, SETTLE) {
        return Err("it was delivered, although its source is the VIP".to_owned());
    }
    let report = examine(&setting).0;
    let row = report.row("D-01").filter(|row| row.status == Status::Fail).ok_or_else(|| report.to_string())?;
    for cure in row.findings.iter().flat_map(|finding| &finding.cures) {
        shell(cure)?;
    }
    let (frame, setting) = read()?;
    if !delivered(bed, &frame, 1, Duration::from_secs(5)) {
        return Err(format!("not delivered with the source that was printed: {:?}", setting.sources));
    }
    let report = examine(&setting).0;
    if report.row("D-01").is_some_and(|row| row.status == Status::Pass) { Ok(()) } else { Err(report.to_string()) }
}

fn setting(service: &Service, sources: [&str; 2]) -> Setting {
    let real: IpAddr = REAL[usize::from(service.v6_real)].parse().expect("an address");
    let vni = if service.method.of_vip.contains("vni") { 4242 } else { 0 };
    let service = tandem_doctor::Service {
        udp: true,
        vip: tandem_doctor::Network::host(service.vip),
        port: service.at().port(),
        method: format!("udp,{},{}", service.at(), service.method.name)
            .parse::<tandem_doctor::Service>()
            .expect("a service")
            .method,
        vni,
        ethernet: is_ethernet(service),
        reals: vec![real],
    };
    let source: IpAddr = sources[usize::from(real.is_ipv6())].parse().expect("an address");
    Setting {
        services: vec![service],
        sources: vec![tandem_doctor::Network::host(source)],
        clients: CLIENT.map(|client| client.parse().expect("an address")).to_vec(),
        ..Setting::of(Role::Real)
    }
}

fn examined(bed: &Bed, setting: &Setting) -> Report {
    bed.inside(|| examine(setting).0)
}

/// Checks that failed and are no consequence of others. Warnings are about what is not tried here.
pub fn bad(report: &Report) -> Vec<&str> {
    report.roots.iter().map(String::as_str).collect()
}

fn delivered(bed: &Bed, frame: &[u8], number: u8, most: Duration) -> bool {
    bed.send(frame);
    let until = Instant::now() + most;
    loop {
        if bed.datagrams().iter().any(|arrived| arrived.payload.first() == Some(&number)) {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn in_it(bed: &Bed, command: &str) -> Result<(), String> {
    bed.inside(|| shell(command))
}

/// A command as a shell would run it; the initial file system has none. What is quoted is one word.
pub fn shell(command: &str) -> Result<(), String> {
    let parts = command.split('\'').enumerate();
    let words: Vec<String> = parts
        .flat_map(
            |(at, part)| {
                if at % 2 == 1 { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
            },
        )
        .collect();
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
