//! Checks of a whole spec: everything that one key alone cannot know. All findings in one go.

mod bridges;
mod pools;
mod ports;
mod sriov;
mod vteps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;

use clearway_wire::MacAddr;

use crate::error::{SemanticError, nearest};
use crate::path::Path;
use crate::problem::Problem;
use crate::{Api, Engine, Name, Spec};

/// What the host has, for checks that need to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The cores on which the daemon may run a worker. `None`: not known, cores are not checked.
    pub cores: Option<BTreeSet<u16>>,
}

impl Spec {
    /// Checks the spec as far as it can be checked without knowing the host. Reports everything it finds.
    pub fn validate(&self) -> Result<(), Vec<SemanticError>> {
        self.validate_on(&HostFacts::default())
    }

    /// Checks the spec for this host. Reports everything it finds.
    pub fn validate_on(&self, host: &HostFacts) -> Result<(), Vec<SemanticError>> {
        let mut findings = Findings::default();
        document(self, host, &mut findings);
        ports::check(self, &mut findings);
        bridges::check(self, &mut findings);
        vteps::check(self, &mut findings);
        pools::check(self, &mut findings);
        sriov::check(self, &mut findings);
        ports::cross_connects(self, &mut findings);
        if findings.0.is_empty() {
            Ok(())
        } else {
            Err(findings.0)
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<SemanticError>);

impl Findings {
    fn add(&mut self, path: Path, problem: impl Into<Problem>) {
        let problem = problem.into();
        self.0.push(SemanticError { path, problem });
    }

    /// Reports a number or a duration that is out of its range.
    fn range<T: PartialOrd + Display>(&mut self, path: Path, value: &T, range: &RangeInclusive<T>) {
        if !range.contains(value) {
            let (found, min, max) = (
                value.to_string(),
                range.start().to_string(),
                range.end().to_string(),
            );
            self.add(path, Problem::Range { found, min, max });
        }
    }

    /// Reports a MAC address that no single station has.
    fn unicast_mac(&mut self, path: Path, mac: MacAddr) {
        let why = match mac {
            mac if mac.is_broadcast() => "broadcast",
            mac if mac.is_multicast() => "multicast",
            mac if mac.is_zero() => "all zero",
            _ => return,
        };
        self.add(path, Problem::MacNotUnicast { mac, why });
    }

    /// Reports an IP address that no single host has.
    fn unicast_ip(&mut self, path: Path, ip: IpAddr) {
        let why = match ip {
            ip if ip.is_multicast() => "multicast",
            ip if ip.is_unspecified() => "unspecified",
            ip if ip.is_loopback() => "loopback",
            IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
            _ => return,
        };
        self.add(path, Problem::IpNotUnicast { ip, why });
    }

    /// Reports a name that a map does not have. True when it has it.
    fn exists<T>(
        &mut self,
        path: Path,
        name: &Name,
        (what, section): (&'static str, &'static str),
        map: &BTreeMap<Name, T>,
    ) -> bool {
        if map.contains_key(name) {
            return true;
        }
        let near = nearest(name.as_str(), map.keys().map(Name::as_str));
        let nearest = map.keys().find(|key| Some(key.as_str()) == near).cloned();
        self.add(
            path,
            Problem::NoSuch {
                what,
                section,
                name: name.clone(),
                nearest,
            },
        );
        false
    }
}

/// What a name names, and in which section of the document that is.
const PORT: (&str, &str) = ("port", "ports");
const BRIDGE_DOMAIN: (&str, &str) = ("bridge domain", "bridge-domains");
const VTEP: (&str, &str) = ("VTEP", "vteps");
const ADDRESS_POOL: (&str, &str) = ("address pool", "address-pools");

/// The path of an entry of a section.
fn entry(section: (&'static str, &'static str), name: &Name) -> Path {
    Path::root(section.1).at(name.as_str())
}

/// The version, `engine` and `api`.
fn document(spec: &Spec, host: &HostFacts, findings: &mut Findings) {
    if spec.version != Spec::VERSION {
        findings.add(
            Path::root("version"),
            Problem::Version {
                found: spec.version.into(),
            },
        );
    }
    let engine = Path::root("engine");
    findings.range(
        engine.at("fdb-capacity"),
        &spec.engine.fdb_capacity,
        &Engine::FDB_CAPACITY,
    );
    let workers = engine.at("workers");
    let (found, most) = (spec.engine.workers.len(), Engine::MAX_WORKERS);
    if found > most {
        findings.add(workers.clone(), Problem::TooManyWorkers { found, most });
    }
    let mut first: BTreeMap<u16, usize> = BTreeMap::new();
    for (i, worker) in spec.engine.workers.iter().enumerate() {
        let (core, path) = (worker.core, workers.at(i).at("core"));
        if let Some(other) = first.get(&core) {
            findings.add(
                path.clone(),
                Problem::CoreTwice {
                    core,
                    other: workers.at(*other),
                },
            );
        } else {
            first.insert(core, i);
        }
        if let Some(cores) = host.cores.as_ref().filter(|cores| !cores.contains(&core)) {
            findings.add(
                path,
                Problem::NoSuchCore {
                    core,
                    usable: ranges(cores),
                },
            );
        }
    }
    let socket = Path::root("api").at("socket");
    let (path, length) = (&spec.api.socket, spec.api.socket.as_os_str().as_bytes().len());
    if !path.is_absolute() {
        findings.add(socket.clone(), Problem::SocketRelative { path: path.clone() });
    }
    if length > Api::MAX_SOCKET {
        findings.add(
            socket,
            Problem::SocketTooLong {
                length,
                most: Api::MAX_SOCKET,
            },
        );
    }
}

/// `0-3, 6`
fn ranges(numbers: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    let texts: Vec<_> = ranges
        .iter()
        .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(", ")
    }
}
