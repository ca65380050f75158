//! The counters of a port by name, and what each counts. `docs/counters.md` is written from this table.

use std::collections::BTreeMap;

use clearway_engine::{DropReason, PortCounters};

use super::types::CounterView;

type Read = fn(&PortCounters) -> u64;

/// Name, what it counts, how it is read. Drops follow from [`DropReason`].
const COUNTERS: [(&str, &str, Read); 10] = [
    ("rx_packets", "Frames received.", |c| c.rx_packets.get()),
    ("rx_bytes", "Their bytes, without FCS.", |c| c.rx_bytes.get()),
    ("tx_packets", "Frames that the port's ring took.", |c| {
        c.tx_packets.get()
    }),
    ("tx_bytes", "Their bytes, without FCS.", |c| c.tx_bytes.get()),
    (
        "rx_missed",
        "Frames lost before Clearway could read them: the port's ring was full or it had no free chunk. Not in the ledger.",
        |c| c.rx_missed.get(),
    ),
    (
        "rx_invalid",
        "Descriptors from the kernel or a guest that were not valid. Not in the ledger.",
        |c| c.rx_invalid.get(),
    ),
    (
        "learn_refused",
        "New MAC addresses not learned because of a limit of the port, the domain or the table. Their frames are forwarded.",
        |c| c.learn_refused.get(),
    ),
    ("moves", "MAC addresses seen on another port than before.", |c| {
        c.moves.get()
    }),
    (
        "moves_damped",
        "Moves not followed, because the address moved too often (`move-damping`).",
        |c| c.moves_damped.get(),
    ),
    (
        "suppressed",
        "ARP requests and neighbour solicitations answered on behalf of a known host.",
        |c| c.suppressed.get(),
    ),
];

impl CounterView {
    /// All counters of a port: the sums over its queues' blocks.
    pub(crate) fn of<'a>(port: &str, blocks: impl Iterator<Item = &'a PortCounters>) -> Self {
        let names = COUNTERS.iter().map(|(name, ..)| (*name).to_owned());
        let drops = DropReason::ALL.iter().map(|reason| drop_name(*reason));
        let mut counters: BTreeMap<_, _> = names.chain(drops).map(|name| (name, 0)).collect();
        for block in blocks {
            let values = COUNTERS
                .iter()
                .map(|(name, _, read)| ((*name).to_owned(), read(block)));
            let drops = DropReason::ALL
                .iter()
                .map(|reason| (drop_name(*reason), block.drops.of(*reason).get()));
            for (name, value) in values.chain(drops) {
                *counters.entry(name).or_default() += value;
            }
        }
        Self {
            port: port.to_owned(),
            counters,
        }
    }
}

fn drop_name(reason: DropReason) -> String {
    format!("drop_{}", reason.name())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;
    use std::fmt::Write;

    /// `docs/counters.md`.
    fn counters_markdown() -> String {
        let mut page = String::from(
            "<!-- Written by `UPDATE_DOCS=1 cargo test -p clearway-control`. -->\n\
             # Counters\n\n\
             Totals since the daemon started. Bytes are counted without FCS.\n\n\
             ## Ports\n\n\
             `clearway get counters` shows them, `clearway get ports` the first four.\n\n\
             | counter | what it counts |\n| --- | --- |\n",
        );
        for (name, text, _) in COUNTERS {
            let _ = writeln!(page, "| `{name}` | {text} |");
        }
        page.push_str(
            "| `drop_REASON` | Frames dropped for that reason. |\n\n\
             ## Drops\n\n\
             Every dropped frame counts under exactly one reason: on the port where it arrived; `tx_full` on the port\n\
             whose ring refused it; what is lost between two workers on neither (`-`). `clearway get drops` shows those\n\
             that occur.\n\n\
             | reason | what happened | what to do |\n| --- | --- | --- |\n",
        );
        for reason in DropReason::ALL {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} |",
                reason.name(),
                reason.text(),
                reason.advice()
            );
        }
        page.push_str(
            "\n## The ledger\n\n\
             No frame disappears. Whenever a worker is between two turns of its loop, this holds for it, and for the sum over\n\
             all workers:\n\n    \
             received + replicated + generated + segments = sent + consumed + dropped + in_flight\n\n\
             | term | what it counts |\n| --- | --- |\n\
             | `received` | frames received from ports |\n\
             | `replicated` | copies made to flood |\n\
             | `generated` | frames of our own: ARP and ND replies, ICMP errors |\n\
             | `segments` | frames that large ones were cut into |\n\
             | `sent` | frames that ports took |\n\
             | `consumed` | frames that we answered ourselves, and large ones that were cut up |\n\
             | `dropped` | frames dropped, for the reasons above |\n\
             | `in_flight` | frames passed to other workers less those got from them; in the sum, what is between workers at that moment |\n\n\
             `clearway get drops` shows the ledger and whether it is balanced. A ledger that is not is a bug: report it.\n",
        );
        page
    }

    #[test]
    fn views_are_sums_over_queues() {
        let (a, b) = (PortCounters::default(), PortCounters::default());
        a.rx_packets.add(3);
        b.rx_packets.add(4);
        b.drops.of(DropReason::Truncated).add(5);
        let view = CounterView::of("p", [&a, &b].into_iter());
        assert_eq!(view.counters.len(), COUNTERS.len() + DropReason::ALL.len());
        let counted: Vec<_> = view.counters.iter().filter(|(_, n)| **n > 0).collect();
        assert_eq!(
            counted,
            [(&"drop_truncated".to_owned(), &5), (&"rx_packets".to_owned(), &7)]
        );
    }

    /// `UPDATE_DOCS=1 cargo test -p clearway-control` writes the page.
    #[test]
    fn the_page_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/counters.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, counters_markdown()).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap_or_default() == counters_markdown(),
            "docs/counters.md is out of date; write it anew: UPDATE_DOCS=1 cargo test -p clearway-control"
        );
    }
}
