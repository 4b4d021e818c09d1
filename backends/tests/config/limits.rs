//! Warnings, limits and files.

use tandem_backends::config::{ConfigError, MAX_REALS, MAX_VIPS, load};

use super::{SMALL, good, refuses, warns};

#[test]
fn warnings() {
    warns(
        "",
        "t.toml:1:1: key `vip`: no VIP: every packet is passed to the host; add a `[[vip]]`\nt.toml:1:1: key `node.interface`: no interface: enough for `replay` and `trace`, `run` will refuse; add it, for example `interface = \"eth0\"`",
    );
    let reals = |reals: &str| SMALL.replace("[[vip.real]]\naddress = \"10.0.0.1\"", &format!("real = [{reals}]"));
    for (text, why) in [
        ("", "no reals"),
        ("{ address = \"10.0.0.1\", weight = 0 }, { address = \"10.0.0.2\", weight = 0 }", "only weights of 0"),
        (
            "{ address = \"10.0.0.1\", state = \"drain\" }, { address = \"10.0.0.2\", state = \"down\" }",
            "every real is drained or down",
        ),
        (
            "{ address = \"10.0.0.1\", state = \"drain\" }, { address = \"10.0.0.2\", weight = 0 }",
            "no real is both up and of a weight above 0",
        ),
    ] {
        warns(
            &reals(text),
            &format!(
                "t.toml:5:1: key `vip[0]`: {why}: new flows to 10.200.1.1:80/tcp are dropped; add a `[[vip.real]]` that is up, with a weight above 0"
            ),
        );
    }
}

#[test]
fn sources_that_only_the_host_can_supply() {
    let v6 = SMALL.replace("\"10.0.0.1\"", "\"fc00::1\"");
    let plan = good(&v6).plan;
    assert!(plan.needs_source_v6() && !plan.needs_source_v4());
    warns(
        &v6,
        "t.toml:3:1: key `tunnel.source_v6`: there are IPv6 reals and no source for their outer headers: it will be taken from the interface's own address; set it if the interface has no IPv6 address, or several",
    );
    let v4 = SMALL.replace("source_v4 = \"10.0.13.37\"\n", "");
    let plan = good(&v4).plan;
    assert!(plan.needs_source_v4() && !plan.needs_source_v6());
    warns(
        &v4,
        "t.toml:3:1: key `tunnel.source_v4`: there are IPv4 reals and no source for their outer headers: it will be taken from the interface's own address; set it if the interface has no IPv4 address, or several",
    );
    warns(
        &v6.replace("source_v4 = \"10.0.13.37\"", "source_prefix_v6 = \"100::/64\""),
        "t.toml:3:1: key `tunnel.source_prefix_v6`: ICMP errors from the way to the reals go to the sources that are crafted inside it; only if they are routed to this host can it tell the clients of a small MTU there; route the prefix here, or see that the way to the reals takes every frame",
    );
}

#[test]
fn limits_on_vips_and_reals() {
    let vips = |count: usize| -> String {
        let vip = |n| {
            format!(
                "[[vip]]\naddress = \"10.200.{}.{}\"\nport = {}\nprotocol = \"tcp\"\n",
                n / 200 % 200,
                n % 200,
                1 + n / 40_000
            )
        };
        (0..count).map(vip).collect()
    };
    assert_eq!(good(&vips(MAX_VIPS)).plan.vips.len(), MAX_VIPS);
    refuses(&vips(MAX_VIPS + 2), "262145:1: key `vip[65536]`: too many VIPs (found 65538); accepted: up to 65536");

    let reals = |count: usize| -> String {
        let real = |n: usize| format!("[[vip.real]]\naddress = \"10.{}.{}.{}\"\n", n / 40_000, n / 200 % 200, n % 200 + 1);
        let first: String = (0..count / 2).map(real).collect();
        // Some of them again: only distinct addresses count.
        let second: String = (count / 2 - 10..count).map(real).collect();
        format!("{}{first}[[vip]]\naddress = \"10.201.1.1\"\nport = 1\nprotocol = \"tcp\"\n{second}", vips(1))
    };
    assert_eq!(good(&reals(MAX_REALS)).plan.vips.len(), 2);
    refuses(
        &reals(MAX_REALS + 2),
        "262172:11: key `vip[1].real[65545].address`: too many distinct reals over all VIPs (found \"10.3.55.72\" after 131071 others); accepted: up to 131071",
    );
}

#[test]
fn files() {
    let directory = std::env::temp_dir().join(format!("tandem-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("t.toml");
    std::fs::write(&path, SMALL).unwrap();
    assert_eq!(load(&path).unwrap(), good(SMALL));
    std::fs::write(&path, b"[node]\n# caf\xe9\n").unwrap();
    let error = load(&path).unwrap_err().to_string();
    let name = path.display();
    assert_eq!(
        error,
        format!("{name}:2:6: not valid TOML: not UTF-8 text; correct the text, its other keys are checked after that")
    );
    std::fs::remove_dir_all(&directory).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }) && error.findings().is_empty());
    assert_eq!(
        error.to_string(),
        format!(
            "{name}: cannot read the configuration: No such file or directory (os error 2); check the path and its permissions"
        )
    );
    assert!(matches!(load("/dev/zero").unwrap_err(), ConfigError::TooLarge { .. }));
}
