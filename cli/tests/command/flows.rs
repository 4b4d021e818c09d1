//! Flows from one balancer to another, by way of a file.

use serde_json::Value;

use super::shell::{Balancer, Scratch, tandem};
use super::wire::{NEAR, VIP_NAME, config, in_namespace, send};

const FLOWS: u64 = 40;

/// A balancer's configuration, whose first real is in this state.
fn keyed(scratch: &Scratch, key: &str, state: &str) -> String {
    let flows = format!("capacity = 10_000\nudp_idle = \"15m\"\nkey_file = \"{}\"", scratch.path(key).display());
    let real = format!("address = \"10.0.0.1\", state = \"{state}\"");
    config(NEAR, "mode = \"xdp\"").replace("capacity = 10_000", &flows).replace("address = \"10.0.0.1\"", &real)
}

fn packets(balancer: &Balancer, real: usize) -> u64 {
    balancer.ask(&["stats"])["vips"][0]["reals"][real]["packets"].as_u64().expect("a count")
}

/// The flows of a file.
fn flows_in(text: &str) -> usize {
    let part = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["flows"].as_array().expect("flows").len();
    text.lines().map(part).sum()
}

#[test]
fn flows_go_where_they_went_at_the_other_balancer() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        scratch.file("one.key", "0123456789abcdef".repeat(8));
        let file = scratch.file("t.toml", keyed(&scratch, "one.key", "up"));
        let (all, some) = (scratch.path("all.json").display().to_string(), scratch.path("some.json").display().to_string());

        let first = Balancer::start(&file);
        send(5000..5000 + FLOWS as u16, 1);
        let with = packets(&first, 0);
        assert!(with > 0 && with < FLOWS, "{with}");
        assert_eq!(first.ask(&["mode", "show"])["flows"]["on_state"], 0);
        first.ask(&["drain", "10.0.0.1"]);
        let rows = first.ask(&["flow", "list"])["rows"].clone();
        let row = |real: &str, flows: u64, on_state: u64| serde_json::json!({ "vip": VIP_NAME, "real": real, "flows": flows, "on_state": on_state });
        assert_eq!(rows, serde_json::json!([row("10.0.0.1", with, with), row("10.0.0.2", FLOWS - with, 0)]));
        assert_eq!(first.ask(&["mode", "show"])["flows"]["on_state"], with);
        assert_eq!(first.ask(&["flow", "export", &all])["flows"], FLOWS);
        assert_eq!(first.ask(&["flow", "export", &some, "--depending"])["flows"], with);
        let piped = tandem(["flow", "export", "-", "--name", &first.name]).done().out;
        assert_eq!(flows_in(&piped), FLOWS as usize);
        let known = first.ask(&["flow", "import", &all]);
        assert_eq!((&known["entered"], &known["known"]), (&0.into(), &FLOWS.into()), "{known}");
        let digest = first.ask(&["vip", "rings"])["rings"].clone();
        drop(first);

        // The other one never saw the first real in its ring.
        let second = Balancer::start(&scratch.file("t.toml", keyed(&scratch, "one.key", "drain")));
        assert_eq!(second.ask(&["vip", "rings"])["rings"], digest, "rings with another history");
        let done = tandem(["flow", "import", &some, "--name", &second.name]).done();
        assert!(done.out.contains(&format!("{with} flows entered")), "{done:?}");
        send(5000..5000 + FLOWS as u16, 1);
        assert_eq!((packets(&second, 0), packets(&second, 1)), (with, FLOWS - with));
        assert_eq!(second.ask(&["mode", "show"])["flows"]["on_state"], with);
    });
}

#[test]
fn flows_that_fit_nothing_are_refused() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        scratch.file("one.key", "0123456789abcdef".repeat(8));
        scratch.file("two.key", "fedcba9876543210".repeat(8));
        let exported = scratch.path("flows.json").display().to_string();
        let first = Balancer::start(&scratch.file("t.toml", keyed(&scratch, "one.key", "up")));
        send(5000..5010, 1);
        first.ask(&["flow", "export", &exported]);
        let text = std::fs::read_to_string(&exported).expect("the export");
        let import = |balancer: &Balancer, text: &str| {
            let file = scratch.file("other.json", text);
            tandem(["flow".as_ref(), "import".as_ref(), file.as_os_str(), "--name".as_ref(), balancer.name.as_ref()])
        };
        import(&first, &text.replace("\"version\":4", "\"version\":5")).refused(1, &["version 5", "reads versions up to 4"]);
        import(&first, "").refused(2, &["it is empty", "tandem flow export"]);
        import(&first, "{}\n").refused(2, &["line 1", "no flows as `tandem flow export` writes them"]);
        import(&first, &text.replace(VIP_NAME, "192.0.2.100:81/udp")).refused(1, &["none of the 10 flows"]);
        tandem(["flow", "import", "/nonexistent/flows", "--name", &first.name])
            .refused(2, &["/nonexistent/flows", "cannot read"]);
        tandem(["flow", "export", "/nonexistent/flows", "--name", &first.name])
            .refused(1, &["/nonexistent/flows", "cannot write"]);
        tandem(["flow", "export", "-", "--json", "--name", &first.name]).refused(2, &["name a file"]);
        drop(first);

        let stranger = Balancer::start(&scratch.file("t.toml", keyed(&scratch, "two.key", "up")));
        import(&stranger, &text).refused(1, &["another key", "flows.key_file"]);
        assert_eq!(stranger.ask(&["mode", "show"])["flows"]["flows"], 0);
        drop(stranger);

        let katran = Balancer::start(&scratch.file("t.toml", config(NEAR, "mode = \"xdp\"\nprofile = \"katran\"")));
        tandem(["flow", "list", "--name", &katran.name]).refused(1, &["profile katran", "is not known"]);
        tandem(["flow", "export", "-", "--depending", "--name", &katran.name])
            .refused(1, &["profile katran", "export all flows"]);
        send(5000..5010, 1);
        assert_eq!(flows_in(&tandem(["flow", "export", "-", "--name", &katran.name]).done().out), 10);
    });
}
