//! `clearway sriov`: the SR-IOV functions of this host, without a daemon.

use std::fmt::Write;

use clearway_sriov::apply::{ApplyError, apply};
use clearway_sriov::hardware::{Kernel, VfAdmin, VfSetting};
use clearway_sriov::inventory::{Holders, Inventory, InventoryError, Netdev, Pf, Vf};
use clearway_sriov::plan::{Plan, PlanRefusal, plan};
use serde::Serialize;

use super::args::Sriov;
use super::change;
use super::error::CliError;
use super::output::{self, Show, or_dash, table};

/// Why a command about SR-IOV failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SriovError {
    /// No netlink.
    #[error("opening a netlink socket failed: {0}; is a seccomp filter in the way?")]
    Open(#[source] std::io::Error),
    /// The host can't be looked at.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// Nothing of this name.
    #[error(
        "{name:?} is no physical function with SR-IOV and no VF of this host, by its interface's name or its PCI address; there are: {}",
        if .there.is_empty() { "none".to_owned() } else { .there.join(", ") }
    )]
    NoSuch {
        /// The name.
        name: String,
        /// The physical functions.
        there: Vec<String>,
    },
    /// It can't be as the configuration has it.
    #[error("the configuration can't be carried out on this host:{}", .0.iter().map(|refusal| format!("\n  {refusal}")).collect::<String>())]
    Refused(Vec<PlanRefusal>),
    /// A step failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Does what the command line says.
pub(crate) fn sriov(command: &Sriov) -> Result<(), CliError> {
    let mut kernel = Kernel::open().map_err(SriovError::Open)?;
    // Who has what is told by the host itself: other namespaces, programs, bridges.
    let inventory = Inventory::read(&kernel, &Holders::new()).map_err(SriovError::from)?;
    match command {
        Sriov::List { output } => output::print(&output::render(&inventory, output.format)?),
        Sriov::Show { name, output } => {
            let text = match (inventory.pf(name), vf(&inventory, name)) {
                (Some(pf), _) => output::render(pf, output.format)?,
                (None, Some(vf)) => output::render(vf, output.format)?,
                (None, None) => {
                    let there = inventory.pfs.iter().map(Pf::name).collect();
                    let name = name.clone();
                    return Err(SriovError::NoSuch { name, there }.into());
                }
            };
            output::print(&text)
        }
        Sriov::Apply {
            file,
            dry_run,
            output,
        } => {
            let spec = change::load(file)?;
            let plan = plan(&spec.sriov, &inventory);
            if !dry_run && plan.refused.is_empty() {
                apply(&mut kernel, &plan).map_err(SriovError::from)?;
            }
            let report = Report {
                dry_run: *dry_run,
                plan,
            };
            output::print(&output::render(&report, output.format)?)?;
            match report.plan.refused.is_empty() {
                true => Ok(()),
                false => Err(SriovError::Refused(report.plan.refused).into()),
            }
        }
    }
}

fn vf<'a>(inventory: &'a Inventory, name: &str) -> Option<&'a Vf> {
    let named = |netdev: &Netdev| netdev.name == name || netdev.altnames.iter().any(|other| other == name);
    let mut vfs = inventory.pfs.iter().flat_map(|pf| &pf.vfs);
    let pci = name.parse().ok();
    vfs.find(|vf| Some(vf.state.pci) == pci || vf.state.netdev.as_ref().is_some_and(named))
}

fn link(netdev: Option<&Netdev>) -> String {
    let link = netdev.map(|netdev| match (netdev.up, netdev.carrier) {
        (false, _) => "off",
        (true, false) => "no link",
        (true, true) => "up",
    });
    or_dash(link)
}

impl Show for Inventory {
    fn show(&self) -> String {
        if self.pfs.is_empty() {
            return "no physical function with SR-IOV: none of the NICs has it, or it is off in the BIOS or firmware\n"
                .into();
        }
        let headings = [
            "NAME", "PCI", "DRIVER", "#NUMA", "LINK", "#MTU", "#VFS", "#MOST", "#HELD",
        ];
        let rows = self.pfs.iter().map(|pf| {
            let netdev = pf.netdev.as_ref();
            let held = pf.vfs.iter().filter(|vf| vf.holder.is_some()).count();
            vec![
                pf.name(),
                pf.pci.to_string(),
                or_dash(pf.driver.as_ref()),
                or_dash(pf.numa_node),
                link(netdev),
                or_dash(netdev.map(|netdev| netdev.mtu)),
                pf.vfs.len().to_string(),
                pf.total_vfs.to_string(),
                held.to_string(),
            ]
        });
        table(&headings, rows)
    }
}

/// `key  value` on lines of their own, what is not there left out.
fn rows(rows: &[(&str, String)]) -> String {
    let rows: Vec<_> = rows.iter().filter(|(_, value)| value != "-").collect();
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|(key, value)| format!("{key:width$}  {value}\n"));
    lines.collect()
}

impl Show for Pf {
    fn show(&self) -> String {
        let netdev = self.netdev.as_ref();
        let mut text = rows(&[
            ("name", self.name()),
            ("PCI", self.pci.to_string()),
            ("device", format!("{}:{}", self.vendor, self.device)),
            ("driver", or_dash(self.driver.as_ref())),
            ("NUMA node", or_dash(self.numa_node)),
            ("link", link(netdev)),
            ("MAC", or_dash(netdev.and_then(|netdev| netdev.mac))),
            ("MTU", or_dash(netdev.map(|netdev| netdev.mtu))),
            ("VFs", format!("{} of {}", self.vfs.len(), self.total_vfs)),
            ("switchdev", if self.switchdev { "yes" } else { "-" }.into()),
        ]);
        if !self.vfs.is_empty() {
            let headings = [
                "#VF",
                "PCI",
                "DRIVER",
                "INTERFACE",
                "MAC",
                "VLAN",
                "SPOOFCHK",
                "TRUST",
                "RATE",
                "LINK",
                "HOLDER",
            ];
            text.push('\n');
            text.push_str(&table(&headings, self.vfs.iter().map(row)));
        }
        text
    }
}

fn row(vf: &Vf) -> Vec<String> {
    let netdev = vf.state.netdev.as_ref();
    let [vlan, spoofchk, trust, rate, state] = settings(vf.state.admin.as_ref());
    vec![
        vf.index.to_string(),
        vf.state.pci.to_string(),
        or_dash(vf.state.driver.as_ref()),
        or_dash(netdev.map(|netdev| &netdev.name)),
        mac(vf),
        vlan,
        spoofchk,
        trust,
        rate,
        state,
        or_dash(vf.holder.as_ref()),
    ]
}

/// The one that is set, else the one that it has.
fn mac(vf: &Vf) -> String {
    let set = vf.state.admin.map(|admin| admin.mac).filter(|mac| !mac.is_zero());
    or_dash(set.or(vf.state.netdev.as_ref().and_then(|netdev| netdev.mac)))
}

fn settings(admin: Option<&VfAdmin>) -> [String; 5] {
    let Some(admin) = admin else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    let on = |on: Option<bool>| or_dash(on.map(|on| if on { "on" } else { "off" }));
    let vlan = VfSetting::Vlan {
        vlan: admin.vlan,
        qos: admin.qos,
        proto: admin.vlan_proto,
    };
    let vlan = (admin.vlan != 0).then(|| vlan.to_string().replace("VLAN ", ""));
    let rate = match (admin.min_tx_rate, admin.max_tx_rate) {
        (0, 0) => "-".to_owned(),
        (min, 0) => format!("{min}-"),
        (0, max) => format!("-{max}"),
        (min, max) => format!("{min}-{max}"),
    };
    [
        or_dash(vlan),
        on(admin.spoofchk),
        on(admin.trust),
        rate,
        admin.link_state.to_string(),
    ]
}

impl Show for Vf {
    fn show(&self) -> String {
        let netdev = self.state.netdev.as_ref();
        let [vlan, spoofchk, trust, rate, state] = settings(self.state.admin.as_ref());
        rows(&[
            ("VF", self.index.to_string()),
            ("PCI", self.state.pci.to_string()),
            ("driver", or_dash(self.state.driver.as_ref())),
            ("only driver", or_dash(self.state.driver_override.as_ref())),
            ("IOMMU group", or_dash(self.state.iommu_group)),
            ("interface", or_dash(netdev.map(|netdev| &netdev.name))),
            ("link", link(netdev)),
            ("MTU", or_dash(netdev.map(|netdev| netdev.mtu))),
            ("MAC", mac(self)),
            ("VLAN", vlan),
            ("spoofchk", spoofchk),
            ("trust", trust),
            ("rate, Mbit/s", rate),
            ("link-state", state),
            (
                "representor",
                or_dash(self.representor.as_ref().map(|netdev| &netdev.name)),
            ),
            ("holder", or_dash(self.holder.as_ref())),
        ])
    }
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    dry_run: bool,
    #[serde(flatten)]
    plan: Plan,
}

impl Show for Report {
    fn show(&self) -> String {
        let mut text = String::new();
        for step in &self.plan.steps {
            let _ = writeln!(text, "{step}");
        }
        for waiting in &self.plan.waiting {
            let _ = writeln!(text, "{waiting}");
        }
        let steps = match self.plan.steps.len() {
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        let end = match (self.plan.refused.is_empty(), self.plan.steps.len(), self.dry_run) {
            (false, _, _) => "nothing was changed".to_owned(),
            (true, 0, _) => "nothing to be done".to_owned(),
            (true, _, true) => format!("{steps} would be carried out; nothing was changed"),
            (true, _, false) => format!("{steps} carried out"),
        };
        let _ = writeln!(text, "{end}");
        text
    }
}
