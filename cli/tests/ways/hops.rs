//! Next hops that change, fail, come back, or were never there.

use std::time::{Duration, Instant};

use tandem_lab::Host;

use super::common::permitted;
use super::stand::{Pulse, Service, Stand, VIP_V4, VIP_V6, echo, until};

const MOMENT: Duration = Duration::from_secs(5);
/// A dead next hop is asked within 15 seconds, and three times, a second apart, before it counts as dead.
const DEATH: Duration = Duration::from_secs(30);

fn both_families() -> [Service; 2] {
    [Service::udp(VIP_V4, 7000, "ipip", false), Service::udp(VIP_V6, 7000, "ipip", true)]
}

#[test]
fn a_next_hop_with_another_mac_and_another_route_are_followed_at_once() {
    if !permitted() {
        return;
    }
    let services = both_families();
    let stand = Stand::new(&services, "", |ground| {
        // As a machine does that took over an address: it tells everybody.
        ground.set(Host::Router, "ipv4/conf/all/arp_notify", "1");
        ground.set(Host::Router, "ipv6/conf/all/ndisc_notify", "1");
        for v6 in [false, true] {
            ground.route("add", v6, &format!("via {}", ground.gateway(1, v6)));
        }
    });
    echo(&stand.lab, &services);
    let ground = stand.ground();
    for (round, seat) in ["xdp", "afxdp"].into_iter().enumerate() {
        stand.seat(seat);
        for (service, v6) in services.iter().zip([false, true]) {
            let pulse = Pulse::start(&stand.lab, service.at);
            pulse.resumed(Instant::now(), MOMENT);

            let before = ground.received(Host::Router, "gw2");
            let replaced = Instant::now();
            ground.route("replace", v6, &format!("via {}", ground.gateway(2, v6)));
            let took = replaced.elapsed();
            until("frames by the other gateway", MOMENT, || ground.received(Host::Router, "gw2") > before + 5);
            eprintln!("{seat}, IPv6 {v6}: `ip route replace` took {took:?}, frames went there after {:?}", replaced.elapsed());
            assert!(replaced.elapsed() < Duration::from_secs(1), "{:?}", replaced.elapsed());

            let mac = format!("02:00:00:00:{round:02x}:{:02x}", 0x10 + u8::from(v6));
            ground.ip(Host::Router, &format!("link set gw2 address {mac}"));
            let changed = Instant::now();
            let outage = pulse.resumed(changed, MOMENT);
            eprintln!("{seat}, IPv6 {v6}: another MAC, and {outage:?} without an answer");
            assert!(outage < Duration::from_secs(1), "{outage:?}");
            until("the log", MOMENT, || stand.log().contains(&mac));

            ground.route("replace", v6, &format!("via {}", ground.gateway(1, v6)));
            pulse.resumed(Instant::now(), MOMENT);
        }
    }
    assert_eq!(stand.counters()["afxdp"]["seat"]["defect"], 0);
}

#[test]
fn a_silent_gateway_is_replaced_by_another_one_until_it_answers() {
    if !permitted() {
        return;
    }
    let services = both_families();
    let stand = Stand::new(&services, "", |ground| {
        let [v4, v6] = [false, true].map(|v6| [ground.gateway(1, v6), ground.gateway(2, v6)]);
        // One family with a second metric, the other with a second next hop.
        ground.route("add", false, &format!("via {} metric 10", v4[0]));
        ground.route("add", false, &format!("via {} metric 20", v4[1]));
        ground.route("add", true, &format!("nexthop via {} nexthop via {}", v6[0], v6[1]));
    });
    echo(&stand.lab, &services);
    let ground = stand.ground();
    let pulse = Pulse::start(&stand.lab, services[0].at);
    pulse.resumed(Instant::now(), MOMENT);
    ground.ip(Host::Router, "link set gw1 down");
    let died = Instant::now();
    let outage = pulse.resumed(died, DEATH);
    eprintln!("a gateway died: {outage:?} until frames went by the other one");
    let words =
        format!("its gateway {} does not answer; its frames go by {}", ground.gateway(1, false), ground.gateway(2, false));
    until("the log", MOMENT, || stand.log().contains(&words));
    // Those of the other family, too, whichever it had.
    Pulse::start(&stand.lab, services[1].at).resumed(Instant::now(), DEATH);
    assert_eq!(stand.mode()["unreachable"], serde_json::json!([]));

    let back = Instant::now();
    ground.ip(Host::Router, "link set gw1 up");
    let words = format!("its frames go by {}", ground.gateway(1, false));
    until("the first gateway again", DEATH, || stand.log().contains(&words) && stand.log().contains(") again (not by"));
    eprintln!("it came back, and was used after {:?}", back.elapsed());
    pulse.resumed(Instant::now(), MOMENT);
}

#[test]
fn a_real_that_nobody_leads_to_is_counted_named_and_served_when_it_appears() {
    if !permitted() {
        return;
    }
    let services = both_families();
    let stand = Stand::new(&services, "", |ground| {
        for v6 in [false, true] {
            ground.route("add", v6, &format!("via {}", ground.gateway(3, v6)));
        }
    });
    echo(&stand.lab, &services);
    let ground = stand.ground();
    let pulses = services.map(|service| Pulse::start(&stand.lab, service.at));
    until("counted", MOMENT, || stand.reason("no-next-hop") > 10);
    let unreachable = stand.mode()["unreachable"].clone();
    assert_eq!(unreachable.as_array().map(Vec::len), Some(2), "{unreachable}");
    for v6 in [false, true] {
        let why = format!("its next hop {} does not answer", ground.gateway(3, v6));
        assert!(unreachable.to_string().contains(&why), "{unreachable}");
        let times = stand.log().matches(&why).count();
        assert_eq!(times, 1, "said once: {}", stand.log());
    }
    stand.seat("afxdp");
    let before = stand.reason("no-next-hop");
    until("counted by the worker, too", MOMENT, || stand.reason("no-next-hop") > before);

    let appeared = Instant::now();
    ground.add_gateway(3);
    for pulse in &pulses {
        let took = pulse.resumed(appeared, DEATH);
        eprintln!("served {took:?} after it appeared");
    }
    assert_eq!(stand.mode()["unreachable"], serde_json::json!([]));
}
