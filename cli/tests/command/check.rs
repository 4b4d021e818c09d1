//! `tandem check`: every kind of mistake, with its place, its cause and its cure.

use std::fs::File;

use super::shell::{Scratch, tandem};

const GOOD: &str = r#"[node]
interface = "eth0"
[tunnel]
source_v4 = "10.0.13.37"
source_v6 = "fc00:2307::1337"
[[vip]]
address = "10.200.1.1"
port = 80
protocol = "tcp"
[[vip.real]]
address = "10.0.0.1"
[[vip.real]]
address = "10.0.0.2"
"#;

/// Checks `text`; `parts` must be in the one message, beside the file's name.
#[track_caller]
fn refuses(text: impl AsRef<[u8]>, parts: &[&str]) {
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", text);
    let answer = tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]);
    answer.refused(1, parts);
    answer.refused(1, &[&file.display().to_string()]);
    assert_eq!(answer.err.lines().count(), 1, "one mistake, one line: {answer:?}");
    assert_eq!(answer.out, "");
}

/// The good configuration with one line changed.
fn with(line: &str, instead: &str) -> String {
    assert!(GOOD.contains(line), "{line:?}");
    GOOD.replacen(line, instead, 1)
}

#[test]
fn a_good_one_is_counted() {
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", GOOD);
    let answer = tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]).done();
    let memory = answer.out.strip_prefix(&format!("{}: good: 1 VIPs, 2 reals\n", file.display())).unwrap();
    assert!(memory.starts_with("memory of its tables with ") && memory.contains(" MiB: FLOWS 16.0, "), "{memory}");
    assert_eq!(answer.err, "");
}

#[test]
fn every_pair_of_families_is_good() {
    for vip in ["10.200.1.1", "fc00:1::1"] {
        for real in ["10.0.0.1", "fc00::1"] {
            let text = with("10.200.1.1", vip).replacen("10.0.0.1", real, 1);
            let scratch = Scratch::new();
            let file = scratch.file("t.toml", text);
            tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]).done();
        }
    }
}

#[test]
fn warnings_are_no_mistakes() {
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", "[node]\ninterface = \"eth0\"\n");
    let answer = tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]).done();
    assert!(answer.out.starts_with("warning: "), "{answer:?}");
}

#[test]
fn unknown_key() {
    let parts = [":3:1: key `node.atach`: unknown key, perhaps `attach` is meant; accepted: interface, "];
    refuses(with("[tunnel]", "atach = \"generic\"\n[tunnel]"), &parts);
}

#[test]
fn nat_to_another_family_without_a_source() {
    let vip =
        "[[vip]]\naddress = \"10.200.1.9\"\nport = 80\nprotocol = \"tcp\"\nencap = \"nat\"\nreal = [{ address = \"fc00::9\" }]\n";
    let parts =
        ["key `vip[1]`: 10.200.1.9:80/tcp reaches fc00::9 by `nat`, and its clients have no IPv6 address", "nat.sources_v6"];
    refuses([GOOD, vip].concat(), &parts);
}

#[test]
fn duplicate_vip() {
    let again = "[[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"tcp\"\nreal = [{ address = \"10.0.0.9\" }]\n";
    let parts = [":14:1: key `vip[1]`: the same VIP as `vip[0]` on line 6 (found 10.200.1.1:80/tcp); remove one"];
    refuses([GOOD, again].concat(), &parts);
}

#[test]
fn bad_address() {
    let parts = [":7:11: key `vip[0].address`: not an IP address (found \"10.200.1\"); accepted: address"];
    refuses(with("\"10.200.1.1\"", "\"10.200.1\""), &parts);
    let parts = [":11:11: key `vip[0].real[0].address`: a loopback address (found \"127.0.0.1\"); accepted: "];
    refuses(with("10.0.0.1\"", "127.0.0.1\""), &parts);
}

#[test]
fn source_of_the_wrong_family() {
    let parts = [":4:13: key `tunnel.source_v4`: an IPv6 address where IPv4 is needed (found \"fc00::1\"); accepted: "];
    refuses(with("10.0.13.37", "fc00::1"), &parts);
}

#[test]
fn ring_size_that_is_not_prime() {
    let parts = [":9:13: key `vip[0].ring_size`: not prime (found 65536); accepted: primes from ", "for example 65537"];
    refuses(with("protocol =", "ring_size = 65536\nprotocol ="), &parts);
}

#[test]
fn ring_smaller_than_the_reals() {
    let three = "[[vip.real]]\naddress = \"10.0.0.3\"\n";
    let text = [&with("protocol =", "ring_size = 2\nprotocol ="), three].concat();
    refuses(text, &[":9:13: key `vip[0].ring_size`: smaller than the 3 reals of the VIP (found 2); accepted: "]);
}

#[test]
fn wrong_type_range_and_choice() {
    refuses(with("port = 80", "port = \"80\""), &[":8:8: key `vip[0].port`: wrong type (found \"80\"); accepted: number"]);
    refuses(with("port = 80", "port = 65536"), &[":8:8: key `vip[0].port`: out of range (found 65536); accepted: "]);
    refuses(with("\"tcp\"", "\"sctp\""), &[":9:12: key `vip[0].protocol`: unknown value (found \"sctp\"); accepted: tcp, udp"]);
}

#[test]
fn missing_key() {
    refuses(with("port = 80\n", ""), &["key `vip[0].port`: missing; add it, for example `port = 80`"]);
}

#[test]
fn all_mistakes_at_once() {
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", with("port = 80", "port = -1\nprot = 1").replace("eth0", "no interface"));
    let answer = tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]);
    answer.refused(1, &["node.interface", "vip[0].port", "vip[0].prot"]);
    assert_eq!(answer.err.lines().count(), 3, "{answer:?}");
}

#[test]
fn text_that_is_not_toml() {
    refuses("[node\n", &[":1:6: not valid TOML: unclosed table", "; correct the text"]);
    refuses(b"[node]\n\xff\xfe\n", &[":2:1: not valid TOML: not UTF-8 text"]);
    // Nonsense may be several mistakes; what is one for the user is one message all the same.
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", b"\x7fELF\x02\x01\x01\0\0\0");
    let answer = tandem(["check".as_ref(), "-c".as_ref(), file.as_os_str()]);
    answer.refused(1, &[":1:1: not valid TOML: "]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let scratch = Scratch::new();
    let absent = scratch.path("absent.toml");
    let answer = tandem(["check".as_ref(), "-c".as_ref(), absent.as_os_str()]);
    answer.refused(2, &["absent.toml: cannot read the configuration: No such file", "; check the path"]);
    let answer = tandem(["check".as_ref(), "-c".as_ref(), scratch.path("").as_os_str()]);
    answer.refused(2, &["cannot read the configuration: Is a directory", "; check the path"]);
    let large = scratch.path("large.toml");
    File::create(&large).and_then(|file| file.set_len((512 << 20) + 1)).expect("a sparse file");
    let answer = tandem(["check".as_ref(), "-c".as_ref(), large.as_os_str()]);
    answer.refused(2, &["not a configuration: larger than 536870912 bytes; check the path"]);
    // The other commands say the same, with the status of unreadable input for what is in the file as well.
    let bad = scratch.file("bad.toml", "nod = 1\n");
    for file in [&absent, &bad] {
        let answer = tandem(["run".as_ref(), "-c".as_ref(), file.as_os_str()]);
        answer.refused(2, &[&file.display().to_string()]);
    }
}

#[test]
fn wrong_usage() {
    tandem(["check"]).refused(2, &["--config <FILE>", "Usage: tandem check"]);
    tandem(["chekc"]).refused(2, &["unrecognized subcommand 'chekc'", "'check'"]);
}
