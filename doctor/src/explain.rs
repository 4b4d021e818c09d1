//! The checks in words: for `tandem doctor explain`, and as the table of `docs/doctor.md`.

use std::fmt::Write as _;

use crate::checks::{Check, Proof, all};

/// One check, for who wants to understand it.
#[must_use]
pub fn explain(check: &Check) -> String {
    let roles: Vec<String> = check.roles.iter().map(ToString::to_string).collect();
    let mut text = format!("{}: {} (role {})\n\n{}\n\n", check.id, check.title, roles.join(", "), check.explanation);
    let mut line = |name: &str, value: &str| {
        // A String takes everything.
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("looks at", check.looks_at);
    line("rule", check.rule);
    line("cure", check.cure);
    if !check.after.is_empty() {
        line("after", &format!("{}: if one of these fails, it explains this one", check.after.join(", ")));
    }
    line("tried out", &proofs(check));
    text
}

fn proofs(check: &Check) -> String {
    let texts: Vec<String> = check
        .proof
        .iter()
        .map(|proof| match proof {
            Proof::Lab => "lab".to_owned(),
            Proof::Qemu => "QEMU".to_owned(),
            Proof::Recorded(why) => format!("recorded facts: {why}"),
            Proof::Untried(why) => format!("not: {why}"),
        })
        .collect();
    texts.join("; ")
}

/// `docs/doctor.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for check in all() {
        let roles: Vec<String> = check.roles.iter().map(ToString::to_string).collect();
        let row = [check.id, check.title, &roles.join(", "), check.rule, check.cure, &proofs(check)]
            .map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push_str(WHY);
    for check in all() {
        let _ = write!(text, "\n### {}: {}\n\n{}\n\nLooks at {}.\n", check.id, check.title, check.explanation, check.looks_at);
        if !check.after.is_empty() {
            let _ = writeln!(text, "Explained by {}, if one of them fails.", check.after.join(", "));
        }
    }
    text
}

const HEAD: &str = r#"<!-- Generated from doctor/src. To regenerate: TANDEM_BLESS=1 cargo test -p tandem-doctor --test reference -->

# The doctor

"Packets reach the balancer, nothing arrives": `tandem doctor` looks for the cause, on each host of the way, by the same binary.

```sh
tandem doctor -c tandem.toml                       # on the balancer
tandem doctor -c tandem.toml --for-host 10.0.0.1   # on the balancer: prints the command line for that real server
tandem doctor --role real --service tcp,10.200.1.1:80,ipip,real=10.0.0.1 --source 10.0.13.37 --balancer 10.0.13.37
tandem doctor explain D-04
```

The file that `make static` makes needs no library of the host that it is copied to ([operations](operations.md)).

A real, a router (`--for-host ADDRESS --role router`) or a client needs no configuration: VIPs, methods, outer sources and ports come
by options, and `--for-host` prints them. `--client ADDRESS` (several) stands for the clients; without it, an address of the
documentation's networks stands for somebody in the Internet.

* PASS: as it should be. WARN: it works, or may. FAIL: it cannot work. SKIP: not looked at, and why. A check that fails because another
  one failed is listed below that one.
* Each cure is a command for a shell on that host. Commands that change the configuration (`sed … tandem.toml`) need the balancer to be
  started again.
* Exit status: 0 without a FAIL, 1 with one, 2 for wrong usage.
* `--json` for programs; `--bundle FILE` writes setting, facts and report as JSON for a bug report (addresses and MACs of this host are
  in it; no keys, no environment, no files), and `--facts FILE` judges such a bundle on another machine; `--watch` looks again and
  again, and with `--metrics FILE` writes each result for node_exporter's textfile collector.
* `tandem run` runs the checks of the balancer when it starts, and logs what is not as it should be.
* `--probe` sends datagrams with a nonce: from a client to the VIPs; from the balancer to each real that a mark of its probes leads to, in
  the tunnel that data takes; or from a real with the VIP as the source to each `--client`. There is a small one and one that fills a packet
  of `--bytes` (1400) and may not be cut into fragments, each with a nonce of its own. Every other host runs `--listen` meanwhile (by the
  same command line), and writes a line for each way that it saw a nonce come in or go out, ICMP errors about it included:

  ```sh
  tandem doctor --role router … --listen --seconds 20 > router.notes        # likewise on the real and the client
  tandem doctor --role client … --probe
  tandem doctor --correlate router.notes real.notes client.notes             # how far it came, and which checks to look at behind that
  ```

  On the balancer nothing of a client's is seen by listening, as its XDP program takes the frames before: the router beside it sees them
  before and after. A way back is seen if the service answers with the datagram's content (an echo), or with a probe from the real.
* `--who-has` asks on every link, by ARP and neighbour discovery, who has the VIPs, and names who answers: on the way of the clients
  nobody must but a balancer.
* Facts are read by netlink (links, addresses, routes, rules, neighbours, ethtool, fou, netdev, nf_tables, socket diagnosis), the BPF
  system call, procfs and sysfs; never from the output of a command.

## Checks

"Tried out" says how a check was: in the lab of network namespaces (broken; real traffic fails, or what the check guards against is seen;
the doctor names this check as the root; the printed cure, run as it is printed; all is well again), in a stock kernel under QEMU likewise,
or on recorded facts: those of a host that no lab has, written down as such a host reports them, not read from one (found, not cured);
then it says which part of the check that is, and why neither lab nor QEMU has it.

| id | what | role | rule | cure | tried out |
|---|---|---|---|---|---|
"#;

const WHY: &str = "\n## Why\n";
