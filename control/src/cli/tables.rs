//! How each answer of the daemon looks to people.

use super::output::{Show, bytes, grouped, or_dash, owned, table, table_of};
use crate::api::types::{
    ApplyReport, BridgeDomainView, CounterView, DropView, DropsView, FdbView, GuestView, LedgerView,
    ObjectView, PortView, State, TunnelView, WorkerView,
};
use crate::store::now_s;

/// Lists are tables; the lines below say what is wrong and what to do.
impl Show for Vec<PortView> {
    fn show(&self) -> String {
        ports(self, false)
    }

    fn wide(&self) -> String {
        ports(self, true)
    }
}

fn ports(all: &[PortView], wide: bool) -> String {
    if all.is_empty() {
        return "no ports: the configuration names none\n".into();
    }
    let mut text = table_of(
        wide,
        &[
            "NAME",
            "STATE",
            "KIND",
            "INTERFACE",
            "MODE",
            "SERVICE",
            "WORKERS",
            "#RX",
            "#RX BYTES",
            "#TX",
            "#TX BYTES",
            "#DROPS",
            "#MACS",
        ],
        all.iter().map(|p| {
            let row = vec![
                p.name.clone(),
                p.state.to_string(),
                p.kind.clone(),
                or_dash(
                    p.interface
                        .as_ref()
                        .or(p.guest.as_ref().map(|guest| &guest.socket)),
                ),
                or_dash(p.mode.as_ref()),
                p.service.clone(),
                workers_of(p),
                grouped(p.rx_packets),
                bytes(p.rx_bytes),
                grouped(p.tx_packets),
                bytes(p.tx_bytes),
                grouped(p.drops),
                grouped(p.learned_macs.into()),
            ];
            (row, owned(p.owner, p.generation))
        }),
    );
    for port in all {
        text.push_str(&remarks(port));
    }
    text
}

fn workers_of(port: &PortView) -> String {
    let mut workers: Vec<_> = port.queues.iter().map(|q| q.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    let workers: Vec<_> = workers.iter().map(ToString::to_string).collect();
    match workers.is_empty() {
        true => "-".into(),
        false => workers.join(","),
    }
}

fn remarks(port: &PortView) -> String {
    let mut text = String::new();
    if let (State::Down, Some(reason)) = (port.state, &port.reason) {
        text.push_str(&format!("{} is down: {reason}\n", port.name));
    }
    for warning in &port.warnings {
        text.push_str(&format!("{}: warning: {warning}\n", port.name));
    }
    text
}

/// One port with everything that the list has no room for.
impl Show for PortView {
    fn show(&self) -> String {
        let queues: Vec<_> = self
            .queues
            .iter()
            .map(|q| format!("{} by worker {}", q.queue, q.worker))
            .collect();
        let mut rows = vec![
            ("name", self.name.clone()),
            ("state", self.state.to_string()),
            ("kind", self.kind.clone()),
            ("interface", or_dash(self.interface.as_ref())),
            ("mode", or_dash(self.mode.as_ref())),
            ("service", self.service.clone()),
            ("owner", self.owner.to_string()),
            ("generation", grouped(self.generation)),
        ];
        if let Some(guest) = &self.guest {
            rows.extend(guest_rows(guest));
        }
        rows.extend([
            ("MAC", or_dash(self.mac)),
            ("MTU", or_dash(self.mtu)),
            (
                "queues",
                or_dash(Some(queues.join(", ")).filter(|q| !q.is_empty())),
            ),
            ("frame memory", or_dash(self.backing.as_ref())),
            ("UMEM group", or_dash(self.umem_group.as_ref())),
            ("received", counted(self.rx_packets, self.rx_bytes)),
            ("sent", counted(self.tx_packets, self.tx_bytes)),
            ("dropped", grouped(self.drops)),
            ("learned MACs", grouped(self.learned_macs.into())),
        ]);
        rows.retain(|(_, value)| value != "-");
        let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        let mut text: String = rows
            .iter()
            .map(|(key, value)| format!("{key:width$}  {value}\n"))
            .collect();
        text.push_str(&remarks(self));
        text
    }
}

fn guest_rows(guest: &GuestView) -> Vec<(&'static str, String)> {
    let listed = |names: &[String]| or_dash(Some(names.join(" ")).filter(|names| !names.is_empty()));
    let bits = guest.feature_bits.as_deref().unwrap_or_default();
    vec![
        (
            "socket",
            format!("{}{}", guest.socket, if guest.client { " (client)" } else { "" }),
        ),
        (
            "features",
            match guest.features.is_empty() {
                true => "-".to_owned(),
                false => format!("{bits}: {}", listed(&guest.features)),
            },
        ),
        ("protocol", listed(&guest.protocol_features)),
        ("queue pairs", format!("{} at most", guest.queue_pairs)),
        ("connections", grouped(guest.connections)),
        ("turned away", or_dash(Some(guest.turned_away).filter(|n| *n > 0))),
        ("last end", or_dash(guest.last_end.as_ref())),
        ("waiting", or_dash(guest.waiting.as_ref())),
    ]
}

fn counted(packets: u64, octets: u64) -> String {
    format!("{} ({})", grouped(packets), bytes(octets))
}

impl Show for Vec<WorkerView> {
    fn show(&self) -> String {
        table(
            &[
                "#ID",
                "#CORE",
                "IDLE",
                "#LOAD",
                "STATE",
                "#RECEIVED",
                "#HANDED OVER",
                "#TURNS",
                "#SLEEPS",
                "#EPOCH",
                "QUEUES",
            ],
            self.iter().map(|w| {
                let queues: Vec<_> = w
                    .queues
                    .iter()
                    .map(|(port, queues)| {
                        let queues: Vec<_> = queues.iter().map(ToString::to_string).collect();
                        format!("{port}:{}", queues.join(","))
                    })
                    .collect();
                vec![
                    w.id.to_string(),
                    or_dash(w.core),
                    w.idle.clone(),
                    format!("{:.1} %", w.load_percent),
                    if w.sleeping { "asleep" } else { "awake" }.into(),
                    grouped(w.received),
                    grouped(w.handed_out),
                    grouped(w.turns),
                    grouped(w.sleeps),
                    w.epoch.to_string(),
                    or_dash(Some(queues.join(" ")).filter(|q| !q.is_empty())),
                ]
            }),
        )
    }
}

impl Show for WorkerView {
    fn show(&self) -> String {
        vec![self.clone()].show()
    }
}

impl Show for Vec<BridgeDomainView> {
    fn show(&self) -> String {
        domains(self, false)
    }

    fn wide(&self) -> String {
        domains(self, true)
    }
}

fn domains(all: &[BridgeDomainView], wide: bool) -> String {
    if all.is_empty() {
        return "no bridge domains: the configuration names none\n".into();
    }
    table_of(
        wide,
        &[
            "NAME", "#VLAN", "#VNI", "VTEP", "REMOTES", "LEARNING", "#AGING", "#MACS", "MEMBERS",
        ],
        all.iter().map(|d| {
            let remotes: Vec<_> = d.remotes.iter().map(ToString::to_string).collect();
            let row = vec![
                d.name.clone(),
                or_dash(d.vlan),
                or_dash(d.vni),
                or_dash(d.vtep.as_ref()),
                or_dash(Some(remotes.join(",")).filter(|r| !r.is_empty())),
                if d.learning { "yes" } else { "no" }.into(),
                match d.aging_s {
                    0 => "never".into(),
                    seconds => format!("{seconds} s"),
                },
                match d.learn_limit {
                    Some(limit) => format!("{}/{}", grouped(d.macs.into()), grouped(limit.into())),
                    None => grouped(d.macs.into()),
                },
                or_dash(Some(d.members.join(" ")).filter(|m| !m.is_empty())),
            ];
            (row, owned(d.owner, d.generation))
        }),
    )
}

impl Show for BridgeDomainView {
    fn show(&self) -> String {
        vec![self.clone()].show()
    }

    fn wide(&self) -> String {
        vec![self.clone()].wide()
    }
}

impl Show for Vec<FdbView> {
    fn show(&self) -> String {
        if self.is_empty() {
            return "no stations known\n".into();
        }
        table(
            &["BRIDGE DOMAIN", "MAC", "BEHIND", "VLAN", "ORIGIN", "#SEEN"],
            self.iter().map(|e| {
                let behind = match (&e.port, e.remote) {
                    (_, Some(remote)) => format!("remote {remote}"),
                    (port, None) => or_dash(port.as_ref()),
                };
                vec![
                    e.bridge_domain.clone(),
                    e.mac.to_string(),
                    behind,
                    or_dash(e.vlan.as_ref()),
                    e.origin.to_string(),
                    e.age_s.map_or_else(|| "-".into(), |age| format!("{age} s ago")),
                ]
            }),
        )
    }
}

impl Show for FdbView {
    fn show(&self) -> String {
        vec![self.clone()].show()
    }
}

impl Show for Vec<TunnelView> {
    fn show(&self) -> String {
        tunnels(self, false)
    }

    fn wide(&self) -> String {
        tunnels(self, true)
    }
}

fn tunnels(all: &[TunnelView], wide: bool) -> String {
    if all.is_empty() {
        return "no tunnels: no bridge domain of the configuration has remotes\n".into();
    }
    let mut text = table_of(
        wide,
        &[
            "NAME",
            "STATE",
            "LOCAL",
            "REMOTE",
            "NEXT HOP",
            "NEXT HOP MAC",
            "PORT",
            "#MTU",
            "DOMAINS:VNI",
        ],
        all.iter().map(|t| {
            let domains: Vec<_> = t
                .bridge_domains
                .iter()
                .map(|(domain, vni)| format!("{domain}:{vni}"))
                .collect();
            let row = vec![
                t.name.clone(),
                t.state.to_string(),
                t.local.to_string(),
                t.remote.to_string(),
                match (t.next_hop, t.next_hop_mac) {
                    (None, Some(_)) => "configured".to_owned(),
                    (hop, _) => or_dash(hop),
                },
                or_dash(t.next_hop_mac),
                or_dash(t.port.as_ref()),
                or_dash(t.mtu),
                or_dash(Some(domains.join(" ")).filter(|d| !d.is_empty())),
            ];
            (row, owned(t.owner, t.generation))
        }),
    );
    for tunnel in all {
        if let (State::Down, Some(reason)) = (tunnel.state, &tunnel.reason) {
            text.push_str(&format!("{} is down: {reason}\n", tunnel.name));
        }
    }
    text
}

impl Show for Vec<ObjectView> {
    fn show(&self) -> String {
        if self.is_empty() {
            return "no objects of this kind\n".into();
        }
        let now = now_s();
        table(
            &["KIND", "NAME", "OWNER", "#GENERATION", "#CHANGED"],
            self.iter().map(|o| {
                vec![
                    o.kind.to_string(),
                    o.name.clone(),
                    o.owner.to_string(),
                    grouped(o.generation),
                    o.changed_s
                        .map_or_else(|| "-".into(), |then| ago(now.saturating_sub(then))),
                ]
            }),
        )
    }
}

/// Seconds that have passed, in words: the largest unit that leaves two of itself.
fn ago(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(size, _)| seconds >= 2 * size);
    let (size, name) = unit.unwrap_or((1, "s"));
    format!("{} {name} ago", seconds / size)
}

/// One object, with what is wanted.
impl Show for ObjectView {
    fn show(&self) -> String {
        let spec = serde_json::to_string_pretty(&self.spec).unwrap_or_default();
        format!("{}\n{spec}\n", vec![self.clone()].show())
    }
}

impl Show for DropsView {
    fn show(&self) -> String {
        let mut text = match self.drops.is_empty() {
            true => "REASON  PACKETS\nnothing was dropped\n".into(),
            false => drops_table(&self.drops),
        };
        text.push_str("\nLedger: received + replicated + generated + segments = sent + consumed + dropped + in flight\n");
        let all = std::iter::once(&self.ledger).chain(self.workers.iter().filter(|_| self.workers.len() > 1));
        text.push_str(&table(
            &[
                "WORKER",
                "#RECEIVED",
                "#REPLICATED",
                "#GENERATED",
                "#SEGMENTS",
                "#SENT",
                "#CONSUMED",
                "#DROPPED",
                "#IN FLIGHT",
                "BALANCED",
            ],
            all.map(ledger_row),
        ));
        text
    }
}

fn ledger_row(l: &LedgerView) -> Vec<String> {
    let mut row = vec![l.worker.map_or_else(|| "all".into(), |w| w.to_string())];
    row.extend(
        [
            l.received,
            l.replicated,
            l.generated,
            l.segments,
            l.sent,
            l.consumed,
            l.dropped,
        ]
        .map(grouped),
    );
    row.push(l.in_flight.to_string());
    row.push(
        if l.balanced {
            "yes"
        } else {
            "NO: report it as a bug"
        }
        .into(),
    );
    row
}

fn drops_table(drops: &[DropView]) -> String {
    table(
        &["REASON", "#PACKETS", "PORTS", "WHAT HAPPENED"],
        drops.iter().map(|d| {
            let ports: Vec<_> = d.ports.iter().map(|(port, n)| format!("{port}:{n}")).collect();
            vec![
                d.reason.clone(),
                grouped(d.packets),
                or_dash(Some(ports.join(" ")).filter(|p| !p.is_empty())),
                d.text.clone(),
            ]
        }),
    )
}

/// One reason, with what to do about it.
impl Show for DropView {
    fn show(&self) -> String {
        format!(
            "{}what to do: {}\n",
            drops_table(std::slice::from_ref(self)),
            self.advice
        )
    }
}

/// A column for each port; counters that are zero everywhere are left out.
impl Show for Vec<CounterView> {
    fn show(&self) -> String {
        let mut names: Vec<_> = self.iter().flat_map(|c| c.counters.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let value = |port: &CounterView, name: &String| port.counters.get(name).copied().unwrap_or(0);
        names.retain(|name| self.iter().any(|port| value(port, name) > 0));
        let rows: Vec<_> = self
            .iter()
            .flat_map(|port| names.iter().map(move |name| (port, *name)))
            .filter(|(port, name)| value(port, name) > 0)
            .map(|(port, name)| vec![port.port.clone(), name.clone(), grouped(value(port, name))])
            .collect();
        if rows.is_empty() {
            return "PORT  COUNTER  VALUE\nall counters are zero\n".into();
        }
        table(&["PORT", "COUNTER", "#VALUE"], rows)
    }
}

impl Show for CounterView {
    fn show(&self) -> String {
        table(
            &["COUNTER", "#VALUE"],
            self.counters
                .iter()
                .map(|(name, n)| vec![name.clone(), grouped(*n)]),
        )
    }
}

impl Show for ApplyReport {
    fn show(&self) -> String {
        let mut text = match (self.changed, self.dry_run) {
            (false, _) => "no change: the daemon already does what the configuration says\n".to_owned(),
            (true, true) => format!("Plan for generation {} (nothing was changed):\n", self.generation),
            (true, false) => format!("Applied, generation {}, epoch {}:\n", self.generation, self.epoch),
        };
        if !self.actions.is_empty() {
            text.push_str(&table(
                &["ACTION", "KIND", "NAME", "DETAIL"],
                self.actions.iter().map(|a| {
                    vec![
                        a.verb.to_string(),
                        a.kind.clone(),
                        a.name.clone(),
                        a.detail.clone(),
                    ]
                }),
            ));
        }
        for warning in &self.warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ObjectKind, Owner};

    #[test]
    fn objects_say_whose_they_are() {
        let object = |kind, name: &str, owner, changed_s| ObjectView {
            kind,
            name: name.to_owned(),
            owner,
            generation: 1,
            changed_s,
            spec: serde_json::json!({"vlan": 10}),
        };
        let red = object(
            ObjectKind::BridgeDomain,
            "red",
            Owner::Apply,
            Some(now_s() - 7300),
        );
        let all = vec![
            red.clone(),
            object(ObjectKind::Attachment, "c/net1", Owner::Cni, None),
        ];
        assert_eq!(
            all.show(),
            "KIND           NAME    OWNER  GENERATION  CHANGED\n\
             bridge-domain  red     apply           1  2 h ago\n\
             attachment     c/net1  cni             1        -\n"
        );
        assert!(
            red.show().ends_with("\n\n{\n  \"vlan\": 10\n}\n"),
            "{}",
            red.show()
        );
    }

    #[test]
    fn times_have_one_unit() {
        for (seconds, text) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7199, "119 min ago"),
            (172_800, "2 d ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
