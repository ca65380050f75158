//! Clearway on the drivers of network cards: igb and virtio_net in a machine of QEMU's, between two hosts. Zero copy,
//! native and generic mode, busy polling, VLAN tags that a card keeps beside the frame, a card shared with the kernel.
//!
//! One machine is started for all of it (`tests/qemu/nic.sh` says what happens in it); it takes about a minute.

use clearway_tests::{Guest, Ledger, ready};
use serde_json::Value;
use std::time::Duration;

/// The cards of nic.sh: each of igb0 and vio0 with its peer on a hub. A virtio-net takes zero copy only if it uses the
/// kernel's DMA interface (`iommu_platform`), which the third does not.
const CARDS: &str = "\
    -netdev hubport,id=a0,hubid=0 -netdev hubport,id=a1,hubid=0 \
    -netdev hubport,id=b0,hubid=1 -netdev hubport,id=b1,hubid=1 \
    -device pcie-root-port,id=rp1,chassis=1,slot=1 -device igb,bus=rp1,netdev=a0,mac=02:00:00:00:00:0a \
    -device virtio-net-pci,netdev=b0,mac=02:00:00:00:00:0b,iommu_platform=on,disable-legacy=on \
    -device virtio-net-pci,mac=02:00:00:00:00:0c \
    -device virtio-net-pci,netdev=a1,mac=02:00:00:00:00:1a \
    -device virtio-net-pci,netdev=b1,mac=02:00:00:00:00:1b";

/// A start and eight reconfigurations; ten times as long on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn real_drivers() {
    if !ready() {
        return;
    }
    let guest = Guest::run("nic.sh", CARDS, LIMIT);
    // What `auto` comes to, and what can be asked for.
    for (step, mode) in [
        ("auto", "zero-copy"),
        ("zero-copy", "zero-copy"),
        ("copy", "copy"),
        ("generic", "generic"),
        ("trunk", "zero-copy"),
    ] {
        for port in ["a", "b"] {
            assert_eq!(
                port_of(&guest, step, port)["mode"],
                mode,
                "port {port} in step {step}"
            );
            assert_eq!(
                port_of(&guest, step, port)["warnings"],
                Value::Array(vec![]),
                "{step}"
            );
        }
        answered(&guest, &format!("{step}/there"));
        accounted_for(&guest, step);
    }
    answered(&guest, "auto/back");
    busy_polling(&guest);
    tags(&guest);
    what_a_driver_cannot_do(&guest);
    given_back(&guest);
}

/// The knobs are set while a port busy-polls, and back when it no longer does.
fn busy_polling(guest: &Guest) {
    for dev in ["igb0", "vio0"] {
        let knob = |step: &str, name: &str| {
            let state = guest.file(&format!("{step}/{dev}"));
            let line = state.lines().find(|l| l.contains(&format!("/{name}:")));
            line.and_then(|l| l.rsplit(':').next()).map(str::to_owned)
        };
        for (name, busy, before) in [
            ("napi_defer_hard_irqs", "2", "0"),
            ("gro_flush_timeout", "200000", "0"),
        ] {
            assert_eq!(knob("start", name).as_deref(), Some(before), "{dev} {name}");
            assert_eq!(knob("auto", name).as_deref(), Some(busy), "{dev} {name}");
            // The next step does not busy-poll.
            assert_eq!(knob("zero-copy", name).as_deref(), Some(before), "{dev} {name}");
        }
    }
}

/// On igb the card takes tags off and puts them on: not while Clearway has it.
fn tags(guest: &Guest) {
    let on = |step: &str, feature: &str| {
        let state = guest.file(&format!("{step}/igb0"));
        let line = state.lines().find(|l| l.starts_with(&format!("{feature}:")));
        line.is_some_and(|l| l.contains(": on"))
    };
    for feature in ["rx-vlan-offload", "tx-vlan-offload"] {
        assert!(on("start", feature), "{feature} is on to begin with");
        assert!(
            !on("trunk", feature),
            "{feature} is off while Clearway has the card"
        );
    }
    // The kernel's own address answers on the card that it shares with us.
    answered(guest, "trunk/kernel");
    let (sent, received) = ping(guest, "trunk/stripped");
    assert!(
        sent > 0 && received == 0,
        "the emulated card takes tags off when it may: else this test proves nothing"
    );
}

fn what_a_driver_cannot_do(guest: &Guest) {
    let refused = guest.file("refused/apply");
    for part in ["plain0 queue 0", "can't do zero copy on this device", "`auto`"] {
        assert!(refused.contains(part), "'{part}' is not in: {refused}");
    }
    assert_eq!(port_of(guest, "fallback", "p")["mode"], "copy");
    let refused = guest.file("jumbo-zero-copy/apply");
    for part in ["igb0", "MTU of 3600", "up to 3050", "`auto`"] {
        assert!(refused.contains(part), "'{part}' is not in: {refused}");
    }
    // The driver does not run XDP at that MTU either.
    assert_eq!(port_of(guest, "jumbo-auto", "p")["mode"], "generic");
}

fn given_back(guest: &Guest) {
    assert_eq!(guest.file("exit").trim(), "0", "{}", guest.file("log"));
    for dev in ["igb0", "vio0"] {
        let (before, after) = (
            guest.file(&format!("start/{dev}")),
            guest.file(&format!("end/{dev}")),
        );
        let during = guest.file(&format!("auto/{dev}"));
        assert!(
            during.contains("prog/xdp") && during.contains("promiscuity 1"),
            "{during}"
        );
        let differ: Vec<_> = before
            .lines()
            .zip(after.lines())
            .filter(|(b, a)| b != a)
            .collect();
        assert!(before == after, "{dev} differs (before, after): {differ:#?}");
    }
}

#[track_caller]
fn port_of(guest: &Guest, step: &str, name: &str) -> Value {
    let ports = guest.json(&format!("{step}/ports"));
    let found = ports
        .as_array()
        .and_then(|ports| ports.iter().find(|port| port["name"] == name));
    found
        .unwrap_or_else(|| panic!("no port {name} in step {step}: {ports}"))
        .clone()
}

/// Requests and replies of all pings of a file.
#[track_caller]
fn ping(guest: &Guest, name: &str) -> (u32, u32) {
    let text = guest.file(name);
    let number = |line: &str, at: usize| -> u32 {
        let word = line.split_whitespace().nth(at).and_then(|word| word.parse().ok());
        word.unwrap_or_else(|| panic!("{name}: {text}"))
    };
    let lines = text.lines().filter(|l| l.contains("packets transmitted"));
    lines.fold((0, 0), |(sent, received), l| {
        (sent + number(l, 0), received + number(l, 3))
    })
}

/// All of them.
#[track_caller]
fn answered(guest: &Guest, name: &str) {
    let (sent, received) = ping(guest, name);
    assert!(
        sent >= 20 && received == sent,
        "{name}: {sent} requests, {received} replies:\n{}\n{}",
        guest.file(name),
        guest.file("log")
    );
}

#[track_caller]
fn accounted_for(guest: &Guest, step: &str) {
    let drops = guest.json(&format!("{step}/drops"));
    let ledger = Ledger::parse(&drops);
    // While a port is opened anew, its neighbour may have a frame for it.
    let down = ledger.drops.get("tx_down").copied().unwrap_or(0);
    assert!(ledger.balanced() && ledger.dropped == down, "{step}: {ledger:?}");
}
