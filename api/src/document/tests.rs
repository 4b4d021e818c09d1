use proptest::prelude::*;

use super::*;

const FILE: &str = "\
# The front of the shop.
[node]
interface = \"eth0\" # where it comes in

[tunnel]
source_v4 = \"10.0.13.37\"

# HTTP
[[vip]]
address = \"10.200.1.1\" # anycast
port = 80
protocol = \"tcp\"

[[vip.real]] # rack 1
address = \"10.0.0.1\"
weight = 3   # twice the memory

[[vip.real]]
address = \"10.0.0.2\"

# DNS
[[vip]]
address = \"10.200.1.2\"
port = 53
protocol = \"udp\"
real = [{ address = \"10.0.0.3\" }, { address = \"10.0.0.4\", weight = 2 }]
";

fn document() -> Document {
    Document::parse(FILE, Path::new("t.toml")).expect("a valid file")
}

fn service(text: &str) -> Service {
    text.parse().expect("a service")
}

fn real(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The lines that are in one text and not in the other.
fn difference(before: &str, after: &str) -> Vec<String> {
    let missing = |a: &str, b: &str, sign: char| -> Vec<String> {
        let other: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !other.contains(line)).map(|line| format!("{sign}{line}")).collect()
    };
    [missing(before, after, '-'), missing(after, before, '+')].concat()
}

#[test]
fn an_edit_changes_its_line_and_no_other() {
    let web = service("10.200.1.1:80/tcp");
    let edited =
        document().edited(|draft| draft.set_real(&web, real("10.0.0.1"), vec![("weight", Some(5.into()))])).expect("valid");
    assert_eq!(
        difference(FILE, &edited.text()),
        ["-weight = 3   # twice the memory", "+weight = 5   # twice the memory"],
        "comment and spaces stay"
    );
    assert_eq!(edited.plan().vips[0].reals[0].weight, 5);
    let edited =
        edited.edited(|draft| draft.set_real(&web, real("10.0.0.2"), vec![("state", Some("drain".into()))])).expect("valid");
    assert!(edited.text().contains("address = \"10.0.0.2\"\nstate = \"drain\"\n"), "{}", edited.text());
}

#[test]
fn inline_tables_stay_inline() {
    let dns = service("10.200.1.2:53/udp");
    let edited = document()
        .edited(|draft| {
            draft.set_real(&dns, real("10.0.0.4"), vec![("weight", Some(7.into()))])?;
            draft.add_real(&dns, real("10.0.0.5"), vec![("weight", None), ("state", Some("down".into()))])?;
            draft.remove_real(&dns, real("10.0.0.3"))
        })
        .expect("valid");
    let line = edited.text().lines().find(|line| line.starts_with("real")).map(str::to_owned).expect("the line");
    assert!(!line.contains("10.0.0.3") && line.contains("10.0.0.4\", weight = 7"), "{line}");
    let reals: Vec<String> = edited.plan().vips[1].reals.iter().map(|real| format!("{} {}", real.address, real.weight)).collect();
    assert_eq!(reals, ["10.0.0.4 7", "10.0.0.5 1"]);
}

#[test]
fn vips_come_and_go_with_their_reals() {
    let new = service("[fc00:1::/96]:443/tcp");
    let edited = document()
        .edited(|draft| {
            draft.add_vip(&new, vec![("ring_size", Some(1009.into())), ("encap", None)])?;
            draft.add_real(&new, real("10.0.0.9"), vec![])?;
            draft.remove_vip(&service("10.200.1.1:80/tcp"))
        })
        .expect("valid");
    let vips: Vec<String> = edited.plan().vips.iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["10.200.1.2:53/udp", "[fc00:1::/96]:443/tcp"]);
    assert_eq!(edited.plan().vips[1].ring_size, 1009);
    assert_eq!(edited.plan().vips[1].reals[0].address, real("10.0.0.9"));
    let text = edited.text();
    assert!(!text.contains("10.0.0.1\"") && !text.contains("# HTTP") && text.contains("# DNS"), "{text}");
    assert!(text.contains("# The front of the shop.") && text.contains("# where it comes in"), "{text}");
    // What was saved means what was in force.
    assert_eq!(Document::parse(&text, Path::new("t.toml")).expect("valid").plan(), edited.plan());
    let none = document().edited(|draft| {
        ["10.200.1.1:80/tcp", "10.200.1.2:53/udp"].into_iter().try_for_each(|vip| draft.remove_vip(&service(vip)))
    });
    assert!(none.expect("valid").plan().vips.is_empty());
}

#[test]
fn an_edit_that_makes_no_sense_is_refused_by_key() {
    let web = service("10.200.1.1:80/tcp");
    let refused = |edit: &dyn Fn(&mut Draft) -> Result<(), EditError>, parts: &[&str]| {
        let error = document().edited(edit).err().map(|error| error.to_string()).expect("refused");
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    };
    refused(&|d| d.set_real(&web, real("10.0.0.1"), vec![("weight", Some((-1).into()))]), &["vip[0].real[0].weight", "-1"]);
    refused(&|d| d.set_vip(&web, vec![("encap", Some("vxlan".into()))]), &["vip[0].encap", "vxlan", "ipip"]);
    refused(&|d| d.add_real(&web, real("10.200.1.1"), vec![]), &["vip[0].real[2].address"]);
    refused(&|d| d.add_real(&web, real("10.0.0.2"), vec![]), &["10.200.1.1:80/tcp has the real 10.0.0.2 already"]);
    refused(&|d| d.remove_real(&web, real("10.0.0.3")), &["10.200.1.1:80/tcp has no real 10.0.0.3"]);
    refused(&|d| d.remove_vip(&service("10.200.1.1:80/udp")), &["no VIP 10.200.1.1:80/udp"]);
    refused(&|d| d.add_vip(&web, vec![]), &["10.200.1.1:80/tcp is there already"]);
}

#[test]
fn sections_and_marks() {
    let edited = document()
        .edited(|draft| {
            draft.set_once("server_ids", "1022", Some("10.0.0.1".into()));
            draft.set_once("node", "next_hop_mac", Some("02:00:00:00:00:09".into()));
            draft.set_mark(1, Some(real("10.0.0.1")))?;
            draft.set_mark(2, Some(real("10.0.0.2")))?;
            draft.set_mark(1, Some(real("10.0.0.3")))?;
            draft.set_mark(2, None)?;
            draft.set_mark(3, None)
        })
        .expect("valid");
    assert_eq!(edited.plan().server_ids, [(1022, real("10.0.0.1"))]);
    assert_eq!(
        edited.plan().health_encaps.iter().map(|probe| (probe.mark, probe.real)).collect::<Vec<_>>(),
        [(1, real("10.0.0.3"))]
    );
    assert!(edited.plan().next_hop_mac.is_some());
    let edited = edited.edited(|draft| {
        draft.set_once("server_ids", "1022", None);
        Ok(())
    });
    assert!(edited.expect("valid").plan().server_ids.is_empty());
}

/// One of the edits that there are, on one of few VIPs and reals, so that they meet.
fn any_edit() -> impl Strategy<Value = (u8, u8, u8)> {
    (0..8_u8, 1..5_u8, 1..5_u8)
}

fn make(draft: &mut Draft, (kind, vip, n): (u8, u8, u8)) -> Result<(), EditError> {
    let (vip, real) = (service(&format!("10.200.1.{vip}:80/tcp")), real(&format!("10.0.0.{n}")));
    match kind {
        0 => draft.add_vip(&vip, vec![("ring_size", Some(1009.into()))]),
        1 => draft.remove_vip(&vip),
        2 => draft.set_vip(&vip, vec![("encap", Some(if n % 2 == 0 { "gue" } else { "gre" }.into()))]),
        3 | 4 => draft.add_real(&vip, real, vec![("weight", Some(i64::from(n).into()))]),
        5 => draft.remove_real(&vip, real),
        6 => draft.set_mark(n.into(), (n % 2 == 0).then_some(real)),
        _ => {
            draft.set_once("server_ids", &(1000 + u32::from(vip.port)).to_string(), Some(real.to_string().into()));
            Ok(())
        }
    }
}

proptest! {
    /// A document that was edited again and again is the one that would be read from its text: the next edit does the same to both.
    #[test]
    fn what_is_edited_is_its_text(edits in prop::collection::vec(any_edit(), 1..40)) {
        let mut edited = document();
        for edit in edits {
            let read = Document::parse(&edited.text(), Path::new("t.toml")).expect("a valid text");
            let (next, other) = (edited.edited(|draft| make(draft, edit)), read.edited(|draft| make(draft, edit)));
            match (next, other) {
                (Ok(next), Ok(other)) => {
                    prop_assert_eq!(next.plan(), other.plan());
                    let saved = Document::parse(&next.text(), Path::new("t.toml")).expect("valid");
                    prop_assert_eq!(saved.plan(), next.plan());
                    edited = next;
                }
                (Err(one), Err(other)) => prop_assert_eq!(one.to_string(), other.to_string()),
                (one, other) => prop_assert!(false, "{:?}: {:?} and {:?}", edit, one.err(), other.err()),
            }
        }
    }
}
