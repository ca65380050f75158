//! Pools from a configuration in the format of sriov-network-device-plugin, and two kinds of our own.
//!
//! ```text
//! {"resourceList": [{"resourceName": "net_a", "selectors": [{"pfNames": ["enp2s2f0#0-3,5"]}]}]}
//! ```
//!
//! As there, case does not matter in the names of keys, and `selectors` is a list or one object. Other than there, a key that there is not is
//! an error, and so is one whose meaning we have not got: a pool with devices that nobody meant is worse than none. All problems are told
//! at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::pool::{Functions, Kind, Policy, Pool, Selector};

/// The prefix where neither the pool nor the caller says one: the one that pods of sriov-network-device-plugin ask with.
pub const DEFAULT_PREFIX: &str = "intel.com";
/// The most places of one vhost-user pool.
pub const MOST_PLACES: u64 = 1024;

/// Devices of such a pool are `NAME-1023` at the most, and the kubelet's devices have up to 63 characters.
const LONGEST_NAME_OF_PLACES: usize = 58;

/// What is wrong with a configuration: everything, in the order of the text.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    /// It is no JSON.
    #[error("the device pools are not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Keys or values are wrong.
    #[error("the device pools have mistakes:{}", listed(.0))]
    Content(Vec<Problem>),
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `resourceList[2].selectors[0].pfNames`.
    pub at: String,
    /// What is wrong there, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.at, self.what)
    }
}

const POOL: &[&str] = &[
    "resourceName",
    "resourcePrefix",
    "deviceType",
    "excludeTopology",
    "additionalInfo",
    "allocationPolicy",
    "selectors",
    "count",
    "mountPath",
];
/// Keys of which a configuration may have an empty one. `SelectorObj` and `SelectorObjs` are what the SR-IOV operator writes there.
const NOT_OF_POOL: &[(&str, &str)] = &[
    ("isRdma", "it belongs into the selectors"),
    ("needVhostNet", "it belongs into the selectors"),
    ("SelectorObj", "write selectors"),
    ("SelectorObjs", "write selectors"),
];
const SELECTOR: &[&str] = &[
    "vendors",
    "devices",
    "drivers",
    "pciAddresses",
    "acpiIndexes",
    "pfNames",
    "rootDevices",
    "linkTypes",
    "isRdma",
    "needVhostNet",
];
const NOT_OF_SELECTOR: &[(&str, &str)] = &[
    (
        "ddpProfiles",
        "DDP profiles are not supported; select by pfNames or pciAddresses",
    ),
    (
        "pKeys",
        "InfiniBand partition keys are not supported; select by pfNames or pciAddresses",
    ),
    ("vdpaType", "vDPA devices are not supported"),
    ("auxTypes", "auxiliary devices (subfunctions) are not supported"),
];
const KINDS: &[&str] = &["netDevice", "afXdp", "vhostUser"];

/// The pools of a configuration, in its order: a device belongs to the first that selects it.
pub fn read(text: &str, default_prefix: &str) -> Result<Vec<Pool>, PoolsError> {
    from_value(&serde_json::from_str(text)?, default_prefix)
}

/// The same, of what has been read already.
pub fn from_value(value: &Value, default_prefix: &str) -> Result<Vec<Pool>, PoolsError> {
    let mut reader = Reader::default();
    let mut pools = Vec::new();
    let top = reader.section(value, String::new(), &["resourceList"], &[]);
    match top.get("resourceList") {
        None => reader.problem("resourceList", "it is missing: write a list of pools"),
        Some(Value::Array(list)) => {
            for (number, pool) in list.iter().enumerate() {
                pools.extend(reader.pool(pool, format!("resourceList[{number}]"), default_prefix));
            }
        }
        Some(_) => reader.problem("resourceList", "write a list of pools"),
    }
    let mut seen = BTreeSet::new();
    for pool in &pools {
        if !seen.insert(pool.resource()) {
            let what = format!(
                "{} is there twice; one pool may have several selectors",
                pool.resource()
            );
            reader.problem("resourceList", &what);
        }
    }
    if reader.problems.is_empty() {
        Ok(pools)
    } else {
        Err(PoolsError::Content(reader.problems))
    }
}

/// An object whose keys are known.
struct Section<'a> {
    at: String,
    values: Vec<(&'static str, &'a Value)>,
}

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }

    fn at(&self, key: &str) -> String {
        join(&self.at, key)
    }
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.into()
    } else {
        format!("{at}.{key}")
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, at: &str, what: &str) {
        self.problems.push(Problem {
            at: at.into(),
            what: what.into(),
        });
    }

    fn section<'a>(
        &mut self,
        value: &'a Value,
        at: String,
        known: &'static [&'static str],
        unsupported: &[(&str, &str)],
    ) -> Section<'a> {
        let mut values = Vec::new();
        let object = match value {
            Value::Object(object) => object,
            _ => {
                let of = if at.is_empty() { "the whole" } else { &at };
                self.problem(of, "write an object");
                return Section { at, values };
            }
        };
        for (key, value) in object {
            let here = join(&at, key);
            if let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(key)) {
                if values.iter().any(|(before, _)| before == name) {
                    self.problem(&here, &format!("{name} is there twice"));
                } else if !value.is_null() {
                    values.push((*name, value));
                }
            } else if let Some((_, advice)) = unsupported
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
            {
                if !says_nothing(value) {
                    self.problem(&here, advice);
                }
            } else {
                self.problem(&here, &format!("there is no such key{}", nearest(key, known)));
            }
        }
        Section { at, values }
    }

    fn pool(&mut self, value: &Value, at: String, default_prefix: &str) -> Option<Pool> {
        let problems = self.problems.len();
        let of = self.section(value, at, POOL, NOT_OF_POOL);
        let name = self.text(&of, "resourceName").unwrap_or_default();
        if name.is_empty()
            || name.len() > 63
            || !name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        {
            let what = "write 1 to 63 letters, digits, _ and -";
            self.problem(&of.at("resourceName"), what);
        }
        let prefix = self
            .text(&of, "resourcePrefix")
            .filter(|prefix| !prefix.is_empty());
        let prefix = prefix.unwrap_or_else(|| default_prefix.into());
        if let Some(what) = wrong_prefix(&prefix) {
            self.problem(&of.at("resourcePrefix"), what);
        }
        let kind = self.kind(&of);
        if matches!(kind, Kind::VhostUser { .. }) && name.len() > LONGEST_NAME_OF_PLACES {
            let what =
                format!("write at most {LONGEST_NAME_OF_PLACES} characters: devices are named after it");
            self.problem(&of.at("resourceName"), &what);
        }
        let pool = Pool {
            prefix,
            name,
            kind,
            exclude_topology: self.flag(&of, "excludeTopology"),
            additional_info: self.additional_info(&of),
            policy: self.policy(&of),
        };
        (self.problems.len() == problems).then_some(pool)
    }

    fn kind(&mut self, of: &Section<'_>) -> Kind {
        let kind = self.text(of, "deviceType").unwrap_or_else(|| KINDS[0].into());
        let places = kind == "vhostUser";
        for key in if places {
            &["selectors", "additionalInfo"][..]
        } else {
            &["count"][..]
        } {
            if of.get(key).is_some() {
                let what = format!("it has no meaning with deviceType {kind}");
                self.problem(&of.at(key), &what);
            }
        }
        if kind == "netDevice" && of.get("mountPath").is_some() {
            self.problem(
                &of.at("mountPath"),
                "nothing is mounted with deviceType netDevice",
            );
        }
        match kind.as_str() {
            "netDevice" => Kind::Net(self.selectors(of)),
            "afXdp" => Kind::AfXdp {
                selectors: self.selectors(of),
                mount: self.mount(of, "/tmp/afxdp_dp/clearway"),
            },
            "vhostUser" => {
                let count = of.get("count").and_then(Value::as_u64);
                let count = count.filter(|count| (1..=MOST_PLACES).contains(count));
                if count.is_none() {
                    let what = format!("write how many ports there are for pods, 1 to {MOST_PLACES}");
                    self.problem(&of.at("count"), &what);
                }
                Kind::VhostUser {
                    count: count
                        .and_then(|count| u32::try_from(count).ok())
                        .unwrap_or_default(),
                    mount: self.mount(of, "/var/run/clearway"),
                }
            }
            other => {
                let what = match other {
                    "accelerator" | "auxNetDevice" => {
                        format!("{other} is not supported: write one of {}", KINDS.join(", "))
                    }
                    _ => format!("{other:?} is none{}", nearest(other, KINDS)),
                };
                self.problem(&of.at("deviceType"), &what);
                Kind::Net(Vec::new())
            }
        }
    }

    fn selectors(&mut self, of: &Section<'_>) -> Vec<Selector> {
        let at = of.at("selectors");
        match of.get("selectors") {
            None => vec![Selector::default()],
            Some(Value::Array(list)) if list.is_empty() => {
                self.problem(
                    &at,
                    "an empty list selects nothing; leave it out to select every device",
                );
                Vec::new()
            }
            Some(Value::Array(list)) => {
                let each = list.iter().enumerate();
                each.map(|(number, one)| self.selector(one, format!("{at}[{number}]")))
                    .collect()
            }
            Some(one) => vec![self.selector(one, at)],
        }
    }

    fn selector(&mut self, value: &Value, at: String) -> Selector {
        let of = self.section(value, at, SELECTOR, NOT_OF_SELECTOR);
        Selector {
            vendors: self.list(&of, "vendors", four_hex_digits),
            devices: self.list(&of, "devices", four_hex_digits),
            drivers: self.list(&of, "drivers", name),
            pci_addresses: self.list(&of, "pciAddresses", pci_address),
            acpi_indexes: self.list(&of, "acpiIndexes", |text| {
                text.parse().map_err(|_| "write numbers in quotes: \"101\"")
            }),
            pf_names: self.list(&of, "pfNames", |text| functions(text, name)),
            root_devices: self.list(&of, "rootDevices", |text| functions(text, pci_address)),
            link_types: self.list(&of, "linkTypes", name),
            rdma: self.flag(&of, "isRdma"),
            vhost_net: self.flag(&of, "needVhostNet"),
        }
    }

    fn list<T>(
        &mut self,
        of: &Section<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Vec<T> {
        let mut read_ones = Vec::new();
        match of.get(key) {
            None => {}
            Some(Value::Array(list)) => {
                for one in list {
                    match one.as_str().map(&read) {
                        Some(Ok(value)) => read_ones.push(value),
                        Some(Err(advice)) => self.problem(&of.at(key), &format!("{one}: {advice}")),
                        None => self.problem(&of.at(key), &format!("{one}: write a string")),
                    }
                }
            }
            Some(_) => self.problem(&of.at(key), "write a list of strings"),
        }
        read_ones
    }

    fn text(&mut self, of: &Section<'_>, key: &str) -> Option<String> {
        match of.get(key)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.problem(&of.at(key), "write a string");
                None
            }
        }
    }

    fn flag(&mut self, of: &Section<'_>, key: &str) -> bool {
        match of.get(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.problem(&of.at(key), "write true or false");
                false
            }
        }
    }

    fn policy(&mut self, of: &Section<'_>) -> Policy {
        match self.text(of, "allocationPolicy").as_deref() {
            None | Some("packed") => Policy::Packed,
            Some("spread") => Policy::Spread,
            Some(_) => {
                self.problem(&of.at("allocationPolicy"), "write packed or spread");
                Policy::Packed
            }
        }
    }

    fn mount(&mut self, of: &Section<'_>, default: &str) -> PathBuf {
        let Some(text) = self.text(of, "mountPath") else {
            return default.into();
        };
        let path = Path::new(&text);
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) || path == Path::new("/") {
            self.problem(
                &of.at("mountPath"),
                "write the absolute path of a folder in the container",
            );
        }
        path.into()
    }

    fn additional_info(&mut self, of: &Section<'_>) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        let Some(value) = of.get("additionalInfo") else {
            return all;
        };
        let at = of.at("additionalInfo");
        let Some(devices) = value.as_object() else {
            self.problem(&at, "write an object: {\"*\": {\"key\": \"value\"}}");
            return all;
        };
        for (device, values) in devices {
            let here = format!("{at}.{device}");
            let device = match device.as_str() {
                "*" => "*".to_owned(),
                address => pci_address(address).unwrap_or_else(|advice| {
                    self.problem(&here, &format!("{advice}, or *"));
                    String::new()
                }),
            };
            let texts = values.as_object().map(|values| {
                let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
                values.iter().map(text).collect::<Option<BTreeMap<_, _>>>()
            });
            match texts.flatten() {
                Some(texts) => _ = all.insert(device, texts),
                None => self.problem(&here, "write an object of strings"),
            }
        }
        all
    }
}

fn nearest(key: &str, known: &[&str]) -> String {
    let key = key.to_ascii_lowercase();
    let distance = |name: &&&str| strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &key);
    match known.iter().min_by_key(distance) {
        Some(name) if distance(&name) <= 3 => format!("; did you mean {name}?"),
        _ => format!("; there are {}", known.join(", ")),
    }
}

fn wrong_prefix(prefix: &str) -> Option<&'static str> {
    let label = |label: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if prefix.len() > 253 || !prefix.split('.').all(label) {
        Some("write a DNS name in lower case, like example.com")
    } else if prefix == "kubernetes.io"
        || prefix.ends_with(".kubernetes.io")
        || prefix.starts_with("requests.")
    {
        Some("kubernetes.io and requests. are Kubernetes' own; the kubelet would refuse it")
    } else {
        None
    }
}

fn four_hex_digits(text: &str) -> Result<u16, &'static str> {
    let digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let read = digits.then(|| u16::from_str_radix(text, 16).ok()).flatten();
    read.ok_or("write four hexadecimal digits without 0x, like 8086")
}

fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '#' || c == '/') {
        return Err("write a name, without spaces, / and #");
    }
    Ok(text.into())
}

pub(super) fn is_pci_address(text: &str) -> bool {
    pci_address(text).is_ok_and(|address| address == text)
}

fn pci_address(text: &str) -> Result<String, &'static str> {
    let lengths = [4, 2, 2, 1];
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    let plain = parts.len() == 4
        && parts
            .iter()
            .zip(lengths)
            .all(|(part, length)| part.len() == length && hex(part))
        && text.as_bytes().get(4) == Some(&b':')
        && text.as_bytes().get(10) == Some(&b'.');
    if plain {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("write a PCI address in full, like 0000:3b:02.1")
    }
}

/// `PF`, or `PF#0,2-7,9`.
fn functions(
    text: &str,
    of: impl Fn(&str) -> Result<String, &'static str>,
) -> Result<Functions, &'static str> {
    let Some((pf, list)) = text.split_once('#') else {
        return Ok(Functions {
            of: of(text)?,
            vfs: None,
        });
    };
    let range = |range: &str| -> Option<RangeInclusive<u32>> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (first, last) = (
            Some(first).filter(|t| digits(t))?,
            Some(last).filter(|t| digits(t))?,
        );
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..=last)
    };
    let vfs: Option<Vec<_>> = list.split(',').map(range).collect();
    Ok(Functions {
        of: of(pf)?,
        vfs: Some(vfs.ok_or("write VFs behind # as numbers and ranges from low to high, like #0,2-7,9")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(pool: Value) -> Pool {
        let pools = from_value(&json!({"resourceList": [pool]}), DEFAULT_PREFIX).unwrap();
        pools.into_iter().next().unwrap()
    }

    fn refused(pool: Value) -> Vec<String> {
        match from_value(&json!({"resourceList": [pool]}), DEFAULT_PREFIX) {
            Err(PoolsError::Content(problems)) => problems.iter().map(Problem::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_key_of_the_documented_format_is_read() {
        let pool = one(json!({
            "resourceName": "dpdk_1",
            "resourcePrefix": "example.com",
            "deviceType": "netDevice",
            "excludeTopology": true,
            "selectors": [
                {
                    "vendors": ["8086", "15B3"], "devices": ["154c"], "drivers": ["vfio-pci"],
                    "pciAddresses": ["0000:3B:02.1"], "acpiIndexes": ["101"],
                    "pfNames": ["netpf0#0,2-7,9", "netpf1"], "rootDevices": ["0000:86:00.0#0-1,3,4"],
                    "linkTypes": ["ether"], "needVhostNet": true, "isRdma": false,
                },
                {"isRdma": true},
            ],
            "additionalInfo": {"*": {"token": "a"}, "0000:3b:02.1": {"token": "b"}},
            "allocationPolicy": "spread",
        }));
        assert_eq!(pool.resource(), "example.com/dpdk_1");
        assert!(pool.exclude_topology);
        assert_eq!(pool.policy, Policy::Spread);
        assert_eq!(pool.additional_info["0000:3b:02.1"]["token"], "b");
        let first = Selector {
            vendors: vec![0x8086, 0x15b3],
            devices: vec![0x154c],
            drivers: vec!["vfio-pci".into()],
            pci_addresses: vec!["0000:3b:02.1".into()],
            acpi_indexes: vec![101],
            pf_names: vec![
                Functions {
                    of: "netpf0".into(),
                    vfs: Some(vec![0..=0, 2..=7, 9..=9]),
                },
                Functions {
                    of: "netpf1".into(),
                    vfs: None,
                },
            ],
            root_devices: vec![Functions {
                of: "0000:86:00.0".into(),
                vfs: Some(vec![0..=1, 3..=3, 4..=4]),
            }],
            link_types: vec!["ether".into()],
            rdma: false,
            vhost_net: true,
        };
        let second = Selector {
            rdma: true,
            ..Selector::default()
        };
        assert_eq!(pool.kind, Kind::Net(vec![first, second]));
    }

    #[test]
    fn one_object_is_a_list_of_one() {
        let selector = json!({"vendors": ["8086"]});
        let object = one(json!({"resourceName": "a", "selectors": selector}));
        assert_eq!(object, one(json!({"resourceName": "a", "selectors": [selector]})));
        assert_eq!(object.prefix, "intel.com");
        let absent = one(json!({"resourceName": "a"}));
        assert_eq!(absent.selectors(), [Selector::default()]);
    }

    /// As docs/config-file of sriov-network-device-plugin has them: older operators write other cases and empty keys.
    #[test]
    fn files_that_the_operator_writes_are_read() {
        let text = r#"{"resourceList":[{"resourceName":"sriovnics","selectors":{"pfNames":["ens785f0#0-4"],
            "IsRdma":true,"NeedVhostNet":false,"vdpaType":"","ddpProfiles":null,"pKeys":[]},"SelectorObj":null}]}"#;
        let pools = read(text, "openshift.io").unwrap();
        assert_eq!(pools[0].resource(), "openshift.io/sriovnics");
        assert!(pools[0].selectors()[0].rdma);
    }

    #[test]
    fn our_own_kinds() {
        let ports = one(json!({"resourceName": "ports", "deviceType": "vhostUser", "count": 8}));
        let mount = "/var/run/clearway".into();
        assert_eq!(ports.kind, Kind::VhostUser { count: 8, mount });
        let xdp = one(json!({"resourceName": "x", "deviceType": "afXdp", "mountPath": "/xdp"}));
        let selectors = vec![Selector::default()];
        let mount = "/xdp".into();
        assert_eq!(xdp.kind, Kind::AfXdp { selectors, mount });
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (key, value) in [
            ("ddpProfiles", json!(["GTP"])),
            ("pKeys", json!(["0x1"])),
            ("vdpaType", json!("vhost")),
            ("auxTypes", json!(["sf"])),
        ] {
            let problems = refused(json!({"resourceName": "a", "selectors": [{key: value}]}));
            let at = format!("resourceList[0].selectors[0].{key}: ");
            assert!(
                problems[0].starts_with(&at) && problems[0].contains("not supported"),
                "{problems:?}"
            );
        }
        for kind in ["accelerator", "auxNetDevice"] {
            let problems = refused(json!({"resourceName": "a", "deviceType": kind}));
            assert!(
                problems[0].contains(&format!("{kind} is not supported")),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let pool = json!({
            "resourceName": "a b", "resourcePrefix": "kubernetes.io", "isRdma": true, "devicetypo": 1,
            "excludeTopology": "no", "allocationPolicy": "tight", "count": 3, "mountPath": "/x",
            "additionalInfo": {"3b:02.1": {"a": 1}},
            "selectors": [{"vendors": ["0x8086", 5], "pfName": ["a"], "pfNames": ["a#3-1", "#1", "b#"], "pciAddresses": "x",
                           "rootDevices": ["enp1#0"], "acpiIndexes": ["-"]}],
        });
        let problems = refused(pool);
        let expected = [
            ("resourceList[0].devicetypo", "did you mean deviceType?"),
            ("resourceList[0].isRdma", "into the selectors"),
            ("resourceList[0].resourceName", "letters"),
            ("resourceList[0].resourcePrefix", "Kubernetes' own"),
            ("resourceList[0].count", "no meaning with deviceType netDevice"),
            ("resourceList[0].mountPath", "nothing is mounted"),
            ("resourceList[0].selectors[0].pfName", "did you mean pfNames?"),
            (
                "resourceList[0].selectors[0].vendors",
                "\"0x8086\": write four hexadecimal digits",
            ),
            ("resourceList[0].selectors[0].vendors", "5: write a string"),
            ("resourceList[0].selectors[0].pciAddresses", "a list of strings"),
            ("resourceList[0].selectors[0].acpiIndexes", "numbers"),
            ("resourceList[0].selectors[0].pfNames", "\"a#3-1\": write VFs"),
            ("resourceList[0].selectors[0].pfNames", "\"#1\": write a name"),
            ("resourceList[0].selectors[0].pfNames", "\"b#\": write VFs"),
            ("resourceList[0].selectors[0].rootDevices", "in full"),
            ("resourceList[0].excludeTopology", "true or false"),
            (
                "resourceList[0].additionalInfo.3b:02.1",
                "in full, like 0000:3b:02.1, or *",
            ),
            ("resourceList[0].additionalInfo.3b:02.1", "an object of strings"),
            ("resourceList[0].allocationPolicy", "packed or spread"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (at, what) in expected {
            let found = problems
                .iter()
                .any(|p| p.starts_with(&format!("{at}: ")) && p.contains(what));
            assert!(found, "{at}: {what} in {problems:#?}");
        }
    }

    #[test]
    fn places_have_a_number_and_no_selectors() {
        for count in [json!(0), json!(1025), json!("8"), Value::Null] {
            let problems = refused(json!({"resourceName": "p", "deviceType": "vhostUser", "count": count}));
            assert!(problems[0].contains("1 to 1024"), "{problems:?}");
        }
        let named =
            |length| json!({"resourceName": "n".repeat(length), "deviceType": "vhostUser", "count": 1024});
        assert_eq!(one(named(58)).place(1023).len(), 63);
        assert!(refused(named(59))[0].contains("at most 58 characters"));
        let with = json!({"resourceName": "p", "deviceType": "vhostUser", "count": 1, "selectors": {}, "mountPath": "run/../x"});
        assert_eq!(refused(with).len(), 2);
    }

    #[test]
    fn the_whole_is_looked_at() {
        let twice = json!({"resourceList": [{"resourceName": "a"}, {"resourceName": "a", "resourcePrefix": "intel.com"}]});
        let error = from_value(&twice, DEFAULT_PREFIX).unwrap_err().to_string();
        assert!(error.contains("intel.com/a is there twice"), "{error}");
        for text in [
            "",
            "[]",
            "{}",
            r#"{"resourceList": {}}"#,
            r#"{"resourceList": [1]}"#,
            r#"{"resourcelist": [], "resourceList": []}"#,
        ] {
            assert!(read(text, DEFAULT_PREFIX).is_err(), "{text}");
        }
        assert_eq!(read(r#"{"resourceList": []}"#, DEFAULT_PREFIX).unwrap(), []);
    }
}
