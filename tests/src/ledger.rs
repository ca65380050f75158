//! What the daemon says of its frames: the ledger, drops by reason, and where a station is.

use crate::{Daemon, Mac};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The ledger of all workers, as `clearway get drops` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames received from ports.
    pub received: u64,
    /// Copies made to flood.
    pub replicated: u64,
    /// Frames of the engine's own.
    pub generated: u64,
    /// Frames that large ones were cut into.
    pub segments: u64,
    /// Frames that a port took.
    pub sent: u64,
    /// Frames that the engine answered itself.
    pub consumed: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Frames between two workers.
    pub in_flight: i64,
    /// Frames dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Ledger {
    /// What `get drops -o json` printed.
    ///
    /// # Panics
    /// If that holds no ledger.
    #[track_caller]
    pub fn parse(all: &Value) -> Ledger {
        let ledger = &all["ledger"];
        let field = |name: &str| {
            ledger[name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {name} in the ledger: {all}"))
        };
        let drops = all["drops"]
            .as_array()
            .unwrap_or_else(|| panic!("no drops: {all}"));
        Ledger {
            received: field("received"),
            replicated: field("replicated"),
            generated: field("generated"),
            segments: field("segments"),
            sent: field("sent"),
            consumed: field("consumed"),
            dropped: field("dropped"),
            in_flight: ledger["in_flight"]
                .as_i64()
                .unwrap_or_else(|| panic!("no in_flight: {all}")),
            drops: drops.iter().filter_map(reason).collect(),
        }
    }

    /// Whether every frame is accounted for.
    pub fn balanced(&self) -> bool {
        let made = self.received + self.replicated + self.generated + self.segments;
        let gone = self.sent + self.consumed + self.dropped;
        i128::from(made) == i128::from(gone) + i128::from(self.in_flight)
    }
}

impl Daemon<'_> {
    /// The ledger now.
    ///
    /// # Panics
    /// If `get drops` does not give one.
    #[track_caller]
    pub fn ledger(&self) -> Ledger {
        Ledger::parse(&self.get("drops"))
    }

    /// Demands that every frame is accounted for and that, within five seconds, none is in flight and each drop has
    /// its reason. Returns that ledger.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_ledger(&self) -> Ledger {
        crate::wait_for(
            "a ledger with no frame in flight and a reason for each drop",
            Duration::from_secs(5),
            || {
                let ledger = self.ledger();
                assert!(ledger.balanced(), "frames are missing in the ledger: {ledger:?}");
                let explained: u64 = ledger.drops.values().sum();
                (ledger.in_flight == 0 && explained == ledger.dropped).then_some(ledger)
            },
        )
    }

    /// What has been counted so far, for messages of tests that miss something: the ledger, and every counter that
    /// is not zero.
    #[track_caller]
    pub fn explain(&self) -> String {
        let mut text = format!("{:?}", self.ledger());
        for port in self.get("counters").as_array().into_iter().flatten() {
            let moved = port["counters"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, n)| **n != 0);
            let counters: Vec<String> = moved.map(|(name, n)| format!("{name} {n}")).collect();
            text += &format!("\n{}: {}", port["port"], counters.join(", "));
        }
        text
    }

    /// Frames dropped so far for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.ledger().drops.get(reason).copied().unwrap_or(0)
    }

    /// Behind which port of a domain a station is; `None` if that is not known. A station behind a tunnel has the
    /// remote's address here.
    #[track_caller]
    pub fn fdb_port(&self, domain: &str, mac: Mac) -> Option<String> {
        let all = self.get(&format!("fdb {domain}"));
        let entries = all
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("not a list of stations: {all}"));
        let entry = entries.into_iter().find(|e| e["mac"] == mac.to_string())?;
        let place = [&entry["port"], &entry["remote"]]
            .into_iter()
            .find_map(Value::as_str);
        Some(
            place
                .unwrap_or_else(|| panic!("a station without a place: {entry}"))
                .to_owned(),
        )
    }
}

fn reason(entry: &Value) -> Option<(String, u64)> {
    Some((entry["reason"].as_str()?.to_owned(), entry["packets"].as_u64()?))
}
